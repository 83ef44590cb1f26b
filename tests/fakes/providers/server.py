"""The server that plays a provider: it reads requests, keeps them, and answers by the provider's rules."""

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.testing import read_head, write_response

KEY = "sk-of-the-provider-0123456789"
CALL_ID = "call_0123456789"
ARGUMENTS = {"city": "Paris"}
JSON_TEXT = '{"answer": 42}'
COMMAND = re.compile(r"fail (\d{3}|too long|in the stream)")


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]
    data: bytes = b""


@dataclass(frozen=True)
class Response:
    """What is answered: `parts` are sent as chunks, one after another."""

    status: int
    parts: list[bytes] = field(default_factory=list)
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200, **headers: str) -> "Response":
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, [json.dumps(value).encode()], headers=names)

    @classmethod
    def of_events(cls, *chunks: Any, done: bool = True) -> "Response":
        """Events with data only, and OpenAI's end mark."""
        parts = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
        return cls(200, [*parts, b"data: [DONE]\n\n"] if done else parts, "text/event-stream")


class Rules(Protocol):
    """What a provider answers to a request, and refuses."""

    def answer(self, request: Request) -> Response: ...


def find_command(text: str) -> str | None:
    """The failure that a prompt asks for: `fail 429`, `fail too long`, `fail in the stream`."""
    match = COMMAND.search(text)
    return match[1] if match else None


class ProviderServer:
    """A provider on 127.0.0.1, as an asynchronous context manager; `requests` keeps what it was asked."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.requests: list[Request] = []
        self.address = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "ProviderServer":
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    @property
    def last(self) -> dict[str, Any]:
        """The body of the last request."""
        return self.requests[-1].body

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._serve_request(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target, headers = await read_head(reader)
        data = await _read_body(reader, headers)
        parts = urlsplit(target)
        is_form = headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
        body = dict(parse_qsl(data.decode())) if is_form else json.loads(data or b"{}")
        request = Request(unquote(parts.path), dict(parse_qsl(parts.query)), headers, body, data)
        self.requests.append(request)
        response = self.rules.answer(request)
        extra = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        if response.content_type == "application/json":
            write_response(writer, response.status, b"".join(response.parts), extra)
        else:
            head = f"HTTP/1.1 {response.status} OK\r\ncontent-type: {response.content_type}\r\n{extra}"
            writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
            for part in response.parts:
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body
