"""Every line to its expert, before anything is called: with the engine, the predictions and the policies of
live traffic, but as if all experts were there and idle, and many at a time."""

import asyncio
from collections.abc import Sequence

from policies import Decision, Fleet, Panel

from ..endpoints.ask import Asked
from ..errors import GatewayError
from ..journal_rows import pack_decision
from ..services import Services
from .answers import Ending, refused
from .lines import FaultyLine, LineReader
from .outcomes import whom
from .results import Closed, Results
from .source import Source
from .worklist import Line, Routed, Worklist

AT_ONCE = 64


class Assigner:
    """Routes the lines of one batch."""

    def __init__(
        self, services: Services, reader: LineReader, source: Source, worklist: Worklist, results: Results
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

    async def _decided(self, lines: Sequence[Line]) -> tuple[list[Routed], list[Closed]]:
        routed: list[Routed] = []
        closed: list[Closed] = []
        by_policy: dict[str, list[tuple[Line, Asked]]] = {}
        for line, asked in await asyncio.to_thread(self._read, lines):
            if isinstance(asked, Ending):
                closed.append(Closed(line, asked))
            elif asked.policy is not None:
                by_policy.setdefault(asked.policy.name, []).append((line, asked))
            else:
                routed.append(Routed(line.n, self._reader.order(asked).plan.experts[:1]))
        for alike in by_policy.values():
            for (line, _), decision in zip(alike, await self._chosen(alike), strict=True):
                if isinstance(decision, Decision):
                    routed.append(_routed(line, decision))
                else:
                    closed.append(Closed(line, refused(line.custom_id, decision)))
        return routed, closed

    async def _chosen(self, alike: Sequence[tuple[Line, Asked]]) -> list[Decision | GatewayError]:
        asked = [one for _, one in alike]
        policy = asked[0].policy
        queries = [one.query for one in asked if one.query is not None]
        if policy is None:
            return []
        everybody = Fleet.idle(len(self._services.profiles))
        wishes = [one.wishes for one in asked]
        return await self._services.router.decide_many(queries, policy, wishes, everybody)

    def _read(self, lines: Sequence[Line]) -> list[tuple[Line, Asked | Ending]]:
        found: list[tuple[Line, Asked | Ending]] = []
        for line in lines:
            try:
                _, asked = self._reader.read(self._source.text(line))
                if asked.policy is None:
                    self._reader.order(asked)
            except FaultyLine as fault:
                found.append((line, refused(line.custom_id, fault.refusal())))
            else:
                found.append((line, asked))
        return found


def _routed(line: Line, decision: Decision) -> Routed:
    plan = decision.plan
    step = next(plan.attempts())
    aggregator = plan.aggregator if isinstance(plan, Panel) else None
    return Routed(line.n, whom(step), pack_decision(decision), aggregator)
