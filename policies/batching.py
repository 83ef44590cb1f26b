"""The order of a batch's groups: each local expert loaded as seldom as can be."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from .errors import PoliciesError
from .memory import Loadable

MAX_STATES = 5_000
"""States looked at before the best order found so far is finished greedily."""


@dataclass(frozen=True, slots=True)
class Group:
    """Lines of a batch for one expert. `after` names the groups whose answers its own lines need.

    A panel's members are in groups of their own, and the lines that its aggregator answers in one after them.
    """

    name: str
    expert: str
    after: frozenset[str] = frozenset()


def order_groups(
    groups: Sequence[Group],
    loadable: Sequence[Loadable],
    capacity_bytes: int,
    resident: frozenset[str] = frozenset(),
) -> tuple[Group, ...]:
    """The groups in the order that takes the fewest seconds of loading, given who is resident already.

    Groups of experts that need no memory of ours (not loadable) come as early as they may. Several devices
    are one memory here. Exact unless there are so many ways that it looks at the first of them only.

    Raises:
        PoliciesError: groups that wait for each other, or for one that is not there.
    """
    search = _Search(groups, loadable, capacity_bytes)
    start = search.advance(_State(frozenset(), resident & search.sizes.keys(), ()))
    waiting: list[tuple[float, int, int, float, _State]] = [
        (search.least_s(start), -len(start.order), 0, 0.0, start)
    ]
    seen: dict[tuple[frozenset[str], frozenset[str]], float] = {}
    n_made = 0
    while waiting:
        _, _, _, spent_s, state = heapq.heappop(waiting)
        if len(state.done) == len(groups):
            return state.order
        if n_made > MAX_STATES:
            waiting.clear()
        for load_s, after in search.following(state):
            cost_s = spent_s + load_s
            if cost_s < seen.get((after.done, after.cached), float("inf")):
                seen[after.done, after.cached] = cost_s
                n_made += 1
                bound_s = cost_s + search.least_s(after)
                heapq.heappush(waiting, (bound_s, -len(after.order), n_made, cost_s, after))
    stuck = ", ".join(group.name for group in groups if group.name not in start.done)
    raise PoliciesError(f"groups that wait for each other or for one that is not there: {stuck}")


@dataclass(frozen=True, slots=True)
class _State:
    """Which groups are done, in which order, and which experts are in memory."""

    done: frozenset[str]
    cached: frozenset[str]
    order: tuple[Group, ...]


class _Search:
    """What can follow what, and at which cost."""

    def __init__(self, groups: Sequence[Group], loadable: Sequence[Loadable], capacity_bytes: int) -> None:
        self.sizes: Mapping[str, int] = {one.expert: one.size_bytes for one in loadable}
        self._load_s = {one.expert: one.load_s for one in loadable}
        self._groups = groups
        self._capacity = capacity_bytes

    def advance(self, state: _State) -> _State:
        """All that costs no loading: it is never better to put it off."""
        done, order = set(state.done), list(state.order)
        before = -1
        while before < len(order):
            before = len(order)
            for group in self._groups:
                free = group.expert in state.cached or group.expert not in self.sizes
                if free and group.name not in done and group.after <= done:
                    done.add(group.name)
                    order.append(group)
        return _State(frozenset(done), state.cached, tuple(order))

    def following(self, state: _State) -> Iterator[tuple[float, _State]]:
        """The seconds of loading one expert that has something to do, and what is done with it."""
        left = [group for group in self._groups if group.name not in state.done]
        needed = {group.expert for group in left}
        for expert in dict.fromkeys(group.expert for group in left if group.after <= state.done):
            for kept in self._rooms(state.cached, needed, expert):
                after = _State(state.done, kept | {expert}, state.order)
                yield self._load_s[expert], self.advance(after)

    def least_s(self, state: _State) -> float:
        """Seconds of loading without which it cannot end: everybody missing, once."""
        missing = {g.expert for g in self._groups if g.name not in state.done} - state.cached
        return sum(self._load_s.get(expert, 0.0) for expert in missing)

    def _rooms(self, cached: frozenset[str], needed: set[str], expert: str) -> Iterator[frozenset[str]]:
        """Whom to keep beside the expert: of those needed later, every set with as few leaving as can be."""
        room = self._capacity - self.sizes[expert]
        useful = sorted(cached & needed)
        for n_kept in range(len(useful), -1, -1):
            fitting = [
                frozenset(kept)
                for kept in combinations(useful, n_kept)
                if sum(self.sizes[one] for one in kept) <= room
            ]
            if fitting or not n_kept:
                yield from fitting or [frozenset()]
                return
