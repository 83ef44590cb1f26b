"""The plan executor: calls the experts a plan names, one by one or at once, until one answers."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Literal

from policies import Attempt, Gather, GatherResult

from ..errors import Unavailable
from ..experts.types import Call, Expert, Reply, UpstreamError
from ..fleet.health import FleetState
from ..openai.answers import read_answer_text, set_usage, sum_usages
from ..storage.journal import AttemptRecord, Role
from .panel import build_aggregation_call, build_member_call, wait_for_members
from .trace import ExecutionRequest, ExecutionTrace


class PlanExecutor:
    """Drives plans with the experts and the fleet of one gateway. README.md says who tries again and when."""

    def __init__(self, experts: Mapping[str, Expert], fleet: FleetState) -> None:
        self._experts = experts
        self._fleet = fleet

    async def execute(self, request: ExecutionRequest, trace: ExecutionTrace) -> Reply:
        """Drive the plan until an expert answers.

        Raises:
            UpstreamError: every expert failed; this is the last failure.
            Unavailable: every expert of the plan is cooling down.
        """
        # The plan is a generator without I/O; batches and replay drive the same one.
        steps = request.plan.attempts()
        step = next(steps)
        replies: dict[str, Reply] = {}
        failure: UpstreamError | None = None
        while True:
            outcome: GatherResult | Literal["moved_on", "refused"] = "moved_on"
            if isinstance(step, Gather):
                replies, failure = await self._gather(step, request, trace)
                outcome = gather_result(replies, failure)
            else:
                try:
                    # The call is built first: an admitted expert must be called, or its slot would leak.
                    call = request.call
                    if step.answers is not None:
                        call = build_aggregation_call(call, step.answers)
                    if self._fleet.admit(step.expert, insist=request.asked is not None):
                        return await self._attempt(step, call, trace)
                    trace.attempts.append(AttemptRecord(step.expert, "skipped", error="cooling down"))
                except UpstreamError as error:
                    failure = error
                    outcome = "moved_on" if error.moves_on else "refused"
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                # The plan ends with a member's name where its answer is the panel's (a vote).
                if done.value is not None:
                    return self._use_member(done.value, replies, trace)
                raise failure or self._unavailable(request) from None

    async def call(self, name: str, call: Call, trace: ExecutionTrace, role: Role | None = None) -> Reply:
        """Call one expert; the trace and the fleet record what came of it.

        A stream has only begun when this returns: the responder records it when it ends.
        """
        start = perf_counter()
        try:
            reply = await self._experts[name].call(call)
        except UpstreamError as error:
            trace.attempts.append(failure_record(name, error, perf_counter() - start, role))
            self._fleet.record_failure(name, error)
            raise
        except BaseException:  # the client left, or a panel has its answer: says nothing of the expert
            elapsed_s = perf_counter() - start
            trace.attempts.append(AttemptRecord(name, "abandoned", latency_s=elapsed_s, role=role))
            self._fleet.release(name)
            raise
        elapsed_s = perf_counter() - start
        record = AttemptRecord(name, "answered", 200, None, elapsed_s, reply.deployment, role)
        if reply.events is not None:
            trace.streaming = record
        else:
            trace.attempts.append(record)
            # Loading an engine is no property of the expert's speed.
            self._fleet.record_success(name, elapsed_s - reply.waited_s)
        return reply

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
        elif trace.other_usage:
            usage = sum_usages([*trace.other_usage.values(), reply.usage])
            return replace(reply, body=set_usage(reply.body, usage))
        return reply

    async def _gather(
        self, step: Gather, request: ExecutionRequest, trace: ExecutionTrace
    ) -> tuple[dict[str, Reply], UpstreamError | None]:
        """Calls at once: the replies by expert, and the most telling failure."""
        start = perf_counter()
        call = build_member_call(request.call)
        tasks: dict[str, asyncio.Task[Reply | UpstreamError]] = {}
        for name in step.experts:
            if self._fleet.admit(name, insist=request.asked is not None):
                tasks[name] = asyncio.ensure_future(self._call_member(name, call, trace))
            else:
                trace.attempts.append(AttemptRecord(name, "skipped", error="cooling down"))
        try:
            await wait_for_members(tasks.values())
        finally:
            trace.upstream_s += perf_counter() - start
        results = {name: task.result() for name, task in tasks.items() if not task.cancelled()}
        # Cancelled members are charged as unknown: what they had used by then is not known.
        replies = {name: reply for name, reply in results.items() if isinstance(reply, Reply)}
        failures = [failure for failure in results.values() if isinstance(failure, UpstreamError)]
        stopped = dict.fromkeys(name for name, task in tasks.items() if task.cancelled())
        trace.other_usage = {name: reply.usage for name, reply in replies.items()} | stopped
        # A refusal of the request says more than an outage: no other expert would take it either.
        return replies, min(failures, key=lambda error: error.moves_on, default=None)

    async def _call_member(self, name: str, call: Call, trace: ExecutionTrace) -> Reply | UpstreamError:
        """One call of a panel: a failure is one of its results."""
        try:
            return await self.call(name, call, trace, role="member")
        except UpstreamError as failure:
            return failure

    def _use_member(self, name: str, replies: Mapping[str, Reply], trace: ExecutionTrace) -> Reply:
        """A member's answer, sent as the panel's."""
        usage = sum_usages(list(trace.other_usage.values()))
        trace.answered, trace.usage = name, trace.other_usage.pop(name)
        reply = replies[name]
        return replace(reply, body=set_usage(reply.body, usage))

    def _unavailable(self, request: ExecutionRequest) -> Unavailable:
        waits = {name: self._fleet.cooldown_s(name) for name in request.plan.experts}
        names = ", ".join(f"{name} ({wait:.1f} s)" for name, wait in waits.items())
        return Unavailable(f"cooling down: {names}", retry_after_s=min(waits.values()))


def gather_result(replies: Mapping[str, Reply], failure: UpstreamError | None) -> GatherResult:
    """The members' texts. Empty ones count only where all are empty."""
    texts = {name: read_answer_text(reply.body) for name, reply in replies.items()}
    spoken = {name: text for name, text in texts.items() if text.strip()}
    return GatherResult(spoken or texts, refused=failure is not None and not failure.moves_on)


def failure_record(
    name: str, error: UpstreamError, latency_s: float, role: Role | None = None
) -> AttemptRecord:
    """The record of an attempt that failed."""
    verdict = "moved_on" if error.moves_on else "refused"
    return AttemptRecord(name, verdict, error.status, error.message, latency_s, role=role)
