"""Carries out orders: has plans performed, puts the answer on the wire, writes down what came of it.

Once an expert has spoken nothing is retried, and a stream that breaks off says so. Whatever happens is told
to the fleet and written to the journal, once.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

import msgspec

from ..asgi.exchange import Exchange, Headers, fresh_id, header_value
from ..errors import ExpertFailed, GatewayError
from ..experts.types import Expert, Reply, UpstreamError
from ..fleet import FleetState
from ..openai.events import EventStream, error_event
from .accounting import Ledger
from .executor import Performer, failed_record
from .panel import as_events, events_with_usage
from .trace import Order, Story, debug_json

Ask = Callable[[Order, Story], Awaitable[Reply]]
COST_DIGITS = 10
DONE = b"data: [DONE]\n\n"


class Dispatcher:
    """Carries out orders with the experts, fleet and ledger of one gateway."""

    def __init__(self, experts: Mapping[str, Expert], fleet: FleetState, ledger: Ledger) -> None:
        self._performer = Performer(experts, fleet)
        self._fleet = fleet
        self._ledger = ledger

    async def perform(self, exchange: Exchange, order: Order, ask: Ask | None = None) -> None:
        """Answer a request as ordered; `ask` stands in for the experts where the answer is made here."""
        story = Story(decision_id="dec_" + fresh_id(), warnings=list(order.warnings))
        try:
            reply = await (ask or self._performer.ask)(order, story)
            if reply.events is not None:
                await self._send_stream(exchange, order, story, reply.events)
            elif order.call.stream:
                await self._send_at_once(exchange, order, story, reply)
            else:
                await self._send_whole(exchange, order, story, reply)
        except UpstreamError as error:
            story.error = error.message
            await self._send_failure(exchange, order, story, error)
        except GatewayError as error:
            story.status, story.error = error.status, error.message
            await exchange.refuse(error, self._facts(exchange, order, story))
        finally:
            latency_s = (story.ended_at_s or perf_counter()) - exchange.started_s
            request_id = exchange.request_id.decode()
            self._ledger.record(order, story, latency_s, request_id, exchange.key_id)

    async def _send_whole(self, exchange: Exchange, order: Order, story: Story, reply: Reply) -> None:
        story.status = 200
        if self._ledger.keeps_content:
            story.said.append(reply.body)
        headers = self._facts(exchange, order, story)
        cost = self._ledger.cost_usd(story)
        headers.append(
            (b"x-thalamus-cost-usd", b"unknown" if cost is None else f"{cost:.{COST_DIGITS}g}".encode())
        )
        await exchange.respond(200, headers, reply.body, reply.content_type)

    async def _send_at_once(self, exchange: Exchange, order: Order, story: Story, reply: Reply) -> None:
        """An answer that is there already, for a client that wants a stream."""
        events = as_events(reply.body, order.call.endpoint, order.call.fields)
        story.status = 200
        story.first_token_s = perf_counter() - exchange.started_s
        if self._ledger.keeps_content:
            story.said.append(events)
        await exchange.start_stream(self._facts(exchange, order, story))
        told = self._told(exchange, order, story, None) if order.explain else b""
        await exchange.end_stream(events + told + DONE)

    async def _send_stream(self, exchange: Exchange, order: Order, story: Story, events: EventStream) -> None:
        """Pass events on as they come. The fleet hears of the call when the stream is over."""
        name, start = story.answered or "", perf_counter()
        failure: UpstreamError | None = None
        ended = False
        try:
            await exchange.start_stream(self._facts(exchange, order, story))
            try:
                async for ready in events:
                    if story.before:
                        ready = events_with_usage(ready, list(story.before.values()))
                    if self._ledger.keeps_content:
                        story.said.append(ready)
                    await exchange.stream(ready)
            except UpstreamError as error:
                failure = error
                await exchange.end_stream(error_event(f"{name} {error.message}", f"stream_{error.kind}"))
            else:
                story.usage = events.events.usage
                story.streaming_s = perf_counter() - start
                told = self._told(exchange, order, story, events) if order.explain else b""
                await exchange.end_stream(told + events.events.done)
            ended = True
        finally:
            story.ended_at_s = perf_counter()
            story.streaming_s = story.ended_at_s - start
            elapsed_s = (story.first_token_s or 0.0) + story.streaming_s
            story.usage = events.events.usage
            if failure is not None:
                story.status, story.error = failure.client_status, failure.message
                story.records[-1] = failed_record(name, failure, elapsed_s, story.records[-1].role)
                self._fleet.failed(name, failure)
            elif ended:
                story.status = 200
                self._fleet.answered(name, elapsed_s - story.waited_s)
            else:
                self._fleet.abandoned(name)
            if failure is not None or not ended:
                events.close()
        await events.drain()

    async def _send_failure(
        self, exchange: Exchange, order: Order, story: Story, error: UpstreamError
    ) -> None:
        headers = self._facts(exchange, order, story)
        if error.body is not None and error.status is not None:
            story.status = error.status
            await exchange.respond(error.status, headers, error.body, header_value(error.content_type))
            return
        story.status = error.client_status
        await exchange.refuse(nobody_answered(story, error), headers)

    def _facts(self, exchange: Exchange, order: Order, story: Story) -> Headers:
        """The headers that say who answered, on whose word and why."""
        overhead_s = perf_counter() - exchange.started_s - story.upstream_s - story.streaming_s
        headers = [
            (b"x-thalamus-decision-id", story.decision_id.encode()),
            (b"x-thalamus-policy", header_value(order.policy)),
            (b"x-thalamus-plan", order.plan.kind.encode()),
            (b"x-thalamus-reason", header_value(order.reason)),
            (b"x-thalamus-overhead-ms", b"%.3f" % (overhead_s * 1000)),
        ]
        if story.answered is not None:
            headers.append((b"x-thalamus-expert", story.answered.encode()))
        headers += [(b"x-thalamus-warning", header_value(warning)) for warning in story.warnings]
        if order.debug:
            headers.append((b"x-thalamus-decision", debug_json(order, story)))
        return headers

    def _told(self, exchange: Exchange, order: Order, story: Story, events: EventStream | None) -> bytes:
        """The facts of the headers as one more chunk."""
        facts = {
            name.decode().removeprefix("x-thalamus-").replace("-", "_"): value.decode()
            for name, value in self._facts(exchange, order, story)
            if name != b"x-thalamus-decision"
        }
        chunk: dict[str, object] = {
            "id": (events and events.events.id) or story.decision_id,
            "object": "chat.completion.chunk"
            if order.call.endpoint == "chat/completions"
            else "text_completion",
            "created": int(time.time()),
            "model": (events and events.events.model) or story.answered,
            "choices": [],
            "thalamus": {**facts, "cost_usd": self._ledger.cost_usd(story)},
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def nobody_answered(story: Story, error: UpstreamError) -> ExpertFailed:
    """The refusal where every expert failed, the last with this error."""
    said = "; ".join(f"{record.expert} {record.error}" for record in story.records)
    return ExpertFailed(said, error.client_status, f"upstream_{error.kind}", error.retry_after_s)
