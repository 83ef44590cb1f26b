"""The ASGI application, and the exchange: one request on its connection and the response to it.

POSTs to inference endpoints go straight to their handlers; everything else is an ordinary Starlette
application behind the same authentication.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp

from ..errors import (
    CLIENT_CLOSED_STATUS,
    INTERNAL_ERROR,
    STOPPED,
    BodyTooLarge,
    GatewayError,
    MethodNotAllowed,
    Unauthenticated,
    Unavailable,
    to_envelope,
)
from ..telemetry.logs import ACCESS, AUDIT, SERVED_REQUEST, AccessFacts, AccessRecord, AnswerFacts
from .authentication import Authenticator, name_address
from .encodings import inflate_body
from .paths import PathTable

if TYPE_CHECKING:
    from .protocol import RequestCycle

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/health/ready"})
QUIET_PATHS = frozenset({*OPEN_PATHS, "/metrics"})
"""Asked by machines every few seconds: an access log of these is noise."""
JSON = b"application/json"
READING = frozenset({"GET", "HEAD", "OPTIONS"})
PIECE_BYTES = 1 << 18
MAX_HEADER_CHARS = 4096
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
UNSAFE = re.compile(r"[^\x20-\x7e]")

log = logging.getLogger("thalamus")


class ClientDisconnectedError(Exception):
    """The client closed its connection before it had sent its request."""


class AnswerWriter(Protocol):
    """Writes OpenAI's chat answers to a client that speaks another wire format.

    `id_header` is the response header in which its clients look for the request's id, None where it is that
    of OpenAI.
    """

    @property
    def id_header(self) -> bytes | None: ...

    def pass_through(self) -> None:
        """From here on answers come in the client's own format."""

    def write_error(self, status: int, body: bytes, request_id: str) -> bytes:
        """OpenAI's error object in the format."""

    def write_answer(self, body: bytes) -> bytes:
        """A whole answer.

        Raises:
            GatewayError: it cannot be told in the format.
        """

    def write_events(self, events: bytes) -> bytes:
        """Whole events of a stream, as they come."""

    def end_events(self, events: bytes) -> bytes:
        """The last events of a stream: facts of the gateway, an error, or the end mark."""

    async def complete(self, said: bytes) -> bytes:
        """What either of these gave, with what can be said only after work that comes before the end."""


