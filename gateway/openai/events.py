"""Server-sent events of OpenAI's streams: split, checked, watched, passed on byte for byte, and made.

The grammar is WHATWG's (HTML, section 9.2): lines end with CR, LF or both, an empty line ends an event.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from ..config import DEFAULT_LIMITS, AnswerLimits
from ..errors import UpstreamError
from .answers import Usage, read_answer_text, set_usage, sum_usages
from .failures import (
    BOM,
    ErrorObject,
    build_failure,
    decode_leniently,
    find_failure,
    first_line,
    read_fields,
    without_nan,
)
from .messages import BAD_JSON, encode, has_many_parts

DONE = b"data: [DONE]\n\n"
EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
LONGEST_END = 4
ERROR_EVENT = re.compile(rb"^event: ?error\s*$", re.MULTILINE)
EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
LARGE_EVENT_BYTES = 64 * 1024
EVENT_PARTS = (b"{", b"[", b'":', b"\n", b"\r")
MAX_CHOICES = 1024
MAX_CONTENT_BYTES = 1024 * 1024
"""What the journal keeps of a prompt or an answer, where it keeps content."""
DRAIN_S = 0.25
AFTER_FINISH_S = 15.0
"""How long after the last finish reason counts of usage and `[DONE]` are waited for."""


NO_WORDS = frozenset({"role", "name", "id", "type", "index", "object", "created", "model", "provider"})
"""Fields of a delta that hold no part of the answer. Any other counts: thinking has many names."""


class ChunkChoice(msgspec.Struct):
    index: Any = 0
    delta: msgspec.Raw = msgspec.Raw()
    text: Any = None
    finish_reason: Any = None
    error: Any = None

    def has_content(self) -> bool:
        if self.text or self.finish_reason:
            return True
        delta = read_delta(self.delta)
        return any(value and name not in NO_WORDS for name, value in delta.items())


class CompletionChunk(msgspec.Struct):
    id: Any = None
    model: Any = None
    choices: list[ChunkChoice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: Any = None


CHUNK = msgspec.json.Decoder(CompletionChunk)
USAGE = msgspec.json.Decoder(Usage | None)
UNKNOWN_CHUNK = CompletionChunk()
_delta = msgspec.json.Decoder(dict[str, Any])


def read_delta(delta: msgspec.Raw) -> dict[str, Any]:
    """The fields of a delta; none where it is no object."""
    try:
        return _delta.decode(without_nan(bytes(delta))) if delta else {}
    except BAD_JSON:
        return {}


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
        # Python's json writes NaN and Infinity, and OpenAI's Python client reads them.
        plain = without_nan(payload)
        if plain == payload:
            raise UpstreamError("bad_chunk", "sent a chunk that is not JSON") from error
        chunk = parse_chunk(plain)
        # A count that is no number is unknown, as in a whole answer.
        chunk.usage = msgspec.Raw() if b"null" in bytes(chunk.usage) else chunk.usage
        return chunk
    try:
        msgspec.json.decode(payload)
    except BAD_JSON as error:
        raise UpstreamError("bad_chunk", "sent a chunk that is not JSON") from error
    return UNKNOWN_CHUNK


def read_choice_index(value: Any) -> int:
    """The place of a choice: 0 where none is named, or one that none can have."""
    return value if type(value) is int and 0 <= value < MAX_CHOICES else 0


def read_usage(raw: msgspec.Raw) -> Usage | None:
    """The counts of a chunk; None where there are none, or none of the known shape."""
    try:
        return USAGE.decode(raw) if raw else None
    except BAD_JSON:
        return None


def looks_like_events(head: bytes) -> bool:
    """Whether bytes are the beginning of an event stream, however few they are."""
    return any(head.startswith(field) or field.startswith(head) for field in EVENT_FIELDS)


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
    What is wrong waits in `failure`, so that the good events before it are not lost. With `hides_usage` a
    chunk that holds nothing but counts is read and not given: the gateway asked for it, not the client.
    """

    def __init__(
        self,
        limits: AnswerLimits = DEFAULT_LIMITS,
        max_events: int | None = None,
        hides_usage: bool = False,
    ) -> None:
        self.hides_usage = hides_usage
        self._is_hidden = False
        self.spoke = False
        self.done = b""
        self.n_events = 0
        self._max_event_bytes = limits.max_event_bytes
        self._max_events = max_events or sys.maxsize
        self._choices: dict[int, bool] = {}
        self.failure: UpstreamError | None = None
        self.usage: Usage | None = None
        self.n_chunks = 0
        self.model: str | None = None
        self.id: str | None = None
        self.tail = bytearray()

    def feed(self, data: bytes) -> bytes:
        start = 0
        if tail := self.tail:
            # A separator may be cut between two reads: search again from the last bytes that could begin one.
            start = max(0, len(tail) - LONGEST_END + 1)
            tail.extend(data)
            if EVENT_END.search(tail, start) is None:
                self._check_size()
                return b""
            data = bytes(tail)
            tail.clear()
        begin = end = 0
        before = b""
        for match in EVENT_END.finditer(data, start):
            event = data[end : match.end()]
            self.n_events += 1
            if self.n_events > self._max_events:
                self.failure = UpstreamError("bad_chunk", f"sent more than {self._max_events} events")
                return before + data[begin:end]
            if not self._accept(event):
                return before + data[begin:end]
            if self._is_hidden:
                self._is_hidden = False
                before += data[begin:end]
                begin = match.end()
            end = match.end()
        self.tail += data[end:]
        self._check_size()
        return before + data[begin:end]

    def _check_size(self) -> None:
        # An event that never ends would fill the memory.
        if len(self.tail) > self._max_event_bytes:
            self.failure = UpstreamError("bad_chunk", "sent an event without an end")

    def _accept(self, event: bytes) -> bool:
        """Take note of an event; False when nothing after it counts."""
        if len(event) > LARGE_EVENT_BYTES and (
            len(event) > self._max_event_bytes or has_many_parts(event, EVENT_PARTS)
        ):
            self.failure = UpstreamError("bad_chunk", "sent an event that is too large")
            return False
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
            self.failure = find_failure(payload) or (_read_named_error(event) or failure)
            return False
        # Only a payload without choices can be an error of another form than OpenAI's.
        if chunk.error or not chunk.choices:
            self.failure = self._find_failure(chunk, payload, event)
            if self.failure is not None:
                return False
        return self._note(chunk, payload)

    @staticmethod
    def _find_failure(chunk: CompletionChunk, payload: bytes, event: bytes) -> UpstreamError | None:
        if not chunk.error and (chunk.choices is not None or chunk.usage):
            return None
        return find_failure(payload) or _read_named_error(event)

    def _note(self, chunk: CompletionChunk, payload: bytes) -> bool:
        """Keep the facts of a chunk; False where one of its choices is an error."""
        self.n_chunks += 1
        if chunk.usage:
            usage = read_usage(chunk.usage)
            self.usage = usage or self.usage
            self._is_hidden = (
                self.hides_usage and usage is not None and not any(map(_says, chunk.choices or ()))
            )
        for choice in chunk.choices or ():
            index = read_choice_index(choice.index)
            if choice.error is None and choice.finish_reason is None:
                self._choices.setdefault(index, False)
            elif choice.error or choice.finish_reason == "error":
                self.failure = find_failure(payload)
                return self.failure is None
            else:
                self._choices[index] = bool(choice.finish_reason) or self._choices.get(index, False)
        if not self.spoke:
            self.model = chunk.model if isinstance(chunk.model, str) else self.model
            self.id = chunk.id if isinstance(chunk.id, str) else self.id
            self.spoke = any(choice.has_content() for choice in chunk.choices or ())
        return True

    @property
    def has_finished(self) -> bool:
        """Whether every choice has given its finish reason: many servers send no `[DONE]`."""
        return bool(self._choices) and all(self._choices.values())

    def end(self) -> bytes:
        """The stream has ended: the last event, where only its line end was missing.

        Without `[DONE]` the end is good where the answer had its finish reasons; else it is in `failure`.
        """
        if self.failure is not None:
            return b""
        last = self.feed(b"\n\n") if self.tail else b""
        if self.failure is not None and self.failure.kind == "bad_chunk":
            self.failure = None  # half an event: it says no more than that the stream was cut
        if not self.done and self.failure is None:
            if self.has_finished:
                self.done = DONE
            else:
                self.failure = UpstreamError("cut", "closed its stream before its end")
        return last


