"""Proxies, authorities, and what an upstream's address is sent."""

import asyncio
import contextlib
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from gateway.experts.deployments import transport_failure
from gateway.experts.http_client import (
    REST_S,
    Address,
    CertificateError,
    ConnectError,
    Connection,
    ProxyError,
    Transport,
    proxy_for,
)
from gateway.testing import read_head, write_response

VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_without_variables_there_is_no_proxy() -> None:
    assert proxy_for(URL("https://api.example.com/v1")) is None


def test_https_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:p%40ss@proxy.example.com:3128")
    proxy = proxy_for(URL("https://api.example.com/v1"))
    assert proxy is not None
    assert str(proxy.url) == "http://proxy.example.com:3128"
    assert proxy.headers == {"Proxy-Authorization": "Basic dXNlcjpwQHNz"}
    assert proxy_for(URL("http://api.example.com/v1")) is None


def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,.house")
    assert proxy_for(URL("http://127.0.0.1:8000/v1")) is None
    assert proxy_for(URL("http://gpu.house/v1")) is None
    assert proxy_for(URL("http://api.example.com/v1")) is not None


async def test_calls_go_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_head(reader))
        write_response(writer, 200, b"{}")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://u:p@127.0.0.1:{port}")
    transport = Transport()
    await transport.open()
    response = await Address(transport, "http://far.example.com/v1/chat", {}, 1).send(b"{}")
    assert await response.readany() == b"{}"
    await transport.close()
    server.close()
    assert seen[0][0] == "http://far.example.com/v1/chat"
    assert seen[0][1]["proxy-authorization"] == "Basic dTpw"
    assert seen[0][1]["accept-encoding"] == "identity"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost"
    subprocess.run(
        [*command.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.parametrize("trusted", [True, False])
async def test_ssl_cert_file_names_authorities(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        write_response(writer, 200, b"{}")
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    transport = Transport()
    await transport.open()
    address = Address(transport, f"https://localhost:{server.sockets[0].getsockname()[1]}/v1", {}, 1)
    try:
        if trusted:
            response = await address.send(b"{}")
            assert await response.readany() == b"{}"
        else:
            with pytest.raises(CertificateError) as caught:
                await address.send(b"{}")
            assert "SSL_CERT_FILE" in transport_failure(caught.value).message
    finally:
        await transport.close()
        server.close()


async def test_authorities_are_read_again_when_their_file_changes(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = tmp_path / "authorities.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    authorities.write_text("")
    found = []
    for text in ("", "", (certificate / "cert.pem").read_text()):
        if text:
            authorities.write_text(text)
            os.utime(authorities, (1, 1))
        transport = Transport()
        await transport.open()
        found.append(transport.tls)
        await transport.close()
    assert found[0] is found[1]
    assert len(found[2].get_ca_certs()) == len(found[1].get_ca_certs()) + 1


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serve(handle: Serve, **options: Any) -> AsyncIterator[int]:
    """The port of a server whose connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            await handle(reader, writer)

    def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(run(reader, writer)))

    server = await asyncio.start_server(connect, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class TunnelProxy:
    """A proxy for https: it answers CONNECT with `answer`; bytes pass where that is `ESTABLISHED`."""

    def __init__(self, answer: bytes = ESTABLISHED) -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with serve(self._serve) as port:
            yield f"http://u:p@127.0.0.1:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        if self.answer != ESTABLISHED:
            return
        port = int(self.heads[-1].split()[1].rpartition(b":")[2])
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(far_writer):
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


async def test_a_connection_that_was_being_opened_at_the_end_is_closed() -> None:
    left = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        left.set()
        writer.close()

    async with serve(wait) as port:
        transport = Transport()
        await transport.open()
        late = Connection(transport.find_pool(URL(f"http://127.0.0.1:{port}"), None))
        await transport.close()
        await asyncio.get_running_loop().create_connection(lambda: late, "127.0.0.1", port)
        await asyncio.wait_for(left.wait(), 5)
    assert late.is_closed
    assert not transport.connections


@contextlib.asynccontextmanager
async def serve_tls(certificate: Path) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """The address of a server with TLS, and the headers of what it was asked."""
    seen: list[dict[str, str]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, headers = await read_head(reader)
            await reader.readexactly(int(headers["content-length"]))
            seen.append(headers)
            write_response(writer, 200, b"{}")
            await writer.drain()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with serve(answer, ssl=context) as port:
        yield f"https://localhost:{port}/v1", seen


@pytest.mark.parametrize("trusted", [True, False])
async def test_https_goes_through_a_tunnel_that_does_not_see_the_request(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    proxy, transport = TunnelProxy(), Transport()
    async with proxy.serve() as proxy_url, serve_tls(certificate) as (url, seen):
        monkeypatch.setenv("HTTPS_PROXY", proxy_url)
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        await transport.open()
        address = Address(transport, url, {"authorization": "Bearer k"}, 1)
        try:
            if not trusted:
                with pytest.raises(CertificateError):
                    await address.send(b"{}")
                return
            for _ in range(3):
                assert await (await address.send(b"{}")).readany() == b"{}"
                await asyncio.sleep(2 * REST_S)
        finally:
            await transport.close()
    port = url.partition("localhost:")[2].removesuffix("/v1")
    assert [head.split(b"\r\n")[0].decode() for head in proxy.heads] == [f"CONNECT localhost:{port} HTTP/1.1"]
    assert b"Proxy-Authorization: Basic dTpw\r\n" in proxy.heads[0]
    assert b"Bearer" not in proxy.heads[0]
    assert [headers["authorization"] for headers in seen] == ["Bearer k"] * 3
    assert not any("proxy-authorization" in headers for headers in seen)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", 407),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>", 502),
        (b"SSH-2.0\r\n\r\n", 0),
        (b"HTTP/1.1 503 " + b"x" * 20_000, 0),
        (b"", 0),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 0),
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_told(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, status: int
) -> None:
    proxy, transport = TunnelProxy(answer), Transport()
    async with proxy.serve() as proxy_url, serve_tls(certificate) as (url, seen):
        monkeypatch.setenv("HTTPS_PROXY", proxy_url)
        await transport.open()
        try:
            with pytest.raises(ProxyError) as caught:
                await Address(transport, url, {}, 1).send(b"{}")
        finally:
            await transport.close()
    assert (caught.value.status, seen) == (status, [])
    failure = transport_failure(caught.value)
    assert failure.kind == "connect"
    assert failure.message.startswith("cannot be connected to: the proxy answered")
    assert str(status or "in no form") in failure.message


async def test_a_local_server_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        write_response(writer, 200, b"{}")
        await writer.drain()

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    transport = Transport()
    await transport.open()
    async with serve(answer) as port:
        url = f"http://127.0.0.1:{port}/v1"
        response = await Address(transport, url, {}, 1, is_local=True).send(b"{}")
        assert await response.readany() == b"{}"
        with pytest.raises(ConnectError):
            await Address(transport, url, {}, 1).send(b"{}")
        await transport.close()
