"""A body of Anthropic's Messages API as the body of a chat completion."""

import hashlib
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from ..errors import InvalidField
from ..openai.messages import BAD_JSON, Fields, encode
from ..openai.translation import Translation
from .answers import SIGNATURE, MessageWriter

T = TypeVar("T")
ChatPart = dict[str, object]

FORMAT = "messages"
SAME_FIELDS = ("model", "router", "stream", "temperature", "top_p", "top_k")
"""Fields that mean the same in a chat request."""
READ_FIELDS = frozenset(
    {
        *SAME_FIELDS,
        "max_tokens",
        "messages",
        "metadata",
        "output_config",
        "output_format",
        "stop_sequences",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
NATIVE_FIELDS = frozenset({"container", "inference_geo", "mcp_servers"})
"""Fields on which the answer depends, and which no chat request has."""
SILENT_FIELDS = frozenset({"stream_options"})
MAX_USER_CHARS = 64
"""OpenAI refuses a longer `user`; Claude Code sends 130 characters."""
BYTES_PER_TOKEN = 4
LOW_BUDGET, HIGH_BUDGET = 4096, 16384
"""Tokens of thinking below and from which the effort of a chat request is low and high."""
EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
ABSENT = Raw(b"null")
FOREIGN = encode(SIGNATURE)
PREFILL = "the last turn is the assistant's: experts of other protocols may answer it instead of going on"


class BlockSource(msgspec.Struct):
    """Where an image or a document is."""

    type: str
    media_type: str = "application/octet-stream"
    data: Raw = ABSENT
    url: Raw = ABSENT
    content: Raw = ABSENT


class ContentBlock(msgspec.Struct):
    """A content block of any type, as far as a chat request can carry it."""

    type: str
    text: Raw = ABSENT
    source: BlockSource | None = None
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")
    tool_use_id: str = ""
    content: Raw = ABSENT
    is_error: bool | None = None
    title: str | None = None
    context: str | None = None
    cache_control: Raw = ABSENT


class MessageParam(msgspec.Struct):
    """One turn; a content that is no string is a list of blocks."""

    role: str
    content: Raw


class ToolParam(msgspec.Struct):
    """A tool; `custom` ones are the client's own, others are known to Anthropic's models."""

    name: str = ""
    type: str | None = None
    description: Raw = ABSENT
    input_schema: Raw = Raw(b'{"type":"object"}')
    strict: bool | None = None
    cache_control: Raw = ABSENT


class ToolChoiceParam(msgspec.Struct):
    type: str
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class ThinkingParam(msgspec.Struct):
    type: str
    budget_tokens: int = 0
    display: str | None = None


class OutputFormat(msgspec.Struct):
    type: str
    schema: Raw = Raw(b"{}")


class OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: OutputFormat | None = None


class MetadataParam(msgspec.Struct):
    user_id: str | None = None


def translate_request(fields: Fields) -> Translation:
    """The request as a chat request.

    Raises:
        InvalidField: a field is missing or of the wrong kind; `param` says where.
    """
    if _decode(fields, "max_tokens", int | None) is None:
        raise InvalidField("'max_tokens' is missing; it must be a number", param="max_tokens")
    return _RequestTranslator(fields).translate()


def translate_count(fields: Fields) -> Translation:
    """A request whose tokens are to be counted, as a chat request; it has no limit.

    Raises:
        InvalidField: as `translate_request`.
    """
    return _RequestTranslator(fields).translate()


class _RequestTranslator:
    """Translates one request, and keeps what it could not carry."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._left_out: dict[str, None] = {}
        self._native_only: dict[str, None] = {}
        self._warnings: list[str] = []
        self._n_data_bytes = 0
        self._shows_thinking = False

    def translate(self) -> Translation:
        fields = self._fields
        chat: Fields = {name: fields[name] for name in SAME_FIELDS if name in fields}
        messages = [*self._translate_system(), *self._translate_messages()]
        chat["messages"] = Raw(encode(messages))
        if "max_tokens" in fields:
            chat["max_tokens"] = fields["max_tokens"]
        if stop := _decode(fields, "stop_sequences", list[str] | None):
            chat["stop"] = Raw(encode(stop))
        user = _decode(fields, "metadata", MetadataParam | None)
        if user is not None and user.user_id:
            chat["user"] = Raw(encode(_shorten_user(user.user_id)))
        self._translate_tools(chat)
        self._translate_wishes(chat)
        for name in fields.keys() - READ_FIELDS - SILENT_FIELDS:
            (self._native_only if name in NATIVE_FIELDS else self._left_out)[name] = None
        if self._left_out:
            self._warnings.append(f"not carried to this expert: {', '.join(sorted(self._left_out))}")
        n_bytes = sum(
            len(memoryview(fields[name])) for name in ("messages", "system", "tools") if name in fields
        )
        n_tokens = max(1, (n_bytes - self._n_data_bytes) // BYTES_PER_TOKEN)
        return Translation(
            FORMAT,
            chat,
            fields,
            MessageWriter(n_tokens, self._shows_thinking),
            tuple(self._warnings),
            native_only=tuple(self._native_only),
        )

    def _translate_system(self) -> list[dict[str, object]]:
        raw = self._fields.get("system", ABSENT)
        if raw == ABSENT:
            return []
        return [{"role": "system", "content": self._join_texts(raw, "system", "\n\n")}]

    def _translate_messages(self) -> list[dict[str, object]]:
        turns = _decode(self._fields, "messages", list[MessageParam] | None)
        if not turns:
            raise InvalidField("'messages' is missing or empty; it must be a list of turns", param="messages")
        chat: list[dict[str, object]] = []
        for n, turn in enumerate(turns):
            where = f"messages.{n}.content"
            if turn.role == "user":
                chat += self._translate_user(turn, where)
            elif turn.role == "assistant":
                chat.append(self._translate_assistant(turn, where))
            elif turn.role == "system":
                chat.append({"role": "system", "content": self._join_texts(turn.content, where, "\n\n")})
            else:
                raise InvalidField(
                    f"'messages.{n}.role' must be user, assistant or system", param=f"messages.{n}.role"
                )
        if turns[-1].role == "assistant":
            self._warnings.append(PREFILL)
        return chat

    def _translate_user(self, turn: MessageParam, where: str) -> list[dict[str, object]]:
        if _is_text(turn.content):
            return [{"role": "user", "content": turn.content}]
        results: list[dict[str, object]] = []
        parts: list[ChatPart] = []
        for n, block in enumerate(self._decode_blocks(turn.content, where)):
            if block.type == "tool_result":
                # The results come first: chat servers want them right behind the calls that they answer.
                results.append(self._translate_result(block, f"{where}.{n}", parts))
            else:
                parts += self._translate_part(block, f"{where}.{n}")
        if len(parts) == 1 and "text" in parts[0]:
            return [*results, {"role": "user", "content": parts[0]["text"]}]
        return [*results, {"role": "user", "content": parts or ""}] if parts or not results else results

    def _translate_result(self, block: ContentBlock, where: str, parts: list[ChatPart]) -> dict[str, object]:
        """What a tool gave, as a message of its own; pictures join the `parts` of the user's, behind it."""
        texts: list[str] = []
        if _is_text(block.content):
            texts.append(msgspec.json.decode(block.content, type=str))
        elif block.content != ABSENT:
            for n, inner in enumerate(self._decode_blocks(block.content, f"{where}.content")):
                for part in self._translate_part(inner, f"{where}.content.{n}"):
                    if isinstance(text := part.get("text"), Raw):
                        texts.append(_decode_text(text))
                    else:
                        parts.append({"type": "text", "text": f"Of the result of {block.tool_use_id}:"})
                        parts.append(part)
        text = "\n".join(texts)
        if block.is_error and not text.lower().startswith("error"):
            text = f"Error: {text}"  # a chat request has no other place for it
        return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}

    def _translate_part(self, block: ContentBlock, where: str) -> list[ChatPart]:
        """A block of a user's turn, or of a tool's result, as parts of a chat message."""
        if block.type == "text":
            return [{"type": "text", "text": _check_text(block.text, where)}]
        source = block.source
        if source is not None and source.type == "base64" and block.type in ("image", "document"):
            if not _is_text(source.data):
                raise InvalidField(f"'{where}.source.data' must be a string", param=f"{where}.source.data")
            self._n_data_bytes += len(memoryview(source.data))
            url = b'"data:%b;base64,' % encode(source.media_type)[1:-1] + bytes(source.data)[1:]
            if block.type == "image":
                return [{"type": "image_url", "image_url": {"url": Raw(url)}}]
            name = block.title or "document.pdf"
            return [{"type": "file", "file": {"filename": name, "file_data": Raw(url)}}]
        if source is not None and source.type == "url" and block.type == "image":
            return [{"type": "image_url", "image_url": {"url": source.url}}]
        if source is not None and block.type == "document" and source.type in ("text", "content"):
            head = "\n".join(filter(None, (block.title, block.context)))
            own = source.data if source.type == "text" else source.content
            body = _decode_text(own) if _is_text(own) else self._join_texts(own, f"{where}.source", "\n\n")
            return [{"type": "text", "text": Raw(encode(f"{head}\n\n{body}" if head else body))}]
        kind = f"{block.type} from {source.type}" if source is not None else block.type
        self._native_only[f"{where} ({kind})"] = None
        return []

    def _translate_assistant(self, turn: MessageParam, where: str) -> dict[str, object]:
        if _is_text(turn.content):
            return {"role": "assistant", "content": turn.content}
        texts: list[str] = []
        calls: list[dict[str, object]] = []
        for n, block in enumerate(self._decode_blocks(turn.content, where)):
            if block.type == "text":
                texts.append(_decode_text(_check_text(block.text, f"{where}.{n}")))
            elif block.type == "tool_use":
                function = {"name": block.name, "arguments": bytes(block.input).decode()}
                calls.append({"id": block.id, "type": "function", "function": function})
            elif block.type in ("thinking", "redacted_thinking"):
                self._left_out[f"{block.type} of earlier turns"] = None
            else:
                self._native_only[f"{where}.{n} ({block.type})"] = None
        message: dict[str, object] = {
            "role": "assistant",
            "content": "".join(texts) or (None if calls else ""),
        }
        if calls:
            message["tool_calls"] = calls
        return message

    def _translate_tools(self, chat: Fields) -> None:
        tools = _decode(self._fields, "tools", list[ToolParam] | None) or []
        functions: list[dict[str, object]] = []
        for n, tool in enumerate(tools):
            if tool.type not in (None, "custom"):
                self._native_only[f"tools.{n} ({tool.type})"] = None
                continue
            if not tool.name:
                raise InvalidField(f"'tools.{n}.name' is missing", param=f"tools.{n}.name")
            function: dict[str, object] = {"name": tool.name}
            if tool.description != ABSENT:
                function["description"] = tool.description
            function["parameters"] = tool.input_schema
            if tool.strict is not None:
                function["strict"] = tool.strict
            self._note_cache(tool.cache_control)
            functions.append({"type": "function", "function": function})
        if not functions:
            return
        chat["tools"] = Raw(encode(functions))
        choice = _decode(self._fields, "tool_choice", ToolChoiceParam | None)
        if choice is None:
            return
        if choice.type == "tool":
            chat["tool_choice"] = Raw(encode({"type": "function", "function": {"name": choice.name}}))
        elif (word := {"auto": "auto", "any": "required", "none": "none"}.get(choice.type)) is not None:
            chat["tool_choice"] = Raw(encode(word))
        else:
            raise InvalidField("'tool_choice.type' must be auto, any, tool or none", param="tool_choice.type")
        if choice.disable_parallel_tool_use is not None:
            chat["parallel_tool_calls"] = Raw(encode(not choice.disable_parallel_tool_use))

    def _translate_wishes(self, chat: Fields) -> None:
        """How hard to think, and the form of the answer."""
        thinking = _decode(self._fields, "thinking", ThinkingParam | None)
        config = _decode(self._fields, "output_config", OutputConfig | None) or OutputConfig()
        effort = EFFORTS.get(config.effort or "")
        if config.effort is not None and effort is None:
            self._left_out["output_config.effort"] = None
        if thinking is not None and thinking.type != "disabled":
            self._shows_thinking = thinking.display != "omitted"
            if thinking.type == "enabled" and effort is None:
                budget = thinking.budget_tokens
                effort = "low" if budget < LOW_BUDGET else "medium" if budget < HIGH_BUDGET else "high"
                self._warnings.append(f"thinking.budget_tokens is asked for as reasoning_effort '{effort}'")
        if effort is not None:
            chat["reasoning_effort"] = Raw(encode(effort))
        form = config.format or _decode(self._fields, "output_format", OutputFormat | None)
        if form is not None:
            schema = {"name": "answer", "schema": form.schema, "strict": True}
            chat["response_format"] = Raw(encode({"type": "json_schema", "json_schema": schema}))

    def _decode_blocks(self, raw: Raw, where: str) -> list[ContentBlock]:
        blocks: list[ContentBlock] = _decode_value(raw, where, list[ContentBlock])
        for block in blocks:
            self._note_cache(block.cache_control)
        return blocks

    def _note_cache(self, cache_control: Raw) -> None:
        if cache_control != ABSENT:
            self._left_out["cache_control"] = None

    def _join_texts(self, raw: Raw, where: str, between: str) -> str:
        """The text of a content that holds nothing else."""
        if _is_text(raw):
            return _decode_text(raw)
        texts = []
        for n, block in enumerate(self._decode_blocks(raw, where)):
            if block.type != "text":
                raise InvalidField(f"'{where}.{n}' must be a text block", param=f"{where}.{n}")
            texts.append(_decode_text(_check_text(block.text, f"{where}.{n}")))
        return between.join(texts)


def drop_foreign_thinking(fields: Fields) -> Fields:
    """A body without thinking that other models wrote: Anthropic's servers refuse its signature."""
    raw = fields.get("messages", ABSENT)
    if FOREIGN not in bytes(raw):
        return fields
    kept: list[dict[str, Raw]] = []
    for turn in _decode_value(raw, "messages", list[dict[str, Raw]]):
        if not _is_text(turn["content"]):
            blocks = _decode_value(turn["content"], "messages", list[dict[str, Raw]])
            others = [block for block in blocks if block.get("signature") != Raw(FOREIGN)]
            if not others:
                continue
            if len(others) < len(blocks):
                turn["content"] = Raw(encode(others))
        kept.append(turn)
    return {**fields, "messages": Raw(encode(kept))}


def _decode(fields: Fields, name: str, kind: type[T] | Any) -> Any:
    """A field as the struct of its kind; None where it is not there."""
    return _decode_value(fields[name], name, kind) if name in fields else None


def _decode_value(raw: Raw, where: str, kind: type[T] | Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        # `[0].role` is `.0.role` in Anthropic's errors.
        path = where + place.strip("`").replace("[", ".").replace("]", "")
        said = f"{what[0].lower()}{what[1:]}".replace("`", "'")
        raise InvalidField(f"'{path}': {said}", param=path) from None
    except BAD_JSON as error:
        raise InvalidField(f"'{where}' is not valid JSON: {error}", param=where) from None


def _is_text(raw: Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b'"'


def _check_text(raw: Raw, where: str) -> Raw:
    if not _is_text(raw):
        raise InvalidField(f"'{where}.text' must be a string", param=f"{where}.text")
    return raw


def _decode_text(raw: Raw) -> str:
    return msgspec.json.decode(raw, type=str)


def _shorten_user(user_id: str) -> str:
    """The same id for the same user, of a length that chat servers take."""
    return user_id if len(user_id) <= MAX_USER_CHARS else hashlib.sha256(user_id.encode()).hexdigest()
