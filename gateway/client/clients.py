"""`Client` and `AsyncClient`: the same calls over sync and async sockets; `exchange` decides for both."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from . import exchange
from .batches import AsyncBatches, AsyncFiles, Batches, Files
from .exchange import (
    CallTimeout,
    ClientCall,
    GatewayAddress,
    InputType,
    Prompt,
    Router,
    Thumbs,
    Transcript,
    parse_reply,
    raise_client_errors,
)
from .schemas import ParsedAnswer, build_response_format, read_answer
from .values import (
    Answered,
    Chat,
    Chunk,
    Embeddings,
    Feedback,
    Health,
    Json,
    Model,
    Routed,
    RouteDecision,
    Usage,
)

T = TypeVar("T")

BASE_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 600.0  # a local model on a CPU may think for minutes before its first byte
MAX_RETRIES = 2
LOOPBACK = dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]"))  # no proxy can reach ours


class Client:
    """A gateway, asked from ordinary code; safe to share between threads.

    `api_key` defaults to the environment's THALAMUS_API_KEY. `timeout` is the longest silence in seconds (or
    an `httpx.Timeout`). `max_retries` counts the tries after the first, made only when no answer has begun:
    after failed connections, 429 and 503. Give an `http_client` for own certificates, proxies or limits; it
    stays yours to close.
    """

    def __init__(
        self,
        base_url: str = BASE_URL,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        http_client: httpx.Client | None = None,
    ) -> None:
        self._gateway = GatewayAddress.at(base_url, api_key, timeout, max_retries)
        self._http = http_client or httpx.Client(mounts=LOOPBACK)
        self._owned = http_client is None
        self.files = Files(self._ask)
        self.batches = Batches(self._ask)

    def __repr__(self) -> str:
        return f"Client({str(self._gateway.url)!r})"

    @overload
    def chat(
        self,
        messages: Prompt,
        model: str = ...,
        *,
        stream: Literal[False] = ...,
        router: Router = ...,
        timeout: CallTimeout = ...,
        extra_body: Json | None = ...,
        **params: Any,
    ) -> Chat: ...

    @overload
    def chat(
        self,
        messages: Prompt,
        model: str = ...,
        *,
        stream: Literal[True],
        router: Router = ...,
        timeout: CallTimeout = ...,
        extra_body: Json | None = ...,
        **params: Any,
    ) -> "ChatStream": ...

    def chat(
        self,
        messages: Prompt,
        model: str = "auto",
        *,
        stream: bool = False,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> "Chat | ChatStream":
        """An answer, or with `stream` its chunks as they come; `params` are the chat format's other fields.

        `timeout` is the longest silence of this call in seconds; `extra_body` holds fields of one provider.

        Raises:
            ThalamusError: see `gateway.client.errors`.
            TypeError: an argument that the format does not have; names the nearest.
        """
        if not stream:
            call = exchange.build_chat_call(messages, model, router, params, extra_body)
            return self._ask(call, timeout)
        call = exchange.build_stream_call(messages, model, router, params, extra_body)
        return ChatStream(self._open(call, timeout))

    def parse(
        self,
        messages: Prompt,
        schema: type[T] | Mapping[str, Any],
        model: str = "auto",
        *,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> ParsedAnswer[T]:
        """An answer in the shape of a pydantic model class, or of a JSON schema, read and checked.

        Raises:
            InvalidAnswer: the model gave something else; its answer is in `chat`.
        """
        given = {**params, "response_format": build_response_format(schema)}
        call = exchange.build_chat_call(messages, model, router, given, extra_body)
        chat = self._ask(call, timeout)
        return ParsedAnswer(read_answer(schema, chat), chat, chat.routed)

    def embeddings(
        self,
        input: str | Sequence[str],
        model: str = "auto",
        *,
        input_type: InputType | None = None,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> Embeddings:
        """One vector per text, and its embedder: the chosen one for `query` texts, the base for documents."""
        call = exchange.build_embeddings_call(input, model, input_type, router, params, extra_body)
        return self._ask(call, timeout)

    def route(
        self,
        messages: Prompt,
        model: str = "auto",
        *,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> RouteDecision:
        """Whom the router would choose, without the call."""
        return self._ask(exchange.build_route_call(messages, model, router, params, extra_body), timeout)

    def models(self, *, timeout: CallTimeout = None) -> tuple[Model, ...]:
        """The names that may be asked for."""
        return self._ask(exchange.build_models_call(), timeout)

    def decision(self, decision_id: str, *, timeout: CallTimeout = None) -> RouteDecision:
        """A decision made earlier, by the id its answer bore."""
        return self._ask(exchange.build_decision_call(decision_id), timeout)

    def feedback(
        self,
        decision: str | Answered,
        score: float | None = None,
        *,
        thumbs: Thumbs | None = None,
        among: Sequence[str | Answered] | None = None,
        chosen: str | None = None,
        comment: str | None = None,
        user: str | None = None,
        timeout: CallTimeout = None,
    ) -> Feedback:
        """Say how good an answer was, to learn from: an answer or the id of its decision, and what of it.

        `score` is in [0, 1]; `among` are the other answers that were shown, of which this one was chosen;
        `chosen` is the best member of a panel. Said otherwise, the later word counts.
        """
        return self._ask(
            exchange.build_feedback_call(decision, score, thumbs, among, chosen, comment, user), timeout
        )

    def health(self, *, timeout: CallTimeout = None) -> Health:
        """Whether the gateway would take traffic now; ConnectionFailed if no gateway listens."""
        return self._ask(exchange.build_health_call(), timeout)

    def close(self) -> None:
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, call: ClientCall[T], timeout: CallTimeout) -> T:
        response = self._open(call, timeout)
        with raise_client_errors():
            response.read()
        return parse_reply(call, response)

    def _open(self, call: ClientCall[Any], timeout: CallTimeout) -> httpx.Response:
        """A response that answers, its body unread; asks again where that may help."""
        n_tried = 0
        while True:
            n_tried += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.send(self._gateway.request(call, timeout), stream=True)
            except httpx.TransportError as failure:
                outcome = failure
            else:
                if call.is_answered_by(outcome):
                    return outcome
                with raise_client_errors():
                    outcome.read()
            time.sleep(self._gateway.pause_s(outcome, n_tried))


class StreamTotals(Answered):
    """What a streamed answer came to so far; whole once it has ended. None is unknown."""

    _transcript: Transcript

    @property
    def text(self) -> str:
        """The text of all chunks."""
        return "".join(self._transcript.texts)

    @property
    def usage(self) -> Usage | None:
        """The tokens of the whole answer, which come at its end."""
        return self._transcript.usage

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended."""
        return self._transcript.finish_reason

    @property
    def cost_usd(self) -> float | None:
        """What the call cost, which is known at its end."""
        return self._transcript.cost_usd


