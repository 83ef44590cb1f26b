"""The Responses API's request as a chat's: input items become messages, tools and settings change their form.

What a chat has no place for is refused by name, or named in a warning; nothing is dropped in silence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from ..errors import BadRequest, InvalidField
from .messages import Fields, decode_object, encode
from .responses_tools import NULL, SEARCH, ChatTools, ToolName, read_list, read_value

TRUE = Raw(b"true")
GAP = "\n\n"

SAME_FIELDS = (
    "model", "router", "plugins", "temperature", "top_p", "parallel_tool_calls", "user",
    "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
    "service_tier",
)  # fmt: skip
"""Mean the same in a chat, and are sent as they came."""
OWN_FIELDS = (
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "max_output_tokens",
    "metadata", "store", "stream", "previous_response_id", "stream_options", "truncation", "include",
    "background", "top_logprobs", "max_tool_calls", "prompt", "conversation", "moderation",
    "context_management", "client_metadata",
)  # fmt: skip
"""Have another form in a chat, or are the gateway's to answer."""
MOVED_FIELDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "functions": "tools",
    "function_call": "tool_choice",
}
"""What a chat calls otherwise: a client that sends one has mixed up the two APIs."""
UNKNOWN_HERE = {
    "prompt": "prompt templates are kept at OpenAI: send the text as input or instructions",
    "conversation": "conversations are not kept here: use previous_response_id",
    "moderation": "answers are not moderated here",
}
ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""Only OpenAI's models know the role `developer`, and they read `system` the same way."""
REASONING_FIELDS = {"rs": "reasoning_content", "rsn": "reasoning", "rsp": ""}
"""Where an expert said its reasoning, by the prefix of the item's id: it is sent back under the same name.
Among the parts of a content (`rsp`) it is not: those that say it there refuse it in fields.
"""

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class UnsupportedValue(BadRequest):
    """A wish that no response can be given for, in OpenAI's words for an unknown value."""

    code = "unsupported_value"


class InputItem(msgspec.Struct):
    """One item of `input`, of any type; what it holds is decoded only where it changes its form."""

    type: str | None = None
    id: str | None = None
    role: str | None = None
    content: Raw = NULL
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Raw = NULL
    input: Raw = NULL
    output: Raw = NULL
    summary: Raw = NULL
    tools: Raw = NULL

    @property
    def kind(self) -> str:
        """The type, which messages and references may leave out."""
        return self.type or ("message" if self.role is not None else "item_reference")


class InputPart(msgspec.Struct):
    """One part of a message or of a tool's output."""

    type: str = ""
    text: Raw = NULL
    refusal: Raw = NULL
    image_url: Raw = NULL
    detail: Raw = NULL
    file_id: Raw = NULL
    file_data: Raw = NULL
    file_url: Raw = NULL
    filename: Raw = NULL
    input_audio: Raw = NULL


class GivenFormat(msgspec.Struct):
    """The form of the answer."""

    type: str = "text"
    name: Raw = NULL
    description: Raw = NULL
    schema: Raw = NULL
    strict: Raw = NULL


class TextSettings(msgspec.Struct):
    """The field `text`."""

    format: GivenFormat | None = None
    verbosity: Raw = NULL


class ReasoningText(msgspec.Struct):
    """One part of a reasoning item."""

    text: str = ""


class ReasoningSettings(msgspec.Struct):
    """The field `reasoning`."""

    effort: Raw = NULL
    summary: str | None = None
    generate_summary: str | None = None