class Exchange:
    """One request and its response on an ASGI connection.

    `id` is new and no other's; `request_id` is the client's own where it sent one.
    `cycle` is the request on our own protocol, None on another server's.
    `key_name` is the name of the client's key, once the authenticator has accepted it; `started_s` is when
    the request came, on the clock of `perf_counter`. For the access log, `model` is what the client wrote and
    `answer` what came of it. `writer` writes the answer where the client speaks another format than OpenAI's.
    """

    __slots__ = (
        "_receive",
        "_send",
        "_task",
        "_watcher",
        "answer",
        "cycle",
        "gone",
        "headers",
        "id",
        "key_name",
        "model",
        "path",
        "request_id",
        "responded",
        "scope",
        "started_s",
        "status",
        "writer",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.cycle: RequestCycle | None = scope.get("request_cycle")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: str = scope["path"]
        self.id = fresh_id()
        given = self.headers.get(b"x-request-id")
        is_tame = given is not None and REQUEST_ID.fullmatch(given)
        self.request_id = given if given and is_tame else b"req_" + self.id.encode()
        self.key_name: str | None = None
        self.model: bytes | None = None
        self.answer: AnswerFacts | None = None
        self.writer: AnswerWriter | None = None
        self.status = 0
        self.started_s = perf_counter()
        self.responded = False
        self.gone = False
        self._receive = receive
        self._send = send
        self._task: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def body(self, max_bytes: int) -> bytes:
        """The whole body; from then on a client that goes away cancels the task that serves it.

        Raises:
            BodyTooLarge: it is longer than `max_bytes`, as it came or once it is inflated.
            UnsupportedEncoding, InvalidEncoding: it is compressed in a way that cannot be read.
            ServerBusy: bodies take all memory that they may, or too many requests wait.
            ClientDisconnectedError: it never came to its end.
        """
        # Refuse by the declared length before a byte is read; chunked bodies are counted as they come.
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > max_bytes:
            raise body_too_large(max_bytes)
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body") or message["type"] != "http.request":
            body = await self._rest(message, max_bytes)
        elif len(body) > PIECE_BYTES:
            hold_body(self.scope, len(body))
        if len(body) > max_bytes:
            raise body_too_large(max_bytes)
        if (codings := self.headers.get(b"content-encoding")) is not None:
            body = await inflate(body, codings.decode("latin-1"), max_bytes)
            hold_body(self.scope, len(body))
        if (cycle := self.cycle) is not None:
            await cycle.admit(self.key_name)
            if cycle.is_gone:
                raise ClientDisconnectedError
            self._task = cycle.task
            cycle.watch(self._leave)
        else:
            self._task = asyncio.current_task()
            self._watcher = asyncio.create_task(self._watch())
        return body

    async def _rest(self, message: Message, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] != "http.request":
                raise ClientDisconnectedError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > max_bytes:
                raise body_too_large(max_bytes)
            hold_body(self.scope, len(parts[-1]))
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._receive()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if self._task is not None:
            self.gone = True
            self._task.cancel()

    def finish(self) -> None:
        """Stop looking out for the client."""
        self._task = None
        # Each refers to this exchange: only the garbage collector would free them, long after.
        if self.cycle is not None:
            self.cycle.watch(None)
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def respond(self, status: int, headers: Headers, body: bytes, content_type: bytes = JSON) -> None:
        """Send a whole response. From here on a client that leaves cancels nothing."""
        self._task = None
        if (writer := self.writer) is not None:
            is_error = status >= 400
            body = (
                writer.write_error(status, body, self.request_id.decode())
                if is_error
                else await writer.complete(writer.write_answer(body))
            )
            if writer.id_header is not None:
                headers.append((writer.id_header, self.request_id))
        headers.append((b"content-type", content_type))
        headers.append((b"content-length", str(len(body)).encode()))
        headers.append((b"x-request-id", self.request_id))
        # Set before the send: a failure in the middle must not start a second response.
        self.responded = True
        self.status = status
        head: Message = {"type": "http.response.start", "status": status, "headers": headers}
        if self.cycle is not None and len(body) <= PIECE_BYTES:
            head["body"] = body  # our own protocol takes both in one message
            await self._send(head)
            return
        await self._send(head)
        # Written at once, a large body would block the loop for every other request.
        for start in range(0, max(1, len(body)), PIECE_BYTES):
            stop = start + PIECE_BYTES
            piece = {"body": body[start:stop], "more_body": stop < len(body)}
            await self._send({"type": "http.response.body", **piece})

    async def refuse(self, error: GatewayError, headers: Headers | None = None) -> None:
        """Send an error in the client's envelope, OpenAI's where it speaks no other format."""
        await self.respond(error.status, [*(headers or ()), *error.headers()], to_envelope(error))

    async def start_stream(self, headers: Headers) -> None:
        headers.append((b"content-type", b"text/event-stream; charset=utf-8"))
        headers.append((b"cache-control", b"no-cache"))
        # nginx buffers proxied answers by default, which would hold the first token back.
        headers.append((b"x-accel-buffering", b"no"))
        if self.writer is not None and self.writer.id_header is not None:
            headers.append((self.writer.id_header, self.request_id))
        headers.append((b"x-request-id", self.request_id))
        self.responded = True
        self.status = 200
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def stream(self, events: bytes) -> None:
        if self.writer is not None:
            events = self.writer.write_events(events)
            if not events:
                return  # what says nothing in this format
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end_stream(self, events: bytes = b"") -> None:
        self._task = None
        if self.writer is not None:
            events = await self.writer.complete(self.writer.end_events(events))
        await self._send({"type": "http.response.body", "body": events})


def hold_body(scope: Scope, n_bytes: int) -> None:
    """Count bytes of a body that stay in memory until the request ends.

    Raises:
        ServerBusy: bodies take all memory that they may.
    """
    # Only our own protocol counts; an application under test is called without one.
    if (cycle := scope.get("request_cycle")) is not None:
        cycle.hold(n_bytes)


async def inflate(body: bytes, codings: str, max_bytes: int) -> bytes:
    """A compressed body inflated, in a thread: a bound of megabytes is still a pause for other requests.

    Raises:
        BodyTooLarge, UnsupportedEncoding, InvalidEncoding: as `inflate_body`.
    """
    return await asyncio.to_thread(inflate_body, body, codings, max_bytes)


def log_access(exchange: Exchange) -> None:
    """The line of a request that has ended."""
    answer = exchange.answer
    status = answer.status if answer is not None else exchange.status or CLIENT_CLOSED_STATUS
    level = logging.DEBUG if exchange.path in QUIET_PATHS and status < 400 else logging.INFO
    if not ACCESS.isEnabledFor(level):
        return
    model = None if exchange.model is None else exchange.model.decode("utf-8", "replace")
    duration_ms = (perf_counter() - exchange.started_s) * 1000
    facts = AccessFacts(
        exchange.request_id.decode(),
        exchange.scope["method"],
        exchange.path,
        status,
        duration_ms,
        model,
        answer,
        exchange.key_name,
    )
    ACCESS.handle(AccessRecord(level, facts))


def log_change(exchange: Exchange) -> None:
    """The line of a request that may have changed something: who, what, and whether it worked."""
    what = f"{exchange.scope['method']} {exchange.path}"
    address = name_address(exchange.scope.get("client"))
    facts = {"key": exchange.key_name, "address": address, "status": exchange.status}
    text = f"{what} {exchange.status} by key {exchange.key_name or '-'} from {address}"
    AUDIT.info("%s", text, extra={"event": "change", "facts": facts})


def body_too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {max_bytes} bytes (server.max_body_bytes)")


class _IdGenerator:
    """Ids that sort by time, so that an index of them grows at its end; one read of randomness for many."""

    N_BYTES = 8
    N_AT_ONCE = 128

    def __init__(self) -> None:
        self._left: list[str] = []

    def __call__(self) -> str:
        """28 hexadecimal digits: the time in 65 µs, then randomness."""
        if not self._left:
            digits, n = os.urandom(self.N_BYTES * self.N_AT_ONCE).hex(), self.N_BYTES * 2
            self._left = [digits[i : i + n] for i in range(0, len(digits), n)]
        # The journal indexes the id: a random prefix would scatter inserts over the whole index.
        return f"{time_ns() >> 16:012x}{self._left.pop()}"


fresh_id = _IdGenerator()


@lru_cache(maxsize=1024)
def header_value(text: str) -> bytes:
    """A text made safe for a header: printable ASCII, bounded."""
    return UNSAFE.sub("?", text[:MAX_HEADER_CHARS]).encode("ascii")


Handler = Callable[[Exchange], Awaitable[None]]


class Application:
    """ASGI application: POST to a path of `handlers` goes straight to its handler, all else to `fallback`."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        fallback: ASGIApp,
        authenticator: Authenticator,
        paths: PathTable,
        writers: Mapping[str, Callable[[], AnswerWriter]] | None = None,
    ) -> None:
        """`writers` make what writes the errors of paths whose clients speak another format than OpenAI's."""
        # Inference skips Starlette's routing and middleware: its way is one look-up in a dictionary.
        self._handlers = dict(handlers)
        self._fallback = fallback
        self._authenticator = authenticator
        self._paths = paths
        self._writers = writers or {}
        self.n_in_flight = 0
        """Requests of `handlers` being answered now."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        SERVED_REQUEST.set(exchange.request_id.decode())
        path = exchange.path
        try:
            if path not in OPEN_PATHS:
                exchange.key_name = self._authenticator.authenticate(scope["headers"], scope.get("client"))
            handler = self._handlers.get(path)
            if handler is None and (meant := self._paths.resolve(path)) != path:
                # `raw_path` stays: nothing behind this reads it.
                scope["path"] = exchange.path = path = meant
                handler = self._handlers.get(path)
            if handler is None:
                scope.setdefault("state", {})["key_name"] = exchange.key_name
                if path not in QUIET_PATHS and exchange.cycle is not None:
                    await exchange.cycle.admit(exchange.key_name)
                await self._fallback(scope, receive, self._with_request_id(exchange, send))
                if scope["method"] not in READING:
                    log_change(exchange)
            elif scope["method"] != "POST":
                raise MethodNotAllowed(f"{path} takes POST, not {scope['method']}", ["POST"])
            else:
                self.n_in_flight += 1
                try:
                    await handler(exchange)
                finally:
                    self.n_in_flight -= 1
        except Unauthenticated as error:
            await self._authenticator.failed_logins.hold(name_address(scope.get("client")), error.delay_s)
            await self._refuse(exchange, error)
        except GatewayError as error:
            await self._refuse(exchange, error)
        except ClientDisconnectedError:
            pass
        except asyncio.CancelledError:
            # When the client leaves the exchange cancels its own task; other cancellations are the server's.
            if not exchange.gone:
                await self._refuse(exchange, Unavailable(STOPPED))
                raise
        except Exception:
            log.exception("request %s failed", exchange.request_id.decode())
            await self._refuse(exchange, GatewayError(INTERNAL_ERROR))
        finally:
            exchange.finish()
            log_access(exchange)

    @staticmethod
    def _with_request_id(exchange: Exchange, send: Send) -> Send:
        """The same `send`, that puts the request's id on the response."""

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.responded = True
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.request_id)]
            await send(message)

        return send_with_id

    async def _refuse(self, exchange: Exchange, error: GatewayError) -> None:
        if not exchange.responded:
            if (build := self._writers.get(self._paths.resolve(exchange.path))) is not None:
                exchange.writer = exchange.writer or build()
            await exchange.refuse(error)
