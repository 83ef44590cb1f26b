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
from ..fleet.health import FleetState
from ..openai.events import EventStream, build_error_event
from .accounting import Accounting
from .executor import PlanExecutor, failure_record
from .panel import add_usage_to_events, convert_to_events
from .trace import ExecutionRequest, ExecutionTrace, debug_json

Ask = Callable[[ExecutionRequest, ExecutionTrace], Awaitable[Reply]]
COST_DIGITS = 10
DONE = b"data: [DONE]\n\n"


class Responder:
    """Carries out orders with the experts, fleet and ledger of one gateway."""

    def __init__(self, experts: Mapping[str, Expert], fleet: FleetState, ledger: Accounting) -> None:
        self._executor = PlanExecutor(experts, fleet)
        self._fleet = fleet
        self._ledger = ledger

    async def send(self, exchange: Exchange, request: ExecutionRequest, ask: Ask | None = None) -> None:
        """Answer a request as ordered; `ask` stands in for the experts where the answer is made here."""
        trace = ExecutionTrace(decision_id="dec_" + fresh_id(), warnings=list(request.warnings))
        try:
            reply = await (ask or self._executor.execute)(request, trace)
            if reply.events is not None:
                await self._send_stream(exchange, request, trace, reply.events)
            elif request.call.stream:
                await self._send_at_once(exchange, request, trace, reply)
            else:
                await self._send_whole(exchange, request, trace, reply)
        except UpstreamError as error:
            trace.error = error.message
            await self._send_failure(exchange, request, trace, error)
        except GatewayError as error:
            trace.status, trace.error = error.status, error.message
            await exchange.refuse(error, self._facts(exchange, request, trace))
        finally:
            latency_s = (trace.ended_at_s or perf_counter()) - exchange.started_s
            request_id = exchange.request_id.decode()
            self._ledger.record(request, trace, latency_s, request_id, exchange.key_id)

    async def _send_whole(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, reply: Reply
    ) -> None:
        trace.status = 200
        if self._ledger.keeps_content:
            trace.said.append(reply.body)
        headers = self._facts(exchange, request, trace)
        cost = self._ledger.cost_usd(trace)
        headers.append(
            (b"x-thalamus-cost-usd", b"unknown" if cost is None else f"{cost:.{COST_DIGITS}g}".encode())
        )
        await exchange.respond(200, headers, reply.body, reply.content_type)

    async def _send_at_once(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, reply: Reply
    ) -> None:
        """An answer that is there already, for a client that wants a stream."""
        events = convert_to_events(reply.body, request.call.endpoint, request.call.fields)
        trace.status = 200
        trace.first_token_s = perf_counter() - exchange.started_s
        if self._ledger.keeps_content:
            trace.said.append(events)
        await exchange.start_stream(self._facts(exchange, request, trace))
        told = self._told(exchange, request, trace, None) if request.explain else b""
        await exchange.end_stream(events + told + DONE)

    async def _send_stream(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, events: EventStream
    ) -> None:
        """Pass events on as they come. The fleet hears of the call when the stream is over."""
        name, start = trace.answered or "", perf_counter()
        failure: UpstreamError | None = None
        ended = False
        try:
            await exchange.start_stream(self._facts(exchange, request, trace))
            try:
                async for ready in events:
                    if trace.before:
                        ready = add_usage_to_events(ready, list(trace.before.values()))
                    if self._ledger.keeps_content:
                        trace.said.append(ready)
                    await exchange.stream(ready)
            except UpstreamError as error:
                failure = error
                await exchange.end_stream(
                    build_error_event(f"{name} {error.message}", f"stream_{error.kind}")
                )
            else:
                trace.usage = events.events.usage
                trace.streaming_s = perf_counter() - start
                told = self._told(exchange, request, trace, events) if request.explain else b""
                await exchange.end_stream(told + events.events.done)
            ended = True
        finally:
            trace.ended_at_s = perf_counter()
            trace.streaming_s = trace.ended_at_s - start
            elapsed_s = (trace.first_token_s or 0.0) + trace.streaming_s
            trace.usage = events.events.usage
            if failure is not None:
                trace.status, trace.error = failure.client_status, failure.message
                trace.records[-1] = failure_record(name, failure, elapsed_s, trace.records[-1].role)
                self._fleet.record_failure(name, failure)
            elif ended:
                trace.status = 200
                self._fleet.record_success(name, elapsed_s - trace.waited_s)
            else:
                self._fleet.release(name)
            if failure is not None or not ended:
                events.close()
        await events.drain()

    async def _send_failure(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, error: UpstreamError
    ) -> None:
        headers = self._facts(exchange, request, trace)
        if error.body is not None and error.status is not None:
            trace.status = error.status
            await exchange.respond(error.status, headers, error.body, header_value(error.content_type))
            return
        trace.status = error.client_status
        await exchange.refuse(all_experts_failed(trace, error), headers)

    def _facts(self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace) -> Headers:
        """The headers that say who answered, on whose word and why."""
        overhead_s = perf_counter() - exchange.started_s - trace.upstream_s - trace.streaming_s
        headers = [
            (b"x-thalamus-decision-id", trace.decision_id.encode()),
            (b"x-thalamus-policy", header_value(request.policy)),
            (b"x-thalamus-plan", request.plan.kind.encode()),
            (b"x-thalamus-reason", header_value(request.reason)),
            (b"x-thalamus-overhead-ms", b"%.3f" % (overhead_s * 1000)),
        ]
        if trace.answered is not None:
            headers.append((b"x-thalamus-expert", trace.answered.encode()))
        headers += [(b"x-thalamus-warning", header_value(warning)) for warning in trace.warnings]
        if request.debug:
            headers.append((b"x-thalamus-decision", debug_json(request, trace)))
        return headers

    def _told(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, events: EventStream | None
    ) -> bytes:
        """The facts of the headers as one more chunk."""
        facts = {
            name.decode().removeprefix("x-thalamus-").replace("-", "_"): value.decode()
            for name, value in self._facts(exchange, request, trace)
            if name != b"x-thalamus-decision"
        }
        chunk: dict[str, object] = {
            "id": (events and events.events.id) or trace.decision_id,
            "object": "chat.completion.chunk"
            if request.call.endpoint == "chat/completions"
            else "text_completion",
            "created": int(time.time()),
            "model": (events and events.events.model) or trace.answered,
            "choices": [],
            "thalamus": {**facts, "cost_usd": self._ledger.cost_usd(trace)},
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def all_experts_failed(trace: ExecutionTrace, error: UpstreamError) -> ExpertFailed:
    """The refusal where every expert failed, the last with this error."""
    said = "; ".join(f"{record.expert} {record.error}" for record in trace.records)
    return ExpertFailed(said, error.client_status, f"upstream_{error.kind}", error.retry_after_s)
