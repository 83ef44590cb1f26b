"""A whole answer as the events of a stream, and the events of a stream as a whole answer."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ..errors import UpstreamError
from .events import EVENT_END, EventSplitter, encode_event, event_payload
from .failures import decode_leniently, without_nan
from .messages import BAD_JSON, Fields, decode_object, encode

IDENTITIES = frozenset({"role", "id", "type", "name", "index", "signature"})
"""Fields of a delta that are said once and hold from then on; other texts are continued."""

EMPTY = Raw(b"{}")
_objects = msgspec.json.Decoder(list[dict[str, Raw]])


def convert_to_events(body: bytes, endpoint: str, fields: Fields) -> bytes:
    """A whole answer as the events of a stream: its content, its finish reason, its usage if asked for.

    Raises:
        UpstreamError: the body is no answer.
    """
    try:
        whole = decode_object(without_nan(body))
        choices = _objects.decode(whole["choices"])
    except (*BAD_JSON, KeyError) as error:
        raise UpstreamError("garbage", "answered with what cannot be streamed") from error
    is_chat = endpoint == "chat/completions"
    head: dict[str, Raw] = {name: whole[name] for name in ("id", "created", "model") if name in whole}
    head["object"] = Raw(b'"chat.completion.chunk"' if is_chat else b'"text_completion"')
    content, ends = [], []
    for choice in choices:
        said: dict[str, object] = (
            {"delta": _message_delta(choice.get("message", EMPTY))}
            if is_chat
            else {"text": choice.get("text", "")}
        )
        end: dict[str, object] = {"delta": {}} if is_chat else {"text": ""}
        index = {"index": choice.get("index", 0)}
        content.append({**index, **said, "finish_reason": None})
        ends.append({**index, **end, "finish_reason": choice.get("finish_reason", "stop")})
    chunks = [{**head, "choices": content}, {**head, "choices": ends}]
    if "usage" in whole and b'"include_usage"' in bytes(fields.get("stream_options", b"")):
        chunks.append({**head, "choices": [], "usage": whole["usage"]})
    return b"".join(encode_event(encode(chunk)) for chunk in chunks)


def _message_delta(message: Raw) -> Raw:
    """A message as a delta: clients put the calls of tools together by their index."""
    try:
        fields = decode_object(message)
        calls = _objects.decode(fields["tool_calls"])
    except (*BAD_JSON, KeyError):
        return message
    indexed = [{"index": Raw(encode(n)), **call} for n, call in enumerate(calls)]
    return Raw(encode({**fields, "tool_calls": indexed}))


def fold_events(body: bytes, endpoint: str) -> bytes:
    """The events of a whole stream as one answer.

    Raises:
        UpstreamError: the stream is cut, reports an error, or holds no answer.
    """
    splitter = EventSplitter()
    events = splitter.feed(body) + splitter.end()
    if splitter.failure is not None:
        raise splitter.failure
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    start = 0
    for match in EVENT_END.finditer(events):
        chunk = decode_leniently(event_payload(events[start : match.end()]))
        start = match.end()
        if not isinstance(chunk, dict):
            continue
        answer |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
        parts = chunk.get("choices")
        for choice in parts if isinstance(parts, list) else ():
            if isinstance(choice, dict):
                index = choice.get("index")
                _fold_choice(choices.setdefault(index if type(index) is int else 0, {}), choice)
    if not choices:
        raise UpstreamError("empty", "ended its stream without a word")
    is_chat = endpoint == "chat/completions"
    answer["object"] = "chat.completion" if is_chat else "text_completion"
    answer["choices"] = [_whole_choice(n, choices[n], is_chat) for n in sorted(choices)]
    return encode(answer)


def _fold_choice(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        if name == "delta" and isinstance(value, dict):
            _continue(whole.setdefault("message", {}), value)
        elif name == "logprobs" and isinstance(value, dict):
            _continue(whole.setdefault("logprobs", {}), value)
        elif name == "text" and isinstance(value, str):
            whole["text"] = whole.get("text", "") + value
        elif value is not None:
            whole[name] = value


def _continue(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Put a part of an object behind what is there: texts are continued, lists grow, calls by their index."""
    for name, value in part.items():
        known = whole.get(name)
        if name == "tool_calls" and isinstance(value, list):
            _continue_calls(whole.setdefault(name, []), value)
        elif known is None or value is None:
            whole.setdefault(name, value) if value is None else whole.update({name: value})
        elif isinstance(known, str) and isinstance(value, str):
            whole[name] = (known or value) if name in IDENTITIES else known + value
        elif isinstance(known, list) and isinstance(value, list):
            whole[name] = [*known, *value]
        elif isinstance(known, dict) and isinstance(value, dict):
            _continue(known, value)
        else:
            whole[name] = value


def _continue_calls(calls: list[dict[str, Any]], parts: list[Any]) -> None:
    for part in parts:
        if not isinstance(part, dict):
            continue
        index, ident = part.get("index"), part.get("id")
        # Without an index, as some send them, a new id begins the next call.
        known = next(
            (call for call in calls if call.get("index") == index)
            if index is not None
            else (call for call in reversed(calls) if ident in (None, "", call.get("id"))),
            None,
        )
        if known is None:
            calls.append(known := {})
        _continue(known, part)


def _whole_choice(index: int, choice: dict[str, Any], is_chat: bool) -> dict[str, Any]:
    if is_chat:
        message = choice.setdefault("message", {})
        message.setdefault("role", "assistant")
        message.setdefault("content", None)
        for call in message.get("tool_calls") or ():
            call.pop("index", None)
    else:
        choice.setdefault("text", "")
    return {"index": index, "finish_reason": None, **choice}
