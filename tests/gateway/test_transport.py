"""Proxies, authorities, and what an upstream's address is sent."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from yarl import URL

from gateway.experts.openai_compatible import Address, Transport, proxy_for, transport_failure
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
    response = await Address(transport, "http://far.example.com/v1/chat", {}, 1).post(b"{}")
    assert await response.read() == b"{}"
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
            response = await address.post(b"{}")
            assert await response.read() == b"{}"
        else:
            with pytest.raises(Exception, match="certificate") as caught:
                await address.post(b"{}")
            assert "SSL_CERT_FILE" in transport_failure(caught.value).message
    finally:
        await transport.close()
        server.close()
