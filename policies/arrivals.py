"""How often requests for each expert arrive, and when to expect the next one."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Per expert the time of its last request and the mean gap between requests.

    weight: of the latest gap in the running mean, in (0, 1]
    """

    weight: float = 0.2
    last_s: Mapping[str, float] = field(default_factory=dict)
    gap_s: Mapping[str, float] = field(default_factory=dict)

    def after(self, expert: str, now_s: float) -> "Arrivals":
        """The arrivals with one more request."""
        last_s = {**self.last_s, expert: now_s}
        if expert not in self.last_s:
            return Arrivals(self.weight, last_s, self.gap_s)
        gap_s = max(0.0, now_s - self.last_s[expert])
        mean_s = gap_s + (1.0 - self.weight) * (self.gap_s.get(expert, gap_s) - gap_s)
        return Arrivals(self.weight, last_s, {**self.gap_s, expert: mean_s})

    def next_use_s(self, now_s: float) -> dict[str, float]:
        """Expected seconds until the next request: the mean gap, or the time since the last if longer.

        Experts with fewer than two requests are left out.
        """
        return {expert: max(gap_s, now_s - self.last_s[expert]) for expert, gap_s in self.gap_s.items()}

    def rate_per_s(self, now_s: float) -> dict[str, float]:
        """Requests a second; falls as the time since the last request grows."""
        return {expert: 1.0 / max(1e-6, in_s) for expert, in_s in self.next_use_s(now_s).items()}
