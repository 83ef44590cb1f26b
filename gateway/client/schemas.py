"""Answers in a given shape: the schema that is asked for, and the value that is read from the answer."""

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from .errors import InvalidAnswer
from .values import Answered, Chat, Json, Routed

T = TypeVar("T")

_FENCE = re.compile(r"\A```\w*\s*\n(.*?)\n?```\Z", re.DOTALL)
_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ParsedAnswer(Answered, Generic[T]):
    """An answer in the shape that was asked for: `value` is checked, `chat` the answer as it came."""

    value: T
    chat: Chat
    routed: Routed


def build_response_format(schema: Any) -> dict[str, Any]:
    """The field `response_format` for a pydantic model class or a JSON schema.

    Raises:
        TypeError: it is neither.
    """
    if hasattr(schema, "model_json_schema") and hasattr(schema, "model_validate_json"):
        name, strict = schema.__name__, True
        body = _close_objects(copy.deepcopy(schema.model_json_schema()))
    elif isinstance(schema, Mapping):
        name, strict, body = str(schema.get("title") or "answer"), False, dict(schema)
    else:
        raise TypeError(f"schema must be a pydantic model class or a JSON schema, not {schema!r}")
    described = {"name": _NAME.sub("_", name)[:64], "schema": body, "strict": strict}
    return {"type": "json_schema", "json_schema": described}


def _close_objects(schema: Any) -> Any:
    """The schema as strict providers want it: every property required, and no other allowed."""
    if isinstance(schema, dict):
        for part in schema.values():
            _close_objects(part)
        if isinstance(schema.get("properties"), dict):
            schema["additionalProperties"] = False
            schema["required"] = list(schema["properties"])
    elif isinstance(schema, list):
        for part in schema:
            _close_objects(part)
    return schema


def read_answer(schema: Any, chat: Chat) -> Any:
    """The value in an answer, checked against the schema.

    Raises:
        InvalidAnswer: the answer is cut off, no JSON, or of another shape.
    """
    # Small models wrap JSON in Markdown even if they are told not to.
    text = chat.text.strip()
    fenced = _FENCE.match(text)
    text = fenced[1] if fenced else text
    cut = "; it was cut off at max_tokens" if chat.finish_reason == "length" else ""
    try:
        if isinstance(schema, Mapping):
            value = json.loads(text)
            _check_schema(value, schema)
            return value
        return schema.model_validate_json(text)
    except ValueError as error:  # pydantic's and json's errors are ValueErrors
        reason = " ".join(str(error).split())[:300]
        raise InvalidAnswer(f"the answer is not of the shape asked for{cut}: {reason}", chat) from error


def _check_schema(value: Any, schema: Json) -> None:
    """Check a value by jsonschema, if that is installed, else its type and keys alone.

    Raises:
        ValueError: it is of another shape.
    """
    if find_spec("jsonschema") is not None:
        jsonschema: Any = import_module("jsonschema")
        try:
            jsonschema.validate(value, schema)
        except jsonschema.ValidationError as error:
            raise ValueError(f"{error.json_path}: {error.message}") from None
        return
    if schema.get("type") == "object" and not isinstance(value, dict):
        raise ValueError(f"an object is needed, not {type(value).__name__}")
    if isinstance(value, dict) and (
        missing := [name for name in schema.get("required", ()) if name not in value]
    ):
        raise ValueError(f"'{missing[0]}' is missing")
