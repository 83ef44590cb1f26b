"""Every line to its expert, before anything is called: with the engine, the predictions and the policies of
live traffic, but as if all experts were there and idle, and many at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from policies import Decision, Fleet, Group, Snapshot, order_groups

from ..errors import GatewayError
from ..requests.parsing import ParsedRequest, ToPolicy
from ..runners import Runners
from ..services import Services
from ..storage.journal_records import pack_decision
from .lines import FaultyLine, InputFile, LineReader
from .outcomes import OutputLine, build_refusal_line, list_experts
from .results import ClosedLine, Results
from .worklist import BatchLine, RoutedLine, Worklist

AT_ONCE = 64


class LineRouter:
    """Routes the lines of one batch."""

    def __init__(
        self, services: Services, reader: LineReader, source: InputFile, worklist: Worklist, results: Results
    ) -> None:
        self._services = services
        self._reader = reader
        self._source = source
        self._worklist = worklist
        self._results = results

    async def assign(self, halted: asyncio.Event) -> None:
        """Route all lines that are not yet, or as many as there is time for."""
        while not halted.is_set():
            lines = await asyncio.to_thread(self._worklist.unrouted, AT_ONCE)
            if not lines:
                return
            routed, closed = await self._decided(lines)
            await asyncio.to_thread(self._worklist.route, routed)
            for item in closed:
                await self._results.put(item)
            if closed:
                await self._results.flushed()

    async def _decided(self, lines: Sequence[BatchLine]) -> tuple[list[RoutedLine], list[ClosedLine]]:
        routed: list[RoutedLine] = []
        closed: list[ClosedLine] = []
        by_policy: dict[str, list[tuple[BatchLine, ToPolicy]]] = {}
        for line, asked in await asyncio.to_thread(self._read, lines):
            if isinstance(asked, OutputLine):
                closed.append(ClosedLine(line, asked))
            elif isinstance(asked, ToPolicy):
                by_policy.setdefault(asked.policy.name, []).append((line, asked))
            else:
                routed.append(RoutedLine(line.n, self._reader.order(asked).plan.experts[:1]))
        for alike in by_policy.values():
            for (line, _), decision in zip(alike, await self._chosen(alike), strict=True):
                if isinstance(decision, Decision):
                    routed.append(_routed(line, decision))
                else:
                    closed.append(ClosedLine(line, build_refusal_line(line.custom_id, decision)))
        return routed, closed

    async def _chosen(self, alike: Sequence[tuple[BatchLine, ToPolicy]]) -> list[Decision | GatewayError]:
        idle = Fleet.idle(len(self._services.profiles))
        return await self._services.router.decide_many([parsed for _, parsed in alike], idle)

    def _read(self, lines: Sequence[BatchLine]) -> list[tuple[BatchLine, ParsedRequest | OutputLine]]:
        found: list[tuple[BatchLine, ParsedRequest | OutputLine]] = []
        for line in lines:
            try:
                _, asked = self._reader.read(self._source.text(line))
                if not isinstance(asked, ToPolicy):
                    self._reader.order(asked)
            except FaultyLine as fault:
                found.append((line, build_refusal_line(line.custom_id, fault.refusal())))
            else:
                found.append((line, asked))
        return found


def _routed(line: BatchLine, decision: Decision) -> RoutedLine:
    plan = decision.plan
    step = next(plan.attempts())
    return RoutedLine(line.n, list_experts(step), pack_decision(decision), plan.aggregator)


Pairs = frozenset[tuple[str, str]]
"""An expert that calls wait for, and one that is to aggregate what it says."""


class LocalExpertQueue:
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
        loop.call_soon(
            self._next
        )  # after the current iteration, so that tasks about to enter are compared too
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
        first = choose_local_expert(experts, pairs, self._runners)
        self._taken = True
        next(called for called, (expert, _) in in_line.items() if expert == first).set_result(None)


def choose_local_expert(waiting: Iterable[str], pairs: Pairs, runners: Runners | None) -> str:
    """The local expert to work off now; aggregators' calls are counted in before there are any."""
    if not runners:
        return min(waiting)
    names = {name: runners[name].name for name in runners}
    return choose_local_group(waiting, pairs, names, runners.look())


def choose_local_group(
    waiting: Iterable[str], pairs: Pairs, runner_of: Mapping[str, str], snapshot: Snapshot
) -> str:
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
