"""The tools of the Responses API as functions of a chat, and the names by which they are found again."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Raw

from ..errors import InvalidField
from .messages import BAD_JSON, Fields, decode_list, encode

NULL = Raw(b"null")
MAX_NAME_CHARS = 64
"""Longest name of a function of a chat."""
GAP = "\n\n"
SEARCH = "tool_search"


class GivenTool(msgspec.Struct):
    """One tool of a request, of any type."""

    type: str = ""
    name: str | None = None
    description: str | None = None
    parameters: Raw = NULL
    strict: Raw = NULL
    format: Raw = NULL
    tools: Raw = NULL
    execution: str = "server"


class GivenChoice(msgspec.Struct):
    """A `tool_choice` that is an object."""

    type: str = ""
    name: str | None = None
    mode: str = "auto"
    tools: list["GivenChoice"] = []


@dataclass(frozen=True, slots=True)
class ToolName:
    """A tool as the client knows it. A `custom` one takes free text; `search` finds further tools."""

    name: str
    namespace: str | None = None
    kind: Literal["function", "custom", "search"] = "function"


_tool = msgspec.json.Decoder(GivenTool)
_choice = msgspec.json.Decoder(GivenChoice)


class ChatTools:
    """The tools of a request as functions of a chat, and the names by which they are found again."""

    def __init__(self, drops_hosted: bool, warnings: list[str]) -> None:
        self.chat: list[dict[str, object]] = []
        self.names: dict[str, ToolName] = {}
        self.drops_hosted = drops_hosted
        self._warnings = warnings
        self._chat_names: dict[tuple[str | None, str], str] = {}

    def add_all(
        self, raw: Raw, where: str, namespace: str | None = None, *, may_repeat: bool = False
    ) -> None:
        """Add a list of tools; those of the conversation may be there already.

        Raises:
            InvalidField: one has no name, or that of another, or only OpenAI runs it.
        """
        if raw == NULL:
            return
        for n, given in enumerate(read_list(raw, where)):
            place = f"{where}[{n}]"
            tool = read_value(_tool, given, place)
            if tool.type in ("function", "custom"):
                self._add(tool, place, namespace, may_repeat)
            elif tool.type == "namespace" and namespace is None and tool.name:
                self.add_all(tool.tools, f"{place}.tools", tool.name, may_repeat=may_repeat)
            elif tool.type == SEARCH and tool.execution == "client":
                tool.name = SEARCH
                self._add(tool, place, None, may_repeat)
            elif tool.type == SEARCH:
                self._warnings.append(
                    f"tool {SEARCH}: left out; the tools that it would load are sent at once"
                )
            else:
                self._refuse(tool, place)

    def _refuse(self, tool: GivenTool, place: str) -> None:
        kind = tool.type[:64] or "without a type"
        if not self.drops_hosted:
            raise InvalidField(
                f"the tool '{kind}' is not supported: only tools of the types function, custom and namespace "
                "can be called by every expert",
                param=place,
            )
        self._warnings.append(f"tool {kind}: left out; only OpenAI runs it")

    def _add(self, tool: GivenTool, place: str, namespace: str | None, may_repeat: bool) -> None:
        if not tool.name:
            raise InvalidField(f"'{place}.name' is missing", param=f"{place}.name")
        is_custom = tool.type == "custom"
        name = _build_name(tool.name, namespace)
        if name in self.names:
            if may_repeat:
                return
            raise InvalidField(f"'{place}.name': another tool is called '{name[:64]}'", param=f"{place}.name")
        kind: Any = {"custom": "custom", SEARCH: "search"}.get(tool.type, "function")
        self._chat_names[namespace, tool.name] = name
        self.names[name] = ToolName(tool.name, namespace, kind)
        function: dict[str, object] = {"name": name}
        if is_custom:
            function |= _describe_custom(tool)
        else:
            given = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
            function |= {key: value for key, value in given.items() if value is not None and value != NULL}
        self.chat.append({"type": "function", "function": function})

    def find_name(self, name: str, namespace: str | None) -> str:
        """The name in the chat, also of a tool that is offered no more."""
        return self._chat_names.get((namespace, name)) or _build_name(name, namespace)

    def choose(self, choice: Raw, chat: Fields) -> list[dict[str, object]]:
        """Set `tool_choice` of a chat; returns the tools that the choice allows.

        Raises:
            InvalidField: it names what is no tool of the request.
        """
        if bytes(memoryview(choice)[:1]) != b"{":
            if choice != NULL:
                chat["tool_choice"] = choice
            return self.chat
        given = read_value(_choice, choice, "tool_choice")
        if given.type == "allowed_tools":
            # Chats of other providers than OpenAI know no such choice: what is not allowed is not sent.
            allowed = {self._find_chosen(tool) for tool in given.tools}
            chat["tool_choice"] = Raw(encode(given.mode))
            return [tool for tool in self.chat if tool["function"]["name"] in allowed]  # type: ignore[index]
        named = {"type": "function", "function": {"name": self._find_chosen(given)}}
        chat["tool_choice"] = Raw(encode(named))
        return self.chat

    def _find_chosen(self, choice: GivenChoice) -> str:
        found = next((made for made, tool in self.names.items() if tool.name == choice.name), None)
        if choice.type not in ("function", "custom") or found is None:
            wish = choice.name or choice.type
            raise InvalidField(
                f"'tool_choice' names '{wish[:64]}', which is no tool here", param="tool_choice"
            )
        return found


def _build_name(name: str, namespace: str | None) -> str:
    return name if namespace is None else f"{namespace}__{name}"[-MAX_NAME_CHARS:]


def _describe_custom(tool: GivenTool) -> dict[str, object]:
    """A tool that takes free text as a function of one text: chats know no other kind."""
    said = [tool.description or ""]
    form = (
        read_value(msgspec.json.Decoder(dict[str, Any]), tool.format, "tools.format")
        if tool.format != NULL
        else {}
    )
    if form.get("type") == "grammar":
        said.append(
            f"The input must match this {form.get('syntax', '')} grammar:\n{form.get('definition', '')}"
        )
    text = {"type": "string", "description": "The whole input of the tool, as it is."}
    parameters = {"type": "object", "properties": {"input": text}, "required": ["input"]}
    return {
        "description": GAP.join(filter(None, said)),
        "parameters": {**parameters, "additionalProperties": False},
    }


def read_list(raw: Raw, where: str) -> list[Raw]:
    try:
        return decode_list(raw)
    except BAD_JSON:
        raise InvalidField(f"'{where}' must be a list", param=where) from None


_PLACE = re.compile(r" - at `\$(.*)`\Z")


def read_value(decoder: Any, raw: Raw | bytes, where: str) -> Any:
    """What a decoder reads of a value.

    Raises:
        InvalidField: it is of another form; `param` says where.
    """
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        what = str(error)
        found = _PLACE.search(what)
        place = (where + (found[1] if found else "")).lstrip(".")
        what = _PLACE.sub("", what).replace("`", "'")
        raise InvalidField(f"'{place}': {what[:1].lower()}{what[1:]}", param=place) from None
