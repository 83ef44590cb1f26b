"""The HTTP client: what it sends, what it takes for an answer, and which connections it uses again."""

import asyncio
import contextlib
import gzip
import logging
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from math import inf
from typing import Any

import pytest

from gateway.config import AnswerLimits
from gateway.experts import http_client
from gateway.experts.http_client import (
    MAX_HEADERS,
    MAX_INTERIM,
    REST_S,
    Address,
    ConnectError,
    ConnectTimeoutError,
    CutAnswerError,
    DisconnectError,
    EncodingError,
    HttpError,
    ProtocolError,
    Transport,
    UpstreamResponse,
)

CLOSE, RESET = "close", "reset"


Part = bytes | float | str
BODY = b'{"ok": true}'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNKS = (
    CHUNKED + b"5;a=b\r\n" + BODY[:5] + b"\r\n%x\r\n" % len(BODY[5:]) + BODY[5:] + b"\r\n0\r\nx-t: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
UNMEASURED = b"HTTP/1.1 200 OK\r\n\r\n" + BODY


class ScriptedServer:
    """Answers each request with the parts of a script: bytes, pauses in seconds, CLOSE and RESET.

    `requests` has what was sent, `served_by` the number of the connection of each.
    """

    def __init__(self, script: Callable[[int], Iterable[Part]] | Iterable[Part]) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.served_by: list[int] = []
        self.n_connections = self.n_sent = 0
        self.asked, self.lost = asyncio.Event(), asyncio.Event()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serve(self, **limits: int) -> AsyncIterator[Address]:
        """The address of it, on a transport of its own."""
        tasks: set[asyncio.Task[None]] = set()

        def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.n_connections += 1
            tasks.add(asyncio.ensure_future(self._serve(reader, writer, self.n_connections)))

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        transport = Transport(AnswerLimits(**limits))
        await transport.open()
        try:
            yield Address(transport, self.url, {}, 1)
        finally:
            await transport.close()
            assert not transport.connections
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, n: int) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.served_by.append(n)
                self.requests.append(head + await reader.readexactly(int(length or 0)))
                self.asked.set()
                script = self.script
                for part in script(len(self.requests)) if callable(script) else script:
                    if part == CLOSE:
                        return
                    if part == RESET:
                        linger = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, linger
                        )
                        writer.transport.abort()
                        return
                    if isinstance(part, bytes):
                        writer.write(part)
                        await writer.drain()
                        self.n_sent += len(part)
                    elif isinstance(part, float):
                        await asyncio.sleep(part)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.lost.set()
        finally:
            writer.close()


async def read(response: UpstreamResponse) -> bytes:
    parts = []
    while data := await response.readany():
        parts.append(data)
    return b"".join(parts)


async def ask(address: Address, body: bytes = b"{}") -> bytes:
    async with asyncio.timeout(10):
        return await read(await address.send(body))


async def rest() -> None:
    await asyncio.sleep(1.5 * REST_S)


# -- what is sent


