"""Performs plans: calls the experts a decision names, one by one or at once, until there is an answer.

Until an expert has spoken its failure moves the plan on. Whatever happens is told to the fleet and the story.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Literal

from policies import Attempt, Gather, Gathered

from ..errors import Unavailable
from ..experts.types import Call, Expert, Reply, UpstreamError
from ..fleet.health import FleetState
from ..openai.transcript import answer_of
from ..storage.journal_records import AttemptRecord, Role
from .panel import build_aggregation_call, build_member_call, set_usage, together, wait_for_members
from .trace import ExecutionRequest, ExecutionTrace


class PlanExecutor:
    """Drives plans with the experts and the fleet of one gateway."""

    def __init__(self, experts: Mapping[str, Expert], fleet: FleetState) -> None:
        self._experts = experts
        self._fleet = fleet

    async def execute(self, request: ExecutionRequest, trace: ExecutionTrace) -> Reply:
        """Drive the plan until somebody answers.

        Raises:
            UpstreamError: the last failure, when nobody did.
            Unavailable: nobody could be asked at all.
        """
        steps = request.plan.attempts()
        step = next(steps)
        gathered: dict[str, Reply] = {}
        failure: UpstreamError | None = None
        while True:
            heard: Gathered | Literal["moved_on", "refused"] = "moved_on"
            if isinstance(step, Gather):
                gathered, failure = await self._gather(step, request, trace)
                heard = gather_result(gathered, failure)
            else:
                try:
                    call = (
                        request.call
                        if step.answers is None
                        else build_aggregation_call(request.call, step.answers)
                    )
                    if self._admit_expert(step.expert, request, trace):
                        return await self._attempt(step, call, trace)
                except UpstreamError as error:
                    failure = error
                    heard = "moved_on" if error.moves_on else "refused"
            try:
                step = steps.send(heard)
            except StopIteration as done:
                if done.value is not None:
                    return self._taken(done.value, gathered, trace)
                raise failure or self._nobody(request) from None

    def _admit_expert(self, name: str, request: ExecutionRequest, trace: ExecutionTrace) -> bool:
        if self._fleet.admit(name, insist=request.asked is not None):
            return True
        trace.records.append(AttemptRecord(name, "skipped", error="cooling down"))
        return False

    async def _attempt(self, step: Attempt, call: Call, trace: ExecutionTrace) -> Reply:
        """One call whose answer goes to the client."""
        start = perf_counter()
        try:
            role: Role | None = None if step.answers is None else "aggregator"
            reply = await self.call(step.expert, call, trace, role)
        finally:
            elapsed_s = perf_counter() - start
            trace.upstream_s += elapsed_s
        trace.answered, trace.usage = step.expert, reply.usage
        if reply.events is not None:
            trace.first_token_s = elapsed_s
            trace.waited_s = reply.waited_s
        elif trace.before:
            usage = together([*trace.before.values(), reply.usage])
            return replace(reply, body=set_usage(reply.body, usage))
        return reply

    async def _gather(
        self, step: Gather, request: ExecutionRequest, trace: ExecutionTrace
    ) -> tuple[dict[str, Reply], UpstreamError | None]:
        """Calls at once; who answered, and the failure that says most where nobody did."""
        start = perf_counter()
        call = build_member_call(request.call)
        asked = [name for name in step.experts if self._admit_expert(name, request, trace)]
        tasks = {name: asyncio.ensure_future(self._member(name, call, trace)) for name in asked}
        try:
            await wait_for_members(tasks.values())
        finally:
            trace.upstream_s += perf_counter() - start
        told = {name: task.result() for name, task in tasks.items() if not task.cancelled()}
        replies = {name: reply for name, reply in told.items() if isinstance(reply, Reply)}
        failures = [failure for failure in told.values() if isinstance(failure, UpstreamError)]
        stopped = dict.fromkeys(name for name, task in tasks.items() if task.cancelled())
        trace.before = {name: reply.usage for name, reply in replies.items()} | stopped
        return replies, min(failures, key=lambda error: error.moves_on, default=None)

    async def _member(self, name: str, call: Call, trace: ExecutionTrace) -> Reply | UpstreamError:
        """One call among others: that it failed is one of the answers."""
        try:
            return await self.call(name, call, trace, role="member")
        except UpstreamError as failure:
            return failure

    def _taken(self, name: str, gathered: Mapping[str, Reply], trace: ExecutionTrace) -> Reply:
        """The answer of one that was asked among others."""
        usage = together(list(trace.before.values()))
        trace.answered, trace.usage = name, trace.before.pop(name)
        reply = gathered[name]
        return replace(reply, body=set_usage(reply.body, usage))

    async def call(self, name: str, call: Call, trace: ExecutionTrace, role: Role | None = None) -> Reply:
        """One call, of which fleet and story are told."""
        start = perf_counter()
        failure: UpstreamError | None = None
        reply: Reply | None = None
        try:
            reply = await self._experts[name].call(call)
        except UpstreamError as error:
            failure = error
            raise
        finally:
            elapsed_s = perf_counter() - start
            if reply is not None:
                told = AttemptRecord(name, "answered", 200, None, elapsed_s, reply.deployment, role)
                trace.records.append(told)
                if reply.events is None:
                    self._fleet.record_success(name, elapsed_s - reply.waited_s)
            elif failure is not None:
                trace.records.append(failure_record(name, failure, elapsed_s, role))
                self._fleet.record_failure(name, failure)
            else:
                trace.records.append(AttemptRecord(name, "abandoned", latency_s=elapsed_s, role=role))
                self._fleet.release(name)
        return reply

    def _nobody(self, request: ExecutionRequest) -> Unavailable:
        waits = {name: self._fleet.cooldown_s(name) for name in request.plan.experts}
        names = ", ".join(f"{name} ({wait:.1f} s)" for name, wait in waits.items())
        return Unavailable(f"cooling down: {names}", retry_after_s=min(waits.values()))


def gather_result(replies: Mapping[str, Reply], failure: UpstreamError | None) -> Gathered:
    """What was said; who said nothing counts only where nobody said anything."""
    texts = {name: answer_of([reply.body], streamed=False) or "" for name, reply in replies.items()}
    spoken = {name: text for name, text in texts.items() if text.strip()}
    return Gathered(spoken or texts, refused=failure is not None and not failure.moves_on)


def failure_record(
    name: str, error: UpstreamError, latency_s: float, role: Role | None = None
) -> AttemptRecord:
    """What an attempt that failed leaves behind."""
    verdict = "moved_on" if error.moves_on else "refused"
    return AttemptRecord(name, verdict, error.status, error.message, latency_s, role=role)
