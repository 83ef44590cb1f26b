"""HTTP/1.1 to upstreams: pooled connections, bounded answers, and no byte for a call that did not ask for it.

A connection carries one request at a time and is used again only where its answer ended exactly where its
head said. llhttp (httptools) parses, as on the server's side: what could be read in two ways is refused.

HttpError
├── ConnectError             no connection; its cause is the system's error
│   ├── ConnectTimeoutError  none in time
│   ├── CertificateError     not the one that was asked for
│   └── ProxyError           no tunnel through the proxy
├── ProtocolError            no HTTP, or a head beyond its bounds
│   └── EncodingError        a body that cannot be decoded
├── CutAnswerError           closed within the body
└── DisconnectError          closed before the head
"""

import asyncio
import base64
import contextlib
import logging
import os
import re
import select
import socket
import ssl
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from math import inf
from time import monotonic
from typing import Any, cast
from weakref import WeakValueDictionary

import aiohappyeyeballs
import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from yarl import URL

from ..config import DEFAULT_LIMITS, AnswerLimits
from ..config.values import find_header_fault
from ..errors import UpstreamError

AGENT = "thalamus"
KEEPALIVE_S = 30.0
MAX_INTERIM = 16
"""Most interim responses (1xx) before an answer."""
MAX_HEADERS = 128
LONG_LINES = 8
"""Headers of the greatest length that a head may have room for."""
DISTRUST_S = 300.0
"""How long each connection of an upstream serves one call, after it sent more than its answer."""
REST_S = 0.03
MAX_LOOKED_AT = 32
"""Connections that one call looks at before it opens another."""
HIGH_WATER_BYTES = 64 * 1024
"""Bytes that wait for their reader before the upstream is not read any more."""
EYEBALLS_DELAY_S = 0.25
"""Before the next address of a name is tried beside the last (RFC 8305, section 5)."""
NAMES_KEPT_S = 60.0
CLOSE_S = 1.0
"""Longest wait, at the end, for connections to be lost."""
MAX_TUNNEL_HEAD_BYTES = 16 * 1024
WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 47}
RAW_DEFLATE = -15
STEP_BYTES = 64 * 1024
"""What is decompressed at a time: a bomb is noticed before it is there."""
OTHER_CODINGS = frozenset({"br", "zstd", "compress", "x-compress"})
FREE_BYTES = 1024 * 1024
"""What an answer may take before the bound of all answers counts: small ones never wait for large ones."""
DEFAULT_PORTS = {"http": 80, "https": 443}

log = logging.getLogger("thalamus.upstream")


class HttpError(Exception):
    """There is no answer, or no whole one."""


class ConnectError(HttpError):
    """There is no connection."""


class ConnectTimeoutError(ConnectError):
    """There was none in time."""


class CertificateError(ConnectError):
    """It is not who it should be."""


class ProxyError(ConnectError):
    """The proxy opens no tunnel; `status` is what it answered, 0 where that was no HTTP."""

    def __init__(self, status: int = 0) -> None:
        super().__init__(status)
        self.status = status


class ProtocolError(HttpError):
    """The answer is no HTTP, or its head is beyond its bounds."""


class EncodingError(ProtocolError):
    """The body is in a content encoding that is not known, or not in the one that is named."""


class CutAnswerError(HttpError):
    """The connection was closed within the body."""


class DisconnectError(HttpError):
    """The connection was closed before the head was there."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy in front of an address, with its own authorisation."""

    url: URL
    headers: dict[str, str]


