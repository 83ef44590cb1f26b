"""Answers of Anthropic's own servers, whole and as events: checked, counted, and passed on byte for byte."""

from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import UpstreamError
from ..openai.answers import InputDetails, OutputDetails, TokenCount, Usage
from ..openai.events import DONE, EventSplitter, event_payload
from ..openai.failures import decode_leniently, find_failure
from ..openai.messages import has_many_parts

STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class ThinkingDetails(msgspec.Struct):
    thinking_tokens: TokenCount | None = None


class MessageUsage(msgspec.Struct):
    """Anthropic's `usage`: what was read from the cache and written to it stands beside `input_tokens`."""

    input_tokens: TokenCount | None = None
    cache_read_input_tokens: TokenCount | None = None
    cache_creation_input_tokens: TokenCount | None = None
    output_tokens: TokenCount | None = None
    output_tokens_details: ThinkingDetails | None = None


def read_message_usage(counts: object) -> Usage | None:
    """The counts as OpenAI's, where the cache is part of the whole; None where there are none."""
    try:
        usage = msgspec.convert(counts, MessageUsage)
    except msgspec.ValidationError:
        return None
    if usage.input_tokens is None:
        return None
    n_read = usage.cache_read_input_tokens or 0
    n_input = usage.input_tokens + n_read + (usage.cache_creation_input_tokens or 0)
    n_output = usage.output_tokens or 0
    details = usage.output_tokens_details
    return Usage(
        n_input,
        n_output,
        n_input + n_output,
        InputDetails(n_read, cache_creation_tokens=usage.cache_creation_input_tokens),
        OutputDetails(details.thinking_tokens if details else None),
    )


def check_message(body: bytes) -> Usage | None:
    """Check that a body with status 200 is a message; gives its usage, None where it has none.

    Raises:
        UpstreamError: the body is an error object, or no message.
    """
    message = None if has_many_parts(body) else decode_leniently(body)
    if not isinstance(message, dict) or message.get("type") != "message":
        raise find_failure(body) or UpstreamError("garbage", "answered 200 with no message in it")
    return read_message_usage(message.get("usage"))


class MessageEventSplitter(EventSplitter):
    """Cuts a stream of Anthropic's into events, and keeps what they tell."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._counts: dict[str, Any] = {}

    def _accept(self, event: bytes) -> bool:
        payload = event_payload(event)
        if not payload:
            return True
        value = None if has_many_parts(payload) else decode_leniently(payload)
        if not isinstance(value, dict):
            self.failure = UpstreamError("bad_chunk", "sent an event that is no JSON object")
            return False
        kind = value.get("type")
        if kind == "error":
            self.failure = find_failure(payload) or UpstreamError("error_event", "sent an error")
            return False
        if kind == "message_stop":
            self.done = event
            return False
        if kind == "message_start" and isinstance(message := value.get("message"), dict):
            self.id, self.model = message.get("id"), message.get("model")
            self._count(message.get("usage"))
        elif kind == "content_block_start":
            self.spoke = True
        elif kind == "content_block_delta":
            self.n_chunks += 1
        elif kind == "message_delta":
            self.spoke = True  # an answer may have no block at all
            self._count(value.get("usage"))
            delta = value.get("delta")
            self._choices[0] = isinstance(delta, dict) and bool(delta.get("stop_reason"))
        return True

    def _count(self, counts: object) -> None:
        # Later counts stand for the whole answer so far.
        if isinstance(counts, Mapping):
            self._counts |= {name: value for name, value in counts.items() if value is not None}
            self.usage = read_message_usage(self._counts)

    def end(self) -> bytes:
        last = super().end()
        if self.done == DONE:
            self.done = STOP
        return last


def read_message_text(body: bytes, is_stream: bool) -> str | None:
    """The text of a message as it was sent; None where there is none."""
    values = [body] if not is_stream else [event_payload(event) for event in body.split(b"\n\n")]
    texts: list[str] = []
    for value in map(decode_leniently, values):
        if isinstance(value, dict):
            blocks = value.get("content") if not is_stream else [value.get("delta")]
            found = [block for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
            texts += (str(block["text"]) for block in found if "text" in block)
    return "".join(texts) or None
