"""Outcomes of calls, the next step of a line's plan, and the line of output when the plan has ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from policies import Attempt, Gather, Plan, StepResult

from ..asgi.application import fresh_id
from ..errors import FailureKind, GatewayError, to_envelope
from ..execution.executor import Accounting, ExecutionRequest, ExecutionTrace, gather_result
from ..execution.responder import all_experts_failed
from ..experts.types import Reply, UpstreamError
from ..openai.answers import Usage, set_usage, sum_usages
from ..storage.journal import AttemptRecord


# A struct beside the exception, because it is stored between steps and sent by Ray workers.
class CallFailure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An `UpstreamError` in a form that can be stored."""

    kind: FailureKind
    message: str
    status: int | None = None
    body: bytes | None = None
    context_too_long: bool = False
    cause: str | None = None

    @classmethod
    def of(cls, error: UpstreamError) -> "CallFailure":
        return cls(error.kind, error.message, error.status, error.body, error.context_too_long, error.cause)

    def error(self) -> UpstreamError:
        return UpstreamError(
            self.kind,
            self.message,
            status=self.status,
            body=self.body,
            context_too_long=self.context_too_long,
            cause=self.cause,
        )


class CallOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one call: an answer or a failure, and the attempts before it."""

    record: AttemptRecord
    body: bytes | None = None
    usage: Usage | None = None
    failure: CallFailure | None = None
    tries: tuple[AttemptRecord, ...] = ()

    @property
    def reply(self) -> Reply | None:
        return None if self.body is None else Reply(body=self.body, usage=self.usage)


class PlanEnded(msgspec.Struct, frozen=True):
    """The plan has ended with the answer of a gathered expert, or with the last attempt if it is None."""

    chosen_expert: str | None = None


def next_step(plan: Plan, history: Sequence[Sequence[CallOutcome]]) -> Attempt | Gather | PlanEnded:
    """The next step of a plan, given the outcomes of its steps so far."""
    # A plan is a generator and cannot be stored. Replaying it over the outcomes takes microseconds and gives
    # the same step after a restart, as plans are deterministic.
    steps = plan.attempts()
    step = next(steps)
    for outcomes in history:
        try:
            step = steps.send(_step_result(step, outcomes))
        except StopIteration as done:
            return PlanEnded(done.value)
    return step


def list_experts(step: Attempt | Gather) -> tuple[str, ...]:
    """The experts a step calls."""
    return step.experts if isinstance(step, Gather) else (step.expert,)


def _step_result(step: Attempt | Gather, outcomes: Sequence[CallOutcome]) -> StepResult:
    failures = [outcome.failure.error() for outcome in outcomes if outcome.failure is not None]
    if isinstance(step, Gather):
        replies = {outcome.record.expert: outcome.reply for outcome in outcomes}
        known = {name: reply for name in step.experts if (reply := replies.get(name)) is not None}
        # False sorts before True: a refusal of the request wins over failures after which a plan moves on.
        return gather_result(known, min(failures, key=lambda error: error.moves_on, default=None))
    if not failures:
        return "answered"
    return "moved_on" if failures[0].moves_on else "refused"


def build_trace(
    decision_id: str, history: Sequence[Sequence[CallOutcome]], answered: CallOutcome | None
) -> ExecutionTrace:
    """The trace of a line that has ended, for the journal."""
    trace = ExecutionTrace(decision_id)
    for outcome in (outcome for step in history for outcome in step):
        for record in (*outcome.tries, outcome.record):
            trace.attempts.append(record)
            trace.upstream_s += record.latency_s or 0.0
        if outcome is not answered and outcome.body is not None:
            trace.other_usage[outcome.record.expert] = outcome.usage
    if answered is not None:
        trace.answered, trace.usage, trace.status = answered.record.expert, answered.usage, 200
    return trace


_encode = msgspec.json.encode
_raw = msgspec.json.Decoder(Raw)


@dataclass(frozen=True, slots=True)
class OutputLine:
    """A line's one line of output; `cost_usd` is None where it is unknown."""

    text: bytes
    failed: bool
    cost_usd: float | None = 0.0


