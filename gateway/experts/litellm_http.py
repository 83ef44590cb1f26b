"""What LiteLLM's connections may do: bounded answers, no redirects, no proxy before local servers.

LiteLLM sends with aiohttp through one class, `LiteLLMAiohttpTransport`, and has no setting for any of this.
"""

import asyncio
import contextlib
import functools
import importlib
import logging
import select
import zlib
from collections.abc import AsyncIterator
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD

from ..errors import UpstreamError
from .http_client import DISTRUST_S, MAX_INTERIM, MAX_LOOKED_AT, REST_S, STEP_BYTES, WINDOW_BITS

if TYPE_CHECKING:
    from .litellm import LiteLLMRules

log = logging.getLogger("thalamus.upstream")


class WatchedConnection(ResponseHandler):
    """A connection that is closed as soon as more comes than the answer that was asked for.

    aiohttp keeps surplus bytes, and gives them to the next call as its answer. An address that sent some is
    distrusted for a while: each of its connections serves one call, as what comes late looks like an answer.
    """

    distrusted: ClassVar[dict[Any, float]] = {}
    """Until when, by address."""
    answered: Any = None
    """The parser whose answer has come in full; each request has a parser of its own."""
    former: Any = None
    """The body of the answer that came in full last."""
    answered_at = 0.0
    n_interim = 0
    is_settled = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.unread = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # AttributeError is asyncio's for a TLS connection that is lost; ValueError a closed descriptor's.
        with contextlib.suppress(AttributeError, ValueError):
            descriptor: int = transport.get_extra_info("socket").fileno()
            self.unread.register(descriptor, select.POLLIN)

    def data_received(self, data: bytes) -> None:
        parser, payload = self._parser, self._payload
        if self.distrusted and self.distrusted.get(self._peer(), 0.0) > monotonic():
            self.force_close()
        # Without bytes it is aiohttp's own call, to go on where reading was paused.
        if data and parser is not None and parser is self.answered:
            self._refuse_surplus()
            return
        is_open = payload is not None and not payload.is_eof()
        super().data_received(data)
        last = self._payload
        # What is read later stands in the buffer: interim responses, the answer, and what follows it.
        codes = [message.code for (message, _), _ in self._buffer] if self._buffer else []
        follows = is_open and last is not None and last is not payload
        if codes and codes[0] < 200:
            self.n_interim += len(codes)
            if self.n_interim > MAX_INTERIM:
                self._buffer.clear()
                self.set_exception(aiohttp.ClientConnectionError("interim responses without an end"))
                return
        if follows or (len(codes) > 1 and max(codes[:-1]) >= 200):
            self._refuse_surplus()
            return
        # The former answer stays in its place until the head of this one is whole. It tells nothing of this
        # call: not after half a head, nor where a slow reader of the former one has aiohttp go on.
        if last is EMPTY_PAYLOAD:
            is_whole = bool(codes) and codes[-1] >= 200
        else:
            is_whole = last is not None and last is not self.former and last.is_eof()
        if is_whole:
            self.answered, self.former, self.n_interim = parser, last, 0
            if not self.is_settled:
                self.answered_at = monotonic()

    def _peer(self) -> Any:
        return self.transport.get_extra_info("peername") if self.transport is not None else None

    def _refuse_surplus(self) -> None:
        peer, now = self._peer(), monotonic()
        if self.distrusted.get(peer, 0.0) <= now:
            log.warning("an upstream at %s sent more than its answer: the rest is dropped", peer)
        for other in [other for other, until in self.distrusted.items() if until <= now]:
            del self.distrusted[other]
        self.distrusted[peer] = now + DISTRUST_S
        self.force_close()
        if self.transport is not None:
            self.transport.close()


class WatchedConnector(aiohttp.TCPConnector):
    """Connections that are used again only if nothing came on them after their answer.

    A new connection rests once before its second call: a server that answers twice shows it by then.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no public place for a protocol of one's own; a test fails where this has no effect.
        watched: Any = functools.partial(WatchedConnection, loop=self._loop)
        self._factory = watched

    async def _get(self, key: Any, traces: list[Any]) -> Any:
        # The connection used last comes first: few are busy, the others end by their time-out. Taken in turn,
        # all that a burst opened would stay, and each call would find one whose memory has left the caches.
        rested, now = self._conns.get(key), monotonic()
        if rested is None:
            return None
        for _ in range(min(len(rested), MAX_LOOKED_AT)):
            rested.rotate(1)
            connection = cast("WatchedConnection", rested[0][0])
            connection.is_settled = connection.is_settled or now - connection.answered_at >= REST_S
            if not connection.is_settled:
                continue
            # What the event loop has not read yet was sent without being asked for.
            if connection.unread.poll(0):
                rested.popleft()
                connection.close()
                continue
            return await super()._get(key, traces)
        return None


def limit_stream(stream: Any, coding: str, most: int, is_error: bool) -> AsyncIterator[bytes]:
    """The decoded bytes of a response; what goes beyond the bound ends an error and fails an answer.

    Raises:
        UpstreamError: from iteration: the answer is too long, or its encoding cannot be read.
    """
    if coding and coding not in WINDOW_BITS:
        raise UpstreamError("garbage", "answered in a content encoding that cannot be read")
    inflate = zlib.decompressobj(WINDOW_BITS[coding]) if coding else None

    async def read() -> AsyncIterator[bytes]:
        n_bytes = 0
        async for data in stream:
            rest = data
            while rest:
                try:
                    piece = rest if inflate is None else inflate.decompress(rest, STEP_BYTES)
                except zlib.error:
                    said = "answered in a content encoding that cannot be read"
                    raise UpstreamError("garbage", said) from None
                rest = b"" if inflate is None else inflate.unconsumed_tail
                n_bytes += len(piece)
                if n_bytes > most:
                    if is_error:
                        return
                    raise UpstreamError("garbage", f"answered with more than {most} bytes")
                if piece:
                    yield piece

    return read()


def guard_litellm_http(rules: "LiteLLMRules") -> None:
    """Put the rules into LiteLLM, which has been imported.

    Raises:
        ImportError, AttributeError: this LiteLLM sends in another way.
    """
    httpx = importlib.import_module("httpx")
    transports: Any = importlib.import_module("litellm.llms.custom_httpx.aiohttp_transport")
    handlers: Any = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    base: Any = transports.LiteLLMAiohttpTransport
    if getattr(base, "is_guarded", False):
        return

    class BoundedBody(httpx.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, stream: Any, coding: str, most: int, is_error: bool) -> None:
            self._stream = stream
            self._pieces = limit_stream(stream, coding, most, is_error)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in self._pieces:
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    class GuardedTransport(base):  # type: ignore[misc]
        is_guarded = True

        async def handle_async_request(self, request: Any) -> Any:
            request.headers["accept-encoding"] = "identity"
            response = await super().handle_async_request(request)
            headers, status = response.headers, response.status_code
            if 300 <= status < 400:
                # httpx would follow, and takes no key but `authorization` off on the way to another host.
                headers.pop("location", None)
            coding = headers.pop("content-encoding", "identity").strip().lower().replace("identity", "")
            most = rules.max_bytes(status, headers.get("content-type", ""), request.url.path)
            response.stream = BoundedBody(response.stream, coding, most, status >= 300)
            return response

        def _proxy_from_env(self, url: Any) -> Any:
            return None if url.host in rules.local_hosts else super()._proxy_from_env(url)

    transports.LiteLLMAiohttpTransport = GuardedTransport
    handlers.TCPConnector = WatchedConnector
