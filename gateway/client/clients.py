"""`Client` and `AsyncClient`: the same calls over sync and async sockets; `exchange` decides for both."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from . import exchange
from .exchange import (
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
from .values import Answered, Chat, Chunk, Embeddings, Feedback, Health, Model, Routed, RouteDecision

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
        **params: Any,
    ) -> "ChatStream": ...

    def chat(
        self,
        messages: Prompt,
        model: str = "auto",
        *,
        stream: bool = False,
        router: Router = None,
        **params: Any,
    ) -> "Chat | ChatStream":
        """An answer, or with `stream` its chunks as they come; `params` are the chat format's other fields.

        Raises:
            ThalamusError: see `gateway.client.errors`.
        """
        if not stream:
            return self._ask(exchange.build_chat_call(messages, model, router, params))
        call = exchange.build_chat_call(messages, model, router, {**params, "stream": True})
        return ChatStream(self._open(call))

    def embeddings(
        self,
        input: str | Sequence[str],
        model: str = "auto",
        *,
        input_type: InputType | None = None,
        router: Router = None,
        **params: Any,
    ) -> Embeddings:
        """One vector per text, and its embedder: the chosen one for `query` texts, the base for documents."""
        return self._ask(exchange.build_embeddings_call(input, model, input_type, router, params))

    def route(
        self, messages: Prompt, model: str = "auto", *, router: Router = None, **params: Any
    ) -> RouteDecision:
        """Whom the router would choose, without the call."""
        return self._ask(exchange.build_route_call(messages, model, router, params))

    def models(self) -> tuple[Model, ...]:
        """The names that may be asked for."""
        return self._ask(exchange.build_models_call())

    def decision(self, decision_id: str) -> RouteDecision:
        """A decision made earlier, by the id its answer bore."""
        return self._ask(exchange.build_decision_call(decision_id))

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
    ) -> Feedback:
        """Say how good an answer was, to learn from: an answer or the id of its decision, and what of it.

        `score` is in [0, 1]; `among` are the other answers that were shown, of which this one was chosen;
        `chosen` is the best member of a panel. Said otherwise, the later word counts.
        """
        return self._ask(exchange.build_feedback_call(decision, score, thumbs, among, chosen, comment, user))

    def health(self) -> Health:
        """Whether the gateway would take traffic now; ConnectionFailed if no gateway listens."""
        return self._ask(exchange.build_health_call())

    def close(self) -> None:
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, call: ClientCall[T]) -> T:
        response = self._open(call)
        with raise_client_errors():
            response.read()
        return parse_reply(call, response)

    def _open(self, call: ClientCall[Any]) -> httpx.Response:
        """A response that answers, its body unread; asks again where that may help."""
        n_tried = 0
        while True:
            n_tried += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.send(self._gateway.request(call), stream=True)
            except httpx.TransportError as failure:
                outcome = failure
            else:
                if call.is_answered_by(outcome):
                    return outcome
                with raise_client_errors():
                    outcome.read()
            time.sleep(self._gateway.pause_s(outcome, n_tried))


class ChatStream(Answered):
    """The chunks of an answer as they come. Leaving its `with` block early cancels the call upstream.

    Iterating raises StreamError when the answer was not completed; it never just ends early.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.routed = Routed.parse(response.headers)
        self._response = response
        self._chunks = self._read()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def _read(self) -> Generator[Chunk, None, None]:
        transcript, broke = Transcript(), None
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
        **params: Any,
    ) -> "AsyncChatStream": ...

    async def chat(
        self,
        messages: Prompt,
        model: str = "auto",
        *,
        stream: bool = False,
        router: Router = None,
        **params: Any,
    ) -> "Chat | AsyncChatStream":
        """An answer, or with `stream` its chunks as they come; `params` are the chat format's other fields.

        Raises:
            ThalamusError: see `gateway.client.errors`.
        """
        if not stream:
            return await self._ask(exchange.build_chat_call(messages, model, router, params))
        call = exchange.build_chat_call(messages, model, router, {**params, "stream": True})
        return AsyncChatStream(await self._open(call))

    async def embeddings(
        self,
        input: str | Sequence[str],
        model: str = "auto",
        *,
        input_type: InputType | None = None,
        router: Router = None,
        **params: Any,
    ) -> Embeddings:
        """One vector per text, and its embedder: the chosen one for `query` texts, the base for documents."""
        return await self._ask(exchange.build_embeddings_call(input, model, input_type, router, params))

    async def route(
        self, messages: Prompt, model: str = "auto", *, router: Router = None, **params: Any
    ) -> RouteDecision:
        """Whom the router would choose, without the call."""
        return await self._ask(exchange.build_route_call(messages, model, router, params))

    async def models(self) -> tuple[Model, ...]:
        """The names that may be asked for."""
        return await self._ask(exchange.build_models_call())

    async def decision(self, decision_id: str) -> RouteDecision:
        """A decision made earlier, by the id its answer bore."""
        return await self._ask(exchange.build_decision_call(decision_id))

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
    ) -> Feedback:
        """Say how good an answer was, to learn from: an answer or the id of its decision, and what of it.

        `score` is in [0, 1]; `among` are the other answers that were shown, of which this one was chosen;
        `chosen` is the best member of a panel. Said otherwise, the later word counts.
        """
        return await self._ask(
            exchange.build_feedback_call(decision, score, thumbs, among, chosen, comment, user)
        )

    async def health(self) -> Health:
        """Whether the gateway would take traffic now; ConnectionFailed if no gateway listens."""
        return await self._ask(exchange.build_health_call())

    async def aclose(self) -> None:
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def _ask(self, call: ClientCall[T]) -> T:
        response = await self._open(call)
        with raise_client_errors():
            await response.aread()
        return parse_reply(call, response)

    async def _open(self, call: ClientCall[Any]) -> httpx.Response:
        """A response that answers, its body unread; asks again where that may help."""
        n_tried = 0
        while True:
            n_tried += 1
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = await self._http.send(self._gateway.request(call), stream=True)
            except httpx.TransportError as failure:
                outcome = failure
            else:
                if call.is_answered_by(outcome):
                    return outcome
                with raise_client_errors():
                    await outcome.aread()
            await asyncio.sleep(self._gateway.pause_s(outcome, n_tried))


class AsyncChatStream(Answered):
    """The chunks of an answer as they come. Leaving its `async with` block early cancels the call upstream.

    Iterating raises StreamError when the answer was not completed; it never just ends early.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.routed = Routed.parse(response.headers)
        self._response = response
        self._chunks = self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        return await anext(self._chunks)

    async def _read(self) -> AsyncGenerator[Chunk, None]:
        transcript, broke = Transcript(), None
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