def proxy_for(url: URL) -> Proxy | None:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say of an address."""
    named = urllib.request.getproxies().get(url.scheme)
    if not named or urllib.request.proxy_bypass(url.authority):
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    if proxy.user is None:
        return Proxy(proxy, {})
    return Proxy(proxy.with_user(None), {"Proxy-Authorization": _basic(proxy)})


def _basic(url: URL) -> str:
    credentials = f"{url.user or ''}:{url.password or ''}"
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


class UpstreamResponse(msgspec.Struct, eq=False):
    """The head of an answer, and its body as it comes; names in `fields` are in lower case."""

    connection: "Connection | None"
    """Until the body is complete: then another call may have it."""
    url: URL
    status: int
    fields: dict[bytes, bytes]
    parts: list[bytes] = []
    n_buffered: int = 0
    is_over: bool = False
    is_encoded: bool = False
    failure: type[Exception] | None = None
    waiter: asyncio.Future[None] | None = None
    inflate: Any = None
    squeezed: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        """The headers, names in lower case; of several with one name the last."""
        return {name.decode("ascii"): value.decode("utf-8", "replace") for name, value in self.fields.items()}

    @property
    def content_type(self) -> str:
        return self.fields.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")

    async def readany(self) -> bytes:
        """What is there of the body, at least a byte; b"" at its end.

        Raises:
            HttpError, TimeoutError: the rest does not come, or cannot be read.
        """
        if self.is_encoded:
            return await self._read_decoded()
        return await self._read_raw()

    async def _read_raw(self) -> bytes:
        parts = self.parts
        while not parts:
            if self.failure is not None:
                raise self.failure  # a new one: kept, it would keep this frame, which has it
            if self.is_over:
                return b""
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.n_buffered = 0
        if self.connection is not None and self.connection.is_paused:
            self.connection.resume_reading()
        return data

    async def _read_decoded(self) -> bytes:
        coding = self.fields[b"content-encoding"].strip().lower().decode("latin-1")
        if coding not in WINDOW_BITS:
            raise EncodingError(coding)
        while True:
            if self.squeezed:
                await asyncio.sleep(0)  # each step takes as long as a small request
            squeezed = self.squeezed or await self._read_raw()
            if self.inflate is None:
                # Some send `deflate` without zlib's head, as RFC 9110, section 8.4.1.2, notes.
                is_raw = coding == "deflate" and squeezed and squeezed[0] & 0x0F != zlib.DEFLATED
                self.inflate = zlib.decompressobj(RAW_DEFLATE if is_raw else WINDOW_BITS[coding])
            try:
                data: bytes = self.inflate.decompress(squeezed, STEP_BYTES)
            except zlib.error:
                raise EncodingError(coding) from None
            self.squeezed = self.inflate.unconsumed_tail
            if self.inflate.unused_data:  # the next member (RFC 1952, section 2.2)
                self.squeezed, self.inflate = self.inflate.unused_data, None
            if data or not squeezed:
                return data

    def end(self, failure: type[Exception] | None = None) -> None:
        """Nothing follows; `failure` where something should."""
        self.connection, self.is_over, self.failure = None, failure is None, failure
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def close(self) -> None:
        """Have the upstream stop. A body that is complete has left its connection to others."""
        if self.connection is not None:
            self.connection.fail(CutAnswerError)


class Connection(asyncio.Protocol):
    """A connection of a pool, and the call that has it, if one has.

    It is closed as soon as more comes than the answer that was asked for: the next call would be given the
    surplus as its answer.
    """

    transport: asyncio.Transport
    url: URL
    """What the call asks."""

    def __init__(self, pool: "ConnectionPool") -> None:
        self.pool = pool
        self.loop = pool.transport.loop
        self.waiter: asyncio.Future[UpstreamResponse] | None = None
        self.response: UpstreamResponse | None = None
        self.deadline = self.end_by = inf
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at = inf
        self.unread = select.poll()
        self.answered_at = 0.0
        self.is_settled = False
        """Whether it rested after its first answer: a server that answers twice shows it by then."""
        self._is_complete = self._has_surplus = self._keeps_alive = self.is_paused = False
        self._n_head = self._n_interim = self._n_framing = self._n_parts = 0
        self._fields: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        # The parser's calls for headers and pieces of a body go to C: there may be many.
        self.on_header = self._fields.__setitem__
        self.on_body = self._parts.append
        self._parser: Any = HttpResponseParser(self)
        # As lenient as servers are careless; neither can be read in two ways.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.pool.transport.is_closing:
            self.close()  # it was being opened when all others were closed
            return
        self.pool.transport.connections.add(self)
        # AttributeError is asyncio's for a TLS connection that is lost; ValueError a closed descriptor's.
        with contextlib.suppress(AttributeError, ValueError):
            self.unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return  # closed within the same turn of the loop
        if self.waiter is None and self.response is None:
            self._refuse_surplus()
            return
        fault: type[HttpError] | None = None
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            if self._is_complete:
                self._has_surplus = True
            else:
                fault = CutAnswerError if self.response is not None else ProtocolError
        response, parts = self.response, self._parts
        if (waiter := self.waiter) is not None:
            self._n_head += len(data)
            if (
                response is None
                or self._n_head > self.pool.transport.limits.max_header_bytes
                or len(response.fields) > MAX_HEADERS
                or self._n_interim
            ):
                fault = fault or self._find_fault(response)
            if fault is not None:
                self.fail(fault)
                return
            if response is None:
                return
            if waiter.done():  # given up within this turn of the loop
                self.fail(DisconnectError)
                return
            self.waiter, self.deadline = None, self.end_by
            waiter.set_result(response)
        if response is None:
            return
        n_bytes = 0
        if parts:
            if self._has_surplus:
                del parts[self._n_parts :]
            body = b"".join(parts)
            parts.clear()
            response.parts.append(body)
            n_bytes = len(body)
            response.n_buffered += n_bytes
        if fault is not None:
            self.fail(fault)
        elif self._is_complete:
            self._finish(response)
        elif not n_bytes:
            self._check_framing(len(data))
        elif response.n_buffered > HIGH_WATER_BYTES and not self.is_paused:
            self.is_paused = True
            self.transport.pause_reading()
        if response.waiter is not None and not response.waiter.done():
            response.waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.idle.pop(self, None)
        self.pool.transport.leave(self)
        if self.timer is not None:
            self.timer.cancel()
        self._parser = None
        waiter, response = self.waiter, self.response
        self.waiter = self.response = None
        if response is not None:
            # Without a length the end of the connection is that of the body (RFC 9112, section 6.3).
            is_measured = b"content-length" in response.fields or response.fields.get(
                b"transfer-encoding", b""
            ).strip().lower().endswith(b"chunked")
            response.end(CutAnswerError if is_measured else None)
        elif waiter is not None and not waiter.done():
            waiter.set_exception(DisconnectError)

    # the parser's side

    def on_message_begin(self) -> None:
        self._has_surplus = self._is_complete

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        status = self._parser.get_status_code()
        fields = {name.lower(): value for name, value in self._fields.items()}
        self._fields.clear()
        if status < 200:
            self._n_interim += 1
            return
        self._keeps_alive = self._parser.should_keep_alive()
        self.response = response = UpstreamResponse(self, self.url, status, fields)
        coding = fields.get(b"content-encoding")
        if coding is not None:
            name = coding.strip().lower().decode("latin-1")
            # Some name a charset here; it is not in the way.
            response.is_encoded = name in WINDOW_BITS or not OTHER_CODINGS.isdisjoint(name.split(", "))

    def on_message_complete(self) -> None:
        if not self._is_complete and self.response is not None:
            self._is_complete = True
            self._n_parts = len(self._parts)

    # a call

    def fail(self, error: type[Exception]) -> None:
        """End the call with an error, and the connection with it."""
        waiter, response = self.waiter, self.response
        self.waiter = self.response = None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        elif response is not None:
            response.end(error)
        self.close()

    def close(self) -> None:
        self._parser = None
        self.pool.idle.pop(self, None)
        # At once: what is unsent has no use, and TLS would wait for the other side to say goodbye.
        self.transport.abort()

    @property
    def is_closed(self) -> bool:
        return self._parser is None

    def resume_reading(self) -> None:
        """Read on after a pause: there is room for more of the body."""
        self.is_paused = False
        self.transport.resume_reading()

    def check_deadline(self) -> None:
        """Fail the call that took too long.

        A connection has one timer, which finds the deadline of a later call when it fires: most calls end
        long before theirs, and need none of their own.
        """
        self.timer = None
        if self.waiter is None and self.response is None:
            return
        if self.deadline > self.loop.time():
            self.set_timer()
        else:
            self.fail(TimeoutError)

    def set_timer(self) -> None:
        """Have the deadline looked at when it is due."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.deadline < inf:
            self.timer, self.timer_at = self.loop.call_at(self.deadline, self.check_deadline), self.deadline

    def _finish(self, response: UpstreamResponse) -> None:
        """The answer is complete: the connection rests for the next call, or is closed."""
        response.connection, response.is_over = None, True
        self.response = None
        pool, now = self.pool, monotonic()
        if self._has_surplus:
            self._refuse_surplus()
        elif (
            not self._keeps_alive
            or now < pool.distrusted_until
            or self.transport.get_write_buffer_size()  # it answered before it had read the request
        ):
            self.close()
        else:
            self._is_complete = False
            self._n_head = self._n_interim = self._n_framing = 0
            self._fields.clear()  # trailers
            if self.is_paused:
                self.resume_reading()
            self.answered_at = now
            pool.idle[self] = None
            if pool.sweeper is None:
                pool.sweep_later()

    def _refuse_surplus(self) -> None:
        self.pool.distrust(self.transport.get_extra_info("peername"))
        self.close()

    def _find_fault(self, response: UpstreamResponse | None) -> type[HttpError] | None:
        """What is wrong with a head, which is not whole yet where there is no response."""
        longest = self.pool.transport.limits.max_header_bytes
        if self._n_interim > MAX_INTERIM:
            return DisconnectError
        if response is None:
            return ProtocolError if self._n_head > LONG_LINES * longest else None
        fields = response.fields
        too_long = any(len(name) + len(value) > longest for name, value in fields.items())
        return ProtocolError if too_long or len(fields) > MAX_HEADERS else None

    def _check_framing(self, n_bytes: int) -> None:
        """Fail a body of which only extensions of chunks or trailers come: they are kept nowhere."""
        self._n_framing += n_bytes
        self._fields.clear()
        if self._n_framing > LONG_LINES * self.pool.transport.limits.max_header_bytes:
            self.fail(CutAnswerError)