class Settings(msgspec.Struct):
    """The fields of a request that must be of a kind before its input is read."""

    store: bool | None = None
    stream: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    stream_options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ResponseShape:
    """What a response says of its request, and how its answer is translated back.

    `model` is the one that was asked for; `echo` has the settings as they stand in the response; `tools` the
    client's tools by the name they have in the chat.
    """

    model: object
    echo: Mapping[str, object]
    tools: Mapping[str, ToolName]
    wants_summary: bool = False
    wants_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class ChatForm:
    """A request as a chat's fields, the shape of its response, and warnings of what was left out.

    `reasoning` is as in a translation.
    """

    fields: Fields
    shape: ResponseShape
    warnings: tuple[str, ...]
    reasoning: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A body whose settings are valid.

    `items` are those of its `input`, not read yet; `references` the ids of stored items among them.
    """

    fields: Fields
    settings: Settings
    items: Sequence[Raw]
    references: Sequence[str] = ()

    @property
    def previous_id(self) -> str | None:
        """The response that this one goes on from."""
        return self.settings.previous_response_id

    @property
    def is_stored(self) -> bool:
        """Whether the client wants the response kept; OpenAI's default."""
        return self.settings.store is not False

    @property
    def stream(self) -> bool:
        return self.settings.stream is True


_settings = msgspec.json.Decoder(Settings)
_item = msgspec.json.Decoder(InputItem)
_parts = msgspec.json.Decoder(list[InputPart])
_string = msgspec.json.Decoder(str)
_summaries = msgspec.json.Decoder(list[ReasoningText] | None)


def read_responses_request(fields: Fields) -> ResponsesRequest:
    """Check the settings of a body, and find the items of its input.

    Raises:
        InvalidField: a field is missing, of another type, or one that a chat cannot carry; `param` names it.
    """
    for name in MOVED_FIELDS.keys() & fields.keys():
        moved = f"'{name}' is not a field of the Responses API; it is '{MOVED_FIELDS[name]}' here"
        raise InvalidField(moved, param=name)
    for name in UNKNOWN_HERE.keys() & fields.keys():
        if fields[name] != NULL:
            raise InvalidField(f"'{name}' is not supported: {UNKNOWN_HERE[name]}", param=name)
    given = {name: fields[name] for name in Settings.__struct_fields__ if name in fields}
    settings = read_value(_settings, encode(given), "")
    if settings.background:
        raise UnsupportedValue(
            "'background' must be false: the gateway answers while the client waits", param="background"
        )
    raw = fields.get("input", NULL)
    head = bytes(memoryview(raw)[:1])
    if head == b'"':
        items = [Raw(b'{"type":"message","role":"user","content":' + bytes(raw) + b"}")]
    elif head == b"[":
        items = read_list(raw, "input")
    elif raw == NULL and settings.previous_response_id is not None:
        items = []
    else:
        raise InvalidField("'input' must be a string or a list of items", param="input")
    return ResponsesRequest(fields, settings, items, _list_references(items))


def _list_references(items: Sequence[Raw]) -> list[str]:
    found = []
    for n, raw in enumerate(items):
        # Most inputs hold none, and a search costs less than decoding each item twice.
        if b'"role"' not in (head := bytes(memoryview(raw)[:4096])) and b'"id"' in head:
            item = read_value(_item, raw, f"input[{n}]")
            if item.kind == "item_reference" and item.id:
                found.append(item.id)
    return found


def convert_to_chat(
    request: ResponsesRequest,
    history: Sequence[Raw] = (),
    references: Mapping[str, Raw] | None = None,
    drops_hosted_tools: bool = False,
) -> ChatForm:
    """The chat that a request stands for, after the items of earlier responses.

    references: the stored items that the input names, by id.
    drops_hosted_tools: leave out tools that only OpenAI runs, with a warning, instead of refusing them.

    Raises:
        InvalidField: the request holds what a chat cannot carry; `param` names it.
    """
    fields, settings = request.fields, request.settings
    warnings: list[str] = []
    tools = ChatTools(drops_hosted_tools, warnings)
    tools.add_all(fields.get("tools", NULL), "tools")
    conversation = _Conversation(tools, warnings, references or {})
    conversation.add_instructions(fields.get("instructions", NULL))
    conversation.add_items(history, "previous_response_id")
    conversation.add_items(request.items, "input")
    chat: Fields = {name: fields[name] for name in SAME_FIELDS if name in fields}
    messages = conversation.finish()
    reasoning = _take_reasoning(messages)
    chat["messages"] = Raw(encode(messages))
    # What is of neither API is a provider's own, and travels as in a chat.
    known = {*SAME_FIELDS, *OWN_FIELDS}
    chat |= {name: value for name, value in fields.items() if name not in known}
    if tools.chat:
        chat["tools"] = Raw(encode(tools.choose(fields.get("tool_choice", NULL), chat)))
    else:
        # OpenAI refuses both where there are no tools.
        chat.pop("parallel_tool_calls", None)
    wants_logprobs = _convert_settings(settings, chat, warnings)
    _warn_of_fields(request, warnings)
    wish = settings.reasoning
    wants_summary = wish is not None and bool(wish.summary or wish.generate_summary)
    shape = ResponseShape(
        fields.get("model"), _build_echo(request), tools.names, wants_summary, wants_logprobs
    )
    return ChatForm(chat, shape, tuple(dict.fromkeys(warnings)), reasoning)


