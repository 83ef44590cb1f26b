"""Describes every key of `thalamus.yaml` from the schema: for editors, the reference page and tests."""

import ast
import inspect
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin

import msgspec

from .schema import Config
from .secrets import Secret

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Secret: "secret",
    Any: "any value",
}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One key: `path` with `[]` for a place in a list and `<name>` for a name of your choice, such as
    `experts[].runner.memory`; `default` is None for a key that must be given.
    """

    path: str
    type: str
    default: str | None
    description: str
    is_section: bool


def config_schema() -> dict[str, Any]:
    """The JSON schema of the file; a secret is a string."""
    schema = msgspec.json.schema(Config, schema_hook=_secret_schema)
    # msgspec knows the docstring of a struct, not the text under its fields.
    for kind in list_structs(Config):
        for key, text in describe_fields(kind).items():
            schema["$defs"][kind.__name__]["properties"][key]["description"] = text
    _allow_single(schema)
    return {"$schema": DIALECT, "title": "thalamus.yaml", **schema}


def _allow_single(node: Any) -> None:
    """Say of lists that may be a single text that they may: msgspec itself knows lists only."""
    if isinstance(node, dict):
        if node.pop("x-or-one", False):
            node["type"] = ["string", "array"]
        for inner in node.values():
            _allow_single(inner)


def _secret_schema(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return {"type": "string"}
    raise NotImplementedError


def list_keys() -> list[ConfigKey]:
    """Every key of the file, in the order of the schema, a section before its keys."""
    return list(_walk(Config, ""))


def _walk(kind: type[msgspec.Struct], prefix: str) -> Iterator[ConfigKey]:
    descriptions = describe_fields(kind)
    for field in msgspec.structs.fields(kind):
        path = f"{prefix}{field.encode_name}"
        inner = find_struct(field.type)
        description = descriptions.get(field.name, "")
        yield ConfigKey(path, _type_text(field.type), _default_text(field), description, inner is not None)
        if inner is not None:
            yield from _walk(inner, path + _inner_suffix(field.type) + ".")


def describe_fields(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The text under each field of a struct, inherited fields included.

    Python keeps no docstring of a class attribute, so the source is read; it is part of the wheel.
    """
    found: dict[str, str] = {}
    # From the base down, so that a subclass can describe an inherited field anew.
    for base in reversed(kind.__mro__):
        if not issubclass(base, msgspec.Struct) or not base.__annotations__:
            continue
        body = ast.parse(inspect.getsource(base)).body[0]
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, text in pairwise(statements):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str() as words)
                ):
                    found[name] = " ".join(words.split())
    return found


def list_structs(kind: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    yield kind
    for field in msgspec.structs.fields(kind):
        if inner := find_struct(field.type):
            yield from list_structs(inner)


def find_struct(kind: Any) -> type[msgspec.Struct] | None:
    """The struct in a type, also inside a list, a mapping or a union."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for arg in get_args(kind) if (found := find_struct(arg))), None)


def _inner_suffix(kind: Any) -> str:
    return {tuple: "[]", dict: ".<name>"}.get(get_origin(kind) or kind, "")


def _type_text(kind: Any) -> str:
    """A type in the words of a YAML file: `list of text`, `whole number ≥ 1`, `lru | lfu`."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if origin is Annotated:
        meta = args[1]
        bounds = [
            f"{sign} {getattr(meta, name):g}"
            for name, sign in _BOUNDS.items()
            if getattr(meta, name) is not None
        ]
        return meta.description or " ".join([_type_text(args[0]), ", ".join(bounds)]).strip()
    if origin is typing.Literal:
        return " | ".join(f"`{word}`" for word in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_text(arg) for arg in args if arg is not type(None))
    if origin in (tuple, frozenset):
        return f"list of {_plural(_type_text(args[0]))}"
    return f"{_plural(_type_text(args[1]))} by name" if origin is dict else "section"


def _plural(text: str) -> str:
    return text + "s" if text in ("section", "secret", "text", "number") else text


def _default_text(field: msgspec.structs.FieldInfo) -> str | None:
    """The default as YAML writes it, empty where there is none; None where the key is required."""
    if field.required:
        return None
    default = field.default
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, (int, float)):
        return f"{default:g}" if isinstance(default, float) else str(default)
    return default if isinstance(default, str) else ""