class ConnectionPool:
    """The connections to one origin through one proxy or none; of those that rest, the last used is taken.

    So few are busy, and the others end by their time-out. Taken in turn, all that a burst opened would stay,
    and each call would find one whose memory has left the caches.
    """

    def __init__(self, transport: "Transport", url: URL, proxy: Proxy | None) -> None:
        self.transport = transport
        self.idle: dict[Connection, None] = {}
        self.distrusted_until = 0.0
        self.sweeper: asyncio.TimerHandle | None = None
        self._url = url
        self._proxy = proxy

    def distrust(self, peer: object) -> None:
        """Have each connection serve one call for a while: what comes late looks like an answer."""
        now = monotonic()
        if now >= self.distrusted_until:
            log.warning("an upstream at %s sent more than its answer: the rest is dropped", peer)
        self.distrusted_until = now + DISTRUST_S
        for connection in list(self.idle):
            connection.close()

    def sweep_later(self) -> None:
        self.sweeper = self.transport.loop.call_later(KEEPALIVE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what has rested for too long; the one that rests longest comes first."""
        self.sweeper = None
        now = monotonic()
        for connection in list(self.idle):
            if now - connection.answered_at < KEEPALIVE_S:
                self.sweep_later()
                break
            connection.close()

    async def connect(self, connect_s: float) -> Connection:
        """A new connection.

        Raises:
            ConnectError: there is none.
            DisconnectError: it is lost again.
        """
        try:
            async with asyncio.timeout(connect_s):
                connection = await self._connect()
        except ssl.SSLCertVerificationError as error:
            raise CertificateError from error
        except TimeoutError as error:
            # The system's own time-out has a number.
            raise (ConnectTimeoutError if error.errno is None else ConnectError) from error
        except (OSError, UnicodeError) as error:  # a name may be none that IDNA can write
            raise ConnectError from error
        if connection.is_closed:
            raise DisconnectError
        return connection

    async def _connect(self) -> Connection:
        loop, url, proxy = self.transport.loop, self._url, self._proxy
        connection = Connection(self)
        is_tls = url.scheme == "https"
        if proxy is None:
            await self._open(lambda: connection, url, is_tls)
        elif not is_tls:
            await self._open(lambda: connection, proxy.url, proxy.url.scheme == "https")
        else:
            tunnel = Tunnel()
            transport = await self._open(lambda: tunnel, proxy.url, proxy.url.scheme == "https")
            try:
                await tunnel.dig(transport, url, proxy)
                name = (url.raw_host or "").rstrip(".")
                upgraded = await loop.start_tls(
                    transport, connection, self.transport.tls, server_hostname=name
                )
                if upgraded is None:
                    raise ConnectionResetError
                connection.connection_made(upgraded)
            except BaseException:
                transport.abort()
                raise
        return connection

    async def _open(
        self, factory: Callable[[], asyncio.Protocol], url: URL, is_tls: bool
    ) -> asyncio.Transport:
        host, port, loop = url.raw_host or "", url.port or DEFAULT_PORTS[url.scheme], self.transport.loop
        places = await self.transport.resolve(host, port)
        sock = await aiohappyeyeballs.start_connection(
            places, happy_eyeballs_delay=EYEBALLS_DELAY_S, loop=loop
        )
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await loop.create_connection(
                factory,
                sock=sock,
                ssl=self.transport.tls if is_tls else None,
                # A name that is fully qualified ends with a dot, in certificates it does not.
                server_hostname=host.rstrip(".") if is_tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return transport


class Tunnel(asyncio.Protocol):
    """What a proxy answers to CONNECT, before the connection through it begins."""

    def __init__(self) -> None:
        self._head = b""
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._head += data
        is_whole = b"\r\n\r\n" in self._head or len(self._head) > MAX_TUNNEL_HEAD_BYTES
        if is_whole and not self._answer.done():
            self._answer.set_result(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_result(b"")

    async def dig(self, transport: asyncio.Transport, url: URL, proxy: Proxy) -> None:
        """Have the proxy connect to the host of an address.

        Raises:
            ProxyError: it does not.
        """
        place = f"{url.host_subcomponent}:{url.port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", f"User-Agent: {AGENT}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        transport.write("\r\n".join([*lines, "", ""]).encode())
        head, end, rest = (await self._answer).partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.[01] ([1-5]\d\d)\b", head) if end else None
        if status is None or status[1] != b"200":
            raise ProxyError(0 if status is None else int(status[1]))
        if rest:
            raise ProxyError  # the other side of the tunnel waits for TLS to begin


def stamp_authorities() -> tuple[tuple[str, float], ...]:
    """Where the trusted certificate authorities are, and when each place was last changed."""
    paths = ssl.get_default_verify_paths()
    return tuple((path, os.stat(path).st_mtime) for path in (paths.cafile, paths.capath) if path)


@lru_cache(maxsize=2)
def load_tls(*authorities: tuple[str, float]) -> ssl.SSLContext:
    """What a TLS connection trusts. It takes 50 ms to read: a reload reads only what changed."""
    return ssl.create_default_context()


class Transport:
    """The connections of a process to upstreams: opened inside the running loop, closed with the server.

    `limits` bounds what upstreams may send; `n_held_bytes` are those of answers that are being read now.
    """

    loop: asyncio.AbstractEventLoop
    """There from `open` on, as `tls` is."""
    tls: ssl.SSLContext

    def __init__(self, limits: AnswerLimits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self.n_held_bytes = 0
        self.connections: set[Connection] = set()
        # An engine's port changes with every start: a pool lasts as long as its addresses and connections.
        self._pools: WeakValueDictionary[tuple[Any, ...], ConnectionPool] = WeakValueDictionary()
        self._names: dict[tuple[str, int], tuple[float, list[Any]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Future[list[Any]]] = {}
        self._is_empty: asyncio.Future[None] | None = None

    async def open(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._is_empty = None
        self.tls = load_tls(*stamp_authorities())

    async def close(self) -> None:
        for lookup in self._lookups.values():
            lookup.cancel()
        for pool in list(self._pools.values()):
            if pool.sweeper is not None:
                pool.sweeper.cancel()
                pool.sweeper = None
        self._is_empty = asyncio.get_running_loop().create_future()
        for connection in list(self.connections):
            connection.fail(DisconnectError)
        if self.connections:
            # Bounded: the end of the process may not hang on what a socket does.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty, CLOSE_S)

    @property
    def is_closing(self) -> bool:
        """Whether no connection may be opened any more."""
        return self._is_empty is not None

    def leave(self, connection: Connection) -> None:
        """A connection is lost."""
        self.connections.discard(connection)
        if self._is_empty is not None and not self.connections and not self._is_empty.done():
            self._is_empty.set_result(None)

    def find_pool(self, url: URL, proxy: Proxy | None) -> ConnectionPool:
        """The pool that all addresses of one origin and proxy share."""
        origin = url.origin()
        key = (origin, proxy.url, *proxy.headers.values()) if proxy else (origin,)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = ConnectionPool(self, origin, proxy)
        return pool

    async def resolve(self, host: str, port: int) -> list[Any]:
        """The addresses of a name, as getaddrinfo gives them, in turn.

        Raises:
            OSError: it has none.
        """
        with contextlib.suppress(socket.gaierror):
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        place = host, port
        until, found = self._names.get(place, (0.0, []))
        if until > monotonic():
            found.append(found.pop(0))
            return list(found)
        lookup = self._lookups.get(place)
        if lookup is None:
            lookup = self._lookups[place] = asyncio.ensure_future(self._look_up(host, port))
            lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Several calls wait for one lookup: that one of them gives up does not end it.
        return list(await asyncio.shield(lookup))

    async def _look_up(self, host: str, port: int) -> list[Any]:
        try:
            found = await self.loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        finally:
            del self._lookups[host, port]
        now = monotonic()
        self._names = {place: known for place, known in self._names.items() if known[0] > now}
        self._names[host, port] = now + NAMES_KEPT_S, found
        return found

    @contextlib.contextmanager
    def hold(self, max_bytes: int) -> Iterator[Callable[[int], None]]:
        """Room for one whole answer while it is read; what it gives counts further bytes.

        Raises:
            UpstreamError: from that, where the answer or all answers together grow beyond their bound.
        """
        n_bytes = 0

        def count(n: int) -> None:
            nonlocal n_bytes
            n_bytes += n
            self.n_held_bytes += n
            if n_bytes > max_bytes:
                raise UpstreamError("garbage", f"answered with more than {max_bytes} bytes")
            if n_bytes > FREE_BYTES and self.n_held_bytes > self.limits.max_bytes_in_all:
                raise UpstreamError(
                    "busy", "answers at length while many others do", status=503, retry_after_s=1
                )

        try:
            yield count
        finally:
            self.n_held_bytes -= n_bytes


class Address:
    """One URL to send to, with everything about it that does not change from call to call."""

    def __init__(
        self,
        transport: Transport,
        url: str,
        headers: Mapping[str, str],
        connect_s: float,
        is_local: bool = False,
        method: str = "POST",
    ) -> None:
        """The head of its requests is made here.

        Raises:
            ValueError: the URL is no address, or a header is none.
        """
        self.url = URL(url)
        self.transport = transport
        if self.url.scheme not in DEFAULT_PORTS or not self.url.raw_host:
            raise ValueError("an address begins with http:// or https:// and has a host")
        # A local server is asked by this machine itself: a proxy would see its prompts.
        proxy = None if is_local else proxy_for(self.url)
        self._pool = transport.find_pool(self.url, proxy)
        self._connect_s = connect_s
        self._has_body = method == "POST"
        self._fields = self._choose_headers(proxy) | {name.lower(): value for name, value in headers.items()}
        is_relayed = proxy is not None and self.url.scheme == "http"
        # Without a tunnel the proxy reads the request itself.
        target = f"{self.url.origin()}{self.url.raw_path_qs}" if is_relayed else self.url.raw_path_qs
        self._request_line = f"{method} {target} HTTP/1.1"
        self._head = self._build_head(self._fields)

    def _choose_headers(self, proxy: Proxy | None) -> dict[str, str]:
        url = self.url
        fields = {"host": url.host_port_subcomponent or "", "accept": "*/*", "accept-encoding": "identity"}
        fields["user-agent"] = AGENT
        if self._has_body:
            fields["content-type"] = "application/json"
        if url.user is not None or url.password is not None:
            fields["authorization"] = _basic(url)
        if proxy is not None and url.scheme == "http":
            fields |= {name.lower(): value for name, value in proxy.headers.items()}
        return fields

    def _build_head(self, fields: Mapping[str, str]) -> bytes:
        for name, value in fields.items():
            if (fault := find_header_fault(name, value)) is not None:
                raise ValueError(f"header {name[:80]!r} {fault}")
        lines = [self._request_line, *(f"{name}: {value}" for name, value in fields.items())]
        head = "\r\n".join([*lines, ""]).encode()
        return head + b"content-length: " if self._has_body else head

    async def send(
        self,
        body: bytes = b"",
        head_by: float = inf,
        end_by: float = inf,
        more: Mapping[str, str] | None = None,
    ) -> UpstreamResponse:
        """Send, and wait for the head of the answer. Redirects would carry keys elsewhere.

        `head_by` and `end_by` are the deadlines of the head and of the body on the loop's clock, `more` are
        headers of this call alone, names in lower case.

        Raises:
            HttpError, TimeoutError: there is no answer.
            ValueError: one of `more` is no header.
        """
        head = self._head if more is None else self._build_head({**self._fields, **more})
        idle, now = self._pool.idle, monotonic()
        connection: Connection | None = None
        while connection is None:
            for rested in islice(reversed(idle), MAX_LOOKED_AT):
                if rested.is_settled or now - rested.answered_at >= REST_S:
                    break
            else:
                break
            # What the event loop has not read yet was sent without being asked for.
            if now - rested.answered_at >= KEEPALIVE_S or rested.unread.poll(0):
                rested.close()
            else:
                rested.is_settled = True
                del idle[rested]
                connection = rested
        if connection is None:
            async with asyncio.timeout_at(head_by if head_by < inf else None):
                connection = await self._pool.connect(self._connect_s)
        waiter: asyncio.Future[UpstreamResponse] = connection.loop.create_future()
        connection.waiter = waiter
        connection.url = self.url
        connection.deadline, connection.end_by = head_by, end_by
        if connection.timer_at > head_by or connection.timer is None:
            connection.set_timer()
        if self._has_body:
            connection.transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        else:
            connection.transport.write(head + b"\r\n")
        try:
            return await waiter
        except BaseException:
            if connection.waiter is waiter:
                connection.fail(DisconnectError)
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # Given up when the head was there: the connection may be another call's by now.
                waiter.result().close()
            raise
        finally:
            del waiter  # it has the error, which has this frame
