"""Server-sent events of OpenAI's streams: split, checked, watched, passed on byte for byte, and made.

The grammar is WHATWG's (HTML, section 9.2): lines end with CR, LF or both, an empty line ends an event.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import Raw

from ..errors import UpstreamError
from .answers import Usage, read_answer_text, set_usage, sum_usages
from .messages import BAD_JSON, Fields, decode_object, encode

DONE = b"data: [DONE]\n\n"
EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
LONGEST_END = 4
MAX_EVENT_BYTES = 16 * 1024 * 1024
MAX_CONTENT_BYTES = 1024 * 1024
"""What the journal keeps of a prompt or an answer, where it keeps content."""
DRAIN_S = 0.25


class ChunkDelta(msgspec.Struct):
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    audio: Any = None

    def has_content(self) -> bool:
        return bool(
            self.content
            or self.tool_calls
            or self.reasoning_content
            or self.reasoning
            or self.function_call
            or self.refusal
            or self.reasoning_details
            or self.audio
        )


class ChunkChoice(msgspec.Struct):
    delta: ChunkDelta | None = None
    text: Any = None
    finish_reason: Any = None

    def has_content(self) -> bool:
        return bool(self.text or self.finish_reason) or (self.delta is not None and self.delta.has_content())


class CompletionChunk(msgspec.Struct):
    id: Any = None
    model: Any = None
    choices: list[ChunkChoice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: Any = None


CHUNK = msgspec.json.Decoder(CompletionChunk)
USAGE = msgspec.json.Decoder(Usage | None)
UNKNOWN_CHUNK = CompletionChunk()


def parse_chunk(payload: bytes) -> CompletionChunk:
    """The payload of one event; a chunk without facts where it is JSON of an unknown shape.

    Raises:
        UpstreamError: it is not JSON.
    """
    try:
        return CHUNK.decode(payload)
    except msgspec.ValidationError:
        pass
    except BAD_JSON as error:
        raise UpstreamError("bad_chunk", "sent a chunk that is not JSON") from error
    try:
        msgspec.json.decode(payload)
    except BAD_JSON as error:
        raise UpstreamError("bad_chunk", "sent a chunk that is not JSON") from error
    return UNKNOWN_CHUNK


def read_usage(raw: msgspec.Raw) -> Usage | None:
    """The counts of a chunk; None where there are none, or none of the known shape."""
    try:
        return USAGE.decode(raw) if raw else None
    except BAD_JSON:
        return None


def event_payload(event: bytes) -> bytes:
    """The data of one event, its lines joined; empty for comments and other fields."""
    if event.startswith(b"data:"):
        line = event[5:].strip()
        if b"\n" not in line and b"\r" not in line:
            return line
    lines = (line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:"))
    return b"\n".join(lines).strip()


class EventSplitter:
    """Cuts bytes into events as they come in and keeps what they tell.

    `feed` gives the complete events, exactly as they came, up to `[DONE]` or the first that is wrong.
    What is wrong waits in `failure`, so that the good events before it are not lost.
    """

    def __init__(self) -> None:
        self.spoke = False
        self.done = b""
        self.failure: UpstreamError | None = None
        self.usage: Usage | None = None
        self.model: str | None = None
        self.id: str | None = None
        self._tail = bytearray()

    def feed(self, data: bytes) -> bytes:
        start = 0
        if tail := self._tail:
            # A separator may be cut between two reads: search again from the last bytes that could begin one.
            start = max(0, len(tail) - LONGEST_END + 1)
            tail.extend(data)
            if EVENT_END.search(tail, start) is None:
                self._check_size()
                return b""
            data = bytes(tail)
            tail.clear()
        end = 0
        for match in EVENT_END.finditer(data, start):
            event = data[end : match.end()]
            if not self._accept(event):
                return data[:end]
            end = match.end()
        self._tail += data[end:]
        self._check_size()
        return data[:end]

    def _check_size(self) -> None:
        # An event that never ends would fill the memory.
        if len(self._tail) > MAX_EVENT_BYTES:
            self.failure = UpstreamError("bad_chunk", "sent an event without an end")

    def _accept(self, event: bytes) -> bool:
        """Take note of an event; False when nothing after it counts."""
        payload = event_payload(event)
        if not payload:
            return True
        # OpenAI's own end mark; the SSE standard has none.
        if payload == b"[DONE]":
            self.done = event
            return False
        try:
            chunk = parse_chunk(payload)
        except UpstreamError as failure:
            self.failure = failure
            return False
        if chunk.error:
            self.failure = UpstreamError("error_event", f"reported an error: {error_message(chunk.error)}")
            return False
        self._note(chunk)
        return True

    def _note(self, chunk: CompletionChunk) -> None:
        self.usage = read_usage(chunk.usage) or self.usage
        if not self.spoke:
            self.model = chunk.model if isinstance(chunk.model, str) else self.model
            self.id = chunk.id if isinstance(chunk.id, str) else self.id
            self.spoke = any(choice.has_content() for choice in chunk.choices or ())


class EventStream:
    """A streamed answer: `open` waits for its first token, iteration gives events, `close` ends it.

    `read` gives the next bytes, b"" at the end. All times are seconds of the running loop's clock:
    `first_token_at` and `end_at` are deadlines, `between_s` the longest silence after the first token.

    Raises:
        UpstreamError: from `open` or iteration, when the stream is cut, stalls, or carries what is no event.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        close: Callable[[], None],
        *,
        first_token_at: float,
        between_s: float,
        end_at: float,
    ) -> None:
        self.events = EventSplitter()
        self._read = read
        self._close = close
        self._first_token_at = first_token_at
        self._between_s = between_s
        self._end_at = end_at
        self._held = b""

    async def open(self) -> None:
        """Read up to the first token: until then a failure can move on to the next expert."""
        held: list[bytes] = []
        while not self.events.spoke:
            held.append(self.events.feed(await self._next(min(self._first_token_at, self._end_at))))
            if self.events.spoke:
                break
            if self.events.failure:
                raise self.events.failure
            if self.events.done:
                raise UpstreamError("empty", "ended its stream without a word")
        self._held = b"".join(held)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Events as they come, `[DONE]` excepted: it stays in `events.done`."""
        events, loop = self.events, asyncio.get_running_loop()
        ready = self._held
        while True:
            if ready:
                yield ready
            if events.failure:
                raise events.failure
            if events.done:
                return
            ready = events.feed(await self._next(min(loop.time() + self._between_s, self._end_at)))

    async def _next(self, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                data = await self._read()
        except TimeoutError as error:
            raise self._late() from error
        if not data:
            raise UpstreamError("cut", "closed its stream before its end")
        return data

    def _late(self) -> UpstreamError:
        if asyncio.get_running_loop().time() >= self._end_at:
            return UpstreamError("timeout", "took longer in all than its time-out allows")
        if self.events.spoke:
            return UpstreamError("stall", f"sent nothing for {self._between_s:g} s")
        return UpstreamError("timeout", "gave no first token in time")

    async def drain(self) -> None:
        """After `[DONE]`: let the connection end by itself, so that it can be used again."""
        try:
            # The terminating chunk usually arrives with [DONE]; a slow one is not worth waiting for.
            async with asyncio.timeout(DRAIN_S):
                while await self._read():
                    pass
        except (TimeoutError, UpstreamError):
            pass
        self.close()

    def add_closer(self, also: Callable[[], None]) -> None:
        """Have something more done when it is closed."""
        close = self._close

        def both() -> None:
            close()
            also()

        self._close = both

    def close(self) -> None:
        """Stop the upstream now. Once is enough."""
        close, self._close = self._close, _do_nothing
        close()


def _do_nothing() -> None:
    """There is nothing left to close."""


def error_message(error: Any) -> str:
    """The message of an error object, at most 300 characters of it."""
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:300]


def encode_event(payload: bytes) -> bytes:
    """One event. Line breaks in JSON stand between tokens only, never in strings: spaces mean the same."""
    return b"data: " + payload.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n\n"


def build_error_event(message: str, code: str) -> bytes:
    """The event that ends a stream whose expert failed after its first token."""
    error = {"message": message, "type": "upstream_error", "param": None, "code": code}
    return encode_event(encode({"error": error}))


def add_usage_to_events(ready: bytes, earlier: Sequence[Usage | None]) -> bytes:
    """Complete events, in which a chunk's `usage` also counts the calls made earlier for the same answer."""
    if b'"usage"' not in ready:
        return ready
    ends = [0, *(match.end() for match in EVENT_END.finditer(ready)), len(ready)]
    events = [ready[start:end] for start, end in pairwise(ends) if end > start]
    return b"".join(_add_usage(event, earlier) for event in events)


