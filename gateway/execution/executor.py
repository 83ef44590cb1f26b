"""Execution of a plan: the request, the executor that drives it, the trace of it and its accounting."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Literal

import msgspec
from msgspec.structs import replace

from policies import Attempt, Decision, Gather, GatherResult, Plan, Single

from ..embedding import TextChoice
from ..errors import CLIENT_CLOSED_STATUS, Unavailable
from ..experts.types import Call, Expert, Fields, Reply, UpstreamError
from ..experts.upstreams import UpstreamTable, log_failure, tell_client
from ..fleet.health import FleetState
from ..openai.answers import UNKNOWN_PRICE, Price, Usage, cost_usd, read_answer_text, set_usage, sum_usages
from ..openai.events import MAX_CONTENT_BYTES, read_sent_text
from ..requests.parsing import ToExpert, ToPolicy
from ..requests.query import Conversation
from ..routing.sessions import SessionAnswer, SessionTable
from ..storage.journal import AttemptRecord, Journal, JournalEntry, Role, describe_decision
from .panel import build_aggregation_call, build_member_call, wait_for_members
from .structured import FORMAT_NOT_MET, FormatError, check_format, read_wished_format

NAMED_POLICY = "named"
NAMED_REASON = "asked for by name"


class ExecutionRequest(msgspec.Struct, frozen=True):
    """A plan with its call and provenance.

    `asked` is the expert that the client named, None where a policy chose. `explain` puts the facts of the
    headers into the stream too, `debug` the whole decision on the response. `warnings` name what was ignored.
    `head` is the head of the artifact that decided, if one did. `conversation` is what the request is a turn
    of, where a policy looks at it.
    """

    call: Call
    plan: Plan
    policy: str
    reason: str
    asked: str | None = None
    decision: Decision | TextChoice | None = None
    explain: bool = False
    debug: bool = False
    session_id: str | None = None
    warnings: tuple[str, ...] = ()
    head: str | None = None
    conversation: Conversation | None = None

    @classmethod
    def for_expert(cls, parsed: ToExpert) -> "ExecutionRequest":
        """The named expert, then the fallbacks that the request lists."""
        plan = Single(tuple(dict.fromkeys([parsed.expert, *parsed.fallbacks])))
        return cls(
            parsed.call,
            plan,
            NAMED_POLICY,
            NAMED_REASON,
            parsed.expert,
            explain=parsed.options.explain or parsed.options.debug,
            debug=parsed.options.debug,
            session_id=parsed.options.session_id,
            warnings=parsed.warnings,
        )

    @classmethod
    def for_decision(cls, parsed: ToPolicy, decision: Decision) -> "ExecutionRequest":
        """The plan that a policy decided on."""
        return cls(
            call=parsed.call,
            plan=decision.plan,
            policy=decision.policy,
            reason=decision.reason,
            decision=decision,
            explain=parsed.options.explain or parsed.options.debug,
            debug=parsed.options.debug,
            session_id=parsed.options.session_id,
            warnings=parsed.warnings,
            head=decision.head,
            conversation=parsed.conversation,
        )


class ExecutionTrace(msgspec.Struct):
    """What happened to a request so far. `attempts` only grows; `Accounting.record` folds all into one row.

    Attributes:
        attempts: every call that has ended, in the order of their ends.
        streaming: the attempt whose stream is being sent; it joins `attempts` when the stream ends.
        warnings: those of the request, and those that came up.
        other_usage: by expert, the usage of calls whose answers are not sent; None for a stopped call.
        upstream_s, streaming_s: seconds spent waiting for experts, and sending a stream.
        first_token_s: seconds from call to first token, of which `waited_s` a local engine was not loaded.
        ended_at_s: when the client had all of a stream, on the clock of `perf_counter`.
        answer_parts: the answer as it was sent; kept only where the journal keeps content.
        read_native: reads the text of an answer that came in the client's own format, another than chat's.
        caller, fields: whose request it is (the name of a key), and what it asks. By them the fleet tells a
            bad request from a bad expert.
    """

    decision_id: str
    caller: str | None = None
    fields: Fields | None = None
    attempts: list[AttemptRecord] = []
    streaming: AttemptRecord | None = None
    warnings: list[str] = []
    answered: str | None = None
    upstream_s: float = 0.0
    first_token_s: float | None = None
    waited_s: float = 0.0
    streaming_s: float = 0.0
    ended_at_s: float | None = None
    usage: Usage | None = None
    other_usage: dict[str, Usage | None] = {}
    status: int = CLIENT_CLOSED_STATUS
    error: str | None = None
    answer_parts: list[bytes] = []
    read_native: Callable[[bytes, bool], str | None] | None = None
    n_kept_bytes: int = 0

    def keep(self, part: bytes) -> None:
        """Keep a part of the answer for the journal, up to what it keeps of one."""
        if self.n_kept_bytes < MAX_CONTENT_BYTES:
            self.answer_parts.append(part[:MAX_CONTENT_BYTES])
            self.n_kept_bytes += len(part)


class Accounting:
    """Prices what was used, and writes one record of each request to the journal."""

    def __init__(self, prices: Mapping[str, Price], journal: Journal, sessions: SessionTable) -> None:
        self.prices = prices
        self._sessions = sessions
        self.keeps_content = journal.content
        self._journal = journal

    def price_usd(self, expert: str, usage: Usage | None) -> float | None:
        """The cost of one call in USD; None where it is unknown."""
        return cost_usd(usage, self.prices.get(expert, UNKNOWN_PRICE))

    def cost_usd(self, trace: ExecutionTrace) -> float | None:
        """The cost in USD of all calls, the answer that was sent and others; None where one is unknown."""
        # Unknown is not zero: one unknown part makes the whole unknown.
        total = cost_usd(trace.usage, self.prices.get(trace.answered or "", UNKNOWN_PRICE))
        for expert, usage in trace.other_usage.items():
            cost = self.price_usd(expert, usage)
            total = None if total is None or cost is None else total + cost
        return total

    def record(
        self,
        request: ExecutionRequest,
        trace: ExecutionTrace,
        latency_s: float,
        request_id: str,
        key_id: str | None,
    ) -> JournalEntry:
        """Fold a trace into its record, and return it."""
        content, usage = self.keeps_content, trace.usage
        if trace.other_usage:
            usage = sum_usages([usage, *trace.other_usage.values()])
        entry = JournalEntry(
            decision_id=trace.decision_id,
            request_id=request_id,
            time=time.time(),
            policy=request.policy,
            expert_asked=request.asked,
            expert_answered=trace.answered,
            plan=request.plan.kind,
            status=trace.status,
            decision=request.decision,
            attempts=tuple(trace.attempts),
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            cost_usd=self.cost_usd(trace),
            latency_s=latency_s,
            first_token_s=trace.first_token_s,
            # What the gateway itself took: parsing, deciding, headers and its own queues.
            overhead_s=latency_s - trace.upstream_s - trace.streaming_s,
            stream=request.call.stream,
            endpoint=request.call.endpoint,
            error=trace.error,
            key_id=key_id,
            session_id=request.session_id,
            prompt=_prompt_text(request.call) if content else None,
            answer=_read_answer(request.call, trace) if self.keeps_content else None,
        )
        self._journal.record(entry)
        decision, turns = request.decision, request.conversation
        if turns is not None and trace.status == 200 and trace.answered is not None:
            session = decision.session if isinstance(decision, Decision) else None
            said_by, client_id, at_s = trace.answered, request.session_id, self._sessions.clock()
            self._sessions.answers.append(
                SessionAnswer(key_id, turns, client_id, session, said_by, trace.usage, at_s)
            )
        return entry


PROMPT_FIELDS = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}


def _read_answer(call: Call, trace: ExecutionTrace) -> str | None:
    """The text that the client was sent."""
    if trace.read_native is not None:
        return trace.read_native(b"".join(trace.answer_parts)[:MAX_CONTENT_BYTES], call.stream)
    return read_sent_text(trace.answer_parts, call.stream)


def _prompt_text(call: Call) -> str | None:
    """What the client asked, as the JSON it sent."""
    raw = call.fields.get(PROMPT_FIELDS[call.endpoint])
    return None if raw is None else bytes(memoryview(raw)[:MAX_CONTENT_BYTES]).decode("utf-8", "replace")


MAX_DEBUG_BYTES = 7168
"""Common clients and proxies refuse headers beyond 8 KiB."""


def debug_json(request: ExecutionRequest, trace: ExecutionTrace) -> bytes:
    """The whole decision as compact JSON in ASCII; shortened to its outcome where a header cannot hold it."""
    whole = {"id": trace.decision_id, **(describe_decision(request.decision) if request.decision else {})}
    whole |= {"policy": request.policy, "reason": request.reason, "experts": list(request.plan.experts)}
    for record in (whole, {"id": trace.decision_id, "policy": request.policy, "truncated": True}):
        text = ascii_json(record)
        if len(text) <= MAX_DEBUG_BYTES:
            break
    return text


def ascii_json(record: Mapping[str, object]) -> bytes:
    """JSON without a character that a header could not carry."""
    text = msgspec.json.encode(record).decode()
    if text.isascii():
        return text.encode()
    # A \u escape holds 16 bits; what lies beyond would need a surrogate pair, and is only ever prose.
    return "".join(
        c if c.isascii() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else "?" for c in text
    ).encode()


COOLING_DOWN = "cooling down"
NO_RETRY = "was not called: it failed last, and too many further attempts fail"


class PlanExecutor:
    """Drives plans with the experts and the fleet of one gateway. README.md says who tries again and when.

    `windows` gives the context window of experts in tokens, None where it is unknown; `upstreams` where they
    are, for the log and for clients; `totals_s` how long one attempt of each may take, in seconds. The
    longest of a plan's experts is the deadline over all attempts.
    """

    def __init__(
        self,
        experts: Mapping[str, Expert],
        fleet: FleetState,
        windows: Mapping[str, int | None] | None = None,
        upstreams: UpstreamTable | None = None,
        totals_s: Mapping[str, float] | None = None,
    ) -> None:
        self._experts = experts
        self._fleet = fleet
        self._windows = windows or {}
        self._totals_s = totals_s or {}
        self.upstreams = upstreams or UpstreamTable()

    async def execute(self, request: ExecutionRequest, trace: ExecutionTrace) -> Reply:
        """Drive the plan until an expert answers.

        Raises:
            UpstreamError: every expert failed, or the time was up; this is the last failure.
            Unavailable: every expert of the plan is cooling down.
        """
        try:
            return await self._drive(request, trace)
        except FormatError as failure:  # none did better: the client may still read this answer
            return self._use_misformatted(failure, trace)

    async def _drive(self, request: ExecutionRequest, trace: ExecutionTrace) -> Reply:
        start = perf_counter()
        self._fleet.retries.n_requests += 1
        # The plan is a generator without I/O; batches and replay drive the same one.
        steps = request.plan.attempts()
        step = next(steps)
        replies: dict[str, Reply] = {}
        failure: UpstreamError | None = None
        # Asked last: experts that refused a wish, or have no larger window than one that was too short.
        later: list[Attempt] = []
        too_short, is_later = 0, False
        while True:
            outcome: GatherResult | Literal["moved_on", "refused"] = "moved_on"
            if isinstance(step, Gather):
                replies, failure = await self._gather(step, request, trace)
                outcome = gather_result(replies, failure)
            elif not is_later and 0 < (self._windows.get(step.expert) or 0) <= too_short:
                later.append(step)
            else:
                # The first attempt has a time limit of its own: only further ones can miss the deadline.
                left_s = self._left_s(request, start, failure) if trace.attempts else None
                try:
                    # The call is built first: an admitted expert must be called, or its slot would leak.
                    call = request.call
                    if step.answers is not None:
                        call = build_aggregation_call(call, step.answers)
                    elif not (call.stream or step.last or is_later):
                        has_other = self._fleet.has_other(step.expert, request.plan.experts)
                        call = replace(call, has_fallback=True) if has_other else call
                    spared = failure is not None and not self._fleet.may_retry(step.expert, trace.caller)
                    if not spared and self._fleet.admit(step.expert, trace.caller, trace.fields):
                        return await self._attempt(step, call, trace, left_s)
                    skipped = NO_RETRY if spared else COOLING_DOWN
                    trace.attempts.append(AttemptRecord(step.expert, "skipped", error=skipped))
                except UpstreamError as error:
                    if failure is not None and error.faults_expert:
                        self._fleet.retries.charge(trace.caller)
                    failure = choose_failure(failure, error)
                    outcome = "moved_on" if error.moves_on else "refused"
                    if error.can_adapt:
                        later.append(step)
                    if error.context_too_long:
                        too_short = max(too_short, self._windows.get(step.expert) or 0)
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                # The plan ends with a member's name where its answer is the panel's (a vote).
                if done.value is not None:
                    return self._use_member(done.value, replies, trace)
                if not later or outcome == "refused":
                    break
                is_later = True
                step = later.pop(0)  # the generator has ended: it says so again after this attempt
        raise failure or self._unavailable(request, trace)

    async def _check_format(self, expert: str, call: Call, reply: Reply, trace: ExecutionTrace) -> Reply:
        """The reply, with no more than the JSON that was asked for.

        Raises:
            FormatError: it is not what was asked for; others may do better.
        """
        wish = read_wished_format(call.fields) if reply.read_native is None else None
        if wish is None or call.endpoint != "chat/completions":
            return reply
        body, problem = await asyncio.to_thread(check_format, reply.body, wish)
        if problem is None:
            return reply if body is reply.body else replace(reply, body=body)
        trace.attempts[-1] = replace(trace.attempts[-1], verdict="moved_on", error=FORMAT_NOT_MET)
        trace.other_usage = {**trace.other_usage, expert: reply.usage}
        raise FormatError(expert, reply, problem)

    def _use_misformatted(self, failure: FormatError, trace: ExecutionTrace) -> Reply:
        """The answer of an expert that did not give the JSON asked for, as that of the request."""
        failure.__traceback__ = None  # it has frames that have the failure, with its answer
        name = failure.expert
        trace.attempts[:] = [
            replace(attempt, verdict="answered")
            if attempt.expert == name and attempt.error == FORMAT_NOT_MET
            else attempt
            for attempt in trace.attempts
        ]
        trace.other_usage = {other: usage for other, usage in trace.other_usage.items() if other != name}
        trace.answered, trace.usage = name, failure.reply.usage
        trace.warnings.append(f"{name} {failure.message}")
        return failure.reply

    def _left_s(self, request: ExecutionRequest, start: float, failure: UpstreamError | None) -> float:
        """Seconds until the deadline over all attempts.

        Raises:
            UpstreamError: it has passed; this is the last failure.
        """
        total_s = max(self._totals_s.get(name, math.inf) for name in request.plan.experts)
        left_s = total_s - (perf_counter() - start)
        if left_s <= 0:
            raise failure or _build_deadline_failure(total_s)
        return left_s

    async def call(
        self,
        name: str,
        call: Call,
        trace: ExecutionTrace,
        role: Role | None = None,
        left_s: float | None = None,
    ) -> Reply:
        """Call one expert; the trace and the fleet record what came of it.

        A stream has only begun when this returns: the responder records it when it ends. `left_s` are the
        seconds until the deadline, None where the expert's own limit comes before it.
        """
        start = perf_counter()
        if trace.caller is not None:
            call = replace(call, caller=trace.caller)
        try:
            if left_s is None or left_s == math.inf:
                reply = await self._experts[name].call(call)
            else:
                reply = await _call_within(self._experts[name], call, left_s)
        except UpstreamError as error:
            self.record_failure(trace, AttemptRecord(name, "", role=role), error, perf_counter() - start)
            raise
        except BaseException:  # the client left, or a panel has its answer: says nothing of the expert
            elapsed_s = perf_counter() - start
            trace.attempts.append(AttemptRecord(name, "abandoned", latency_s=elapsed_s, role=role))
            self._fleet.release(name, elapsed_s, trace.caller, trace.fields)
            raise
        elapsed_s = perf_counter() - start
        trace.warnings += reply.warnings
        record = AttemptRecord(name, "answered", 200, None, elapsed_s, reply.deployment, role)
        # Loading an engine is no property of the expert's speed.
        answer_s = elapsed_s - reply.waited_s
        if reply.events is not None:
            trace.streaming = record
            self._fleet.record_first_token(name, answer_s, trace.caller, trace.fields)
        else:
            trace.attempts.append(record)
            self._fleet.record_success(name, answer_s, trace.caller, trace.fields)
        return reply

    def record_failure(
        self,
        trace: ExecutionTrace,
        attempt: AttemptRecord,
        error: UpstreamError,
        latency_s: float,
        *,
        has_spoken: bool = False,
    ) -> None:
        """An attempt has failed, `has_spoken` after its first token: trace, fleet and log learn of it."""
        self.upstreams.hide_secrets(error)
        deployment = error.deployment or attempt.deployment
        upstream = self.upstreams.find(attempt.expert, deployment)
        log_failure(upstream, error)
        record = AttemptRecord(
            attempt.expert,
            "moved_on" if error.moves_on else "refused",
            error.status,
            tell_client(upstream, error, error.cause),
            latency_s,
            deployment,
            attempt.role,
            client_error=tell_client(upstream, error),
        )
        trace.attempts.append(record)
        self._fleet.record_failure(
            attempt.expert, error, latency_s, trace.caller, trace.fields, has_spoken=has_spoken
        )

    async def _attempt(
        self, step: Attempt, call: Call, trace: ExecutionTrace, left_s: float | None = None
    ) -> Reply:
        """One call whose answer goes to the client."""
        start = perf_counter()
        try:
            role: Role | None = None if step.answers is None else "aggregator"
            reply = await self.call(step.expert, call, trace, role, left_s)
        finally:
            elapsed_s = perf_counter() - start
            trace.upstream_s += elapsed_s
        if reply.events is None and "response_format" in call.fields:
            reply = await self._check_format(step.expert, call, reply, trace)
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
            if self._fleet.admit(name, trace.caller, trace.fields):
                tasks[name] = asyncio.ensure_future(self._call_member(name, call, trace))
            else:
                trace.attempts.append(AttemptRecord(name, "skipped", error=COOLING_DOWN))
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

    def _unavailable(self, request: ExecutionRequest, trace: ExecutionTrace) -> Unavailable:
        waits = {
            name: self._fleet.cooldown_s(name, trace.caller, trace.fields) for name in request.plan.experts
        }
        names = ", ".join(f"{name} ({wait:.1f} s)" for name, wait in waits.items())
        return Unavailable(f"cooling down: {names}", retry_after_s=min(waits.values()))


def _build_deadline_failure(total_s: float) -> UpstreamError:
    return UpstreamError("deadline", f"had no time left: all attempts together may take {total_s:g} s")


def choose_failure(former: UpstreamError | None, error: UpstreamError) -> UpstreamError:
    """What to tell of two failures: the later, but for an answer in another form, which is one still."""
    # Without its traceback: that has the frame of its caller, and the frame has the error.
    return former if isinstance(former, FormatError) else error.with_traceback(None)


async def _call_within(expert: Expert, call: Call, left_s: float) -> Reply:
    """A further attempt, which ends with the deadline over all of them, also in the middle of its stream.

    Raises:
        UpstreamError: it gave no answer, or not in time.
    """
    until = asyncio.get_running_loop().time() + left_s
    try:
        async with asyncio.timeout_at(until):
            reply = await expert.call(call)
    except TimeoutError:
        said = f"was stopped after the {left_s:.1f} s left for all attempts"
        raise UpstreamError("deadline", said) from None
    if reply.events is not None:
        reply.events.limit(until)
    return reply


def gather_result(replies: Mapping[str, Reply], failure: UpstreamError | None) -> GatherResult:
    """The members' texts. Empty ones count only where all are empty."""
    texts = {name: read_answer_text(reply.body) for name, reply in replies.items()}
    spoken = {name: text for name, text in texts.items() if text.strip()}
    return GatherResult(spoken or texts, refused=failure is not None and not failure.moves_on)
