"""From `thalamus.yaml` to a `Config`: strict, and every complaint names the file, the line and the key."""

import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from .expert_structs import ExpertConfig
from .rules import violations, warnings_of
from .secrets import MissingVariableError, Secret, expand
from .structs import Config
from .yaml_lines import Path as KeyPath
from .yaml_lines import YamlError, load_with_lines

PROSE = frozenset({"system", "examples", "params", "override_params"})
"""Keys whose text is the expert's, not ours: no references are looked for in it."""

FILLED_LATER = {name: "${" + name + "}" for name in ("PORT", "API_KEY")}
"""What a command is told when it is started."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint: where (`experts[2]`, line) and what."""

    line: int
    field: str
    message: str

    def told(self, source: str) -> str:
        """As one line: `thalamus.yaml:14: experts[2]: unknown key 'api_bse'`."""
        return f"{source}:{self.line}: {self.field + ': ' if self.field else ''}{self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `str()` is one line a problem.

    Attributes:
        problems: all of them, in the order of their lines.
    """

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(problem.told(source) for problem in self.problems))

    @property
    def line(self) -> int:
        return self.problems[0].line

    @property
    def field(self) -> str:
        return self.problems[0].field


def load_config(path: str | Path, env: Mapping[str, str] | None = None) -> Config:
    """The configuration in a file; relative paths in it stay relative to the working directory.

    Raises:
        ConfigError: the file is missing, not YAML, or says something that cannot be.
    """
    source = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(source, [Problem(1, "", "no such file; `thalamus init` writes one")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(source, [Problem(1, "", f"cannot be read: {_short(error)}")]) from None
    return parse_config(text, source=source, env=env)


def parse_config(text: str, source: str = "thalamus.yaml", env: Mapping[str, str] | None = None) -> Config:
    """The same, from text.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        data, lines = load_with_lines(text)
    except YamlError as error:
        raise ConfigError(source, [Problem(error.line, "", error.message)]) from None
    reading = _Reading(lines, os.environ if env is None else env)
    plain = reading.read({} if data is None else data, Config, ())
    if reading.problems:
        raise ConfigError(source, reading.problems)
    config = complete(msgspec.convert(plain, Config, dec_hook=_as_it_is))
    if found := list(violations(config)):
        raise ConfigError(source, [Problem(_line(lines, at), _spell(at), message) for at, message in found])
    return config


def config_warnings(config: Config) -> list[str]:
    """What is allowed but unwise, one line each: secrets written out, experts without a price …"""
    return list(warnings_of(config))


def complete(config: Config) -> Config:
    """The configuration with what follows from it filled in: the `model` of runners and tools."""
    return msgspec.structs.replace(config, experts=tuple(_complete_expert(e) for e in config.experts))


def _complete_expert(expert: ExpertConfig) -> ExpertConfig:
    if expert.model:
        return expert
    if expert.runner:
        return msgspec.structs.replace(expert, model=expert.runner.model)
    return msgspec.structs.replace(expert, model=f"tool/{expert.tool}") if expert.tool else expert


class _Reading:
    """One walk through the data along the types: collects problems, replaces references."""

    def __init__(self, lines: Mapping[KeyPath, int], env: Mapping[str, str]) -> None:
        self.lines = lines
        self.env = env
        self.problems: list[Problem] = []

    def read(self, value: Any, kind: Any, path: KeyPath) -> Any:
        kind = _choose(kind, value)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._struct(value, kind, path)
        origin, args = get_origin(kind), get_args(kind)
        if origin is tuple and isinstance(value, list):
            return [self.read(item, args[0], (*path, n)) for n, item in enumerate(value)]
        if origin is dict and isinstance(value, dict):
            return {key: self.read(item, args[1], (*path, key)) for key, item in value.items()}
        return self._leaf(value, kind, path)

    def _struct(self, value: Any, kind: type[msgspec.Struct], path: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self._complain(path, f"expected a mapping of keys, got {_kind_of(value)}")
        fields = _fields(kind)
        for key in value.keys() - fields.keys():
            near = get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(fields)}"
            self._complain(path, f"unknown key '{key}'; {hint}", at=(*path, key))
        for name, (_, required) in fields.items():
            if required and name not in value:
                self._complain(path, f"'{name}' is missing")
        return {
            key: self.read(item, fields[key][0], (*path, key))
            for key, item in value.items()
            if key in fields and not (item is None and _holds_more(fields[key][0]))
        }

    def _leaf(self, value: Any, kind: Any, path: KeyPath) -> Any:
        if value is None and Secret in (kind, *get_args(kind)):
            return self._complain(path, "is empty; name a variable, or leave the key out")
        if isinstance(value, str) and not PROSE.intersection(path):
            try:
                value = self._resolve(value, kind, path)
            except MissingVariableError as error:
                return self._complain(path, f"environment variable {error.args[0]} is not set")
        try:
            msgspec.convert(value, kind, dec_hook=_as_it_is)
        except msgspec.ValidationError as error:
            return self._complain(path, _said(error, value, kind))
        return value

    def _resolve(self, value: str, kind: Any, path: KeyPath) -> Any:
        env = {**self.env, **FILLED_LATER} if "runner" in path else self.env
        expanded, by_reference = expand(value, env)
        return Secret(expanded, literal=not by_reference) if kind is Secret else expanded

    def _complain(self, path: KeyPath, message: str, at: KeyPath | None = None) -> None:
        self.problems.append(Problem(_line(self.lines, at or path), _spell(path), message))


def _choose(kind: Any, value: Any) -> Any:
    """The member of a union that this value can only mean; the type itself where it is no union."""
    if get_origin(kind) in (types.UnionType, typing.Union):
        members = [member for member in get_args(kind) if member is not type(None)]
        if value is None and type(None) in get_args(kind):
            return kind if Secret in members else type(None)
        structs = [m for m in members if isinstance(m, type) and issubclass(m, msgspec.Struct)]
        others = [m for m in members if m not in structs]
        if structs and (isinstance(value, dict) or not others):
            return structs[0]
        return members[0] if len(members) == 1 else kind
    return kind


def _holds_more(kind: Any) -> bool:
    """Whether a key with nothing under it is as good as none: `experts:`, and every line below a comment."""
    return get_origin(kind) in (tuple, dict) or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, tuple[Any, bool]]:
    return {f.encode_name: (f.type, f.required) for f in msgspec.structs.fields(kind)}


def _as_it_is(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise ValueError(f"expected text, got {_kind_of(value)}")


def _words(kind: Any) -> list[str]:
    """The words a literal type allows, also inside a union."""
    if get_origin(kind) is typing.Literal:
        return [str(word) for word in get_args(kind)]
    return [word for member in get_args(kind) for word in _words(member)] if get_args(kind) else []


_KINDS = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}


def _kind_of(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


_OURS = (
    ("'object'", "a mapping"),
    ("'array'", "a list"),
    ("'str'", "text"),
    ("'null'", "nothing"),
    ("'int | float'", "a number"),
    ("'float'", "a number"),
    ("'int'", "a whole number"),
)


def _said(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
    """msgspec's complaint in the words of a YAML file; never the value itself where it may be a secret."""
    if isinstance(value, str) and (words := _words(kind)):
        near = get_close_matches(value, words, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(words)}"
        return f"'{value}' is not known here; {hint}"
    text = str(error).split(" - at `")[0].replace("`", "'")
    for word, ours in _OURS:
        text = text.replace(word, ours)
    text = text[0].lower() + text[1:]
    if "'bool'" in text and isinstance(value, str):
        text += "; write true or false"
    return text


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _spell(path: KeyPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
