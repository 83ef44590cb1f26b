"""OpenAI's request format: the messages of a chat, as far as Thalamus reads them."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

Fields = dict[str, Raw]
"""A request body by field, each value as its own bytes: what is not read travels unchanged."""

TEXT_PARTS = frozenset({"text", "input_text"})
"""`input_…` are the names of the Responses API; clients send them to chat completions too."""
SILENT_PARTS = frozenset(
    {
        "output_text",
        "refusal",
        "thinking",
        "redacted_thinking",
        "reasoning",
        "reasoning_content",
        "summary_text",
        "tool_use",
        "tool_result",
        "tool_call",
        "tool_response",
        "function_call",
        "function_call_output",
        "cache_point",
    }
)
"""Parts that need no sense beside reading: what models said or thought, and what tools gave them."""
PART_ABILITIES = {
    "image_url": "vision",
    "input_image": "vision",
    "image": "vision",
    "image_file": "vision",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "file": "files",
    "input_file": "files",
    "file_url": "files",
    "document": "files",
    "video_url": "video",
    "video": "video",
    "input_video": "video",
}
"""The ability that an expert needs for a part; for a part of another type, one of the type's name."""

TOKENS_PER_TURN = 4
"""What the chat template adds to each message: role and separators, by OpenAI's counting guide."""

BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON, not UTF-8, or nested too deeply."""


class ContentPart(msgspec.Struct):
    """One part of a message's content; the bytes of pictures are never decoded."""

    type: str
    text: str | None = None
    content: Raw = Raw(b"null")


class ChatMessage(msgspec.Struct):
    """One turn of a conversation."""

    role: str
    content: str | list[ContentPart] | None = None


class RawMessage(msgspec.Struct):
    """One turn whose content is read only if its role asks for it."""

    role: str = ""
    content: Raw = Raw(b"null")


class RawPart(msgspec.Struct):
    """One part of a content of any kind."""

    type: str = ""
    text: str | None = None
    content: Raw = Raw(b"null")


decode_messages = msgspec.json.Decoder(list[ChatMessage]).decode
decode_raw_message = msgspec.json.Decoder(RawMessage).decode
decode_raw_messages = msgspec.json.Decoder(list[RawMessage]).decode
decode_raw_part = msgspec.json.Decoder(RawPart).decode
decode_raw_content = msgspec.json.Decoder(str | list[Raw] | None).decode
decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
encode = msgspec.json.encode


MANY_PARTS = 100_000
FEW_BYTES = 64 * 1024
MANY_BYTES = 1024 * 1024


def has_many_parts(body: bytes, signs: Sequence[bytes] = (b"{", b"[", b'":')) -> bool:
    """Whether JSON would take far more memory decoded than as bytes: `{},{},{}` thirty times."""
    if len(body) <= FEW_BYTES:
        return False
    # The beginning alone usually tells, and what is counted holds up the event loop.
    return any(sum(map(part.count, signs)) > MANY_PARTS for part in (body[:MANY_BYTES], body))


def ability_of(part_type: str) -> str | None:
    """The ability that an expert needs to read a part of this type; None where every expert can."""
    if part_type in TEXT_PARTS or part_type in SILENT_PARTS:
        return None
    return PART_ABILITIES.get(part_type, part_type)


def text_parts(content: Raw, is_nested: bool = False) -> tuple[list[str], list[str]]:
    """The texts of a message's content of any shape, and the abilities that its other parts need, one each.

    Servers differ in what they take beside OpenAI's format (one part without its list, bare strings in it);
    what cannot be read is left to the expert.

    Raises:
        DecodeError: the content is not valid JSON.
    """
    texts: list[str] = []
    needs: list[str] = []
    for part in _decode_items(content):
        value = bytes(memoryview(part)[:1])
        if value == b'"':
            texts.append(_decode_text(part))
            continue
        if value != b"{":
            continue
        try:
            read = decode_raw_part(part)
        except msgspec.ValidationError:
            continue
        if (ability := ability_of(read.type or "text")) is not None:
            needs.append(ability)
        elif read.text and (read.type or "text") in TEXT_PARTS:
            texts.append(read.text)
        # What a tool gave may be a picture: content of its own, inside a part.
        elif read.type == "tool_result" and not is_nested and bytes(memoryview(read.content)[:1]) == b"[":
            needs += text_parts(read.content, is_nested=True)[1]
    return texts, needs


def _decode_items(content: Raw) -> list[Raw]:
    return decode_list(content) if bytes(memoryview(content)[:1]) == b"[" else [content]
