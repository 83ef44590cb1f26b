"""Lines of output, as OpenAI writes them; `thalamus` says who answered and what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from ..asgi.exchange import fresh_id
from ..errors import GatewayError, to_envelope
from ..execution.accounting import Accounting
from ..execution.panel import set_usage, together
from ..execution.responder import all_experts_failed
from ..execution.trace import ExecutionRequest, ExecutionTrace
from ..experts.types import UpstreamError
from .outcomes import Ended, Outcome, story_of

_encode = msgspec.json.encode
_raw = msgspec.json.Decoder(Raw)


@dataclass(frozen=True, slots=True)
class Ending:
    """A line's one line of output; `cost_usd` is None where it is unknown."""

    text: bytes
    failed: bool
    cost_usd: float | None = 0.0


def concluded(
    custom_id: str,
    order: ExecutionRequest,
    heard: Sequence[Sequence[Outcome]],
    ended: Ended,
    ledger: Accounting,
    owner: str,
) -> Ending:
    """The ending of a line whose plan is through; the journal is told."""
    answered = _answer(heard, ended)
    story = story_of("dec_" + fresh_id(), heard, answered)
    failed = answered is None
    if answered is not None and answered.body is not None:
        body = answered.body
        if story.before:
            body = set_usage(body, together([*story.before.values(), answered.usage]))
        if ledger.keeps_content:
            story.said.append(body)
        status = 200
    else:
        status, body = _failure(heard, story)
    request_id = "batch_req_" + fresh_id()
    ledger.record(order, story, story.upstream_s, request_id, owner or None)
    cost_usd = ledger.cost_usd(story) if story.answered is not None or story.before else 0.0
    facts = {
        "decision_id": story.decision_id,
        "expert": story.answered,
        "policy": order.policy,
        "plan": order.plan.kind,
        "cost_usd": cost_usd,
    }
    response = {"status_code": status, "request_id": story.decision_id, "body": _on_one_line(body)}
    return Ending(_line(request_id, custom_id, response, None, facts), failed, cost_usd)


def refused(custom_id: str, error: GatewayError) -> Ending:
    """The ending of a line that cannot be asked."""
    request_id = "batch_req_" + fresh_id()
    response = {"status_code": error.status, "request_id": request_id, "body": Raw(to_envelope(error))}
    return Ending(_line(request_id, custom_id, response, None), failed=True)


def unasked(custom_id: str, code: str, message: str) -> Ending:
    """The ending of a line that was not asked: cancelled, expired, or beyond the money."""
    error = {"code": code, "message": message}
    return Ending(_line("batch_req_" + fresh_id(), custom_id, None, error), failed=True)


def _line(
    request_id: str,
    custom_id: str,
    response: dict[str, Any] | None,
    error: dict[str, str] | None,
    facts: dict[str, Any] | None = None,
) -> bytes:
    told = {"id": request_id, "custom_id": custom_id, "response": response, "error": error}
    return _encode({**told, "thalamus": facts} if facts else told) + b"\n"


def _answer(heard: Sequence[Sequence[Outcome]], ended: Ended) -> Outcome | None:
    """The outcome whose answer is given, if there is one."""
    if ended.taken is not None:
        return next(
            outcome
            for step in heard
            for outcome in step
            if outcome.record.expert == ended.taken and outcome.body is not None
        )
    last = heard[-1][-1]
    return last if last.body is not None else None


def _failure(heard: Sequence[Sequence[Outcome]], story: ExecutionTrace) -> tuple[int, bytes]:
    """Status and body where nobody answered, as a live client would be given them."""
    failures = [outcome.failure for step in heard for outcome in step if outcome.failure is not None]
    error = failures[-1].error() if failures else UpstreamError("empty", "said nothing")
    story.error = error.message
    if error.body is not None and error.status is not None:
        story.status = error.status
        return error.status, error.body
    story.status = error.client_status
    return error.client_status, to_envelope(all_experts_failed(story, error))


def _on_one_line(body: bytes) -> Raw | str:
    """JSON without line breaks, which are only space there; what is no JSON as a string."""
    try:
        _raw.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")
    return Raw(body.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in body or b"\r" in body else body)
