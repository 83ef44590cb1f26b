"""What is known of who will be asked next, and whether going by it has paid."""

from collections.abc import Callable
from dataclasses import dataclass, field

from policies import Arrivals, Shadow, Snapshot


@dataclass(slots=True)
class DemandForecast:
    """Learns from every request; `dismissed` are not expected before they are asked for again."""

    arrivals: Arrivals = field(default_factory=Arrivals)
    shadow: Shadow = field(default_factory=Shadow)
    dismissed: set[str] = field(default_factory=set)

    def note_arrival(self, name: str, now_s: float) -> None:
        """A request for a runner came."""
        self.arrivals = self.arrivals.after(name, now_s)
        self.dismissed.discard(name)

    def note_start(self, name: str, look: Callable[[], Snapshot]) -> None:
        """A request begins to be answered: what would either rule have loaded for it?"""
        self.shadow = self.shadow.after(name, look())

    def next_use_s(self, now_s: float) -> dict[str, float]:
        """Seconds until each is expected to be asked."""
        expected = self.arrivals.next_use_s(now_s)
        return {name: in_s for name, in_s in expected.items() if name not in self.dismissed}