def _take_reasoning(messages: Sequence[dict[str, Any]]) -> dict[int, bytes]:
    """What experts thought, taken out of the messages."""
    found = {}
    for place, message in enumerate(reversed(messages), 1):
        for name in REASONING_FIELDS.values():
            if name in message:
                found[place] = encode({name: message.pop(name)})[1:-1]
    return found


ID_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "tool_search_call": "tsc",
    "tool_search_output": "tso",
    "reasoning": "rs",
}


def describe_items(
    items: Iterable[Raw], references: Mapping[str, Raw], response_id: str
) -> list[tuple[str, bytes]]:
    """The items of a request as they are listed later: each with an id and a type, and its id beside it."""
    found = []
    for n, raw in enumerate(items):
        item = read_value(_item, raw, f"input[{n}]")
        if item.kind == "item_reference":
            found.append((item.id, bytes(references[item.id])))
            continue
        ident = item.id or f"{ID_PREFIXES.get(item.kind, 'item')}_{response_id.partition('_')[2]}i{n:x}"
        fields = {**decode_object(raw), "id": Raw(encode(ident)), "type": Raw(encode(item.kind))}
        if item.kind == "message" and bytes(memoryview(item.content)[:1]) == b'"':
            part = b'"output_text","annotations":[]' if item.role == "assistant" else b'"input_text"'
            fields["content"] = Raw(b'[{"type":' + part + b',"text":' + bytes(item.content) + b"}]")
        found.append((ident, encode(fields)))
    return found


def _convert_settings(settings: Settings, chat: Fields, warnings: list[str]) -> bool:
    """Set what has another form in a chat; returns whether log probabilities are wanted."""
    if settings.stream:
        chat["stream"] = TRUE
        # The counts stand in the last event of every response, asked for or not.
        chat["stream_options"] = Raw(b'{"include_usage":true}')
    if settings.max_output_tokens is not None:
        chat["max_completion_tokens"] = Raw(encode(settings.max_output_tokens))
    if settings.reasoning is not None and settings.reasoning.effort != NULL:
        chat["reasoning_effort"] = settings.reasoning.effort
    if settings.text is not None:
        if settings.text.verbosity != NULL:
            chat["verbosity"] = settings.text.verbosity
        if settings.text.format is not None and settings.text.format.type != "text":
            chat["response_format"] = _convert_format(settings.text.format)
    wants_logprobs = bool(settings.top_logprobs)
    for wish in settings.include or ():
        if wish == "message.output_text.logprobs":
            wants_logprobs = True
        elif wish == "reasoning.encrypted_content":
            warnings.append(
                f"include {wish}: reasoning is not encrypted here; where an expert tells it, it is text"
            )
        elif wish != "message.input_image.image_url":
            warnings.append(f"include {wish[:80]}: there is no such output here")
    if wants_logprobs:
        chat["logprobs"] = TRUE
        if settings.top_logprobs:
            chat["top_logprobs"] = Raw(encode(settings.top_logprobs))
    return wants_logprobs


def _convert_format(given: GivenFormat) -> Raw:
    if given.type == "json_object":
        return Raw(b'{"type":"json_object"}')
    if given.type != "json_schema":
        known = "text, json_object or json_schema"
        raise InvalidField(
            f"'text.format.type' must be {known}, not {given.type[:40]!r}", param="text.format"
        )
    if given.schema == NULL or given.name == NULL:
        raise InvalidField("'text.format' must have a name and a schema", param="text.format")
    named = {name: getattr(given, name) for name in ("name", "description", "schema", "strict")}
    schema = {name: value for name, value in named.items() if value != NULL}
    return Raw(encode({"type": "json_schema", "json_schema": schema}))


