"""The order of a batch's groups that loads local experts as few times as possible."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count

from .errors import PoliciesError
from .memory import Loadable

MAX_STATES = 5_000
"""After this many states the best order found so far is completed greedily."""


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

    Groups of experts that are not loadable (remote ones) come as early as possible. Several devices count as
    one memory. The order is the best of those that evict
    as few experts as possible at each load, unless the search reaches `MAX_STATES`.

    Raises:
        PoliciesError: groups that wait for each other, or for a group that does not exist.
    """
    # A*: cost so far plus `least_s`, which never overestimates, so that the first complete state is the best.
    # Worst case n! orders; `MAX_STATES` bounds the time, and dropping the open states makes the rest greedy.
    search = _Search(groups, loadable, capacity_bytes)
    waiting: list[tuple[float, int, int, float, _State]] = []
    # States with equal groups done and equal residents have equal futures: only the cheapest is kept.
    seen: dict[tuple[frozenset[str], frozenset[str]], float] = {}
    numbers = count()  # of equally good states the one made first goes on

    def add(state: _State, cost_s: float) -> None:
        if cost_s < seen.get((state.done, state.cached), float("inf")):
            seen[state.done, state.cached] = cost_s
            bound_s = cost_s + search.least_s(state)
            heapq.heappush(waiting, (bound_s, -len(state.order), next(numbers), cost_s, state))

    start = search.advance(_State(frozenset(), resident.intersection(search.sizes), ()))
    add(start, 0.0)
    greedy = False
    while waiting:
        _, _, _, spent_s, state = heapq.heappop(waiting)
        if len(state.done) == len(groups):
            return state.order
        greedy = greedy or len(seen) >= MAX_STATES
        if greedy:  # a state that was dropped may be the only way on, so it must count as new again
            waiting.clear()
            seen.clear()
        for load_s, after in search.successors(state):
            add(after, spent_s + load_s)
    stuck = ", ".join(group.name for group in groups if group.name not in start.done)
    raise PoliciesError(f"groups that wait for each other or for a group that does not exist: {stuck}")


@dataclass(frozen=True, slots=True)
class _State:
    """Which groups are done, in which order, and which experts are in memory."""

    done: frozenset[str]
    cached: frozenset[str]
    order: tuple[Group, ...]


class _Search:
    """The search space: which states follow a state, and the seconds of loading between them."""

    def __init__(self, groups: Sequence[Group], loadable: Sequence[Loadable], capacity_bytes: int) -> None:
        self.sizes: Mapping[str, int] = {one.expert: one.size_bytes for one in loadable}
        self._load_s = {one.expert: one.load_s for one in loadable}
        self._groups = groups
        self._capacity = capacity_bytes

    def advance(self, state: _State) -> _State:
        """The state after all groups that need no loading."""
        # Never worse than later: these groups need no memory, and their answers may release other groups.
        done, order = set(state.done), list(state.order)
        free = [g for g in self._groups if g.expert in state.cached or g.expert not in self.sizes]
        while ready := [g for g in free if g.name not in done and g.after <= done]:
            done.update(group.name for group in ready)
            order += ready
        return _State(frozenset(done), state.cached, tuple(order))

    def successors(self, state: _State) -> Iterator[tuple[float, _State]]:
        """Each state after loading one more expert that has a group to run, with the seconds of that load."""
        left = [group for group in self._groups if group.name not in state.done]
        needed = {group.expert for group in left}
        for expert in dict.fromkeys(group.expert for group in left if group.after <= state.done):
            for kept in self._rooms(state.cached, needed, expert):
                after = _State(state.done, kept | {expert}, state.order)
                yield self._load_s[expert], self.advance(after)

    def least_s(self, state: _State) -> float:
        """A lower bound on the seconds of loading left: each missing expert once."""
        needed = {group.expert for group in self._groups if group.name not in state.done}
        return sum(self._load_s[expert] for expert in (needed & self._load_s.keys()) - state.cached)

    def _rooms(self, cached: frozenset[str], needed: set[str], expert: str) -> Iterator[frozenset[str]]:
        """The sets of residents to keep beside the expert: those needed later, with the fewest evictions."""
        # By number kept, which is what matters where load times are alike; trying every subset would multiply
        # the branching by 2^residents.
        room = self._capacity - self.sizes[expert]
        useful = sorted(cached & needed)
        for n_kept in range(len(useful), 0, -1):
            fitting = [
                frozenset(kept)
                for kept in combinations(useful, n_kept)
                if sum(self.sizes[one] for one in kept) <= room
            ]
            if fitting:
                yield from fitting
                return
        yield frozenset()
