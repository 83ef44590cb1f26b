"""Chat's answers as messages of Anthropic's API: whole, streamed, and errors."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from ..errors import ExpertFailed
from ..openai.answers import Usage
from ..openai.events import EVENT_END, event_payload
from ..openai.failures import decode_leniently, without_nan
from ..openai.messages import BAD_JSON, decode_object, encode, has_many_parts

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
SIGNATURE = "thalamus"
"""Of thinking that another than Anthropic's models wrote; nothing can be verified by it."""
TOO_LONG = "prompt is too long: "
"""Anthropic's words for it: clients that hear them shorten the conversation."""
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
TEXT_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
)
DELTAS = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}
Key = tuple[str, int]
"""A content block of a stream: its type, and for a call of a tool its place among the calls."""


class MessageWriter:
    """Writes one answer; `n_input_tokens` is an estimate, for answers that count nothing.

    A stream's blocks follow one another, as Anthropic's do: what belongs to a later block waits until the
    call before it is whole.
    """

    id_header = b"request-id"

    def __init__(self, n_input_tokens: int = 0, shows_thinking: bool = False) -> None:
        self._n_input_tokens = n_input_tokens
        self._shows_thinking = shows_thinking
        self._is_native = False
        self._is_started = False
        self._n_blocks = 0
        self._key: Key | None = None
        self._arguments: list[str] = []
        self._calls: dict[int, tuple[str, str]] = {}
        self._closed: set[Key] = set()
        self._waiting: list[tuple[Key, str]] = []
        self._usage: Usage | None = None
        self._n_chunks = 0
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None

    def pass_through(self) -> None:
        """The expert speaks the format itself: its answer is passed on as it came."""
        self._is_native = True

    def write_error(self, status: int, body: bytes, request_id: str) -> bytes:
        """OpenAI's error object in Anthropic's envelope; one that is in it already stays as it is."""
        found = decode_leniently(body)
        if isinstance(found, dict) and found.get("type") == "error":
            return body
        return encode({"type": "error", "error": _build_error(found, status), "request_id": request_id})

    def write_answer(self, body: bytes) -> bytes:
        """A whole answer.

        Raises:
            ExpertFailed: it holds no message.
        """
        if self._is_native:
            return body
        whole = None if has_many_parts(body) else decode_leniently(body)
        choices = whole.get("choices") if isinstance(whole, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(whole, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
            raise ExpertFailed("the expert's answer holds no message", 502, "upstream_garbage")
        content: list[dict[str, object]] = []
        thinking, text = _read_texts(message)
        if thinking and self._shows_thinking:
            content.append({"type": "thinking", "thinking": thinking, "signature": SIGNATURE})
        if text:
            content.append({"type": "text", "text": text})
        for call in _list_calls(message):
            function = _read_function(call)
            name, arguments = function.get("name"), _read_arguments(function)
            content.append(
                {
                    "type": "tool_use",
                    "id": _call_id(call),
                    "name": str(name or ""),
                    "input": _parse_input(arguments),
                }
            )
        has_calls = bool(content) and content[-1]["type"] == "tool_use"
        self._note_stop(choice, message)
        self._usage = _read_usage(whole.get("usage"))
        return encode(
            {
                **self._head(whole),
                "content": content,
                "stop_reason": self._end_reason(has_calls),
                "stop_sequence": self._stop_sequence,
                "usage": self._count(len(text) // 4),
            }
        )

    async def complete(self, said: bytes) -> bytes:
        """The same: nothing has to be done before the end."""
        return said

    def write_events(self, events: bytes) -> bytes:
        """Whole events of a stream."""
        if self._is_native:
            return events
        parts: list[bytes] = []
        start = 0
        for match in EVENT_END.finditer(events):
            self._write_event(events[start : match.end()], parts)
            start = match.end()
        return b"".join(parts)

    def end_events(self, events: bytes) -> bytes:
        """The last events of a stream: facts of the gateway, an error, or the end mark."""
        if not self._is_native:
            return self.write_events(events)
        parts: list[bytes] = []
        start = 0
        for match in EVENT_END.finditer(events):
            event = events[start : match.end()]
            start = match.end()
            chunk = decode_leniently(event_payload(event))
            is_ours = isinstance(chunk, dict) and "type" not in chunk
            if is_ours:
                self._write_event(event, parts)
            else:
                parts.append(event)
        return b"".join(parts)

    def _write_event(self, event: bytes, parts: list[bytes]) -> None:
        payload = event_payload(event)
        if not payload:
            if event.startswith(b":"):
                parts.append(PING)  # a comment: the model still thinks
            return
        if payload == b"[DONE]":
            self._finish(parts)
            return
        chunk = decode_leniently(payload)
        if not isinstance(chunk, dict):
            return
        if chunk.get("error"):
            error = {"type": "error", "error": _build_error(chunk, 500)}
            parts.append(_build_event("error", error))
            return
        if "thalamus" in chunk:
            parts.append(_build_event("thalamus", {"type": "thalamus", "thalamus": chunk["thalamus"]}))
            return
        if not self._is_started:
            self._is_started = True
            usage = {"input_tokens": self._n_input_tokens, "output_tokens": 0}
            message = {
                **self._head(chunk),
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": usage,
            }
            parts.append(_build_event("message_start", {"type": "message_start", "message": message}))
            parts.append(PING)
        self._usage = _read_usage(chunk.get("usage")) or self._usage
        choices = chunk.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            self._write_choice(choices[0], parts)

    def _write_choice(self, choice: Mapping[str, Any], parts: list[bytes]) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._n_chunks += 1
            thinking, text = _read_texts(delta)
            if thinking and self._shows_thinking:
                self._say(("thinking", 0), thinking, parts)
            if text:
                self._say(("text", 0), text, parts)
            for n, call in enumerate(_list_calls(delta)):
                index = call.get("index")
                index = index if isinstance(index, int) else n
                function = _read_function(call)
                if index not in self._calls:
                    self._calls[index] = _call_id(call), str(function.get("name") or "")
                self._say(("tool_use", index), _read_arguments(function), parts)
            self._note_stop(choice, delta)

    def _note_stop(self, choice: Mapping[str, Any], message: Mapping[str, Any]) -> None:
        if reason := choice.get("finish_reason"):
            self._stop_reason = STOP_REASONS.get(str(reason), "end_turn")
            # vLLM names the sequence that it stopped at; OpenAI's format has no place for it.
            if isinstance(stopped_at := choice.get("stop_reason"), str) and reason == "stop":
                self._stop_reason, self._stop_sequence = "stop_sequence", stopped_at
        if message.get("refusal"):
            self._stop_reason = "refusal"

    def _say(self, key: Key, text: str, parts: list[bytes]) -> None:
        """A piece of a block: written, or kept until the block before it is whole."""
        if key == self._key:
            self._write_delta(text, parts)
            if self._waiting and self._is_whole():
                self._release(parts)
        elif key in self._closed:
            return  # behind a call whose arguments were whole
        elif self._waiting or not self._is_whole():
            self._waiting.append((key, text))
        else:
            self._open(key, parts)
            self._write_delta(text, parts)

    def _is_whole(self) -> bool:
        """Whether the open block may end here: a call of a tool only once its arguments are an object."""
        if self._key is None or self._key[0] != "tool_use":
            return True
        return isinstance(decode_leniently("".join(self._arguments).encode()), dict)

    def _release(self, parts: list[bytes]) -> None:
        waiting, self._waiting = self._waiting, []
        for key, text in waiting:
            self._say(key, text, parts)

    def _open(self, key: Key, parts: list[bytes]) -> None:
        self._close(parts)
        self._key = key
        block: dict[str, object] = {"type": "text", "text": ""}
        if key[0] == "thinking":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        elif key[0] == "tool_use":
            ident, name = self._calls[key[1]]
            block = {"type": "tool_use", "id": ident, "name": name, "input": {}}
        start = {"type": "content_block_start", "index": self._n_blocks, "content_block": block}
        parts.append(_build_event("content_block_start", start))

    def _write_delta(self, text: str, parts: list[bytes]) -> None:
        assert self._key is not None, "a block is open"  # noqa: S101
        if self._key[0] == "tool_use":
            self._arguments.append(text)
        if text:
            parts.append(TEXT_DELTA % (self._n_blocks, *DELTAS[self._key[0]], encode(text)))

    def _close(self, parts: list[bytes]) -> None:
        if self._key is None:
            return
        if self._key[0] == "thinking":
            parts.append(TEXT_DELTA % (self._n_blocks, b"signature_delta", b"signature", encode(SIGNATURE)))
        if self._key[0] == "tool_use":
            self._closed.add(self._key)
        stop = {"type": "content_block_stop", "index": self._n_blocks}
        parts.append(_build_event("content_block_stop", stop))
        self._n_blocks += 1
        self._key = None
        self._arguments = []

    def _finish(self, parts: list[bytes]) -> None:
        while True:
            self._close(parts)
            if not self._waiting:
                break
            # Calls whose pieces came mixed: one after the other.
            first = self._waiting[0][0]
            pieces = [text for key, text in self._waiting if key == first]
            self._waiting = [(key, text) for key, text in self._waiting if key != first]
            self._open(first, parts)
            self._write_delta("".join(pieces), parts)
        reason = self._end_reason(bool(self._calls))
        delta = {"stop_reason": reason, "stop_sequence": self._stop_sequence}
        event = {"type": "message_delta", "delta": delta, "usage": self._count(self._n_chunks)}
        parts.append(_build_event("message_delta", event))
        parts.append(_build_event("message_stop", {"type": "message_stop"}))

    def _end_reason(self, has_calls: bool) -> str:
        # Some servers say `stop` behind calls of tools; Anthropic's clients would not run them.
        if has_calls and self._stop_reason in (None, "end_turn"):
            return "tool_use"
        return self._stop_reason or "end_turn"

    def _head(self, chunk: Mapping[str, Any]) -> dict[str, object]:
        ident = str(chunk.get("id") or os.urandom(12).hex())
        return {
            "id": f"msg_{ident.removeprefix('chatcmpl-').removeprefix('msg_')}",
            "type": "message",
            "role": "assistant",
            "model": str(chunk.get("model") or ""),
        }

    def _count(self, n_output: int) -> dict[str, object]:
        """Anthropic's `usage`; estimated where the expert counted nothing."""
        usage = self._usage
        if usage is None or usage.prompt_tokens is None:
            return {"input_tokens": self._n_input_tokens, "output_tokens": n_output}
        counts: dict[str, object] = {
            # Anthropic counts what was read from the cache, and written to it, beside the rest.
            "input_tokens": max(0, usage.prompt_tokens - usage.cached_tokens - usage.written_tokens),
            "cache_creation_input_tokens": usage.written_tokens,
            "cache_read_input_tokens": min(usage.cached_tokens, usage.prompt_tokens),
            "output_tokens": usage.output_tokens or 0,
        }
        if usage.reasoning_tokens:
            counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
        return counts


def build_model_page(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Entries of `/v1/models` as the one page of Anthropic's list."""
    data = [build_model_info(model) for model in models]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def build_model_info(model: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `/v1/models` as Anthropic's object."""
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": datetime.fromtimestamp(model["created"], UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": model["thalamus"].get("context_tokens"),
        "max_tokens": None,
    }


def _build_event(name: str, value: Mapping[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(value))


def _build_error(found: object, status: int) -> dict[str, str]:
    error = found.get("error") if isinstance(found, dict) else None
    error = error if isinstance(error, dict) else {"message": str(error or "the request failed")}
    message = str(error.get("message") or "the request failed")
    if error.get("code") == "context_length_exceeded" and not message.startswith(TOO_LONG):
        message = TOO_LONG + message
    default = "invalid_request_error" if status < 500 else "api_error"
    return {"type": ERROR_TYPES.get(status, default), "message": message}


def _read_texts(message: Mapping[str, Any]) -> tuple[str, str]:
    """The thinking and the text of a message or a delta."""
    thinking = message.get("reasoning_content") or message.get("reasoning")
    text = message.get("content") or message.get("refusal")
    if isinstance(text, list):  # Mistral's thinking models
        parts = [part for part in text if isinstance(part, dict)]
        thoughts = [inner for part in parts for inner in _inner_parts(part.get("thinking"))]
        thinking = "".join(str(inner.get("text") or "") for inner in thoughts)
        text = "".join(str(part.get("text") or "") for part in parts)
    return thinking if isinstance(thinking, str) else "", text if isinstance(text, str) else ""


def _inner_parts(value: object) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _list_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _inner_parts(message.get("tool_calls"))


def _read_function(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _read_arguments(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments) if isinstance(arguments, dict) else ""


def _parse_input(arguments: str) -> Raw:
    """The input of a call as its own bytes; what is no JSON object stays readable as a text."""
    data = without_nan(arguments.strip().encode() or b"{}")
    try:
        # Not decoded and encoded again: that changes numbers, and fails on those beyond 64 bits.
        decode_object(data)
    except BAD_JSON:
        data = encode({"arguments": arguments})
    return Raw(data)


def _call_id(call: Mapping[str, Any]) -> str:
    return str(call.get("id") or f"toolu_{os.urandom(12).hex()}")


def _read_usage(value: object) -> Usage | None:
    try:
        return msgspec.convert(value, Usage | None) if value else None
    except msgspec.ValidationError:
        return None