def _warn_of_fields(request: ResponsesRequest, warnings: list[str]) -> None:
    settings, fields = request.settings, request.fields
    if settings.truncation == "auto":
        warnings.append("truncation auto: not supported; an input that is too long is refused")
    if (settings.stream_options or {}).get("include_obfuscation") is True:
        warnings.append("stream_options.include_obfuscation: not supported")
    known = {"effort", "summary", "generate_summary"}
    given = decode_object(fields["reasoning"]) if settings.reasoning is not None else {}
    warnings += [f"reasoning.{name[:40]}: not supported" for name in given if name not in known]
    for name in ("context_management", "client_metadata"):
        if fields.get(name, NULL) != NULL:
            warnings.append(f"{name}: not sent to experts")


def _build_echo(request: ResponsesRequest) -> Mapping[str, object]:
    """The settings as a response repeats them; null is what was left to the expert."""
    fields, settings = request.fields, request.settings
    given = fields.get
    text = settings.text
    form: object = {"type": "text"}
    if text is not None and text.format is not None:
        form = decode_object(fields["text"])["format"]
    verbosity = {} if text is None or text.verbosity == NULL else {"verbosity": text.verbosity}
    return {
        "instructions": given("instructions"),
        "max_output_tokens": settings.max_output_tokens,
        "max_tool_calls": given("max_tool_calls"),
        "metadata": settings.metadata or {},
        "parallel_tool_calls": given("parallel_tool_calls", TRUE),
        "previous_response_id": settings.previous_response_id,
        "prompt_cache_key": given("prompt_cache_key"),
        "prompt_cache_retention": given("prompt_cache_retention"),
        "reasoning": given("reasoning", {"effort": None, "summary": None}),
        "safety_identifier": given("safety_identifier"),
        "store": request.is_stored,
        "temperature": given("temperature"),
        "text": {"format": form, **verbosity},
        "tool_choice": given("tool_choice", "auto"),
        "tools": given("tools", []),
        "top_logprobs": settings.top_logprobs or 0,
        "top_p": given("top_p"),
        "truncation": settings.truncation or "disabled",
        "user": given("user"),
    }


