"""An OpenAI-compatible upstream that misbehaves on request: the fault is in the model's name.

    good              answers                       slow-MS        answers after MS milliseconds
    status-CODE       that status                   garbage        200 with a body that is not JSON
    reset             closes without an answer      hang           never answers
    cut-N, stall-N, badchunk-N                      stream N chunks, then break off, go silent, send no JSON
    nodone            streams everything but [DONE] errorevent-N   streams N chunks, then an error
    toolong           400 for too long a context    rated-S        429 with retry-after: S
    says-WORDS      answers with those words, underscores for spaces
    crlf, unicode, tools, thinking, role, silent    streams of those kinds; `usage` counts cached tokens

`calls` holds the decoded body of every request, `aborted` the models whose client went away early.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
WORDS = ["Grüße ", "aus ", "dem ", "Thalamus ", "🧠."]
USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


def words_of(model: str) -> list[str]:
    """What a model of this name says, in pieces."""
    kind, _, arg = model.partition("-")
    return arg.replace("_", " ").splitlines(keepends=True) if kind == "says" else WORDS


def chunk(model: str, delta: dict[str, Any], finish: str | None = None, chat: bool = True) -> bytes:
    said: dict[str, Any] = {"delta": delta} if chat else {"text": delta.get("content", "")}
    choice = {"index": 0, **said, "finish_reason": finish}
    kind = "chat.completion.chunk" if chat else "text_completion"
    whole = {"id": "c-1", "object": kind, "created": 1, "model": model, "choices": [choice]}
    return b"data: " + json.dumps(whole, ensure_ascii=False).encode() + b"\n\n"


def whole(model: str, chat: bool = True) -> bytes:
    text = "".join(words_of(model))
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **said, "finish_reason": "stop"}
    kind = "chat.completion" if chat else "text_completion"
    body = {"id": "c-1", "object": kind, "created": 1, "model": model, "choices": [choice], "usage": USAGE}
    if model == "usage":
        body["usage"] = {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 110,
            "prompt_tokens_details": {"cached_tokens": 60},
            "completion_tokens_details": {"reasoning_tokens": 4},
        }
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def events(model: str, chat: bool = True) -> list[bytes]:
    """The stream of a healthy upstream of this name."""
    if model == "tools":
        call = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "tool_calls": [call]}]
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in ('{"a":', "1}")
        ]
    elif model == "thinking":
        deltas = [{"role": "assistant", "reasoning_content": "Hm. "}, {"content": "So."}]
    elif model == "silent":
        deltas = []
    elif model == "role":
        deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in WORDS)]
    else:
        deltas = [{"content": word} for word in words_of(model)]
    sent = [chunk(model, delta, chat=chat) for delta in deltas]
    if model != "silent":
        sent.append(chunk(model, {}, "stop", chat))
    if model != "nodone":
        sent.append(b"data: [DONE]\n\n")
    if model == "crlf":
        sent = [b": comment\r\n\r\n", *(event.replace(b"\n", b"\r\n") for event in sent)]
    return sent


@dataclass
class Upstream:
    """A running fake: `base` is what goes into `api_base`."""

    base: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    chunk_s: float = 0.0
    healthy: bool = False
    """Answer whatever was asked for."""
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def n_calls(self, model: str) -> int:
        return sum(call["model"] == model for call in self.calls)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request."""
        self.writers.add(writer)
        try:
            while await self.serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        """Drop every connection, as a process that dies does."""
        for writer in self.writers:
            writer.transport.abort()

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        path, head = await read_head(reader)
        body = json.loads(await reader.readexactly(int(head["content-length"])))
        self.calls.append(body)
        self.heads.append(head)
        answer = asyncio.ensure_future(self.answer(path, body, writer))
        gone = asyncio.ensure_future(hang_up(reader))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            self.aborted.append(body["model"])
            return False
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False closes the connection."""
        model = "good" if self.healthy else body["model"]
        kind, _, arg = model.partition("-")
        if kind == "reset":
            writer.transport.abort()
            return False
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "slow":
            await asyncio.sleep(float(arg) / 1000)
        if refusal := refusal_of(kind, arg):
            put(writer, *refusal)
        elif kind == "garbage":
            put(writer, 200, b"not json!")
        elif path.endswith("/embeddings"):
            put(writer, 200, json.dumps(embeddings(model, body["input"])).encode())
        elif not body.get("stream"):
            put(writer, 200, whole(model, path.endswith("/chat/completions")))
        else:
            return await self.stream(writer, model, kind, arg, path.endswith("/chat/completions"))
        return True

    async def stream(self, writer: asyncio.StreamWriter, model: str, kind: str, arg: str, chat: bool) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for n, event in enumerate(events(model, chat)):
            if arg and n == int(arg) and kind in ("cut", "stall", "badchunk", "errorevent"):
                await writer.drain()
                if kind == "cut":
                    await asyncio.sleep(0.02)
                    writer.transport.abort()
                    return False
                if kind == "stall":
                    await asyncio.sleep(3600)
                put_chunk(
                    writer,
                    b'data: {"error": {"message": "over"}}\n\n'
                    if kind == "errorevent"
                    else b'data: {"not\n\n',
                )
            if kind == "unicode":
                for byte in event:
                    put_chunk(writer, bytes([byte]))
                    await asyncio.sleep(0)
            else:
                put_chunk(writer, event)
            await asyncio.sleep(self.chunk_s)
        writer.write(b"0\r\n\r\n")
        return True


async def hang_up(reader: asyncio.StreamReader) -> None:
    """Returns when the client has gone away."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 (a stream has no such event)
        await asyncio.sleep(0.005)


async def read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return lines[0].split(" ")[1], head


def refusal_of(kind: str, arg: str) -> tuple[int, bytes, str] | None:
    if kind == "status":
        return int(arg), error(f"mock {arg} for key sk-secret"), ""
    if kind == "toolong":
        return 400, error("This model's maximum context length is 8 tokens", "context_length_exceeded"), ""
    if kind == "rated":
        return 429, error("slow down"), f"retry-after: {arg}\r\n"
    return None


def error(message: str, code: str | None = None) -> bytes:
    return json.dumps(
        {"error": {"message": message, "type": "mock_error", "param": None, "code": code}}
    ).encode()


def embeddings(model: str, given: Any) -> dict[str, Any]:
    items = given if isinstance(given, list) else [given]
    data = [{"object": "embedding", "index": n, "embedding": [0.5, 0.25]} for n in range(len(items))]
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def put(writer: asyncio.StreamWriter, status: int, body: bytes, extra: str = "") -> None:
    head = f"HTTP/1.1 {status} {REASONS.get(status, 'X')}\r\ncontent-type: application/json\r\n{extra}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def put_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


@contextlib.asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """A fake on a free port, gone at the end."""
    upstream = Upstream()
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(upstream.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    upstream.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await asyncio.sleep(0)
