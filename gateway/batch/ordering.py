"""Which local expert's calls come first, so that each is loaded as seldom as can be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping

from policies import Group, Snapshot, order_groups

from ..runners import Runners

Pairs = frozenset[tuple[str, str]]
"""An expert that calls wait for, and one that is to aggregate what it says."""


class Lane:
    """Local experts take turns, one at a time, whichever batches their calls are of."""

    def __init__(self, runners: Runners | None) -> None:
        self._runners = runners
        self._waiting: dict[asyncio.Future[None], tuple[str, Pairs]] = {}
        self._taken = False

    @contextlib.asynccontextmanager
    async def turn(self, expert: str, pairs: Pairs) -> AsyncIterator[None]:
        """The expert's turn, as long as the block lasts. `pairs` are those of its batch."""
        loop = asyncio.get_running_loop()
        called: asyncio.Future[None] = loop.create_future()
        self._waiting[called] = (expert, pairs)
        loop.call_soon(self._next)  # whoever else is about to stand in line is counted in
        try:
            await called
            yield
        finally:
            self._waiting.pop(called, None)
            if called.done() and not called.cancelled():
                self._taken = False
                self._next()

    def _next(self) -> None:
        in_line = {called: entry for called, entry in self._waiting.items() if not called.done()}
        if self._taken or not in_line:
            return
        experts = {expert for expert, _ in in_line.values()}
        pairs = frozenset[tuple[str, str]]().union(*(pairs for _, pairs in in_line.values()))
        first = first_local(experts, pairs, self._runners)
        self._taken = True
        next(called for called, (expert, _) in in_line.items() if expert == first).set_result(None)


def first_local(waiting: Iterable[str], pairs: Pairs, runners: Runners | None) -> str:
    """The local expert to work off now; aggregators' calls are counted in before there are any."""
    if not runners:
        return min(waiting)
    names = {name: runners[name].name for name in runners}
    return first_of(waiting, pairs, names, runners.look())


def first_of(waiting: Iterable[str], pairs: Pairs, runner_of: Mapping[str, str], snapshot: Snapshot) -> str:
    """The same, from what is known of the memory; experts may share a runner."""
    members: dict[str, set[str]] = {}
    for member, aggregator in pairs:
        members.setdefault(aggregator, set()).add(member)
    groups = [Group(name, runner_of.get(name, name)) for name in sorted(waiting)]
    there = {group.name for group in groups}
    for name, asked in sorted(members.items()):
        groups.append(Group(f"{name} of answers", runner_of.get(name, name), frozenset(asked & there)))
    capacity_bytes = sum(device.capacity_bytes for device in snapshot.devices)
    there_or_coming = {one.expert for one in snapshot.residents if one.state != "leaving"}
    order = order_groups(groups, snapshot.loadable, capacity_bytes, frozenset(there_or_coming))
    return next(group.name for group in order if group.name in there)
