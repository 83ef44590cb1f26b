"""HTTP/1.1 on one connection: bytes to ASGI and back, in bounds that hold before a key is checked.

uvicorn runs the server; the protocol is one of our own, because uvicorn's bounds neither the size of a head
nor the time that a client takes. llhttp (httptools) parses, strictly: what could be read in two ways is
refused.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, MutableMapping
from functools import lru_cache, partial
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from ..errors import GatewayError, MalformedRequest, RequestTooSlow, ServerBusy, to_envelope
from .application import OPEN_PATHS, fresh_id
from .connections import BODY_GRACE_S, Connections

Message = MutableMapping[str, Any]

SLICE_BYTES = 1 << 16
HIGH_WATER_BYTES = 1 << 16
"""Bytes that wait on a connection, received or to be sent, before its other side is paused."""
MAX_PIPELINED = 16
MAX_IGNORED_BYTES = 1 << 20
MAX_REMEMBERED = 256
"""Addresses and hosts that need not be read again."""
PAUSE_S = 1.0
"""How long a connection is not read after a refusal for overload; `retry-after` says no less.

A client that asks again at once would keep the loop busy with refusals.
"""
BETWEEN, HEAD, BODY = range(3)
"""What the next bytes of a connection belong to."""
HOST = re.compile(rb"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode()


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}

log = logging.getLogger("thalamus")


class HttpProtocol(asyncio.Protocol):
    """One connection: a parser, the requests it gave, and what the client may still take."""

    def __init__(
        self,
        connections: Connections,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.connections = connections
        self.loop = _loop or asyncio.get_running_loop()
        self.app: ASGIApp = cast("ASGIApp", config.loaded_app)
        self.server_state = server_state
        self.transport: asyncio.Transport
        self.address = ""
        self.is_spare = False
        self.write_paused = False
        self._app_state = app_state
        self._root_path = config.root_path
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int | None] | None = None
        self._writable = asyncio.Event()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._host: bytes | None = None
        self._n_hosts = 0
        self._expects_continue = False
        self._phase = BETWEEN
        self._n_at_most = 0
        self._n_head = 0
        self._n_ignored = 0
        self._n_framed = 0
        self._waited_s = 0.0
        self.is_reading = True
        self._is_deaf = False
        self._parting: bytes | None = None
        self._last: RequestCycle | None = None
        self._active: RequestCycle | None = None
        self._queue: deque[RequestCycle] = deque()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        self.address = self._client[0] if self._client else ""
        self.server_state.connections.add(cast("Any", self))
        self.connections.join(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(cast("Any", self))
        self.connections.leave(self)
        if self._active is not None:
            self._active.disconnect()
            self._active = None
        for cycle in self._queue:
            self.connections.release(cycle)
        self._queue.clear()
        self._parser = self._last = None
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if len(data) <= SLICE_BYTES:
            self._feed(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), SLICE_BYTES):
            self._feed(view[start : start + SLICE_BYTES])

    def pause_writing(self) -> None:
        if not self.write_paused:
            self.write_paused = True
            self._writable.clear()
            self.connections.block(self)

    def resume_writing(self) -> None:
        if self.write_paused:
            self.write_paused = False
            self._writable.set()
            self.connections.blocked.pop(self, None)

    def shutdown(self) -> None:
        """The server stops: end after the requests that have come in."""
        if self._active is None:
            self.close()
        else:
            for cycle in (self._active, *self._queue):
                cycle.keep_alive = False

    # the parser's side

    def _feed(self, data: bytes | memoryview) -> None:
        if self._is_deaf or self._parser is None:
            self._n_ignored += len(data)
            if self._active is not None and self._n_ignored > MAX_IGNORED_BYTES:
                self.abort()
            return
        was = self._phase
        self._n_at_most = self._n_head + len(data)
        try:
            self._parser.feed_data(cast("bytes", data))
        except httptools.HttpParserUpgrade:
            pass  # refused with the head
        except httptools.HttpParserError as error:
            self._refuse_unreadable(error)
        if self._is_deaf:
            return
        if self._phase == HEAD:
            self._n_head += len(data)
            if too_large := self.connections.head_error(len(self._headers), self._n_head, len(self._url)):
                self._refuse(too_large)
            else:
                self.connections.heads.setdefault(self, self.loop.time())
        elif was == BODY:
            self._check_framing(len(data))

    def _check_framing(self, n_bytes: int) -> None:
        """Refuse a chunked body that is more framing than body: extensions, trailers, chunks of a byte."""
        self._n_framed += n_bytes
        n_body = self._last.n_body if self._last is not None else 0
        if self._n_framed - n_body > self.connections.limits.max_head_bytes + n_body:
            self._refuse(MalformedRequest("the chunks of the body hold more framing than body"))

    def _refuse_unreadable(self, error: Exception) -> None:
        if isinstance(error, httptools.HttpParserCallbackError):
            log.error("reading a request failed", exc_info=error.__context__ or error)
        if self._url == b"*" and "PRI" in str(error):
            self._refuse(MalformedRequest("HTTP/2 is not served here: use HTTP/1.1"))
        else:
            self._refuse(MalformedRequest(f"the request is not valid HTTP/1.1: {str(error)[:200]}"))

    def on_message_begin(self) -> None:
        self.connections.idle.pop(self, None)
        self._phase = HEAD
        self._n_head = 0
        self._url = b""
        self._headers = []
        self._n_hosts = 0
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase != HEAD:
            return  # trailers come after the request was admitted: nothing may rest on them
        name = name.lower()
        if name == b"host":
            self._host = value
            self._n_hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.connections.heads.pop(self, None)
        self._phase = BODY
        if self._is_deaf or self._parser is None:
            return
        parser = self._parser
        method, version = parser.get_method(), parser.get_http_version()
        error = self._find_head_error(version, method)
        if error is not None:
            self._refuse(error, is_head=method == b"HEAD")
            return
        path, raw_path, query = split_target(self._url)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "method": method.decode("ascii"),
            "root_path": self._root_path,
            "path": self._root_path + path,
            "raw_path": self._root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy() if self._app_state else {},
        }
        if self.is_spare and scope["path"] not in OPEN_PATHS:
            full = "this gateway has as many connections as it may (max_connections)"
            self._refuse(ServerBusy(full, limit="max_connections"))
            return
        keep_alive = version == "1.1" and parser.should_keep_alive() and not self.is_spare
        cycle = RequestCycle(self, scope, keep_alive, self._expects_continue)
        scope["request_cycle"] = cycle
        if len(self._queue) >= MAX_PIPELINED:
            self._refuse(MalformedRequest(f"more than {MAX_PIPELINED} requests wait on one connection"))
            return
        self._last = cycle
        self._n_framed = 0
        self._waited_s = 0.0
        if self._active is None:
            self._active = cycle
            self._start(cycle)
        else:
            self._queue.append(cycle)
            self.pause_reading()

    def _find_head_error(self, version: str, method: bytes) -> GatewayError | None:
        """The reason to refuse a head, None where there is none."""
        headers, limits = self._headers, self.connections.limits
        if (
            len(headers) > limits.max_headers
            or len(self._url) > limits.max_url_bytes
            or self._n_at_most > limits.max_head_bytes
        ):
            n_head = sum(len(name) + len(value) + 4 for name, value in headers)
            error = self.connections.head_error(len(headers), n_head + len(self._url), len(self._url))
            if error is not None:
                return error
        if version not in ("1.1", "1.0"):
            return MalformedRequest(f"HTTP/{version} is not served here: use HTTP/1.1")
        if self._n_hosts != 1 and (self._n_hosts or version == "1.1"):  # RFC 9112, section 3.2
            return MalformedRequest(f"a request has one Host header, this one {self._n_hosts}")
        if self._n_hosts and not is_host(self._host or b""):
            return MalformedRequest(f"the Host header is not a host: {(self._host or b'')[:80]!r}")
        if self._parser is not None and self._parser.should_upgrade() and method != b"CONNECT":
            # Java's HttpClient asks for HTTP/2 in this way with every first request, unless told otherwise.
            what = (
                "this gateway speaks HTTP/1.1 alone and takes no Upgrade: set your client to HTTP/1.1 "
                "(Java: HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1))"
            )
            return MalformedRequest(what)
        # RFC 9112, section 6.1: HTTP/1.0 knows no transfer codings, and a proxy may have read it otherwise.
        if version == "1.0" and any(name == b"transfer-encoding" for name, _ in headers):
            return MalformedRequest("HTTP/1.0 has no Transfer-Encoding")
        try:
            split_target(self._url)
        except ValueError:
            return MalformedRequest("the request line has no valid address")
        return None

    def on_body(self, body: bytes) -> None:
        cycle = self._last
        if cycle is None or self._is_deaf:
            return
        cycle.n_body += len(body)
        if cycle.is_over:
            return  # answered early: the rest is thrown away
        cycle.add_body(body)
        if cycle.buffered_bytes > HIGH_WATER_BYTES:
            self.pause_reading()
        self.connections.bodies.setdefault(self, 0.0)
        try:
            self.connections.hold(cycle, len(body))
        except ServerBusy as error:
            self.give_up(error)

    def on_message_complete(self) -> None:
        self._phase = BETWEEN
        self.connections.bodies.pop(self, None)
        cycle = self._last
        if self._is_deaf or cycle is None:
            return
        cycle.end_body()
        if not cycle.keep_alive:
            self._is_deaf = True
        if cycle.is_over and self.connections.lingering.pop(self, None) is not None:
            self.connections.idle[self] = self.loop.time()

    # refusing

    def _refuse(self, error: GatewayError, is_head: bool = False) -> None:
        """Answer with an error and close; responses under way end before."""
        if self._is_deaf:
            return
        self._is_deaf = True
        self.connections.note(error.reason)
        self.connections.heads.pop(self, None)
        self.connections.bodies.pop(self, None)
        parting = build_refusal(error, is_head)
        active, last = self._active, self._last
        if last is not None and not last.is_whole:
            # The application cannot answer a part of a request; a response that has begun is cut off.
            last.disconnect()
            self.connections.release(last)
            if last is active or last.is_over:
                self._active = active = None
                if last.has_started:
                    self._linger()
                    return
            else:
                self._queue.remove(last)
        if active is None:
            self._part(parting)
        else:
            self._parting = parting

    def give_up(self, error: GatewayError) -> None:
        """Refuse a request that is not whole, however far it is."""
        if self._phase == BETWEEN and self._active is None:
            self.close()  # not a byte of a request has come: there is no one to tell
        else:
            self._refuse(error)

    def _part(self, parting: bytes) -> None:
        self.transport.write(parting)
        self._linger()

    def _linger(self) -> None:
        """Close for writing, and read for a while what the client still sends."""
        self._is_deaf = True
        self.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self.connections.lingering[self] = self.loop.time()

    def close(self) -> None:
        """Close once all is sent; a client that does not read it loses it after a while."""
        if not self.transport.is_closing():
            self.transport.close()
            self.connections.closing[self] = self.loop.time()

    def abort(self) -> None:
        """Close at once."""
        self.transport.abort()

    def pace_body(self, waited_s: float) -> None:
        """So many seconds more were spent waiting for the body, where it was read at all."""
        if not self.is_reading or self._last is None:
            return
        limits, n_body = self.connections.limits, self._last.n_body
        self._waited_s += waited_s
        over_s = self._waited_s - BODY_GRACE_S
        if self._waited_s > limits.body_s:
            self.give_up(RequestTooSlow(f"the body did not arrive within {limits.body_s:g} s (body_s)"))
        elif over_s > 0 and n_body < over_s * limits.min_body_bytes_per_s:
            pace = f"{limits.min_body_bytes_per_s} bytes/s (min_body_bytes_per_s)"
            self.give_up(RequestTooSlow(f"the body comes more slowly than {pace}"))

    @property
    def held_bytes(self) -> int:
        """Bytes of the body that comes in now."""
        return 0 if self._last is None else self._last.held_bytes

    def n_unsent(self) -> int:
        """Bytes that wait for the client to read."""
        return self.transport.get_write_buffer_size()

    # the requests' side

    def _start(self, cycle: "RequestCycle") -> None:
        if self._phase == BODY and cycle is self._last:
            self.connections.bodies[self] = 0.0
        cycle.task = task = self.loop.create_task(cycle.run(self.app))
        self.server_state.tasks.add(task)

    async def drain(self) -> None:
        """Wait until the client has read enough."""
        await self._writable.wait()

    def pause_reading(self) -> None:
        if self.is_reading:
            self.is_reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.is_reading and not self.transport.is_closing():
            self.is_reading = True
            self.transport.resume_reading()

    def read_on(self) -> None:
        """The request being answered wants more of its body."""
        if not self._queue:  # else it has all of it: a later one has begun
            self.resume_reading()

    def finish(self, cycle: "RequestCycle") -> None:
        """The response to a request is complete."""
        if cycle is not self._active:
            return
        self.server_state.total_requests += 1
        self._active = None
        if self.transport.is_closing():
            return
        if not cycle.keep_alive:
            if cycle.is_whole:
                self.close()
            else:
                self._linger()
        elif self._queue:
            self._active = self._queue.popleft()
            self._start(self._active)
        elif self._parting is not None:
            self._part(self._parting)
        else:
            self._wait_for_next(cycle)

    def _wait_for_next(self, cycle: "RequestCycle") -> None:
        now_s = self.loop.time()
        if not cycle.is_whole:
            self.connections.bodies.pop(self, None)
            self.connections.lingering[self] = now_s
        elif self._phase == BETWEEN:
            self.connections.idle[self] = now_s
            self._last = None
        if pause_s := cycle.scope.get("pause_s"):
            self.pause_reading()
            self.loop.call_later(pause_s, self.resume_reading)
        else:
            self.resume_reading()


ASGI = {"version": "3.0", "spec_version": "2.3"}


class RequestCycle:
    """One request and its response: the `receive` and `send` of ASGI.

    Attributes:
        is_whole: all of the body has come in. `is_over`: no response can be sent any more, or all of it was.
        n_body, buffered_bytes, held_bytes: bytes of the body that came, that wait here, that are in memory.
        task: what serves it.
    """

    __slots__ = (
        "_expected",
        "_expects_continue",
        "_head",
        "_is_admitted",
        "_is_chunked",
        "_is_told",
        "_key",
        "_on_gone",
        "_parts",
        "_protocol",
        "_waiter",
        "buffered_bytes",
        "has_started",
        "held_bytes",
        "is_gone",
        "is_over",
        "is_whole",
        "keep_alive",
        "n_body",
        "scope",
        "task",
    )
    task: "asyncio.Task[None]"

    def __init__(
        self, protocol: HttpProtocol, scope: dict[str, Any], keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.is_gone = self.is_whole = self.is_over = self.has_started = False
        self.n_body = self.buffered_bytes = self.held_bytes = 0
        self._protocol = protocol
        self._expects_continue = expects_continue
        self._parts: list[bytes] = []
        self._is_told = self._is_admitted = False
        self._key: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_gone: Callable[[], None] | None = None
        self._head = b""
        self._is_chunked = False
        self._expected = 0

    async def run(self, app: ASGIApp) -> None:
        """Serve the request."""
        try:
            await app(self.scope, self.receive, cast("Any", self.send))
            if not self.is_over and not self.is_gone:
                log.error("the application ended without a whole response")
                await self._fail()
        except asyncio.CancelledError:
            self._protocol.close()
            raise
        except Exception:
            log.exception("the application failed")
            await self._fail()
        finally:
            # They refer to one another: only the garbage collector would free them, long after.
            del self.scope["request_cycle"]
            protocol = self._protocol
            protocol.server_state.tasks.discard(self.task)
            protocol.connections.release(self)
            if self._is_admitted:
                protocol.connections.admission.leave(self._key)

    async def _fail(self) -> None:
        if self.has_started:
            self._protocol.close()
            return
        body = b"Internal Server Error"
        headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    # the body

    def add_body(self, data: bytes) -> None:
        self._parts.append(data)
        self.buffered_bytes += len(data)
        self._wake()

    def end_body(self) -> None:
        self.is_whole = True
        self._wake()

    def watch(self, on_gone: Callable[[], None] | None) -> None:
        """Call `on_gone` when the client goes away; None for nothing any more."""
        self._on_gone = on_gone
        if on_gone is not None:
            self._protocol.read_on()  # else its going would not be seen

    def disconnect(self) -> None:
        """The client is gone, or was sent away."""
        self.is_gone = True
        self._wake()
        if self._on_gone is not None:
            self._on_gone()

    def hold(self, n_bytes: int) -> None:
        """Keep so many bytes of the body in memory until the request ends.

        Raises:
            ServerBusy: there is no room for them.
        """
        connections = self._protocol.connections
        try:
            connections.hold(self, n_bytes)
        except ServerBusy as error:
            connections.note(error.reason)
            raise

    async def admit(self, key: str | None) -> None:
        """Wait until the request may be worked on; it may until it ends.

        Raises:
            ServerBusy: it would wait too long, or too many wait.
        """
        connections = self._protocol.connections
        try:
            await connections.admission.admit(key)
        except ServerBusy as error:
            connections.note(error.reason)
            self.scope["pause_s"] = PAUSE_S
            raise
        self._is_admitted, self._key = True, key

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        protocol = self._protocol
        if self._expects_continue:
            self._expects_continue = False
            if not protocol.transport.is_closing():
                protocol.transport.write(CONTINUE)
        while not (self._parts or self.is_gone or self.is_over or (self.is_whole and not self._is_told)):
            protocol.read_on()
            self._waiter = waiter = protocol.loop.create_future()
            await waiter
        if self.is_gone or self.is_over:
            return {"type": "http.disconnect"}
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self.buffered_bytes = 0
        protocol.connections.release(self, len(body))
        self._is_told = self.is_whole
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    # the response

    async def send(self, message: Message) -> None:
        protocol = self._protocol
        if protocol.write_paused and not self.is_gone:
            await protocol.drain()
        if self.is_gone:
            return
        if self.is_over:
            raise RuntimeError(f"{message['type']} after the end of the response")
        if not self.has_started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"{message['type']} before the start of the response")
            self._begin(message)
            # The head is kept back until a part of the body follows, or the turn of the loop is over.
            if "body" not in message:
                self._protocol.loop.call_soon(self._flush)
                return
        elif message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} within the response")
        self._write_body(message)

    def _begin(self, message: Message) -> None:
        status: int = message["status"]
        # ASGI has names in lower case.
        headers = [*self._protocol.server_state.default_headers, *message.get("headers", ())]
        is_whole = "body" in message
        framing = {} if is_whole else dict(headers)
        if is_whole:
            self._expected = len(message["body"])  # which its headers say, and nothing else of framing
        elif framing.get(b"transfer-encoding", b"").lower() == b"chunked":
            self._is_chunked = True
        elif (length := framing.get(b"content-length")) is not None:
            self._is_chunked, self._expected = False, int(length)
        elif self.scope["method"] != "HEAD" and status not in (204, 304):
            self._is_chunked = True
            headers.append((b"transfer-encoding", b"chunked"))
        if b"close" in framing.get(b"connection", b"").lower():
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"\r\n".join([STATUS_LINES[status], *map(b": ".join, headers)])
        # A line break in a value would be a header of its own: response splitting.
        if head.count(b"\n") != len(headers) or head.count(b"\r") != len(headers) or b"\0" in head:
            raise RuntimeError("a response header holds a control character")
        self.has_started = True
        self._expects_continue = False
        self._head = head + b"\r\n\r\n"

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._protocol.transport.write(head)

    def _write_body(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        # Head and body in one packet: with Nagle off, two writes would make two of each answer.
        out, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self._expected = 0
        elif self._is_chunked:
            if body:
                out += b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                out += b"0\r\n\r\n"
        else:
            self._expected -= len(body)
            if self._expected < 0:
                raise RuntimeError("the response is longer than its Content-Length")
            out += body
        if out:
            self._protocol.transport.write(out)
        if not more:
            if self._expected:
                raise RuntimeError("the response is shorter than its Content-Length")
            self.is_over = True
            self._wake()
            self._protocol.finish(self)


def bind_protocol(connections: Connections) -> type[asyncio.Protocol]:
    """What uvicorn makes its connections with."""
    return cast("type[asyncio.Protocol]", partial(HttpProtocol, connections))


@lru_cache(maxsize=MAX_REMEMBERED)
def is_host(value: bytes) -> bool:
    """Whether a Host header is a name or IPv4 address, or an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    match = HOST.fullmatch(value)
    if match is None:
        return False
    if match["v6"] is not None:
        try:
            IPv6Address(match["v6"].decode())
        except ValueError:
            return False
    return True


@lru_cache(maxsize=MAX_REMEMBERED)
def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """The path of a request's address, the same as it was sent, and the query string.

    Raises:
        ValueError: it is no address.
    """
    try:
        url = httptools.parse_url(target)
        return unquote(url.path.decode("ascii")), url.path, url.query or b""
    except (httptools.HttpParserInvalidURLError, AttributeError) as error:
        raise ValueError(str(error)) from None


def build_refusal(error: GatewayError, is_head: bool = False) -> bytes:
    """A whole response with OpenAI's envelope, after which the connection is closed."""
    body = to_envelope(error)
    headers = [
        *error.headers(),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", b"req_" + fresh_id().encode()),
        (b"connection", b"close"),
    ]
    head = b"\r\n".join([STATUS_LINES[error.status], *map(b": ".join, headers)])
    return head + b"\r\n\r\n" + (b"" if is_head else body)


def _address(name: object) -> tuple[str, int] | None:
    """Host and port of a socket's name; None for a Unix socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) and len(name) >= 2 else None
