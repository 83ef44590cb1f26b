"""An upstream that answers, byte for byte, what a test wrote for each model."""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from gateway.testing import build_chunk, read_head


@dataclass(frozen=True)
class Script:
    """One answer: bytes to send and seconds to wait; `resets` breaks the connection at its end."""

    parts: Sequence[bytes | float]
    status: int = 200
    content_type: str | None = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    resets: bool = False


def events(*payloads: object, done: bool = True) -> Script:
    """A stream of these JSON values."""
    parts = [b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads]
    return Script([*parts, *([b"data: [DONE]\n\n"] if done else [])])


def json_answer(body: object, status: int = 200, **headers: str) -> Script:
    """A whole body; names of headers have `_` for `-`."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Script([raw], status, "application/json", named)


def good_stream(*words: str, finish: str | None = "stop", done: bool = True) -> list[bytes]:
    """The events of an answer of these words."""
    chunks = [build_chunk("m", {"content": word}) for word in words]
    if finish is not None:
        chunks.append(build_chunk("m", {}, finish))
    return [*chunks, b"data: [DONE]\n\n"] if done else chunks


class OddUpstream:
    """Serves scripts by model; counts the calls of each."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self.scripts = scripts
        self.n_calls: Counter[str] = Counter()
        self.base_url = ""
        self._connections: set[asyncio.Task[None]] = set()

    def experts(self, **more: Any) -> list[dict[str, Any]]:
        """The configuration of one expert for each script."""
        return [
            {"name": name, "model": f"openai/{name}", "api_base": self.base_url, **more}
            for name in self.scripts
        ]

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["OddUpstream"]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await asyncio.sleep(0)  # closed transports say so to their protocols in the loop's next turn

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One call a connection."""
        try:
            _, headers = await read_head(reader)
            body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
            self.n_calls[body["model"]] += 1
            await self._answer(self.scripts[body["model"]], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, script: Script, writer: asyncio.StreamWriter) -> None:
        reason = HTTPStatus(script.status).phrase if script.status in set(HTTPStatus) else "Unknown"
        lines = [f"HTTP/1.1 {script.status} {reason}", "connection: close", "transfer-encoding: chunked"]
        if script.content_type is not None:
            lines.append(f"content-type: {script.content_type}")
        lines += [f"{name}: {value}" for name, value in script.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for part in script.parts:
            if isinstance(part, float):
                await writer.drain()
                await asyncio.sleep(part)
            elif part:
                writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        if script.resets:
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()
            return
        writer.write(b"0\r\n\r\n")
        await writer.drain()


class RawUpstream:
    """Sends bytes of a test's own on connections that stay open; `answer` gives them for a request's body.

    A number among them is a pause in seconds. `heads` has the head of every request, `served_by` the
    connection that it came on, `n_connections` counts these, `overslept_s` says by how much a busy machine
    made a pause longer at most.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Iterable[bytes | float]]) -> None:
        self.answer = answer
        self.base_url = ""
        self.heads: list[str] = []
        self.n_connections = 0
        self.served_by: list[int] = []
        self.overslept_s = 0.0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["RawUpstream"]:
        tasks: set[asyncio.Task[None]] = set()

        def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.n_connections += 1
            tasks.add(asyncio.ensure_future(self._serve(reader, writer, self.n_connections)))

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, n: int) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                self.served_by.append(n)
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = json.loads(await reader.readexactly(int(length[1]))) if length else {}
                for part in self.answer(body):
                    if isinstance(part, float):
                        start = time.monotonic()
                        await asyncio.sleep(part)
                        self.overslept_s = max(self.overslept_s, time.monotonic() - start - part)
                    else:
                        writer.write(part)
                        await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def http_bytes(body: bytes, *, status: int = 200, mime: str = "application/json", **headers: Any) -> bytes:
    """A whole response with its length; names of headers have `_` for `-`."""
    lines = [f"HTTP/1.1 {status} X", f"content-type: {mime}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def stream_head(mime: str = "application/json", status: int = 200) -> bytes:
    """The head of a response in chunks."""
    return f"HTTP/1.1 {status} X\r\ncontent-type: {mime}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def one_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