@dataclass(slots=True)
class _Conversation:
    """Messages of a chat, made of items one after the other."""

    tools: ChatTools
    warnings: list[str]
    references: Mapping[str, Raw]
    messages: list[dict[str, Any]] = field(default_factory=list)
    answer: dict[str, Any] | None = None
    """The assistant's message that further items of the same answer belong to."""
    reasoning: dict[str, str] = field(default_factory=dict)
    reasoned: list[dict[str, Any]] = field(default_factory=list)
    """The messages of this turn that have reasoning."""
    media: list[dict[str, object]] = field(default_factory=list)
    """Pictures and files that tools gave: a chat takes them from the user alone."""

    def add_instructions(self, raw: Raw) -> None:
        """Begin with instructions: a text, or items."""
        if bytes(memoryview(raw)[:1]) == b"[":
            self.add_items(read_list(raw, "instructions"), "instructions")
        elif raw != NULL:
            if bytes(memoryview(raw)[:1]) != b'"':
                raise InvalidField("'instructions' must be a string or a list of items", param="instructions")
            self.messages.append({"role": "system", "content": raw})

    def add_items(self, items: Iterable[Raw], where: str) -> None:
        """Add the items of one list.

        Raises:
            InvalidField: one cannot be carried; `param` says which.
        """
        for n, raw in enumerate(items):
            self._add(read_value(_item, raw, f"{where}[{n}]"), f"{where}[{n}]")

    def _add(self, item: InputItem, place: str) -> None:
        kind = item.kind
        if kind == "item_reference":
            found = self.references.get(item.id or "")
            if found is None:
                raise InvalidField(f"Item with id '{(item.id or '')[:80]}' not found.", param=place)
            item = read_value(_item, found, place)
            kind = item.kind
        if kind == "message":
            self._add_message(item, place)
        elif kind in ("function_call", "custom_tool_call", "tool_search_call"):
            self._add_call(item, place)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._add_output(item, place)
        elif kind == "tool_search_output":
            # What a search has found can be called from now on; the model reads which tools these are.
            self.tools.add_all(item.tools, f"{place}.tools", may_repeat=True)
            item.output = Raw(encode(bytes(item.tools).decode()))
            self._add_output(item, place)
        elif kind == "reasoning":
            self._add_reasoning(item, place)
        elif kind == "additional_tools":
            self.tools.add_all(item.tools, f"{place}.tools", may_repeat=True)
        elif self.tools.drops_hosted:
            self.warnings.append(f"item {kind[:64]}: left out; a chat has no place for it")
        else:
            raise InvalidField(f"items of the type '{kind[:64]}' are not supported", param=place)

    def _add_message(self, item: InputItem, place: str) -> None:
        role = ROLES.get(item.role or "")
        if role is None:
            known = "user, assistant, system or developer"
            raise InvalidField(f"'{place}.role' must be {known}", param=f"{place}.role")
        content = _convert_content(item.content, role, f"{place}.content")
        if role != "assistant":
            if role == "user":
                self._forget_reasoning()
            self._end_answer()
            self.messages.append({"role": role, "content": content})
            return
        # A text after calls is of the same answer: their results must follow it.
        answer = self.answer
        if answer is None or answer["content"] is not None or "refusal" in answer:
            self._begin_answer()
        self.answer |= content if isinstance(content, dict) else {"content": content}  # type: ignore[operator]

    def _add_call(self, item: InputItem, place: str) -> None:
        kind = item.kind
        name = SEARCH if kind == "tool_search_call" else item.name
        for key, value in (("call_id", item.call_id), ("name", name)):
            if not value:
                raise InvalidField(f"'{place}.{key}' is missing", param=f"{place}.{key}")
        key = "input" if kind == "custom_tool_call" else "arguments"
        text = item.input if kind == "custom_tool_call" else item.arguments
        arguments: object = text
        if kind == "tool_search_call" and bytes(memoryview(text)[:1]) == b"{":
            arguments = bytes(text).decode()
        elif bytes(memoryview(text)[:1]) != b'"':
            raise InvalidField(f"'{place}.{key}' must be a string", param=f"{place}.{key}")
        elif kind == "custom_tool_call":
            arguments = encode({"input": text}).decode()
        if self.answer is None or self.reasoning:
            self._begin_answer()
        name = self.tools.find_name(name or "", item.namespace)
        call = {"id": item.call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self.answer.setdefault("tool_calls", []).append(call)  # type: ignore[union-attr]

    def _add_output(self, item: InputItem, place: str) -> None:
        if not item.call_id:
            raise InvalidField(f"'{place}.call_id' is missing", param=f"{place}.call_id")
        self.answer, self.reasoning = None, {}
        content: object = item.output
        if bytes(memoryview(item.output)[:1]) != b'"':
            parts = _convert_parts(item.output, "user", f"{place}.output")
            texts = [part["text"] for part in parts if part["type"] == "text"]
            media = [part for part in parts if part["type"] != "text"]
            self.media += media
            content = GAP.join(map(_decode_text, texts))
            content = content or ("The output follows as an attachment." if media else "")
        self.messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})

    def _add_reasoning(self, item: InputItem, place: str) -> None:
        parts = [*(_read_texts(item.content, place)), *(_read_texts(item.summary, place))]
        name = REASONING_FIELDS.get((item.id or "").partition("_")[0], "reasoning_content")
        if name and (text := GAP.join(filter(None, dict.fromkeys(parts)))):
            self._end_media()
            self.reasoning = {name: text}

    def _begin_answer(self) -> None:
        self._end_media()
        self.answer = {"role": "assistant", "content": None, **self.reasoning}
        if self.reasoning:
            self.reasoned.append(self.answer)
        self.reasoning = {}
        self.messages.append(self.answer)

    def _end_answer(self) -> None:
        self.answer, self.reasoning = None, {}
        self._end_media()

    def _end_media(self) -> None:
        # After all outputs of a turn: each call must be answered before another role speaks.
        if self.media:
            self.messages.append({"role": "user", "content": self.media})
            self.media = []

    def _forget_reasoning(self) -> None:
        # As at OpenAI, reasoning counts within its turn; several servers refuse that of earlier ones.
        for message in self.reasoned:
            for name in REASONING_FIELDS.values():
                message.pop(name, None)
        self.reasoned.clear()

    def finish(self) -> list[dict[str, Any]]:
        """The messages.

        Raises:
            InvalidField: there are none.
        """
        self._end_answer()
        messages = self.messages
        if not messages:
            raise InvalidField("'input' is empty: there is nothing to answer", param="input")
        n_first = next((n for n, one in enumerate(messages) if one["role"] != "system"), len(messages))
        if n_first > 1:
            # The templates of many models take one message of the system, and only at the beginning.
            text = GAP.join(_decode_text(one["content"]) for one in messages[:n_first])
            return [{"role": "system", "content": text}, *messages[n_first:]]
        return messages


