"""Routing of all lines before any call, and the order of local experts.

Lines are routed as live requests are, but many at a time and as if all experts were available and idle.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

from policies import Decision, Fleet, Group, PanelRule, Snapshot, order_groups

from ..errors import GatewayError
from ..requests.parsing import ParsedRequest, ToPolicy
from ..runners import Runners
from ..services import Services
from ..storage.journal import pack_decision
from .lines import FaultyLine, InputFile, LineReader
from .outcomes import OutputLine, build_refusal_line, list_experts
from .results import BatchResults, ClosedLine
from .store import BatchLine, RoutedLine, Worklist

# The predictors run once for all of these; a larger share of a batch would keep a halt waiting.
LINES_PER_DECISION = 256


class LineRouter:
    """Routes the lines of one batch."""

    def __init__(
        self,
        services: Services,
        reader: LineReader,
        source: InputFile,
        worklist: Worklist,
        results: BatchResults,
    ) -> None:
        self._services = services
        self._reader = reader
        self._source = source
        self._worklist = worklist
        self._results = results

    async def route_open_lines(self, halted: asyncio.Event) -> None:
        """Route all lines that are not routed yet, until halted."""
        last = 0
        while not halted.is_set():
            lines = await asyncio.to_thread(self._worklist.list_unrouted, last, LINES_PER_DECISION)
            if not lines:
                return
            routed, closed = await self._decide_lines(lines)
            await asyncio.to_thread(self._worklist.route, routed)
            for item in closed:
                await self._results.put(item)
            last = lines[-1].n

    async def _decide_lines(self, lines: Sequence[BatchLine]) -> tuple[list[RoutedLine], list[ClosedLine]]:
        routed: list[RoutedLine] = []
        closed: list[ClosedLine] = []
        # A line may change the panel of its policy.
        by_policy: dict[tuple[str, PanelRule | None], list[tuple[BatchLine, ToPolicy]]] = {}
        for line, parsed in await asyncio.to_thread(self._read, lines):
            if isinstance(parsed, OutputLine):
                closed.append(ClosedLine(line, parsed))
            elif isinstance(parsed, ToPolicy):
                by_policy.setdefault((parsed.policy.name, parsed.policy.panel), []).append((line, parsed))
            else:
                routed.append(RoutedLine(line.n, self._reader.build_request(parsed).plan.experts[:1]))
        for group in by_policy.values():
            for (line, _), decision in zip(group, await self._choose_experts(group), strict=True):
                if isinstance(decision, Decision):
                    routed.append(_to_routed_line(line, decision))
                else:
                    closed.append(ClosedLine(line, build_refusal_line(line.custom_id, decision)))
        return routed, closed

    async def _choose_experts(
        self, group: Sequence[tuple[BatchLine, ToPolicy]]
    ) -> list[Decision | GatewayError]:
        # Today's waits say nothing about the hour in which a line will be called.
        idle = Fleet.idle(len(self._services.profiles))
        return await self._services.router.decide_many([parsed for _, parsed in group], idle)

    def _read(self, lines: Sequence[BatchLine]) -> list[tuple[BatchLine, ParsedRequest | OutputLine]]:
        found: list[tuple[BatchLine, ParsedRequest | OutputLine]] = []
        for line in lines:
            try:
                _, parsed = self._reader.read(self._source.text(line))
                if not isinstance(parsed, ToPolicy):
                    self._reader.build_request(parsed)
            except FaultyLine as fault:
                found.append((line, build_refusal_line(line.custom_id, fault.to_gateway_error())))
            else:
                found.append((line, parsed))
        return found


def _to_routed_line(line: BatchLine, decision: Decision) -> RoutedLine:
    plan = decision.plan
    step = next(plan.attempts())
    return RoutedLine(line.n, list_experts(step), pack_decision(decision), plan.aggregator)


Pairs = frozenset[tuple[str, str]]
"""An expert with open calls, and the aggregator of its answers."""


class LocalExpertQueue:
    """Local experts take turns, one at a time, across all batches."""

    def __init__(self, runners: Runners | None) -> None:
        self._runners = runners
        self._waiting: dict[asyncio.Future[None], tuple[str, Pairs]] = {}
        self._is_busy = False

    @contextlib.asynccontextmanager
    async def turn(self, expert: str, pairs: Pairs) -> AsyncIterator[None]:
        """Hold the turn of an expert while the block runs. `pairs` are those of its batch."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._waiting[granted] = (expert, pairs)
        # After the current iteration, so that tasks about to enter are compared too.
        loop.call_soon(self._next)
        try:
            await granted
            yield
        finally:
            self._waiting.pop(granted, None)
            # Cancelled while it waited: another expert may hold the turn, which must stay held.
            if granted.done() and not granted.cancelled():
                self._is_busy = False
                self._next()

    def _next(self) -> None:
        queued = {granted: entry for granted, entry in self._waiting.items() if not granted.done()}
        if self._is_busy or not queued:
            return
        experts = {expert for expert, _ in queued.values()}
        pairs = frozenset[tuple[str, str]]().union(*(pairs for _, pairs in queued.values()))
        first = choose_local_expert(experts, pairs, self._runners)
        self._is_busy = True
        next(granted for granted, (expert, _) in queued.items() if expert == first).set_result(None)


def choose_local_expert(waiting: Iterable[str], pairs: Pairs, runners: Runners | None) -> str:
    """The local expert whose turn is next; future calls of aggregators count too."""
    if not runners:
        return min(waiting)
    names = {name: runners[name].name for name in runners}
    return choose_local_group(waiting, pairs, names, runners.look())


def choose_local_group(
    waiting: Iterable[str], pairs: Pairs, runner_of: Mapping[str, str], snapshot: Snapshot
) -> str:
    """The same, for a given snapshot of the memory; experts may share a runner."""
    members: dict[str, set[str]] = {}
    for member, aggregator in pairs:
        members.setdefault(aggregator, set()).add(member)
    groups = [Group(name, runner_of.get(name, name)) for name in sorted(waiting)]
    present = {group.name for group in groups}
    for name, panel in sorted(members.items()):
        # An aggregator has no calls before its members have answered. This group stands for them, so that its
        # model is loaded last, and only once.
        groups.append(Group(f"{name} of answers", runner_of.get(name, name), frozenset(panel & present)))
    capacity_bytes = sum(device.capacity_bytes for device in snapshot.devices)
    loaded = {one.expert for one in snapshot.residents if one.state != "leaving"}
    order = order_groups(groups, snapshot.loadable, capacity_bytes, frozenset(loaded))
    return next(group.name for group in order if group.name in present)
