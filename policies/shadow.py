"""Whether to trust look-ahead: two caches simulated beside the real one, and the load time of each."""

from dataclasses import dataclass, replace

from .eviction import EvictionRule, build_worth, choose_cheapest
from .memory import Resident, Snapshot


@dataclass(frozen=True, slots=True)
class Shadow:
    """What memory would hold under look-ahead and under LRU, each applied from the start.

    lead_s:   seconds of loading that look-ahead saved against LRU, bounded both ways by the time to load
        all that LRU holds, so that only the recent past counts
    n_phases: how often it was found to be worse

    Reference: paging with predictions by following the better of two (arXiv 2210.02775 for the setting).
    Differs: costs are seconds of loading; what strays from recency leaves lazily, when room is needed.
    """

    ahead: tuple[Resident, ...] = ()
    recent: tuple[Resident, ...] = ()
    lead_s: float = 0.0
    trusted: bool = True
    n_phases: int = 0

    @property
    def kept(self) -> frozenset[str] | None:
        """For `decide_residency`: the experts LRU would keep; None while look-ahead does no worse."""
        return None if self.trusted else frozenset(resident.expert for resident in self.recent)

    def after(self, expert: str, at: Snapshot) -> "Shadow":
        """The shadow after one more request, served with the forecast of the snapshot `at` that moment."""
        if expert not in at.by_expert:
            return self
        ahead, spent_s = _serve_request(self.ahead, expert, at, "lookahead")
        recent, recent_s = _serve_request(self.recent, expert, at, "lru")
        bound_s = sum(at.load_s(resident.expert) for resident in recent)
        lead_s = min(bound_s, max(-bound_s, self.lead_s + recent_s - spent_s))
        trusted = lead_s >= 0.0
        return Shadow(ahead, recent, lead_s, trusted, self.n_phases + (self.trusted and not trusted))


def _serve_request(
    cache: tuple[Resident, ...], expert: str, at: Snapshot, rule: EvictionRule
) -> tuple[tuple[Resident, ...], float]:
    """The cache after one request, and the seconds of loading that it took."""
    if any(resident.expert == expert for resident in cache):
        used = (replace(r, last_used_s=at.now_s) if r.expert == expert else r for r in cache)
        return tuple(used), 0.0
    size = at.by_expert[expert].size_bytes
    room = sum(device.capacity_bytes for device in at.devices)
    need = size + sum(resident.size_bytes for resident in cache) - room
    leaving = choose_cheapest(cache, max(0, need), build_worth(rule, at, None))
    if leaving is None:
        return cache, at.load_s(expert)
    stays = tuple(resident for resident in cache if resident not in leaving)
    return (*stays, Resident(expert, "", size, last_used_s=at.now_s)), at.load_s(expert)
