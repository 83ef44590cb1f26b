"""What came of an order, in money and in the journal."""

import time
from collections.abc import Mapping

from ..journal import Entry, Journal
from ..openai.transcript import answer_of, prompt_of
from ..openai.usage import UNKNOWN_PRICE, Price, Usage, cost_usd
from .panel import together
from .trace import Order, Story


class Ledger:
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

    def cost_usd(self, story: Story) -> float | None:
        """Of all that was used, not only for the answer that was given; None where a part is unknown."""
        calls = [(story.answered or "", story.usage), *story.before.items()]
        costs = [self.price_usd(name, usage) for name, usage in calls]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def record(
        self, order: Order, story: Story, latency_s: float, request_id: str, key_id: str | None
    ) -> None:
        """Tell the journal."""
        usage = together([story.usage, *story.before.values()]) if story.before else story.usage
        content = self._journal.content
        self._journal.record(
            Entry(
                decision_id=story.decision_id,
                request_id=request_id,
                time=time.time(),
                policy=order.policy,
                expert_asked=order.asked,
                expert_answered=story.answered,
                plan=order.plan.kind,
                status=story.status,
                decision=order.decision,
                attempts=tuple(story.records),
                input_tokens=usage.prompt_tokens if usage else None,
                output_tokens=usage.output_tokens if usage else None,
                cost_usd=self.cost_usd(story),
                latency_s=latency_s,
                first_token_s=story.first_token_s,
                overhead_s=latency_s - story.upstream_s - story.streaming_s,
                stream=order.call.stream,
                endpoint=order.call.endpoint,
                error=story.error,
                key_id=key_id,
                session_id=order.session_id,
                prompt=prompt_of(order.call) if content else None,
                answer=answer_of(story.said, order.call.stream) if content else None,
            )
        )
