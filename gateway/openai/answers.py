"""OpenAI's answers in one piece: checked, read, and made."""

import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import UpstreamError
from .events import event_payload, parse_chunk
from .messages import BAD_JSON
from .usage import Usage

MAX_BYTES = 1024 * 1024
ABSENT = msgspec.Raw(b"null")


class CheckedAnswer(msgspec.Struct):
    """A complete answer, as far as it is checked before it is passed on."""

    choices: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT
    usage: Usage | None = None
    error: Any = None


class AnswerMessage(msgspec.Struct):
    """The message of a choice."""

    content: str | None = None


class AnswerChoice(msgspec.Struct):
    """A choice of a chat (`message`) or of a plain completion (`text`)."""

    message: AnswerMessage | None = None
    text: str | None = None


class CompletionAnswer(msgspec.Struct):
    """A complete answer, as far as its text is read."""

    choices: list[AnswerChoice] = []


_checked = msgspec.json.Decoder(CheckedAnswer)
_completion = msgspec.json.Decoder(CompletionAnswer)


def check_answer(body: bytes, is_embedding: bool) -> Usage | None:
    """Check that a body with status 200 is an answer; gives its usage, None where it has none.

    Raises:
        UpstreamError: the body is an error object, or no answer.
    """
    try:
        answer = _checked.decode(body)
    # Providers differ in `usage` more than anywhere else (counts as text, floats, null).
    except msgspec.ValidationError:
        answer = _check_leniently(body)
    except BAD_JSON:
        raise UpstreamError("garbage", "answered 200 with a body that is not JSON") from None
    if answer.error:
        raise UpstreamError("garbage", "answered 200 with an error")
    items = answer.data if is_embedding else answer.choices
    # Raw bytes: only the first is looked at, an answer with embeddings may hold megabytes.
    if len(items) < len(b"[]") or bytes(memoryview(items)[:1]) != b"[":
        raise UpstreamError("garbage", "answered 200 with no answer in it")
    return answer.usage


def _check_leniently(body: bytes) -> CheckedAnswer:
    """An answer whose `usage` has an unexpected shape is still an answer."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except BAD_JSON:
        raise UpstreamError("garbage", "answered 200 with a body that is no answer") from None
    return CheckedAnswer(choices=fields.get("choices", ABSENT), data=fields.get("data", ABSENT))


def read_answer_text(body: bytes) -> str:
    """The text of the first choice; empty where there is none, as in a call of a tool."""
    try:
        choices = _completion.decode(body).choices
    except BAD_JSON:
        return ""
    if not choices:
        return ""
    return (choices[0].message.content if choices[0].message else choices[0].text) or ""


def read_sent_text(parts: Sequence[bytes], streamed: bool) -> str | None:
    """The text of the first choice of an answer as it was sent, in pieces; None where there is none."""
    body = b"".join(parts)[:MAX_BYTES]
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


def build_answer(model: str, text: str, is_chat: bool) -> bytes:
    """An answer that the gateway itself gives; it used no tokens."""
    content: dict[str, object] = {"text": text}
    if is_chat:
        content = {"message": {"role": "assistant", "content": text}}
    return msgspec.json.encode(
        {
            "id": f"tool-{os.urandom(8).hex()}",
            "object": "chat.completion" if is_chat else "text_completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
    )
