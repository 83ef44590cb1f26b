"""The responder: executes a request, puts the answer on the wire, and has it recorded once.

After the first token nothing is tried again; a stream that breaks off ends with an explicit error event.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from time import perf_counter

import msgspec
from msgspec.structs import replace

from ..asgi.application import Exchange, Headers, header_value
from ..errors import STOPPED, ExpertFailed, GatewayError, Unavailable
from ..experts.types import COUNTED, Reply, UpstreamError, estimate_usage
from ..experts.upstreams import UpstreamTable
from ..fleet.health import FleetState
from ..openai.conversion import convert_to_events
from ..openai.events import (
    DONE,
    EventStream,
    add_usage_to_events,
    build_error_event,
    encode_event,
)
from ..openai.translation import Translation
from ..telemetry.logs import AnswerFacts
from .executor import Accounting, ExecutionRequest, ExecutionTrace, PlanExecutor, debug_json

Execute = Callable[[ExecutionRequest, ExecutionTrace], Awaitable[Reply]]
CLIENT_LEFT = "the client left before the answer was complete"
COST_DIGITS = 10
SAID_KINDS = frozenset({"status", "refused", "unsupported", "quota"})
"""Within a stream all of these are errors that an event told of."""


class Responder:
    """Sends answers for the experts, fleet and accounting of one gateway."""

    def __init__(self, executor: PlanExecutor, fleet: FleetState, accounting: Accounting) -> None:
        self._executor = executor
        self._fleet = fleet
        self._accounting = accounting

    async def send(
        self, exchange: Exchange, request: ExecutionRequest, execute: Execute | None = None
    ) -> None:
        """Answer a request; `execute` replaces the plan executor where the gateway itself has the answer."""
        trace = ExecutionTrace(
            decision_id="dec_" + exchange.id,
            caller=exchange.key_name,
            fields=request.call.fields,
            warnings=list(request.warnings),
        )
        if (translation := request.call.translation) is not None:
            exchange.writer = translation.writer
        try:
            reply = await (execute or self._executor.execute)(request, trace)
            if translation is not None:
                choose_format(translation, reply, trace)
            if reply.events is not None:
                await self._send_stream(exchange, request, trace, reply.events)
            elif request.call.stream:
                await self._send_as_stream(exchange, request, trace, reply)
            else:
                trace.status = 200
                if self._accounting.keeps_content:
                    trace.answer_parts.append(reply.body)
                headers = self.response_headers(exchange, request, trace)
                cost = self._accounting.cost_usd(trace)
                text = b"unknown" if cost is None else b"%.*g" % (COST_DIGITS, cost)
                headers.append((b"x-thalamus-cost-usd", text))
                await exchange.respond(200, headers, reply.body, reply.content_type)
        except UpstreamError as error:
            trace.error = error.cause
            await self._send_failure(exchange, request, trace, error)
            error.__traceback__ = None  # it has frames that have the error, with all that they hold
        except GatewayError as error:
            trace.status, trace.error = error.status, error.message
            await exchange.refuse(error, self.response_headers(exchange, request, trace))
        except asyncio.CancelledError:
            if not exchange.gone:  # the server ends: a trace without a status would blame the client
                trace.status, trace.error = Unavailable.status, STOPPED
            raise
        # Recorded also when the client has left: its tokens were used.
        finally:
            latency_s = (trace.ended_at_s or perf_counter()) - exchange.started_s
            request_id = exchange.request_id.decode()
            kept = self._accounting.record(request, trace, latency_s, request_id, exchange.key_name)
            exchange.answer = AnswerFacts(
                trace.status,
                trace.answered,
                kept.input_tokens,
                kept.output_tokens,
                kept.cost_usd,
                any(attempt.tokens_estimated for attempt in trace.attempts),
            )

    async def _send_as_stream(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, reply: Reply
    ) -> None:
        """A whole answer, for a client that wants a stream."""
        # What writes another format needs the counts, whether or not its client asked for them.
        wish = request.call.fields if exchange.writer is None else {"stream_options": COUNTED}
        events = convert_to_events(reply.body, request.call.endpoint, wish)
        trace.status = 200
        trace.first_token_s = perf_counter() - exchange.started_s
        if self._accounting.keeps_content:
            trace.answer_parts.append(events)
        await exchange.start_stream(self.response_headers(exchange, request, trace))
        metadata = self.metadata_chunk(exchange, request, trace, None) if request.explain else b""
        await exchange.end_stream(events + metadata + DONE)

    async def _send_stream(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, stream: EventStream
    ) -> None:
        """Pass events on as they come. The attempt ends, for trace and fleet, when the stream does."""
        name, start = trace.answered or "", perf_counter()
        failure: UpstreamError | None = None
        ended = False
        try:
            await exchange.start_stream(self.response_headers(exchange, request, trace))
            try:
                # `ready` holds whole events exactly as they came: clients may depend on the upstream's bytes.
                async for ready in stream:
                    if trace.other_usage:
                        ready = add_usage_to_events(ready, list(trace.other_usage.values()))
                    if self._accounting.keeps_content:
                        trace.keep(ready)
                    await exchange.stream(ready)
            except UpstreamError as error:
                failure = error.with_traceback(None)  # it has this frame, and this frame has it
                self._executor.upstreams.hide_secrets(error)
                kind = "error_event" if error.kind in SAID_KINDS else error.kind
                message = name_expert(name, error.message, self._executor.upstreams)
                await exchange.end_stream(build_error_event(message, f"stream_{kind}"))
            except asyncio.CancelledError:
                # The server ends what is not over within server.drain_s: silence would look like an answer.
                if not exchange.gone:
                    await exchange.end_stream(build_error_event(STOPPED, "stream_stopped"))
                raise
            else:
                self._count_stream(request, trace, stream)
                trace.streaming_s = perf_counter() - start
                metadata = self.metadata_chunk(exchange, request, trace, stream) if request.explain else b""
                await exchange.end_stream(metadata + stream.events.done)
            ended = True
        finally:
            trace.ended_at_s = perf_counter()
            trace.streaming_s = trace.ended_at_s - start
            self._count_stream(request, trace, stream)
            self._end_attempt(trace, failure, ended, CLIENT_LEFT if exchange.gone else STOPPED)
            if failure is not None or not ended:
                stream.close()
        # Reading past [DONE] lets the connection return to the pool instead of being closed.
        await stream.drain()

    @staticmethod
    def _count_stream(request: ExecutionRequest, trace: ExecutionTrace, stream: EventStream) -> None:
        """The tokens of a stream as its expert counted them; an estimate, where it ended without counts."""
        trace.usage = stream.events.usage
        if trace.usage is None and trace.streaming is not None:
            trace.usage = estimate_usage(request.call, stream.events.n_chunks)
            trace.streaming = replace(trace.streaming, tokens_estimated=True)

    def _end_attempt(
        self, trace: ExecutionTrace, failure: UpstreamError | None, ended: bool, why_cut: str
    ) -> None:
        """Record the attempt whose stream has ended; not `ended`, because it was cut off."""
        attempt = trace.streaming
        if attempt is None:
            return
        name, elapsed_s = attempt.expert, (trace.first_token_s or 0.0) + trace.streaming_s
        if failure is not None:
            trace.status, trace.error = failure.client_status, failure.cause
            self._executor.record_failure(trace, attempt, failure, elapsed_s, has_spoken=True)
            return
        if ended:
            trace.status = 200
            self._fleet.record_success(name, elapsed_s - trace.waited_s, has_spoken=True)
        else:
            self._fleet.release(name, has_spoken=True)
            attempt = replace(attempt, verdict="abandoned", error=why_cut)
        trace.attempts.append(attempt)

    async def _send_failure(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace, error: UpstreamError
    ) -> None:
        headers = self.response_headers(exchange, request, trace)
        if error.body is not None and error.status is not None:
            # The request is at fault: the upstream's own words say it best, and hold no secret of ours.
            trace.status = error.status
            await exchange.respond(error.status, headers, error.body, header_value(error.content_type))
            return
        trace.status = error.client_status
        await exchange.refuse(all_experts_failed(trace, error, self._executor.upstreams), headers)

    def response_headers(
        self, exchange: Exchange, request: ExecutionRequest, trace: ExecutionTrace
    ) -> Headers:
        """The headers that say which expert answered, by which policy and why."""
        reason = request.reason
        if trace.answered is not None and trace.attempts and request.plan.is_sequential:
            failed = dict.fromkeys([a.expert for a in trace.attempts if a.verdict == "moved_on"])
            reason += f"; fallback: {', '.join(failed)} failed" if failed else ""
        overhead_s = perf_counter() - exchange.started_s - trace.upstream_s - trace.streaming_s
        headers = [
            (b"x-thalamus-decision-id", trace.decision_id.encode()),
            (b"x-thalamus-policy", header_value(request.policy)),
            (b"x-thalamus-plan", request.plan.kind.encode()),
            (b"x-thalamus-reason", header_value(reason)),
            (b"x-thalamus-overhead-ms", b"%.3f" % (overhead_s * 1000)),
        ]
        if request.head is not None:
            headers.append((b"x-thalamus-head", request.head.encode()))
        if trace.answered is not None:
            headers.append((b"x-thalamus-expert", trace.answered.encode()))
        headers += [(b"x-thalamus-warning", header_value(warning)) for warning in trace.warnings]
        if request.debug:
            headers.append((b"x-thalamus-decision", debug_json(request, trace)))
        return headers

    def metadata_chunk(
        self,
        exchange: Exchange,
        request: ExecutionRequest,
        trace: ExecutionTrace,
        stream: EventStream | None,
    ) -> bytes:
        """The facts of the headers as one more chunk of a stream."""
        facts = {
            name.decode().removeprefix("x-thalamus-").replace("-", "_"): value.decode()
            for name, value in self.response_headers(exchange, request, trace)
            if name != b"x-thalamus-decision"
        }
        is_chat = request.call.endpoint == "chat/completions"
        chunk: dict[str, object] = {
            "id": (stream and stream.events.id) or trace.decision_id,
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": (stream and stream.events.model) or trace.answered,
            "choices": [],
            "thalamus": {**facts, "cost_usd": self._accounting.cost_usd(trace)},
        }
        return encode_event(msgspec.json.encode(chunk))


def choose_format(translation: Translation, reply: Reply, trace: ExecutionTrace) -> None:
    """Write the answer in the client's format, and say what the expert was not told; or pass it on."""
    trace.read_native = reply.read_native
    if reply.read_native is not None:
        translation.writer.pass_through()
    else:
        trace.warnings += translation.warnings


def all_experts_failed(
    trace: ExecutionTrace, error: UpstreamError, upstreams: UpstreamTable | None = None
) -> ExpertFailed:
    """The refusal where every expert failed, the last with this error."""
    # A batch calls one expert several times: the same failure is told once, with its count.
    counts = Counter(
        name_expert(attempt.expert, attempt.client_error or attempt.error, upstreams, attempt.deployment)
        for attempt in trace.attempts
        if attempt.error
    )
    failures = "; ".join(f"{said} ({n} times)" if n > 1 else said for said, n in counts.items())
    return ExpertFailed(failures, error.client_status, f"upstream_{error.kind}", error.retry_after_s)


def name_expert(
    name: str, error: str, upstreams: UpstreamTable | None = None, deployment: str | None = None
) -> str:
    """What an expert did, with its name and the host that was asked."""
    host = upstreams.find(name, deployment).host if upstreams is not None else ""
    return f"expert '{name}' ({host}) {error}" if host else f"expert '{name}' {error}"
