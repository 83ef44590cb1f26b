"""Structured output: whether an answer is the JSON that its request asks for, and what is only wrapped.

Providers differ in what they promise for `response_format`, and local servers often promise nothing. Checked
are whole answers of chats; a stream has been sent before it could be read.
"""

import re
from typing import Any

import msgspec

from ..experts.types import Reply, UpstreamError
from ..openai.messages import BAD_JSON, Fields, has_many_parts

MAX_CHECKED_BYTES = 256 * 1024
"""Of an answer or a schema; larger ones are passed on unread."""
MAX_SAID_CHARS = 200
FORMAT_NOT_MET = "did not answer as `response_format` asks"
_FENCE = re.compile(r"```(?:json[c5]?|JSON)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
# A schema's patterns are the client's: Python's `re` can take for ever on one.
UNCHECKED = (b'"pattern"', b'"patternProperties"', b'"format"')


class WishedFormat(msgspec.Struct, frozen=True):
    """The form that a request asks for; `schema` None asks for any JSON object."""

    schema: dict[str, Any] | None


class FormatError(UpstreamError):
    """The expert answered in another form than was asked for; `reply` is its answer."""

    def __init__(self, expert: str, reply: Reply, problem: str) -> None:
        super().__init__("unsupported", f"{FORMAT_NOT_MET}: {problem}", cause=FORMAT_NOT_MET)
        self.expert = expert
        self.reply = reply


def read_wished_format(fields: Fields) -> WishedFormat | None:
    """The form that a chat request asks for; None where any text will do."""
    raw = fields.get("response_format")
    if raw is None or len(memoryview(raw)) > MAX_CHECKED_BYTES or has_many_parts(bytes(raw)):
        return None
    try:
        wish = msgspec.json.decode(raw)
        kind = wish.get("type")
        if kind == "json_object":
            return WishedFormat(None)
        if kind != "json_schema":
            return None
        schema = wish["json_schema"].get("schema")
    except (*BAD_JSON, AttributeError, KeyError, TypeError):
        return None  # the expert refuses it
    is_checked = isinstance(schema, dict) and not any(word in bytes(raw) for word in UNCHECKED)
    return WishedFormat(schema if is_checked else None)


def check_format(body: bytes, wish: WishedFormat) -> tuple[bytes, str | None]:
    """The answer, where each choice has only the JSON that was asked for; and what is wrong with it.

    Takes milliseconds, the first time a tenth of a second: not for the event loop.
    """
    if len(body) > MAX_CHECKED_BYTES or has_many_parts(body):
        return body, None
    try:
        answer = msgspec.json.decode(body)
        messages = [choice["message"] for choice in answer["choices"]]
    except (*BAD_JSON, KeyError, TypeError):
        return body, None
    is_changed = False
    for message in messages:
        text = message.get("content") if isinstance(message, dict) else None
        # A refusal and a call of a tool are answers in forms of their own.
        if not isinstance(text, str) or message.get("tool_calls") or message.get("refusal"):
            continue
        found, value = unwrap_json(text)
        if found is None:
            return body, "its text is not JSON"
        problem = find_problem(value, wish.schema)
        if problem is not None:
            return body, problem
        if found is not text:
            message["content"], is_changed = found, True
    return (msgspec.json.encode(answer) if is_changed else body), None


def unwrap_json(text: str) -> tuple[str | None, Any]:
    """The JSON in a text, and its value: all of it, a fenced block, or from the first bracket to the last.

    The first is None where the text holds no JSON.
    """
    candidates = [text, *(found[1] for found in _FENCE.finditer(text))]
    for first, last in (("{", "}"), ("[", "]")):
        start, end = text.find(first), text.rfind(last)
        if 0 <= start < end:
            candidates.append(text[start : end + 1])
    for candidate in candidates:
        try:
            return candidate, msgspec.json.decode(candidate)
        except BAD_JSON:
            continue
    return None, None


def find_problem(value: Any, schema: dict[str, Any] | None) -> str | None:
    """What is wrong with a value; None where it meets the schema, or the schema cannot be judged by."""
    if schema is None:
        return None if isinstance(value, dict) else "it is no JSON object"
    # Imported here: it takes a tenth of a second.
    from jsonschema.exceptions import SchemaError, best_match
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
        # An empty registry: a schema must not make the gateway fetch an address.
        error = best_match(kind(schema, registry=Registry()).iter_errors(value))
    except (SchemaError, Unresolvable, RecursionError, ValueError, TypeError):
        return None
    if error is None:
        return None
    place = error.json_path.removeprefix("$").lstrip(".")[:MAX_SAID_CHARS]
    # The rule and its place alone: the message of the library quotes the answer.
    return f"{f'`{place}`' if place else 'it'} does not meet `{error.validator}` of the schema"