def _convert_content(raw: Raw, role: str, where: str) -> Any:
    """A message's content: a text where it is one, else parts; of a refusal, the fields of its message."""
    if bytes(memoryview(raw)[:1]) == b'"':
        return raw
    parts = _convert_parts(raw, role, where)
    if not parts:
        raise InvalidField(f"'{where}' is empty", param=where)
    if role == "assistant" and any(part["type"] == "refusal" for part in parts):
        text = "".join(_decode_text(part["text"]) for part in parts if part["type"] == "text")
        refusal = "".join(_decode_text(part["refusal"]) for part in parts if part["type"] == "refusal")
        return {"content": text or None, "refusal": refusal}
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    if role == "user":
        return parts
    return ("" if role == "assistant" else GAP).join(_decode_text(part["text"]) for part in parts)


def _convert_parts(raw: Raw, role: str, where: str) -> list[dict[str, Any]]:
    """The parts of a content as a chat writes them.

    Raises:
        InvalidField: one is not of a type that the role may send.
    """
    parts = []
    for n, part in enumerate(read_value(_parts, raw, where)):
        place = f"{where}[{n}]"
        if part.type in ("input_text", "output_text", "text"):
            if bytes(memoryview(part.text)[:1]) != b'"':
                raise InvalidField(f"'{place}.text' must be a string", param=f"{place}.text")
            parts.append({"type": "text", "text": part.text})
        elif part.type == "refusal" and role == "assistant":
            parts.append({"type": "refusal", "refusal": part.refusal})
        elif part.type in ("input_image", "input_file", "input_audio") and role == "user":
            parts.append(_convert_attachment(part, place))
        else:
            kind = part.type[:64]
            raise InvalidField(
                f"a part of the type '{kind}' is not supported in a message of the {role}", param=place
            )
    return parts


def _convert_attachment(part: InputPart, place: str) -> dict[str, Any]:
    if part.type == "input_audio":
        return {"type": "input_audio", "input_audio": part.input_audio}
    if part.type == "input_image":
        if bytes(memoryview(part.image_url)[:1]) != b'"':
            raise InvalidField(
                f"'{place}.image_url' must be a string: pictures are sent as addresses or data, not as files",
                param=f"{place}.image_url",
            )
        detail = {} if part.detail == NULL else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
    if part.file_url != NULL:
        raise InvalidField(f"'{place}.file_url' is not supported: send file_data", param=f"{place}.file_url")
    given = {"file_data": part.file_data, "file_id": part.file_id, "filename": part.filename}
    file = {name: value for name, value in given.items() if value != NULL}
    if not file:
        raise InvalidField(f"'{place}' must have file_data or file_id", param=place)
    return {"type": "file", "file": file}


def _read_texts(raw: Raw, place: str) -> list[str]:
    return [part.text for part in read_value(_summaries, raw, place) or ()]


def _decode_text(value: Any) -> str:
    """A text that may still be JSON."""
    return str(read_value(_string, value, "input")) if isinstance(value, Raw) else str(value)