def _add_usage(event: bytes, earlier: Sequence[Usage | None]) -> bytes:
    payload = event_payload(event)
    try:
        usage = msgspec.convert(msgspec.json.decode(payload).get("usage"), Usage | None, strict=False)
    except (*BAD_JSON, AttributeError):
        return event
    if usage is None:
        return event
    return encode_event(set_usage(payload, sum_usages([*earlier, usage])))


def convert_to_events(body: bytes, endpoint: str, fields: Fields) -> bytes:
    """A whole answer as the events of a stream: its content, its finish reason, its usage if asked for.

    Raises:
        UpstreamError: the body is no answer.
    """
    try:
        whole = decode_object(body)
        choices = _choices.decode(whole["choices"])
    except (*BAD_JSON, KeyError) as error:
        raise UpstreamError("garbage", "answered with what cannot be streamed") from error
    is_chat = endpoint == "chat/completions"
    head: dict[str, Raw] = {name: whole[name] for name in ("id", "created", "model") if name in whole}
    head["object"] = Raw(b'"chat.completion.chunk"' if is_chat else b'"text_completion"')
    content, ends = [], []
    for choice in choices:
        said: dict[str, object] = (
            {"delta": choice.get("message", {})} if is_chat else {"text": choice.get("text", "")}
        )
        end: dict[str, object] = {"delta": {}} if is_chat else {"text": ""}
        index = {"index": choice.get("index", 0)}
        content.append({**index, **said, "finish_reason": None})
        ends.append({**index, **end, "finish_reason": choice.get("finish_reason", "stop")})
    chunks = [{**head, "choices": content}, {**head, "choices": ends}]
    if "usage" in whole and b'"include_usage"' in bytes(fields.get("stream_options", b"")):
        chunks.append({**head, "choices": [], "usage": whole["usage"]})
    return b"".join(encode_event(encode(chunk)) for chunk in chunks)


_choices = msgspec.json.Decoder(list[dict[str, Raw]])


def read_sent_text(parts: Sequence[bytes], streamed: bool) -> str | None:
    """The text of the first choice of an answer as it was sent, in pieces; None where there is none."""
    body = b"".join(parts)[:MAX_CONTENT_BYTES]
    return (_read_streamed_text(body) if streamed else read_answer_text(body)) or None


def _read_streamed_text(body: bytes) -> str:
    texts: list[str] = []
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        payload = event_payload(event)
        if not payload:
            continue
        for choice in (parse_chunk(payload).choices or ())[:1]:
            text = choice.delta.content if choice.delta is not None else choice.text
            texts.append(text if isinstance(text, str) else "")
    return "".join(texts)
