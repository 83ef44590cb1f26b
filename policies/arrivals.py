"""How often each expert is asked of late, and when to expect it again."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Per expert when it was last asked and how long it takes from one request to the next.

    weight: of the latest gap in the running mean, in (0, 1]
    """

    weight: float = 0.2
    last_s: Mapping[str, float] = field(default_factory=dict)
    gap_s: Mapping[str, float] = field(default_factory=dict)

    def after(self, expert: str, now_s: float) -> "Arrivals":
        """With one more request."""
        last_s = {**self.last_s, expert: now_s}
        if expert not in self.last_s:
            return Arrivals(self.weight, last_s, self.gap_s)
        gap_s = max(0.0, now_s - self.last_s[expert])
        mean_s = gap_s + (1.0 - self.weight) * (self.gap_s.get(expert, gap_s) - gap_s)
        return Arrivals(self.weight, last_s, {**self.gap_s, expert: mean_s})

    def next_use_s(self, now_s: float) -> dict[str, float]:
        """Seconds until each is expected: its usual gap, or longer once it was not asked for longer.

        Experts asked less than twice are left out.
        """
        return {expert: max(gap_s, now_s - self.last_s[expert]) for expert, gap_s in self.gap_s.items()}

    def rate_per_s(self, now_s: float) -> dict[str, float]:
        """Requests a second; what is not asked any more fades."""
        return {expert: 1.0 / max(1e-6, in_s) for expert, in_s in self.next_use_s(now_s).items()}