async def test_a_request_is_one_head_and_its_body() -> None:
    server = ScriptedServer([OK])
    async with server.serve() as address:
        headers = {"Authorization": "Bearer k", "User-Agent": "mine"}
        await ask(Address(address.transport, server.url + "/chat?a=b%20c", headers, 1), b'{"a": 1}')
        host = server.url.removeprefix("http://").removesuffix("/v1")
        assert (
            server.requests[0]
            == (
                f"POST /v1/chat?a=b%20c HTTP/1.1\r\nhost: {host}\r\n"
                "accept: */*\r\naccept-encoding: identity\r\n"
                "user-agent: mine\r\ncontent-type: application/json\r\nauthorization: Bearer k\r\n"
                'content-length: 8\r\n\r\n{"a": 1}'
            ).encode()
        )
        await ask(Address(address.transport, server.url, {}, 1, method="GET"), b"")
        assert b"content-" not in server.requests[1]
        await ask(address, b"x" * 3_000_000)
        assert server.requests[2].endswith(b"content-length: 3000000\r\n\r\n" + b"x" * 3_000_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-a", "b\r\nx-c: d"),
        ("x-a", "b\n"),
        ("x-a", "b\0"),
        ("x-a\r\nx-b", "c"),
        ("x a", "b"),
        ("", "b"),
        ("Content-Length", "5"),
        ("transfer-encoding", "chunked"),
    ],
)
async def test_no_header_can_begin_another_or_change_the_framing(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        Address(Transport(), "http://127.0.0.1/v1", {name: value}, 1)
    assert "x-c" not in str(caught.value)


async def test_headers_of_one_call_go_before_those_of_all() -> None:
    server = ScriptedServer([OK])
    async with server.serve() as address:
        named = Address(address.transport, server.url, {"x-version": "1"}, 1)
        await read(await named.send(b"{}", more={"x-version": "2", "x-beta": "a"}))
        await ask(named)
        assert b"x-version: 2\r\nx-beta: a\r\n" in server.requests[0]
        assert b"x-version: 1\r\n" in server.requests[1]
        assert b"x-beta" not in server.requests[1]
        with pytest.raises(ValueError, match="line break"):
            await named.send(b"{}", more={"x-version": "2\r\nx-key: y"})
        assert len(server.requests) == 2


@pytest.mark.parametrize("url", ["ftp://h/v1", "h/v1", "http:///v1", "unix:/x"])
def test_an_address_is_http_and_has_a_host(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Address(Transport(), url, {}, 1)


async def test_a_user_in_the_address_is_sent_as_authorization_and_a_key_goes_before_it() -> None:
    server = ScriptedServer([OK])
    async with server.serve() as address:
        url = server.url.replace("http://", "http://user:p%40ss@")
        await ask(Address(address.transport, url, {}, 1))
        await ask(Address(address.transport, url, {"authorization": "Bearer k"}, 1))
        assert b"\r\nauthorization: Basic dXNlcjpwQHNz\r\n" in server.requests[0]
        assert b"user" not in server.requests[0].split(b"\r\n")[1]  # host
        assert b"\r\nauthorization: Bearer k\r\n" in server.requests[1]
        assert b"Basic" not in server.requests[1]


# -- what is an answer


ANSWERS = {
    "length": OK,
    "chunks": CHUNKS,
    "interim": INTERIM + INTERIM + OK,
    "until it closes": UNMEASURED,
    "line feeds": OK.replace(b"\r\n", b"\n"),
    "blanks after a size": CHUNKED + b"%x  \r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "HTTP/1.0": UNMEASURED.replace(b"1.1", b"1.0"),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_is_the_same_wherever_it_is_split(kind: str) -> None:
    whole = ANSWERS[kind]
    cuts = [*range(1, len(whole)), 0]

    def script(n: int) -> list[Part]:
        if n > len(cuts):
            return [part for byte in whole for part in (bytes([byte]), 0.0)] + [CLOSE]
        return [whole[: cuts[n - 1]], 0.0, whole[cuts[n - 1] :], CLOSE]

    async with ScriptedServer(script).serve() as address:
        for _ in range(len(cuts) + 1):
            response = await address.send(b"{}")
            assert (response.status, await read(response)) == (200, BODY)


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("kind", ["length", "chunks", "interim"])
async def test_an_answer_that_is_cut_anywhere_fails(kind: str, end: str) -> None:
    whole = ANSWERS[kind]
    n_head = whole.rindex(b"\r\n\r\n", 0, whole.index(BODY[:5])) + 4

    def script(n: int) -> list[Part]:
        return [whole[:n], 0.001, end] if end == RESET else [whole[:n], end]

    async with ScriptedServer(script).serve() as address:
        for n in range(1, len(whole)):
            with pytest.raises(DisconnectError if n < n_head else CutAnswerError):
                await ask(address)


async def test_a_head_without_a_body_ends_at_once() -> None:
    for status in (204, 304):
        async with ScriptedServer([b"HTTP/1.1 %d X\r\n\r\n" % status]).serve() as address:
            assert await ask(address) == b""


UNREADABLE: dict[str, bytes] = {
    "no HTTP": b"hello\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "status in letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "protocols switch": b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "length and chunks": OK.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"),
    "chunks and length": CHUNKS.replace(b"\r\n\r\n", b"\r\ncontent-length: 12\r\n\r\n", 1),
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n"),
    "a length below 0": OK.replace(b"length: 12", b"length: -1"),
    "a length with a sign": OK.replace(b"length: 12", b"length: +12"),
    "a folded header": OK.replace(b"\r\n\r\n", b"\r\nx: a\r\n b\r\n\r\n"),
    "a blank before the colon": OK.replace(b"\r\n\r\n", b"\r\nx : a\r\n\r\n"),
    "a control character": OK.replace(b"\r\n\r\n", b"\r\nx: a\x01\r\n\r\n"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_what_is_no_http_or_has_two_readings_is_refused(kind: str) -> None:
    async with ScriptedServer([UNREADABLE[kind]]).serve() as address:
        with pytest.raises(ProtocolError):
            await ask(address)
        assert not address.transport.connections or await is_empty(address.transport)


async def is_empty(transport: Transport) -> bool:
    await asyncio.sleep(0.01)
    return not transport.connections


BAD_CHUNKS = {
    "a size in words": b"zz\r\n",
    "a chunk that is too long": b"2\r\nabc\r\n",
    "a size below 0": b"-1\r\n",
}


@pytest.mark.parametrize("kind", BAD_CHUNKS)
async def test_a_bad_chunk_ends_the_body_after_what_was_good(kind: str) -> None:
    good = b"5\r\nhello\r\n"
    async with ScriptedServer([CHUNKED + good, 0.01, BAD_CHUNKS[kind]]).serve() as address:
        response = await address.send(b"{}")
        assert await response.readany() == b"hello"
        with pytest.raises(CutAnswerError):
            await read(response)


# -- bounds


async def test_a_head_is_bounded_in_every_direction() -> None:
    longest = {"max_header_bytes": 500}
    few, many = (
        b"".join(b"x-%d: y\r\n" % number for number in range(n)) for n in (MAX_HEADERS - 2, MAX_HEADERS)
    )
    interim: list[Part] = [INTERIM, 0.001]
    letters: list[Part] = [b"y" * 100, 0.002]
    heads: dict[str, tuple[list[Part], type[Exception] | None]] = {
        "a long header": ([OK.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 400 + b"\r\n\r\n")], None),
        "too long a header": (
            [OK.replace(b"\r\n\r\n", b"\r\nx: " + b"y" * 600 + b"\r\n\r\n")],
            ProtocolError,
        ),
        "too long in pieces": (
            [b"HTTP/1.1 200 OK\r\nx: ", *letters * 6, b"\r\ncontent-length: 0\r\n\r\n"],
            ProtocolError,
        ),
        "many headers": ([OK.replace(b"\r\n\r\n", b"\r\n" + few + b"\r\n")], None),
        "too many headers": ([OK.replace(b"\r\n\r\n", b"\r\n" + many + b"\r\n")], ProtocolError),
        "a head without an end": ([b"HTTP/1.1 200 OK\r\n", *[b"x-y: z\r\n" * 10] * 100, 9.0], ProtocolError),
        "a line without an end": ([b"HTTP/1.1 200 ", *[b"x" * 100] * 100, 9.0], ProtocolError),
        "interim": ([INTERIM * MAX_INTERIM + OK], None),
        "too many interim": ([INTERIM * (MAX_INTERIM + 1) + OK], DisconnectError),
        "interim without an end": ([*interim * 100, 9.0], DisconnectError),
    }
    for name, (parts, error) in heads.items():
        async with ScriptedServer(parts).serve(**longest) as address:
            outcome: type[Exception] | None = None
            try:
                await ask(address)
            except HttpError as failure:
                outcome = type(failure)
            assert (name, outcome) == (name, error)


@pytest.mark.parametrize("flood", [b"5;" + b"x" * 100_000, b"0\r\n" + b"x-t: y\r\n" * 20_000])
async def test_framing_without_a_body_is_bounded(flood: bytes) -> None:
    pieces: list[Part] = [flood[n : n + 10_000] for n in range(0, len(flood), 10_000)]
    async with ScriptedServer([CHUNKED, *pieces, 9.0]).serve() as address:
        with pytest.raises(CutAnswerError):
            await ask(address)


async def test_an_upstream_is_read_no_faster_than_its_reader() -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    server = ScriptedServer([CHUNKED, *[piece] * 400, b"0\r\n\r\n"])
    async with server.serve() as address:
        response = await address.send(b"{}")
        await asyncio.sleep(0.3)
        # What the sockets' buffers hold has been sent, far from all of it is here.
        assert server.n_sent < len(piece) * 300
        assert response.n_buffered < 1_000_000
        assert len(await read(response)) == 400 * 65536
        await rest()
        await ask_and_close(address)
        assert server.n_connections == 1


async def ask_and_close(address: Address) -> None:
    (await address.send(b"{}")).close()


GZIP = gzip.compress(BODY * 1000)
RAW = zlib.compressobj(wbits=-15)
CODED = {
    "gzip": ("gzip", GZIP, BODY * 1000),
    "x-gzip": ("X-GZIP", GZIP, BODY * 1000),
    "members": ("gzip", GZIP + GZIP, BODY * 2000),
    "deflate": ("deflate", zlib.compress(BODY), BODY),
    "raw deflate": ("deflate", RAW.compress(BODY) + RAW.flush(), BODY),
    "a charset": ("utf-8", BODY, BODY),
    "identity": ("identity", BODY, BODY),
    "nothing": ("gzip", b"", b""),
}


@pytest.mark.parametrize("kind", CODED)
async def test_content_encodings_are_read_though_none_was_asked_for(kind: str) -> None:
    coding, sent, meant = CODED[kind]
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\ncontent-length: %d\r\n\r\n"
    whole = head % (coding.encode(), len(sent)) + sent
    async with ScriptedServer([whole[:-9], 0.01, whole[-9:]]).serve() as address:
        assert await ask(address) == meant


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "gzip", "deflate"])
async def test_what_cannot_be_decoded_is_told_as_that(coding: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: 12\r\n\r\n" % coding.encode()
    async with ScriptedServer([head + BODY]).serve() as address:
        with pytest.raises(EncodingError):
            await ask(address)


async def test_a_bomb_comes_in_small_pieces() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with ScriptedServer([head + bomb]).serve() as address:
        response = await address.send(b"{}")
        sizes = [len(await response.readany()) for _ in range(20)]
        assert max(sizes) <= http_client.STEP_BYTES
        response.close()


# -- which connections are used again


async def test_a_connection_rests_once_and_serves_again() -> None:
    server = ScriptedServer([OK])
    async with server.serve() as address:
        await ask(address)
        await ask(address)  # the first rests
        await rest()
        for _ in range(5):
            await ask(address)
        assert server.served_by[:2] == [1, 2]
        assert len(set(server.served_by[2:])) == 1


SURPLUS: dict[str, list[Part]] = {
    "a second answer": [OK + OK],
    "a part of one": [OK + OK[:10]],
    "a byte": [OK + b"x"],
    "other bytes": [OK + b"\x00garbage"],
    "after chunks": [CHUNKS + OK],
    "after chunks, no HTTP": [CHUNKS + b"5\r\nhello\r\n"],
    "late": [OK, 0.005, OK],
    "late, of a line": [OK, 0.005, b"\r\n"],
    "after a cut": [OK[:-3], 0.005, OK[-3:] + OK],
    "after nothing": [b"HTTP/1.1 204 X\r\n\r\n" + OK],
    "after the last answer": [OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + OK],
}


@pytest.mark.parametrize("kind", SURPLUS)
async def test_surplus_closes_its_connection_and_each_of_the_upstream_serves_one_call(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = ScriptedServer(lambda n: SURPLUS[kind] if n == 1 else [OK])
    async with server.serve() as address:
        with caplog.at_level(logging.WARNING, "thalamus.upstream"):
            assert await ask(address) in (BODY, b"")
            await rest()
        assert "sent more than its answer" in caplog.text
        for _ in range(4):
            assert await ask(address) == BODY
            await rest()
        assert server.served_by == [1, 2, 3, 4, 5]


async def test_trust_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "DISTRUST_S", 0.05)
    server = ScriptedServer(lambda n: [OK + OK] if n == 1 else [OK])
    async with server.serve() as address:
        await ask(address)
        await asyncio.sleep(0.06)
        for _ in range(3):
            await ask(address)
            await rest()
        assert server.served_by == [1, 2, 2, 2]


async def test_a_server_that_speaks_first_is_not_an_answer() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    transport = Transport()
    await transport.open()
    address = Address(transport, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {}, 1)
    pool = transport.find_pool(address.url, None)
    with contextlib.suppress(DisconnectError):  # it may have spoken before the connection is given
        connection = await pool.connect(1)
        await asyncio.sleep(0.02)
        assert connection.is_closed
    assert pool.distrusted_until > 0
    await transport.close()
    server.close()


async def test_trailers_are_no_headers_of_this_answer_or_the_next() -> None:
    trailers = CHUNKED + b"2\r\n{}\r\n0\r\nRetry-After: 9\r\ncontent-encoding: br\r\n\r\n"
    server = ScriptedServer(lambda n: [trailers] if n < 3 else [OK])
    async with server.serve() as address:
        for _ in range(3):
            response = await address.send(b"{}")
            assert not {"retry-after", "content-encoding"} & response.headers.keys()
            assert await read(response) in (b"{}", BODY)
            await rest()
        assert server.n_connections == 1


@pytest.mark.parametrize("wait_s", [0.0, 0.02])
async def test_a_connection_that_was_closed_while_it_rested_is_not_used(wait_s: float) -> None:
    server = ScriptedServer([OK, 0.03, CLOSE])
    async with server.serve() as address:
        for _ in range(3):
            assert await ask(address) == BODY
            await asyncio.sleep(0.05 + wait_s)
        assert server.served_by == [1, 2, 3]


async def test_a_call_on_a_used_connection_that_closes_is_not_sent_twice() -> None:
    server = ScriptedServer(lambda n: [OK] if n == 1 else [CLOSE])
    async with server.serve() as address:
        await ask(address)
        await rest()
        with pytest.raises(DisconnectError):
            await ask(address)
        assert server.served_by == [1, 1]


@pytest.mark.parametrize("answer", [UNMEASURED, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
async def test_an_answer_that_closes_is_the_last_on_its_connection(answer: bytes) -> None:
    server = ScriptedServer([answer, CLOSE])
    async with server.serve() as address:
        for _ in range(3):
            assert await ask(address) == BODY
            await rest()
        assert server.served_by == [1, 2, 3]


async def test_an_answer_before_the_request_was_read_is_the_last_on_its_connection() -> None:
    answered = asyncio.Event()
    n_connections = 0

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        await answered.wait()
        writer.close()

    server = await asyncio.start_server(answer_early, "127.0.0.1", 0, limit=1000)
    transport = Transport()
    await transport.open()
    address = Address(transport, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {}, 1)
    for n in (1, 2):
        response = await address.send(b"x" * 20_000_000)
        assert (response.status, await read(response), n_connections) == (413, b"{}", n)
        await rest()
    answered.set()
    await transport.close()
    server.close()


async def test_idle_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEPALIVE_S", 0.1)
    server = ScriptedServer([0.02, OK])
    async with server.serve() as address:
        await asyncio.gather(*(ask(address) for _ in range(5)))
        assert len(address.transport.connections) == 5
        await asyncio.sleep(0.25)
        assert not address.transport.connections
        await ask(address)
        assert server.served_by[-1] == 6


async def test_an_expired_connection_is_not_used_before_it_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ScriptedServer([OK])
    async with server.serve() as address:
        await ask(address)
        await rest()
        monkeypatch.setattr(http_client, "KEEPALIVE_S", 0.01)
        await ask(address)
        assert server.served_by == [1, 2]


async def test_addresses_of_one_origin_share_connections_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ScriptedServer([OK])
    async with server.serve() as address:
        transport = address.transport
        await ask(address)
        await rest()
        await ask(Address(transport, server.url + "/other", {"authorization": "Bearer x"}, 1))
        assert server.served_by == [1, 1]
        monkeypatch.setenv("HTTP_PROXY", server.url)
        addresses = [
            Address(transport, url, {}, 1, is_local)
            for url in ("http://a/", "http://b/", "https://a/", "http://a:8080/")
            for is_local in (False, True)
        ]
        # A local server is asked directly; HTTP_PROXY is not for https.
        assert len({id(one._pool) for one in addresses}) == 7


# -- time


async def test_the_head_has_a_deadline_and_the_body_another() -> None:
    async def outcome(parts: list[Part], head_s: float, body_s: float) -> str:
        async with ScriptedServer(parts).serve() as address:
            now = asyncio.get_running_loop().time()
            try:
                response = await address.send(b"{}", now + head_s, now + body_s)
            except TimeoutError:
                return "no head"
            try:
                await read(response)
            except TimeoutError:
                return "no body"
            return "answer"

    assert await outcome([5.0], 0.05, 9) == "no head"
    assert await outcome([OK[:-3], 5.0], 0.05, 0.1) == "no body"
    assert await outcome([OK[:-3], 0.1, OK[-3:]], 0.05, 9) == "answer"
    assert await outcome([OK[:-3], 0.1, OK[-3:]], 0.05, inf) == "answer"


async def test_the_deadline_of_one_call_is_not_that_of_the_next() -> None:
    server = ScriptedServer(lambda n: [OK] if n == 1 else [0.15, OK])
    async with server.serve() as address:
        now = asyncio.get_running_loop().time
        await read(await address.send(b"{}", now() + 0.1, now() + 0.1))
        await rest()
        await read(await address.send(b"{}", now() + 5, now() + 5))
        with pytest.raises(TimeoutError):  # earlier than the one before
            await address.send(b"{}", now() + 0.05)
        assert server.served_by == [1, 1, 1]


async def test_who_gives_up_ends_the_call_upstream_at_once() -> None:
    server = ScriptedServer([5.0])
    async with server.serve() as address:
        task = asyncio.create_task(address.send(b"{}"))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.02)
        assert not address.transport.connections
    more: list[Part] = [b"2\r\n{}\r\n", 0.01]
    server = ScriptedServer([CHUNKED, *more * 100])
    async with server.serve() as address:
        response = await address.send(b"{}")
        assert await response.readany() == b"{}"
        response.close()
        await asyncio.wait_for(server.lost.wait(), 2)
        assert not address.transport.connections


async def test_who_gives_up_when_the_answer_is_there_disturbs_no_other() -> None:
    server = ScriptedServer([0.1, OK])
    async with server.serve() as address:
        first = asyncio.create_task(address.send(b"first"))
        await server.asked.wait()
        (connection,) = address.transport.connections
        connection.is_settled = True
        connection.data_received(OK)  # in the turn of the loop in which the call is given up
        first.cancel()
        other = asyncio.create_task(address.send(b"other"))
        with pytest.raises(asyncio.CancelledError):
            await first
        assert connection.waiter is not None
        assert await read(await other) == BODY


async def test_an_answer_in_the_turn_in_which_its_call_is_given_up_is_not_read() -> None:
    server = ScriptedServer([9.0])
    async with server.serve() as address:
        task = asyncio.create_task(address.send(b"{}"))
        await server.asked.wait()
        (connection,) = address.transport.connections
        task.cancel()
        connection.data_received(CHUNKED)
        assert connection.is_closed
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_none_is_connected_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(9)

    async with ScriptedServer([OK]).serve() as address:
        monkeypatch.setattr("aiohappyeyeballs.start_connection", wait)
        short = Address(address.transport, str(address.url), {}, 0.02)
        with pytest.raises(ConnectTimeoutError):
            await short.send(b"{}")
        with pytest.raises(TimeoutError):  # the call's own deadline comes first
            await address.send(b"{}", asyncio.get_running_loop().time() + 0.02)


async def test_none_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        transport = Transport()
        await transport.open()
        address = Address(transport, f"http://127.0.0.1:{taken.getsockname()[1]}/", {}, 1)
        with pytest.raises(ConnectError) as caught:
            await address.send(b"{}")
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        await transport.close()


# -- names


class Resolver:
    """Stands in for getaddrinfo of the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, port: int, delay_s: float = 0.0) -> None:
        self.n_calls = 0
        self.failure: Exception | None = None
        self._port, self._delay_s = port, delay_s
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.resolve, raising=False)

    async def resolve(self, host: str, port: int, **_: Any) -> list[Any]:
        places = [(host, port)]
        if host != "127.0.0.1":  # uvloop asks it also for what is no name
            self.n_calls += 1
            await asyncio.sleep(self._delay_s)
            if self.failure is not None:
                raise self.failure
            places = [("127.0.0.1", 1), ("127.0.0.1", self._port)]  # none listens at the first
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]


async def test_a_name_is_looked_up_once_and_each_of_its_addresses_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ScriptedServer([OK])
    async with server.serve() as address:
        resolver = Resolver(monkeypatch, address.url.port or 0, 0.05)
        named = Address(address.transport, "http://upstream.example:8000/v1", {}, 1)
        first = asyncio.create_task(named.send(b"{}"))
        others = [asyncio.create_task(ask(named)) for _ in range(4)]
        await asyncio.sleep(0.01)
        first.cancel()  # it had begun the lookup of all
        assert await asyncio.gather(*others) == [BODY] * 4
        assert await ask(named) == BODY
        assert resolver.n_calls == 1
        assert b"\r\nhost: upstream.example:8000\r\n" in server.requests[0]
        monkeypatch.setattr(http_client, "monotonic", lambda: 1e9)
        await ask(named)
        assert resolver.n_calls == 2


async def test_a_name_without_an_address_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer([OK]).serve() as address:
        resolver = Resolver(monkeypatch, address.url.port or 0)
        named = Address(address.transport, "http://upstream.example/v1", {}, 1)
        resolver.failure = socket.gaierror(socket.EAI_NONAME, "unknown")
        with pytest.raises(ConnectError) as caught:
            await ask(named)
        assert isinstance(caught.value.__cause__, socket.gaierror)
        resolver.failure = None
        assert await ask(named) == BODY
