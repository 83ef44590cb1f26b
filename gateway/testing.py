"""A fake OpenAI-compatible server for tests and benchmarks. The name of the model says how it misbehaves.

    good              answers                       slow-MS         answers after MS milliseconds
    status-CODE       answers with that status      rated-S         429 with `retry-after: S`
    flaky-PERCENT     500 on that share of calls    toolong         400: the context is too long
    garbage           200 with no JSON in the body  says-WORDS      answers these words (`_` is a space)
    reset             closes without an answer      hang            never answers
    cut-N             streams N chunks, then closes the connection
    stall-N           streams N chunks, then sends nothing more
    badchunk-N        streams N chunks, then one that is not JSON, then the rest
    errorevent-N      streams N chunks, then an error object, then the rest
    nodone            streams everything but [DONE]
    usage             counts cached and reasoning tokens
    caches-NAME       counts four characters as a token, and what it reads again as cached, as OpenAI does
    crlf, unicode, tools, thinking, role, silent    streams of these kinds

In a test, with pytest-asyncio:

    from gateway.testing import FakeUpstream

    @pytest.fixture
    async def upstream():
        async with FakeUpstream() as upstream:
            yield upstream  # put `upstream.base_url` into an expert's `api_base`

    async def test_the_second_expert_answers_where_the_first_fails(upstream): ...

A synchronous test writes `with FakeUpstream().in_thread() as upstream:`. As a command, on a port of its own:

    python -m gateway.testing --port 9001 --chunk-ms 20 --words 400
"""

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import click

__all__ = ["FakeUpstream", "build_chunk", "build_completion", "build_stream"]

WORDS = ("Grüße ", "aus ", "dem ", "Thalamus ", "🧠.")
USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
DETAILED_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 10,
    "total_tokens": 110,
    "prompt_tokens_details": {"cached_tokens": 60},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
BREAKING = ("cut", "stall", "badchunk", "errorevent")
CACHE_LEAST, CACHE_STEP = 1024, 128
FOREVER_S = 3600.0
POLL_S = 0.005


def build_chunk(model: str, delta: dict[str, Any], finish: str | None = None, chat: bool = True) -> bytes:
    """One event of a stream, as bytes."""
    content: dict[str, Any] = {"delta": delta} if chat else {"text": delta.get("content", "")}
    choice = {"index": 0, **content, "finish_reason": finish}
    kind = "chat.completion.chunk" if chat else "text_completion"
    chunk = {"id": "c-1", "object": kind, "created": 1, "model": model, "choices": [choice]}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def build_completion(
    model: str, chat: bool = True, words: tuple[str, ...] = WORDS, usage: dict[str, Any] | None = None
) -> bytes:
    """The body of an answer that is not streamed, indented: a gateway has to pass such bytes on unchanged."""
    text = "".join(_pieces(model, words))
    content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **content, "finish_reason": "stop"}
    kind = "chat.completion" if chat else "text_completion"
    usage = usage or (DETAILED_USAGE if model == "usage" else _usage(words))
    body = {"id": "c-1", "object": kind, "created": 1, "model": model, "choices": [choice], "usage": usage}
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def build_stream(model: str, chat: bool = True, words: tuple[str, ...] = WORDS) -> list[bytes]:
    """The events of a whole stream, the last of them `[DONE]`."""
    events = [build_chunk(model, delta, chat=chat) for delta in _deltas(model, words)]
    if model != "silent":
        events.append(build_chunk(model, {}, "stop", chat))
    if model != "nodone":
        events.append(b"data: [DONE]\n\n")
    if model == "crlf":
        # The HTML standard lets an event stream end its lines with CR LF, and a comment is no event.
        events = [b": comment\r\n\r\n", *(event.replace(b"\n", b"\r\n") for event in events)]
    return events


def _deltas(model: str, words: tuple[str, ...]) -> list[dict[str, Any]]:
    if model == "tools":
        call = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
        arguments = [{"index": 0, "function": {"arguments": text}} for text in ('{"a":', "1}")]
        first: dict[str, Any] = {"role": "assistant", "tool_calls": [call]}
        return [first, *({"tool_calls": [argument]} for argument in arguments)]
    if model == "thinking":
        return [{"role": "assistant", "reasoning_content": "Hm. "}, {"content": "So."}]
    if model == "silent":
        return []
    content = [{"content": word} for word in _pieces(model, words)]
    return [{"role": "assistant", "content": ""}, *content] if model == "role" else content


def _pieces(model: str, words: tuple[str, ...]) -> tuple[str, ...]:
    kind, _, argument = model.partition("-")
    return tuple(argument.replace("_", " ").splitlines(keepends=True)) if kind == "says" else words


