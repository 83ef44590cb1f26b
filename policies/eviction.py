"""Eviction: the worth of each resident, the cheapest set that frees enough, and trust in look-ahead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .memory import Resident, Snapshot

EvictionRule = Literal["lookahead", "lru", "lfu"]
Worth = tuple[float, float]
"""The loss of evicting a resident; the second part decides where the first is equal."""
NOTHING: Worth = (0.0, 0.0)
_SOON_S = 1e-3


def build_worth(
    rule: EvictionRule, snapshot: Snapshot, kept: frozenset[str] | None
) -> Callable[[Resident], Worth]:
    """The function that gives the worth of keeping a resident; among equals the recently used is worth more.

    `kept` are the experts that an LRU cache would hold. Where given, look-ahead is not trusted, and residents
    outside it are evicted first: a cache that strayed returns at the cost of at most one miss each.

    Reference: Belady's rule as Read-ME (arXiv 2410.19123) applies it: farthest next use leaves first.
    Differs: in seconds, of loading it again, less the later that is, and of waiting until it is idle; what
        has no known next use goes by recency.
    """

    n_loadable = len(snapshot.loadable)
    # The mean load is the time scale: a next use that far in the future halves what keeping a resident saves.
    usual_s = _SOON_S + sum(loadable.load_s for loadable in snapshot.loadable) / max(1, n_loadable)

    def recency(resident: Resident) -> float:
        return 1.0 / (_SOON_S + max(0.0, snapshot.now_s - resident.last_used_s))

    def by_lookahead(resident: Resident) -> Worth:
        queue = snapshot.queue.get(resident.expert)
        next_s = 0.0 if queue is not None and not queue.patient else snapshot.next_use_s.get(resident.expert)
        # load · u / (u + next): Belady compares next uses alone, but load times differ widely.
        again_s = 0.0
        if next_s is not None:
            again_s = snapshot.load_s(resident.expert) * usual_s / (usual_s + max(0.0, next_s))
        return again_s + (resident.idle_in_s if resident.n_busy else 0.0), recency(resident)

    def by_frequency(resident: Resident) -> Worth:
        return float(resident.n_uses), recency(resident)

    def by_recency(resident: Resident) -> Worth:
        return float(kept is not None and resident.expert in kept), recency(resident)

    if rule == "lfu":
        return by_frequency
    return by_lookahead if rule == "lookahead" and kept is None else by_recency


def choose_cheapest(
    residents: Sequence[Resident], need_bytes: int, value: Callable[[Resident], Worth]
) -> tuple[Resident, ...] | None:
    """The residents of least worth together that free `need_bytes`; None where all are too few.

    Exact: of all sets that free as much, only the cheapest is followed further.
    """
    if need_bytes <= 0:
        return ()
    if sum(resident.size_bytes for resident in residents) < need_bytes:
        return None
    priced = sorted(
        ((value(resident), resident) for resident in residents), key=lambda p: (p[0], p[1].expert)
    )
    if priced and priced[0][1].size_bytes >= need_bytes:
        return (priced[0][1],)  # no set is worth less than the least of all
    # Knapsack cover: dynamic programming over undominated (bytes freed, worth) pairs. Freed bytes are capped
    # at the need, so that sets that free more than enough compare by worth alone.
    sets: list[tuple[int, Worth, tuple[Resident, ...]]] = [(0, NOTHING, ())]
    for (first, second), resident in priced:
        grown = [
            (min(need_bytes, freed + resident.size_bytes), (a + first, b + second), (*chosen, resident))
            for freed, (a, b), chosen in sets
        ]
        # Worths are added part by part, as a pair compares first by its first part.
        sets = _pareto_front([*sets, *grown])
    return sets[0][2]


def sum_worth(residents: Sequence[Resident], value: Callable[[Resident], Worth]) -> Worth:
    """The worth of all of them together."""
    values = [value(resident) for resident in residents]
    return sum(first for first, _ in values), sum(second for _, second in values)


def _pareto_front(
    sets: list[tuple[int, Worth, tuple[Resident, ...]]],
) -> list[tuple[int, Worth, tuple[Resident, ...]]]:
    """The Pareto front: no other set is cheaper and frees as much. The set that frees most is first."""
    kept: list[tuple[int, Worth, tuple[Resident, ...]]] = []
    for one in sorted(sets, key=lambda s: (-s[0], s[1])):
        if not kept or one[1] < kept[-1][1]:
            kept.append(one)
    return kept


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
    def kept_experts(self) -> frozenset[str] | None:
        """For `decide_residency`: the experts LRU would keep; None while look-ahead does no worse."""
        return None if self.trusted else frozenset(resident.expert for resident in self.recent)

    def after(self, expert: str, at: Snapshot) -> "Shadow":
        """The shadow after one more request, served with the forecast of the snapshot `at` that moment."""
        if expert not in at.by_expert:
            return self
        ahead, spent_s = _serve_request(self.ahead, expert, at, "lookahead")
        recent, recent_s = _serve_request(self.recent, expert, at, "lru")
        # A bounded score forgets: that many seconds of better loads make a forecast trusted again.
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
    # The simulated caches see one memory of all devices: where an expert is placed is not what they compare.
    size = at.by_expert[expert].size_bytes
    room = sum(device.capacity_bytes for device in at.devices)
    need = size + sum(resident.size_bytes for resident in cache) - room
    leaving = choose_cheapest(cache, need, build_worth(rule, at, None))
    if leaving is None:
        return cache, at.load_s(expert)
    stays = tuple(resident for resident in cache if resident not in leaving)
    return (*stays, Resident(expert, "", size, last_used_s=at.now_s)), at.load_s(expert)
