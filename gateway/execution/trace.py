"""What dispatch is told to do for one request, and what came of it so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from policies import Decision, Plan

from ..embedding import TextChoice
from ..experts.types import Call
from ..openai.usage import Usage
from ..storage.journal import AttemptRecord
from ..storage.journal_records import describe_decision

CLIENT_GONE_STATUS = 499
MAX_DEBUG_BYTES = 7168


@dataclass(frozen=True, slots=True)
class ExecutionRequest:
    """What is to be done for one request, and on whose word.

    `asked` is the expert a client named, None where a policy chose. `explain` puts the facts of the headers
    into the stream too, `debug` the whole decision on the response. `warnings` tell what was not followed.
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


@dataclass(slots=True)
class ExecutionTrace:
    """What came of an order so far.

    `before` is what the experts used whose answers are not the one given; None of one that was stopped.
    `waited_s` of `first_token_s` a local engine was not there yet.
    `warnings` are the order's, and what turned out under way. `ended_at_s` is when the client had all of a
    stream, on the clock of `perf_counter`.
    """

    decision_id: str
    records: list[AttemptRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    answered: str | None = None
    upstream_s: float = 0.0
    first_token_s: float | None = None
    waited_s: float = 0.0
    streaming_s: float = 0.0
    ended_at_s: float | None = None
    usage: Usage | None = None
    before: dict[str, Usage | None] = field(default_factory=dict)
    status: int = CLIENT_GONE_STATUS
    error: str | None = None
    said: list[bytes] = field(default_factory=list)
    """The answer as it went out; kept only where the journal keeps content."""


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
    return "".join(
        c if c.isascii() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else "?" for c in text
    ).encode()