def _usage(words: tuple[str, ...]) -> dict[str, int]:
    return {**USAGE, "completion_tokens": len(words), "total_tokens": USAGE["prompt_tokens"] + len(words)}


class FakeUpstream:
    """A server on 127.0.0.1, as an asynchronous context manager.

    base_url: what goes into an expert's `api_base`, or into the `base_url` of OpenAI's client
    calls, headers: the decoded body and the headers (names in lower case) of every request, in order
    gets: path and headers of every request without a body, in order
    models: what it lists at /models
    api_key: refuse every other key with 401, quoting it as some providers do; None takes all
    lists_openly: list the models without a key too, where there is an `api_key`
    completed: how many calls of each model were answered to the end
    aborted: the model of every call whose client went away before the end
    words: what is answered, a chunk each
    chunk_interval_s: the pause after each chunk of a stream
    healthy: answer every model as `good`, as an upstream does that has recovered
    """

    def __init__(
        self,
        port: int = 0,
        *,
        words: tuple[str, ...] = WORDS,
        chunk_interval_s: float = 0.0,
        keep_calls: bool = True,
    ) -> None:
        """Args:
        port: 0 takes a free one.
        keep_calls: False counts calls and forgets their bodies, for a server that runs for long.
        """
        self.base_url = ""
        self.calls: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gets: list[tuple[str, dict[str, str]]] = []
        self.models = ["good"]
        self.api_key: str | None = None
        self.lists_openly = False
        self.aborted: list[str] = []
        self.completed: Counter[str] = Counter()
        self.words = words
        self.chunk_interval_s = chunk_interval_s
        self.healthy = False
        self._port = port
        self._keep_calls = keep_calls
        self._n_calls: Counter[str] = Counter()
        self._prompts: dict[str, list[str]] = {}
        self._random = random.Random(0)  # noqa: S311 (the same calls fail in every run)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> "FakeUpstream":
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._port)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # closed transports say so to their protocols in the loop's next turn

    @contextlib.contextmanager
    def in_thread(self) -> Iterator["FakeUpstream"]:
        """The server in a thread of its own, for tests that are not asynchronous."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.__aenter__(), loop).result()
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(self.__aexit__(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def n_calls(self, model: str) -> int:
        """How often a model was called."""
        return self._n_calls[model]

    def drop_connections(self) -> None:
        """Abort every connection, as a process that dies does."""
        for writer in self._connections.values():
            writer.transport.abort()

    def stats(self) -> dict[str, dict[str, int]]:
        """Per model how many calls came, were answered to the end, and were left by their client."""
        aborted = Counter(self.aborted)
        return {
            model: {"calls": n, "completed": self.completed[model], "aborted": aborted[model]}
            for model, n in self._n_calls.items()
        }

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, request by request."""
        try:
            while await self._serve_request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can be used again."""
        path, headers = await read_head(reader)
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        if not data:
            self.gets.append((path, headers))
        sent = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key")
        is_open = self.api_key is None or (self.lists_openly and not data)
        if not is_open and sent != self.api_key:
            write_response(writer, 401, _error(f"Incorrect API key provided: {sent}", "invalid_api_key"))
            return True
        if not data:
            self._describe(path, writer)
            return True
        try:
            body = json.loads(data)
            model = str(body["model"])
        except (ValueError, KeyError, TypeError):
            write_response(writer, 400, _error("the body must be a JSON object with a model"))
            return True
        self._n_calls[model] += 1
        if self._keep_calls:
            self.calls.append(body)
            self.headers.append(headers)
        # The client may leave while the answer is made: both are awaited, whichever comes first.
        answer = asyncio.ensure_future(self._answer(path, body, writer))
        left = asyncio.ensure_future(_wait_until_left(reader))
        try:
            await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                self.completed[model] += 1
                return answer.result()
            self.aborted.append(model)
            return False
        finally:
            for task in (answer, left):
                task.cancel()
            await asyncio.gather(answer, left, return_exceptions=True)

    def _describe(self, path: str, writer: asyncio.StreamWriter) -> None:
        """Answer a request without a body."""
        if path.partition("?")[0].endswith("/models"):
            facts = {"object": "model", "created": 1, "owned_by": "fake"}
            listed = {"object": "list", "data": [{"id": name, **facts} for name in self.models]}
            write_response(writer, 200, json.dumps(listed).encode())
        elif path.endswith(("/stats", "/health")):
            write_response(writer, 200, json.dumps(self.stats()).encode())
        else:
            write_response(writer, 404, _error(f"there is nothing at {path}"))

    async def _answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer one call; False closes the connection."""
        model = "good" if self.healthy else body["model"]
        kind, _, argument = model.partition("-")
        chat = path.endswith("/chat/completions")
        if kind == "reset":
            writer.transport.abort()
            return False
        if kind in ("hang", "slow"):
            await asyncio.sleep(FOREVER_S if kind == "hang" else float(argument) / 1000)
        if kind == "flaky" and self._random.random() * 100 < float(argument):
            kind, argument = "status", "500"
        if refusal := _refusal(kind, argument):
            write_response(writer, *refusal)
        elif kind == "garbage":
            write_response(writer, 200, b"not json!")
        elif path.endswith("/embeddings"):
            write_response(writer, 200, json.dumps(_embeddings(model, body["input"])).encode())
        elif not body.get("stream"):
            usage = self._count_cached(model, body) if kind == "caches" else None
            write_response(writer, 200, build_completion(model, chat, self.words, usage))
        else:
            return await self._stream(model, kind, argument, chat, writer)
        return True

    def _count_cached(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        """Tokens of a prompt, and how many of them begin an earlier one: from 1,024, in steps of 128."""
        text = json.dumps(body.get("messages"))
        known = self._prompts.setdefault(model, [])
        longest = max((_count_equal(text, other) for other in known), default=0)
        known.append(text)
        n_cached = longest // 4 // CACHE_STEP * CACHE_STEP
        n_cached = n_cached if n_cached >= CACHE_LEAST else 0
        usage: dict[str, Any] = {**_usage(self.words), "prompt_tokens": len(text) // 4}
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        return {**usage, "prompt_tokens_details": {"cached_tokens": n_cached}}

    async def _stream(
        self, model: str, kind: str, argument: str, chat: bool, writer: asyncio.StreamWriter
    ) -> bool:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        break_at = int(argument) if kind in BREAKING else None
        for n, event in enumerate(build_stream(model, chat, self.words)):
            if n == break_at:
                await writer.drain()
                if kind == "cut":
                    await asyncio.sleep(0.02)  # lets what was written leave before the reset overtakes it
                    writer.transport.abort()
                    return False
                if kind == "stall":
                    await asyncio.sleep(FOREVER_S)
                error = b'data: {"error": {"message": "over"}}\n\n'
                _write_chunk(writer, error if kind == "errorevent" else b'data: {"not\n\n')
            if kind == "unicode":
                for byte in event:  # so that reads end inside a character
                    _write_chunk(writer, bytes([byte]))
                    await asyncio.sleep(0)
            else:
                _write_chunk(writer, event)
            await asyncio.sleep(self.chunk_interval_s)
        writer.write(b"0\r\n\r\n")
        return True


async def _wait_until_left(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 (a stream has no such event)
        await asyncio.sleep(POLL_S)


async def read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """A request's path and its headers, names in lower case."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return lines[0].split(" ")[1], headers


def write_response(writer: asyncio.StreamWriter, status: int, body: bytes, headers: str = "") -> None:
    """Write a whole response. Each of `headers` ends in CR LF."""
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n{headers}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def _count_equal(text: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((n for n, (own, its) in pairs if own != its), min(len(text), len(other)))


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _refusal(kind: str, argument: str) -> tuple[int, bytes, str] | None:
    if kind == "status":
        # Providers do repeat keys in their errors; a gateway must not pass one on.
        return int(argument), _error(f"mock {argument} for key sk-secret"), ""
    if kind == "toolong":
        message = "This model's maximum context length is 8 tokens"
        return 400, _error(message, "context_length_exceeded"), ""
    if kind == "rated":
        return 429, _error("slow down"), f"retry-after: {argument}\r\n"
    return None


def _error(message: str, code: str | None = None) -> bytes:
    error = {"message": message, "type": "mock_error", "param": None, "code": code}
    return json.dumps({"error": error}).encode()


def _embeddings(model: str, given: Any) -> dict[str, Any]:
    texts = given if isinstance(given, list) else [given]
    data = [{"object": "embedding", "index": n, "embedding": [0.5, 0.25]} for n in range(len(texts))]
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}


@click.command()
@click.option("--port", default=0, show_default="a free one", help="Port on 127.0.0.1.")
@click.option("--chunk-ms", default=0.0, help="Pause after each chunk of a stream, in milliseconds.")
@click.option("--words", default=0, help="Length of an answer in words, a chunk each.")
def main(port: int, chunk_ms: float, words: int) -> None:
    """Serve the fake upstream until it is interrupted."""
    answer = ("word ",) * words or WORDS
    upstream = FakeUpstream(port, words=answer, chunk_interval_s=chunk_ms / 1000, keep_calls=False)

    async def serve() -> None:
        async with upstream:
            click.echo(upstream.base_url)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
