"""Eviction: the worth of each resident, and the set of least worth that frees enough memory."""

from collections.abc import Callable, Sequence
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
    usual_s = _SOON_S + sum(loadable.load_s for loadable in snapshot.loadable) / max(1, n_loadable)

    def recency(resident: Resident) -> float:
        return 1.0 / (_SOON_S + max(0.0, snapshot.now_s - resident.last_used_s))

    def by_lookahead(resident: Resident) -> Worth:
        waits = resident.expert in snapshot.queue
        next_s = 0.0 if waits else snapshot.next_use_s.get(resident.expert)
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
    sets: list[tuple[int, Worth, tuple[Resident, ...]]] = [(0, NOTHING, ())]
    for (first, second), resident in priced:
        grown = [
            (min(need_bytes, freed + resident.size_bytes), (a + first, b + second), (*chosen, resident))
            for freed, (a, b), chosen in sets
        ]
        sets = _pareto_front([*sets, *grown])
    return sets[0][2]


def sum_worth(residents: Sequence[Resident], value: Callable[[Resident], Worth]) -> Worth:
    """The worth of all of them together."""
    values = [value(resident) for resident in residents]
    return sum(first for first, _ in values), sum(second for _, second in values)


def _pareto_front(
    sets: list[tuple[int, Worth, tuple[Resident, ...]]],
) -> list[tuple[int, Worth, tuple[Resident, ...]]]:
    """The sets that no cheaper set equals in freed memory, the one that frees most first."""
    kept: list[tuple[int, Worth, tuple[Resident, ...]]] = []
    for one in sorted(sets, key=lambda s: (-s[0], s[1])):
        if not kept or one[1] < kept[-1][1]:
            kept.append(one)
    return kept