def _says(choice: ChunkChoice) -> bool:
    """Whether a choice of a chunk tells anything, be it only a role."""
    return bool(choice.text or choice.finish_reason or any(read_delta(choice.delta).values()))


def _read_named_error(event: bytes) -> UpstreamError | None:
    """The failure that an event named `error` tells of in any data."""
    if ERROR_EVENT.search(event) is None:
        return None
    value = decode_leniently(event_payload(event))
    error = read_fields(value) if isinstance(value, dict) else ErrorObject(first_line(event_payload(event)))
    return build_failure(error)


class EventStream:
    """A streamed answer: `open` waits for its first token, iteration gives events, `close` ends it.

    `read` gives the next bytes, b"" at the end. `first_token_s` and `between_s` are the longest silences
    before and after the first token, in seconds; any byte ends a silence, as upstreams send comments while a
    model thinks. `end_at` is the deadline of the whole on the running loop's clock. `hides_usage` is the
    splitter's, which `splitter` is where the events are not OpenAI's.

    Raises:
        UpstreamError: from `open` or iteration, when the stream is cut, stalls, or carries what is no event.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        close: Callable[[], None],
        *,
        first_token_s: float,
        between_s: float,
        end_at: float,
        limits: AnswerLimits = DEFAULT_LIMITS,
        hides_usage: bool = False,
        splitter: EventSplitter | None = None,
    ) -> None:
        self.events = splitter or EventSplitter(limits, hides_usage=hides_usage)
        self._limits = limits
        self._n_bytes = 0
        self._read = read
        self._close = close
        self._first_token_s = first_token_s
        self._between_s = between_s
        self._end_at = end_at
        self._held = b""

    def limit(self, end_at: float) -> None:
        """Have the stream end at this time of the loop's clock at the latest."""
        self._end_at = min(self._end_at, end_at)

    async def peek(self) -> bytes:
        """The first bytes that are not blank; they stay to be read."""
        n_blank = 0
        while not (said := self._held.removeprefix(BOM).lstrip()):
            # Blank lines are no events: only the last bytes may begin a byte order mark.
            data = await self._receive(self._first_token_s)
            if not data:
                raise UpstreamError("cut", "closed its stream before its end")
            n_blank += len(data)
            if n_blank - len(data) > self._limits.max_bytes_before_token:
                raise UpstreamError("bad_chunk", "sent too much before its first token")
            self._held = self._held[-len(BOM) :] + data
        self._held = said
        return said

    async def read_whole(self, count: Callable[[int], None]) -> bytes:
        """All bytes to the end, where they are no events; `count` is told of them, and may raise."""
        parts = [self._held]
        count(len(self._held))
        while data := await self._receive(self._first_token_s):
            parts.append(data)
            count(len(data))
        return b"".join(parts)

    async def open(self) -> None:
        """Read up to the first token: until then a failure can move on to the next expert."""
        events = self.events
        held, n_held, data = [], 0, self._held or await self._receive(self._first_token_s)
        while True:
            held.append(events.feed(data) if data else events.end())
            n_held += len(data)
            if events.spoke:
                break
            if events.failure:
                raise events.failure
            if events.done:
                raise UpstreamError("empty", "ended its stream without a word")
            if (
                n_held - len(events.tail) > self._limits.max_bytes_before_token
                or events.n_events > self._limits.max_events_before_token
            ):
                raise UpstreamError("bad_chunk", "sent too much before its first token")
            data = await self._receive(self._first_token_s)
        self._held = b"".join(held)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Events as they come, `[DONE]` excepted: it stays in `events.done`."""
        events = self.events
        ready = self._held
        while True:
            if ready:
                self._n_bytes += len(ready)
                yield ready
            if events.failure:
                raise events.failure
            if events.done:
                return
            if self._n_bytes > self._limits.max_stream_bytes:
                raise UpstreamError("garbage", f"sent more than {self._limits.max_stream_bytes} bytes in all")
            ready = await self._advance()

    async def _advance(self) -> bytes:
        """The next events; after the last finish reason a silence or a reset is the end too."""
        if not self.events.has_finished:
            data = await self._receive(self._between_s)
        else:
            try:
                data = await self._receive(min(self._between_s, AFTER_FINISH_S))
            except UpstreamError:
                data = b""
        return self.events.feed(data) if data else self.events.end()

    async def _receive(self, silence_s: float) -> bytes:
        """The next bytes, b"" at the end of the connection."""
        deadline = min(asyncio.get_running_loop().time() + silence_s, self._end_at)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._read()
        except TimeoutError as error:
            raise self._late() from error

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
            text = read_delta(choice.delta).get("content") if choice.delta else choice.text
            texts.append(text if isinstance(text, str) else "")
    return "".join(texts)
