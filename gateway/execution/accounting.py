"""What came of an order, in money and in the journal."""

import time
from collections.abc import Mapping

from ..openai.transcript import answer_of, prompt_of
from ..openai.usage import UNKNOWN_PRICE, Price, Usage, cost_usd
from ..storage.journal import Journal, JournalEntry
from .panel import together
from .trace import ExecutionRequest, ExecutionTrace


class Accounting:
    """Prices what was used and writes every order down, once."""

    def __init__(self, prices: Mapping[str, Price], journal: Journal) -> None:
        self.prices = prices
        self._journal = journal

    @property
    def keeps_content(self) -> bool:
        """Whether the journal wants what was said, too."""
        return self._journal.content

    def price_usd(self, expert: str, usage: Usage | None) -> float | None:
        """What one call cost; None where that is unknown."""
        return cost_usd(usage, self.prices.get(expert, UNKNOWN_PRICE))

    def cost_usd(self, trace: ExecutionTrace) -> float | None:
        """Of all that was used, not only for the answer that was given; None where a part is unknown."""
        calls = [(trace.answered or "", trace.usage), *trace.before.items()]
        costs = [self.price_usd(name, usage) for name, usage in calls]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def record(
        self,
        request: ExecutionRequest,
        trace: ExecutionTrace,
        latency_s: float,
        request_id: str,
        key_id: str | None,
    ) -> None:
        """Tell the journal."""
        usage = together([trace.usage, *trace.before.values()]) if trace.before else trace.usage
        content = self._journal.content
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
                attempts=tuple(trace.records),
                input_tokens=usage.prompt_tokens if usage else None,
                output_tokens=usage.output_tokens if usage else None,
                cost_usd=self.cost_usd(trace),
                latency_s=latency_s,
                first_token_s=trace.first_token_s,
                overhead_s=latency_s - trace.upstream_s - trace.streaming_s,
                stream=request.call.stream,
                endpoint=request.call.endpoint,
                error=trace.error,
                key_id=key_id,
                session_id=request.session_id,
                prompt=prompt_of(request.call) if content else None,
                answer=answer_of(trace.said, request.call.stream) if content else None,
            )
        )
