"""What one client may take before its key is looked at: bytes, time and connections."""

import asyncio
import contextlib
import errno
import json
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from gateway.asgi import connections as module
from gateway.asgi.connections import Acceptor, Blocked, Connections, raise_file_limit
from gateway.config import LimitsConfig
from tests.fakes.serving import live

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n"
SOON_S = 5.0


@dataclass
class EchoApp:
    """Reads the body and answers with its length; `/stream` sends for ever, `/wait` waits for `go`."""

    scopes: list[Scope] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        self.scopes.append(scope)
        body = b""
        while scope["path"] != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ends.append("gone")
                return
            body += message["body"]
            if not message["more_body"]:
                break
        await getattr(self, f"answer_{scope['path'].strip('/')}", self._answer)(send, body, receive)

    async def _answer(self, send: Send, body: bytes, receive: Receive) -> None:
        answer = b"%d" % len(body)
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def answer_wait(self, send: Send, body: bytes, receive: Receive) -> None:
        await self.go.wait()
        await self._answer(send, body, receive)

    async def answer_split(self, send: Send, body: bytes, receive: Receive) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nset-cookie: c")]})

    async def answer_stream(self, send: Send, body: bytes, receive: Receive) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending = asyncio.ensure_future(self._flood(send))
        while (await receive())["type"] != "http.disconnect":
            pass
        sending.cancel()
        self.ends.append("gone")

    @staticmethod
    async def _flood(send: Send) -> None:
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)

    @staticmethod
    async def _live(receive: Receive, send: Send) -> None:
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})


