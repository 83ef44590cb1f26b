"""OpenAI's request format: the messages of a chat, as far as Thalamus reads them."""

import msgspec
from msgspec import Raw

Fields = dict[str, Raw]
"""A request body by field, each value as its own bytes: what is not read travels unchanged."""

TEXT_PARTS = frozenset({"text", "input_text"})
IMAGE_PARTS = frozenset({"image_url", "input_image", "image"})
"""`input_…` are the names of the Responses API; clients send them to chat completions too."""

TOKENS_PER_TURN = 4
"""What the chat template adds to each message: role and separators, by OpenAI's counting guide."""

BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON, not UTF-8, or nested too deeply."""


class ContentPart(msgspec.Struct):
    """One part of a message's content; the bytes of pictures are never decoded."""

    type: str
    text: str | None = None


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


decode_messages = msgspec.json.Decoder(list[ChatMessage]).decode
decode_raw_message = msgspec.json.Decoder(RawMessage).decode
decode_raw_messages = msgspec.json.Decoder(list[RawMessage]).decode
decode_raw_part = msgspec.json.Decoder(RawPart).decode
decode_raw_content = msgspec.json.Decoder(str | list[Raw] | None).decode
decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
decode_list = msgspec.json.Decoder(list[Raw]).decode
encode = msgspec.json.encode


def text_of(content: Raw) -> str:
    """The text of a message's content: its text parts, one a line."""
    value = decode_raw_content(content)
    if isinstance(value, str):
        return value
    return "\n".join(decode_raw_part(part).text or "" for part in value or ())
