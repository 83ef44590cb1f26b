"""What was asked and answered, as the journal keeps it where `journal: {content: true}` says so."""

from collections.abc import Sequence

import msgspec

from ..experts.types import Call
from .events import event_payload, parse_chunk

MAX_BYTES = 1024 * 1024
ASKED_IN = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}


class Message(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    message: Message | None = None
    text: str | None = None


class Whole(msgspec.Struct):
    choices: list[Choice] = []


def prompt_of(call: Call) -> str | None:
    """What the client asked, as the JSON it sent."""
    raw = call.fields.get(ASKED_IN[call.endpoint])
    return None if raw is None else bytes(memoryview(raw)[:MAX_BYTES]).decode("utf-8", "replace")


def answer_of(parts: Sequence[bytes], streamed: bool) -> str | None:
    """The text of the first choice; None where there is none, as in a call of a tool."""
    body = b"".join(parts)[:MAX_BYTES]
    return (_streamed(body) if streamed else _whole(body)) or None


def _whole(body: bytes) -> str:
    try:
        choices = msgspec.json.decode(body, type=Whole).choices
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    if not choices:
        return ""
    return (choices[0].message.content if choices[0].message else choices[0].text) or ""


def _streamed(body: bytes) -> str:
    said: list[str] = []
    for event in body.replace(b"\r\n", b"\n").split(b"\n\n")[:-1]:
        payload = event_payload(event)
        if not payload:
            continue
        for choice in (parse_chunk(payload).choices or ())[:1]:
            text = choice.delta.content if choice.delta is not None else choice.text
            said.append(text if isinstance(text, str) else "")
    return "".join(said)