class ChatStream(StreamTotals):
    """The chunks of an answer as they come. Leaving its `with` block early cancels the call upstream.

    Iterating raises StreamError when the answer was not completed; it never just ends early.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.routed = Routed.parse(response.headers)
        self._response = response
        self._transcript = Transcript()
        self._chunks = self._read()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def _read(self) -> Generator[Chunk, None, None]:
        transcript, broke = self._transcript, None
        try:
            for block in self._response.iter_bytes():
                yield from transcript.feed(block)
        except httpx.RequestError as failure:
            broke = failure
        finally:
            self._response.close()
        transcript.end(broke)

    def close(self) -> None:
        self._chunks.close()
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncClient:
    """A gateway, asked from one event loop; see `Client`, whose arguments and methods it shares."""

    def __init__(
        self,
        base_url: str = BASE_URL,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = TIMEOUT_S,
        max_retries: int = MAX_RETRIES,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._gateway = GatewayAddress.at(base_url, api_key, timeout, max_retries)
        self._http = http_client or httpx.AsyncClient(mounts=LOOPBACK)
        self._owned = http_client is None
        self.files = AsyncFiles(self._ask)
        self.batches = AsyncBatches(self._ask)

    def __repr__(self) -> str:
        return f"AsyncClient({str(self._gateway.url)!r})"

    @overload
    async def chat(
        self,
        messages: Prompt,
        model: str = ...,
        *,
        stream: Literal[False] = ...,
        router: Router = ...,
        timeout: CallTimeout = ...,
        extra_body: Json | None = ...,
        **params: Any,
    ) -> Chat: ...

    @overload
    async def chat(
        self,
        messages: Prompt,
        model: str = ...,
        *,
        stream: Literal[True],
        router: Router = ...,
        timeout: CallTimeout = ...,
        extra_body: Json | None = ...,
        **params: Any,
    ) -> "AsyncChatStream": ...

    async def chat(
        self,
        messages: Prompt,
        model: str = "auto",
        *,
        stream: bool = False,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> "Chat | AsyncChatStream":
        """An answer, or with `stream` its chunks as they come; `params` are the chat format's other fields.

        `timeout` is the longest silence of this call in seconds; `extra_body` holds fields of one provider.

        Raises:
            ThalamusError: see `gateway.client.errors`.
            TypeError: an argument that the format does not have; names the nearest.
        """
        if not stream:
            call = exchange.build_chat_call(messages, model, router, params, extra_body)
            return await self._ask(call, timeout)
        call = exchange.build_stream_call(messages, model, router, params, extra_body)
        return AsyncChatStream(await self._open(call, timeout))

    async def parse(
        self,
        messages: Prompt,
        schema: type[T] | Mapping[str, Any],
        model: str = "auto",
        *,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> ParsedAnswer[T]:
        """An answer in the shape of a pydantic model class, or of a JSON schema, read and checked.

        Raises:
            InvalidAnswer: the model gave something else; its answer is in `chat`.
        """
        given = {**params, "response_format": build_response_format(schema)}
        call = exchange.build_chat_call(messages, model, router, given, extra_body)
        chat = await self._ask(call, timeout)
        return ParsedAnswer(read_answer(schema, chat), chat, chat.routed)

    async def embeddings(
        self,
        input: str | Sequence[str],
        model: str = "auto",
        *,
        input_type: InputType | None = None,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> Embeddings:
        """One vector per text, and its embedder: the chosen one for `query` texts, the base for documents."""
        call = exchange.build_embeddings_call(input, model, input_type, router, params, extra_body)
        return await self._ask(call, timeout)

    async def route(
        self,
        messages: Prompt,
        model: str = "auto",
        *,
        router: Router = None,
        timeout: CallTimeout = None,
        extra_body: Json | None = None,
        **params: Any,
    ) -> RouteDecision:
        """Whom the router would choose, without the call."""
        return await self._ask(
            exchange.build_route_call(messages, model, router, params, extra_body), timeout
        )

    async def models(self, *, timeout: CallTimeout = None) -> tuple[Model, ...]:
        """The names that may be asked for."""
        return await self._ask(exchange.build_models_call(), timeout)

    async def decision(self, decision_id: str, *, timeout: CallTimeout = None) -> RouteDecision:
        """A decision made earlier, by the id its answer bore."""
        return await self._ask(exchange.build_decision_call(decision_id), timeout)

    async def feedback(
        self,
        decision: str | Answered,
        score: float | None = None,
        *,
        thumbs: Thumbs | None = None,
        among: Sequence[str | Answered] | None = None,
        chosen: str | None = None,
        comment: str | None = None,
        user: str | None = None,
        timeout: CallTimeout = None,
    ) -> Feedback:
        """Say how good an answer was, to learn from: an answer or the id of its decision, and what of it.

        `score` is in [0, 1]; `among` are the other answers that were shown, of which this one was chosen;
        `chosen` is the best member of a panel. Said otherwise, the later word counts.
        """
        return await self._ask(
            exchange.build_feedback_call(decision, score, thumbs, among, chosen, comment, user), timeout
        )

    async def health(self, *, timeout: CallTimeout = None) -> Health:
        """Whether the gateway would take traffic now; ConnectionFailed if no gateway listens."""
        return await self._ask(exchange.build_health_call(), timeout)

    async def aclose(self) -> None:
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _ask(self, call: ClientCall[T], timeout: CallTimeout) -> T:
        response = await self._open(call, timeout)
        with raise_client_errors():
            await response.aread()
        return parse_reply(call, response)

    async def _open(self, call: ClientCall[Any], timeout: CallTimeout) -> httpx.Response:
        """A response that answers, its body unread; asks again where that may help."""
        n_tried = 0
        while True:
            n_tried += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.send(self._gateway.request(call, timeout), stream=True)
            except httpx.TransportError as failure:
                outcome = failure
            else:
                if call.is_answered_by(outcome):
                    return outcome
                with raise_client_errors():
                    await outcome.aread()
            await asyncio.sleep(self._gateway.pause_s(outcome, n_tried))


class AsyncChatStream(StreamTotals):
    """The chunks of an answer as they come. Leaving its `async with` block early cancels the call upstream.

    Iterating raises StreamError when the answer was not completed; it never just ends early.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.routed = Routed.parse(response.headers)
        self._response = response
        self._transcript = Transcript()
        self._chunks = self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        return await anext(self._chunks)

    async def _read(self) -> AsyncGenerator[Chunk, None]:
        transcript, broke = self._transcript, None
        try:
            async for block in self._response.aiter_bytes():
                for chunk in transcript.feed(block):
                    yield chunk
        except httpx.RequestError as failure:
            broke = failure
        finally:
            await self._response.aclose()
        transcript.end(broke)

    async def aclose(self) -> None:
        await self._chunks.aclose()
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