@dataclass
class RawClient:
    """Raw bytes to a server, and what it answers."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response."""
        async with asyncio.timeout(SOON_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, body

    async def refusal(self) -> tuple[int, str]:
        """Status and code of an error in OpenAI's envelope, after which the connection ends."""
        status, headers, body = await self.answer()
        assert headers["connection"] == "close"
        assert await self.rest() == b""
        return status, json.loads(body)["error"]["code"]

    async def rest(self) -> bytes:
        """All that comes until the connection ends."""
        async with asyncio.timeout(SOON_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@dataclass
class Server:
    port: int
    app: EchoApp
    connections: Connections
    clients: list[RawClient] = field(default_factory=list)

    async def connect(self, data: bytes = b"", **options: Any) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self.clients.append(client)
        client.send(data)
        return client


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server with these limits."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**limits: Any) -> Server:
            app, connections = EchoApp(), Connections(replace(LimitsConfig(), **limits))
            address = await stack.enter_async_context(live(app, connections))
            server = Server(int(address.rpartition(":")[2]), app, connections)
            stack.callback(close, server)
            return server

        yield start


def close(server: Server) -> None:
    server.app.go.set()
    for client in server.clients:
        client.writer.transport.abort()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not holds():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


# the head


@pytest.mark.parametrize(
    ("limits", "data", "status", "code"),
    [
        ({}, HEAD + b"a: " + b"b" * 100_000 + b"\r\n\r\n", 431, "head_too_large"),
        ({}, HEAD + b"a: " + b"b" * 4_000_000, 431, "head_too_large"),
        ({}, HEAD + b"a: b\r\n" * 4_000, 431, "head_too_large"),
        ({}, HEAD + b"a: b\r\n" * 128 + b"\r\n", 431, "head_too_large"),
        ({"max_head_bytes": 2048}, HEAD + b"a: " + b"b" * 2048 + b"\r\n\r\n", 431, "head_too_large"),
        ({}, b"GET /" + b"u" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "url_too_long"),
        ({}, b"GET /" + b"u" * 70_000, 414, "url_too_long"),
        ({"head_s": 0.1}, HEAD, 408, "request_timeout"),
    ],
)
async def test_a_head_is_bounded(
    serve: Serve, limits: dict[str, Any], data: bytes, status: int, code: str
) -> None:
    server = await serve(**limits)
    client = await server.connect(data)
    assert await client.refusal() == (status, code)
    assert not server.app.scopes


async def test_a_head_within_its_bounds_is_served_however_it_is_cut(serve: Serve) -> None:
    server = await serve()
    client = await server.connect()
    for byte in HEAD + b"a: b\r\n" * 100 + b"Content-Length: 2\r\n\r\nhi":
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.answer())[2] == b"2"


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n"])
async def test_a_connection_without_a_request_is_closed(serve: Serve, data: bytes) -> None:
    client = await (await serve(head_s=0.1)).connect(data)
    assert await client.rest() == b""


async def test_an_idle_connection_is_closed(serve: Serve) -> None:
    server = await serve(idle_s=0.1)
    client = await server.connect(GET)
    assert (await client.answer())[0] == 200
    assert await client.rest() == b""
    await until(lambda: not server.connections.all)


HEADS = {
    "two hosts": b"Host: a\r\nHost: a\r\n\r\n",
    "no host": b"X: y\r\n\r\n",
    "open bracket": b"Host: [::1\r\n\r\n",
    "bracketed name": b"Host: [evil]\r\n\r\n",
    "bracketed nonsense": b"Host: [1:2]\r\n\r\n",
    "user in host": b"Host: a@b\r\n\r\n",
    "path in host": b"Host: a/b\r\n\r\n",
    "long port": b"Host: a:123456\r\n\r\n",
    "h2c": b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    "websocket": b"Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "folded": b"Host: a\r\nX: y\r\n z\r\n\r\n",
    "nul": b"Host: a\r\nX: y\0z\r\n\r\n",
    "nul in a name": b"Host: a\r\nX\0: y\r\n\r\n",
    "space before the colon": b"Host : a\r\n\r\n",
    "two lengths": b"Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "list of lengths": b"Host: a\r\nContent-Length: 1, 1\r\n\r\na",
    "signed length": b"Host: a\r\nContent-Length: +1\r\n\r\na",
    "length and chunks": b"Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
    "unknown coding": b"Host: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked is not last": b"Host: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"Host: a\n\n",
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_that_can_be_read_in_two_ways_is_refused(serve: Serve, name: str) -> None:
    server = await serve()
    client = await server.connect(b"POST /v1/x HTTP/1.1\r\n" + HEADS[name])
    assert await client.refusal() == (400, "malformed_request")
    assert server.app.ends in ([], ["gone"])  # where the end was not legible, the application got no body


async def test_a_client_that_asks_for_http_2_is_told_what_to_set(serve: Serve) -> None:
    client = await (await serve()).connect(b"POST /v1/x HTTP/1.1\r\n" + HEADS["h2c"])
    _, _, body = await client.answer()
    message = json.loads(body)["error"]["message"]
    assert "set your client to HTTP/1.1 (Java: HttpClient.newBuilder().version(" in message


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_not_http_1_is_refused(serve: Serve, data: bytes) -> None:
    server = await serve()
    assert await (await server.connect(data)).refusal() == (400, "malformed_request")
    assert not server.app.scopes


@pytest.mark.parametrize(
    "host", [b"a", b"", b"127.0.0.1:80", b"[::1]", b"[::1]:8080", b"[::ffff:1.2.3.4]", b"a_b.c-d.", b"a:"]
)
async def test_a_host_is_admitted(serve: Serve, host: bytes) -> None:
    client = await (await serve()).connect(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert (await client.answer())[0] == 200


# the body


async def test_trailers_are_no_headers(serve: Serve) -> None:
    server = await serve()
    chunks = b"Transfer-Encoding: chunked\r\n\r\n2;ext=1\r\nhi\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    client = await server.connect(HEAD + chunks)
    assert (await client.answer())[2] == b"2"
    assert [name for name, _ in server.app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "flood", [b"1;" + b"e" * 500_000, b"0\r\n" + b"a: b\r\n" * 100_000, b"1\r\na\r\n" * 100_000]
)
async def test_framing_is_bounded(serve: Serve, flood: bytes) -> None:
    server = await serve()
    client = await server.connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await until(lambda: bool(server.app.scopes))
    client.send(flood)
    assert await client.refusal() == (400, "malformed_request")
    await until(lambda: server.app.ends == ["gone"])


@pytest.mark.parametrize("limits", [{"body_s": 0.1}, {"min_body_bytes_per_s": 1000, "write_s": 0.1}])
async def test_a_body_has_to_come_in_time(
    serve: Serve, limits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.asgi.protocol.BODY_GRACE_S", 0.1)
    server = await serve(**limits)
    client = await server.connect(HEAD + b"Content-Length: 9\r\n\r\nhalf")
    assert await client.refusal() == (408, "request_timeout")
    await until(lambda: server.app.ends == ["gone"])
    assert server.connections.held_bytes == 0


async def test_bodies_in_memory_are_bounded_and_the_largest_half_goes_first(serve: Serve) -> None:
    server = await serve(max_held_bytes=10_000)
    half = await server.connect(GET.replace(b"/v1/x", b"/wait"))
    half.send(HEAD + b"Content-Length: 9000000\r\n\r\n" + b"x" * 9_000)  # nothing reads it yet
    await until(lambda: server.connections.held_bytes == 9_000)
    small = await server.connect(HEAD + b"Content-Length: 5000\r\n\r\n" + b"y" * 5_000)
    assert (await small.answer())[2] == b"5000"
    server.app.go.set()
    assert (await half.answer())[0] == 200
    assert await half.refusal() == (503, "server_busy")
    assert server.connections.held_bytes == 0


async def test_a_large_body_within_the_bounds_comes_through(serve: Serve) -> None:
    server = await serve()
    client = await server.connect(HEAD + b"Content-Length: 5000000\r\n\r\n" + b"x" * 5_000_000)
    assert (await client.answer())[2] == b"5000000"
    assert server.connections.held_bytes == 0


async def test_an_early_answer_keeps_the_connection_where_the_body_still_ends(serve: Serve) -> None:
    server = await serve()
    client = await server.connect(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
    assert (await client.answer())[0] == 200
    client.send(b"x" * 300_000 + GET)
    assert (await client.answer())[0] == 200


async def test_an_early_answer_ends_the_connection_of_a_body_without_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINGER_S", 0.1)
    server = await serve(write_s=0.1)
    client = await server.connect(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
    assert (await client.answer())[0] == 200
    assert await client.rest() == b""


async def test_a_client_that_asks_first_is_told_to_continue(serve: Serve) -> None:
    client = await (await serve()).connect(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert (await client.answer())[0] == 100
    client.send(b"hi")
    assert (await client.answer())[2] == b"2"


# several requests, several connections


async def test_requests_in_a_row_are_answered_in_order(serve: Serve) -> None:
    client = await (await serve()).connect(
        b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % n + b"x" * n for n in range(12))
    )
    assert [(await client.answer())[2] for _ in range(12)] == [b"%d" % n for n in range(12)]


async def test_a_flood_of_requests_on_one_connection_is_refused_after_the_answers_due(serve: Serve) -> None:
    server = await serve()
    client = await server.connect(GET.replace(b"/v1/x", b"/wait") + GET * 5_000)
    await until(lambda: bool(server.connections.refused))
    server.app.go.set()
    statuses = [(await client.answer())[0] for _ in range(17)]
    assert statuses == [200] * 17
    assert await client.refusal() == (400, "malformed_request")
    assert len(server.app.scopes) == 17


async def test_a_bad_request_waits_for_the_answer_before_it(serve: Serve) -> None:
    server = await serve()
    client = await server.connect(GET.replace(b"/v1/x", b"/wait") + b"nonsense\r\n\r\n")
    await until(lambda: bool(server.connections.refused))
    server.app.go.set()
    assert (await client.answer())[0] == 200
    assert await client.refusal() == (400, "malformed_request")


async def test_a_new_connection_takes_the_place_of_an_idle_one(serve: Serve) -> None:
    server = await serve(max_connections=2)
    idle = await server.connect(GET)
    assert (await idle.answer())[0] == 200
    silent = await server.connect()
    await until(lambda: len(server.connections.all) == 2)
    for gone in (idle, silent):
        assert (await (await server.connect(GET)).answer())[0] == 200
        assert await gone.rest() == b""
    assert len(server.connections.all) == 2


async def test_health_answers_where_all_connections_work(serve: Serve) -> None:
    server = await serve(max_connections=2)
    for _ in range(2):
        await server.connect(GET.replace(b"/v1/x", b"/wait"))
    await until(lambda: len(server.app.scopes) == 2)
    assert await (await server.connect(GET)).refusal() == (503, "server_busy")
    health = await server.connect(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await health.answer())[0] == 200


async def test_connections_far_beyond_the_most_are_closed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "N_SPARE", 0)
    server = await serve(max_connections=1)
    await server.connect(GET.replace(b"/v1/x", b"/wait"))
    await until(lambda: bool(server.app.scopes))
    assert await (await server.connect(GET)).rest() == b""


async def test_connections_of_one_address_are_bounded(serve: Serve) -> None:
    server = await serve(max_connections_per_address=1)
    first = await server.connect(GET)
    assert (await first.answer())[0] == 200
    assert await (await server.connect(GET)).rest() == b""
    first.writer.close()
    await until(lambda: not server.connections.all)
    assert (await (await server.connect(GET)).answer())[0] == 200


# the client that does not read


async def test_a_client_that_does_not_read_is_let_go(serve: Serve) -> None:
    server = await serve(write_s=0.2)
    await server.connect(GET.replace(b"/v1/x", b"/stream"), limit=1024)
    await until(lambda: server.app.ends == ["gone"])
    assert not server.connections.all


@dataclass
class UnreadConnection:
    """A connection with bytes that wait for its client."""

    n_bytes: int
    is_aborted: bool = False

    def n_unsent(self) -> int:
        return self.n_bytes

    def abort(self) -> None:
        self.is_aborted = True


@pytest.mark.parametrize(
    ("read_per_s", "is_kept"), [(0, False), (1, False), (500, False), (2_000, True), (50_000, True)]
)
def test_a_client_is_kept_as_long_as_it_reads_at_the_least_pace(read_per_s: int, is_kept: bool) -> None:
    connections = Connections(LimitsConfig())
    connection: Any = UnreadConnection(200_000)
    blocked = Blocked(0.0, 200_000)
    for second in range(1, 300):
        connection.n_bytes = max(0, connection.n_bytes - read_per_s)
        if not connection.n_bytes:
            break  # it would have been resumed
        connections.look_at(connection, blocked, float(second))
    assert connection.is_aborted is not is_kept


# the response


async def test_a_line_break_in_a_header_is_no_second_header(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = await (await serve()).connect(GET.replace(b"/v1/x", b"/split"))
    status, headers, _ = await client.answer()
    assert (status, "set-cookie" in headers) == (500, False)
    assert "control character" in caplog.text


async def test_http_1_0_is_answered_and_closed(serve: Serve) -> None:
    client = await (await serve()).connect(b"GET / HTTP/1.0\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"], await client.rest()) == (200, "close", b"")


async def test_a_head_request_has_no_body(serve: Serve) -> None:
    client = await (await serve()).connect(GET.replace(b"GET", b"HEAD") + GET)
    async with asyncio.timeout(SOON_S):
        assert b"content-length: 1" in await client.reader.readuntil(b"\r\n\r\n")
    assert (await client.answer())[2] == b"0"


# accepting


class CountedConnection(asyncio.Protocol):
    """Closes at once, and says so."""

    def __init__(self, made: Callable[[], None]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made()
        transport.close()


async def test_many_connections_are_accepted_in_a_few_turns_of_the_loop() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    made: list[int] = []
    loop, n_turns = asyncio.get_running_loop(), 0

    def turn() -> None:
        nonlocal n_turns
        n_turns += 1
        if len(made) < 100:
            loop.call_soon(turn)

    clients = [socket.create_connection(listener.getsockname()) for _ in range(100)]
    acceptor = Acceptor(listener, lambda: CountedConnection(lambda: made.append(n_turns)))
    turn()
    await until(lambda: len(made) == 100)
    acceptor.close()
    await acceptor.wait_closed()
    assert made[-1] - made[0] < 50  # one in a turn would be a hundred
    for client in clients:
        client.close()


def test_a_process_may_open_as_many_files_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, module.MAX_FILES), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class ExhaustedListener(socket.socket):
    """Fails twice for want of descriptors."""

    n_failures = 2

    def accept(self) -> Any:
        if self.n_failures:
            self.n_failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_accepting_goes_on_after_descriptors_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL_PAUSE_S", 0.01)
    made: list[bool] = []
    listener = ExhaustedListener(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    acceptor = Acceptor(listener, lambda: CountedConnection(lambda: made.append(True)))
    client = socket.create_connection(listener.getsockname())
    await until(lambda: bool(made))
    acceptor.close()
    client.close()
