"""What is executed for one request, what happened to it, and the one record of it in the journal."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from policies import Decision, Plan, Single

from ..embedding import TextChoice
from ..experts.types import Call
from ..openai.answers import UNKNOWN_PRICE, Price, Usage, cost_usd, sum_usages
from ..openai.events import MAX_CONTENT_BYTES, read_sent_text
from ..requests.options import RoutingOptions
from ..requests.parsing import ToExpert, ToPolicy
from ..storage.journal import AttemptRecord, Journal, JournalEntry, describe_decision

CLIENT_CLOSED_STATUS = 499
"""nginx's status for a client that closed its connection before it was answered; no RFC has one."""

NAMED_POLICY = "named"
NAMED_REASON = "asked for by name"


@dataclass(frozen=True, slots=True)
class ExecutionRequest:
    """A plan with its call and provenance.

    `asked` is the expert that the client named, None where a policy chose. `explain` puts the facts of the
    headers into the stream too, `debug` the whole decision on the response. `warnings` name what was ignored.
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

    @classmethod
    def for_expert(cls, parsed: ToExpert) -> "ExecutionRequest":
        """The named expert, then the fallbacks that the request lists."""
        plan = Single(tuple(dict.fromkeys([parsed.expert, *parsed.fallbacks])))
        return cls(
            parsed.call, plan, NAMED_POLICY, NAMED_REASON, parsed.expert, **_provenance(parsed.options)
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
            warnings=parsed.warnings,
            **_provenance(parsed.options),
        )


def _provenance(options: RoutingOptions) -> dict[str, Any]:
    return {
        "explain": options.explain or options.debug,
        "debug": options.debug,
        "session_id": options.session_id,
    }


@dataclass(slots=True)
class ExecutionTrace:
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
    """

    decision_id: str
    attempts: list[AttemptRecord] = field(default_factory=list)
    streaming: AttemptRecord | None = None
    warnings: list[str] = field(default_factory=list)
    answered: str | None = None
    upstream_s: float = 0.0
    first_token_s: float | None = None
    waited_s: float = 0.0
    streaming_s: float = 0.0
    ended_at_s: float | None = None
    usage: Usage | None = None
    other_usage: dict[str, Usage | None] = field(default_factory=dict)
    status: int = CLIENT_CLOSED_STATUS
    error: str | None = None
    answer_parts: list[bytes] = field(default_factory=list)


class Accounting:
    """Prices what was used, and writes one record of each request to the journal."""

    def __init__(self, prices: Mapping[str, Price], journal: Journal) -> None:
        self.prices = prices
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
    ) -> None:
        """Fold a trace into its record."""
        content, usage = self.keeps_content, trace.usage
        if trace.other_usage:
            usage = sum_usages([usage, *trace.other_usage.values()])
        self._journal.record(
            JournalEntry(
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
                answer=read_sent_text(trace.answer_parts, request.call.stream)
                if self.keeps_content
                else None,
            )
        )


PROMPT_FIELDS = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}


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