def build_output_line(
    custom_id: str,
    request: ExecutionRequest,
    history: Sequence[Sequence[CallOutcome]],
    ended: PlanEnded,
    accounting: Accounting,
    owner: str,
) -> OutputLine:
    """The output of a line whose plan has ended; writes its journal record."""
    answered = _find_answer(history, ended)
    trace = build_trace("dec_" + fresh_id(), history, answered)
    failed = answered is None
    if answered is not None and answered.body is not None:
        body = answered.body
        if trace.other_usage:
            body = set_usage(body, sum_usages([*trace.other_usage.values(), answered.usage]))
        if accounting.keeps_content:
            trace.answer_parts.append(body)
        status = 200
    else:
        status, body = _describe_failure(history, trace)
    # OpenAI's output lines have ids of this form (platform.openai.com/docs/guides/batch).
    request_id = "batch_req_" + fresh_id()
    # The latency of a line is the time its calls took, without the hours it may have waited.
    accounting.record(request, trace, trace.upstream_s, request_id, owner or None)
    cost_usd = accounting.cost_usd(trace) if trace.answered is not None or trace.other_usage else 0.0
    facts = {
        "decision_id": trace.decision_id,
        "expert": trace.answered,
        "policy": request.policy,
        "plan": request.plan.kind,
        "cost_usd": cost_usd,
    }
    # The key in the journal: the line can be looked up under /v1/decisions.
    response = {"status_code": status, "request_id": trace.decision_id, "body": _to_one_line(body)}
    return OutputLine(_encode_line(request_id, custom_id, response, None, facts), failed, cost_usd)


def build_refusal_line(custom_id: str, error: GatewayError) -> OutputLine:
    """The output of a line that is not a valid request."""
    request_id = "batch_req_" + fresh_id()
    response = {"status_code": error.status, "request_id": request_id, "body": Raw(to_envelope(error))}
    return OutputLine(_encode_line(request_id, custom_id, response, None), failed=True)


def build_skipped_line(custom_id: str, code: str, message: str) -> OutputLine:
    """The output of a line whose calls were not made: cancelled, expired or over the spend cap."""
    error = {"code": code, "message": message}
    return OutputLine(_encode_line("batch_req_" + fresh_id(), custom_id, None, error), failed=True)


def _encode_line(
    request_id: str,
    custom_id: str,
    response: dict[str, Any] | None,
    error: dict[str, str] | None,
    facts: dict[str, Any] | None = None,
) -> bytes:
    line = {"id": request_id, "custom_id": custom_id, "response": response, "error": error}
    return _encode({**line, "thalamus": facts} if facts else line) + b"\n"


def _find_answer(history: Sequence[Sequence[CallOutcome]], ended: PlanEnded) -> CallOutcome | None:
    """The outcome whose answer is the output; None if no expert answered."""
    if ended.chosen_expert is not None:
        return next(
            outcome
            for step in history
            for outcome in step
            if outcome.record.expert == ended.chosen_expert and outcome.body is not None
        )
    last = history[-1][-1]
    return last if last.body is not None else None


def _describe_failure(history: Sequence[Sequence[CallOutcome]], trace: ExecutionTrace) -> tuple[int, bytes]:
    """Status and body when no expert answered, as a live client receives them."""
    failures = [outcome.failure for step in history for outcome in step if outcome.failure is not None]
    error = failures[-1].error() if failures else UpstreamError("empty", "gave no answer")
    trace.error = error.cause
    if error.body is not None and error.status is not None:
        trace.status = error.status
        return error.status, error.body
    trace.status = error.client_status
    return error.client_status, to_envelope(all_experts_failed(trace, error))


def _to_one_line(body: bytes) -> Raw | str:
    """JSON without line breaks; anything else as a string."""
    try:
        _raw.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    # Inside strings JSON escapes line breaks (RFC 8259, section 7), so raw ones are only whitespace.
    return Raw(body.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in body or b"\r" in body else body)
