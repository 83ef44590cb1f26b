"""A whole answer as the events of a stream, and the events of a stream as a whole answer."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from ..errors import UpstreamError
from .events import EVENT_END, EventSplitter, encode_event, event_payload, read_choice_index
from .failures import decode_leniently, without_nan
from .messages import BAD_JSON, Fields, decode_object, encode, has_many_parts

IDENTITIES = frozenset({"role", "id", "type", "name", "index", "signature"})
"""Fields of a delta that are said once and hold from then on; other texts are continued."""

MAX_EVENTS = 200_000
MAX_CALLS = 1024
EMPTY = Raw(b"{}")
_objects = msgspec.json.Decoder(list[dict[str, Raw]])


def convert_to_events(body: bytes, endpoint: str, fields: Fields) -> bytes:
    """A whole answer as the events of a stream: its content, its finish reason, its usage if asked for.

    Raises:
        UpstreamError: the body is no answer.
    """
    if has_many_parts(body):
        raise UpstreamError("garbage", "answered with more than can be streamed")
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


class GrowingText(list[str]):
    """A text that comes in pieces, joined at its end: a sum of each two would copy all of it each time."""


def fold_events(body: bytes, endpoint: str) -> bytes:
    """The events of a whole stream as one answer.

    Raises:
        UpstreamError: the stream is cut, reports an error, or holds no answer.
    """
    splitter = EventSplitter(max_events=MAX_EVENTS)
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
                _fold_choice(choices.setdefault(read_choice_index(choice.get("index")), {}), choice)
    if not choices:
        raise UpstreamError("empty", "ended its stream without a word")
    is_chat = endpoint == "chat/completions"
    answer["object"] = "chat.completion" if is_chat else "text_completion"
    answer["choices"] = [_whole_choice(n, choices[n], is_chat) for n in sorted(choices)]
    try:
        return encode(answer)
    except OverflowError:  # a number beyond 64 bits
        raise UpstreamError("garbage", "streamed what is no answer") from None


def _fold_choice(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        if name in ("delta", "message"):
            if isinstance(value, dict):
                _continue(whole.setdefault("message", {}), value)
        elif name == "logprobs" and isinstance(value, dict):
            _continue(whole.setdefault("logprobs", {}), value)
        elif name == "text" and isinstance(value, str):
            whole.setdefault("text", GrowingText()).append(value)
        elif name != "text" and value is not None:
            whole[name] = value


def _continue(whole: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Put a part of an object behind what is there: texts are continued, lists grow, calls by their index."""
    for name, value in part.items():
        known = whole.get(name)
        if name == "tool_calls":
            if isinstance(value, list):
                _continue_calls(whole.setdefault(name, []), value)
        elif value is None:
            whole.setdefault(name, None)
        elif isinstance(value, str) and name not in IDENTITIES:
            if isinstance(known, GrowingText):
                known.append(value)
            else:
                whole[name] = GrowingText([value])
        elif isinstance(known, str) and isinstance(value, str):
            whole[name] = known or value
        elif isinstance(known, list) and isinstance(value, list) and not isinstance(known, GrowingText):
            known.extend(value)
        elif isinstance(known, dict) and isinstance(value, dict):
            _continue(known, value)
        elif isinstance(value, dict):
            _continue(
                whole.setdefault(name, {}) if known is None else whole.update({name: {}}) or whole[name],
                value,
            )
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
            if len(calls) >= MAX_CALLS:
                raise UpstreamError("garbage", f"streamed more than {MAX_CALLS} calls of tools")
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
    whole: dict[str, Any] = _join({"index": index, "finish_reason": None, **choice})
    return whole


def _join(value: Any) -> Any:
    """A value whose growing texts are at their end."""
    if isinstance(value, GrowingText):
        return "".join(value)
    if isinstance(value, dict):
        return {name: _join(item) for name, item in value.items()}
    return [_join(item) for item in value] if isinstance(value, list) else value
