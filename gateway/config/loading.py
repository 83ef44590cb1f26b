"""Reads `thalamus.yaml` into a `Config`; every error names the file, the line and the key."""

import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import yaml

from routers.text_files import decode_text

from .expert_schema import ExpertConfig
from .schema import Config, JournalConfig, ServerConfig
from .secrets import (
    MAX_VALUES,
    OneOrMoreSecrets,
    Secret,
    UnresolvedReferenceError,
    check_references,
    expand_references,
    list_variables,
)
from .validation import find_key_violations, find_missing_heads, find_violations, find_warnings
from .values import KeyPath
from .yaml_faults import explain_fault

VERBATIM_KEYS = frozenset({"system", "examples", "params", "override_params"})
"""Keys whose text goes to the expert as it is: `${HOME}` in a system message is no reference."""

# Files of earlier versions may contain it: say what to do with it.
REMOVED_KEYS = frozenset({(JournalConfig, "embeddings")})
COMMAND_KEYS = frozenset({"args", "env"})
"""Keys of a runner whose text the engine may read further, such as a template in `{{ }}`."""
RUNNER_VARIABLES = ("PORT", "API_KEY")
"""What references of a runner are filled in only when it starts: it has its port and its key then."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error in the file: its line, the key (`experts[2]`) and the message."""

    line: int
    field: str
    message: str

    def format(self, source: str) -> str:
        """As one line: `thalamus.yaml:14: experts[2]: unknown key 'api_bse'`."""
        return f"{source}:{self.line}: {self.field + ': ' if self.field else ''}{self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `str()` has one line for each problem.

    Attributes:
        problems: all of them, in the order of their lines.
    """

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(problem.format(source) for problem in self.problems))

    @property
    def line(self) -> int:
        return self.problems[0].line

    @property
    def field(self) -> str:
        return self.problems[0].field


def load_config(path: str | Path, env: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in a file. Relative paths in it are relative to the working directory.

    Raises:
        ConfigError: the file is missing, is not YAML, or has a key or value that is not allowed.
    """
    return parse_config(read_config_text(path), source=str(path), env=env)


def read_config_text(path: str | Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: the file is missing or cannot be read.
    """
    source = str(path)
    try:
        return decode_text(Path(path).read_bytes())
    except FileNotFoundError:
        raise ConfigError(source, [Problem(1, "", "no such file; `thalamus init` writes one")]) from None
    except (OSError, ValueError) as error:
        raise ConfigError(source, [Problem(1, "", f"cannot be read: {_error_reason(error)}")]) from None


def parse_config(text: str, source: str = "thalamus.yaml", env: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in a text; `source` is its name in errors.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        data, lines = load_with_lines(text)
    except YamlError as error:
        raise ConfigError(source, [Problem(error.line, "", error.message)]) from None
    reader = _ConfigReader(lines, os.environ if env is None else env)
    plain = reader.read({} if data is None else data, Config, ())
    if reader.problems:
        # The keys of clients are many hands' work: all their faults are told at once.
        faults = find_key_violations(_read_keys(plain))
        reader.problems += [
            Problem(_find_line(lines, at), _format_path(at), message) for at, message in faults
        ]
        raise ConfigError(source, reader.problems)
    config = fill_derived_values(msgspec.convert(plain, Config, dec_hook=_accept_instance))
    if found := list(find_violations(config)):
        raise ConfigError(
            source, [Problem(_find_line(lines, at), _format_path(at), message) for at, message in found]
        )
    return config


def check_heads(text: str, config: Config, source: str) -> None:
    """Check that the artifact of a configuration with this text has the heads that its policies name.

    Raises:
        ConfigError: it lacks some.
    """
    if found := list(find_missing_heads(config)):
        _, lines = load_with_lines(text)
        raise ConfigError(
            source, [Problem(_find_line(lines, at), _format_path(at), message) for at, message, _ in found]
        )


def _read_keys(plain: Any) -> ServerConfig:
    """The keys of clients that could be read, of a configuration with errors."""
    server = plain.get("server") if isinstance(plain, dict) else None
    server = server if isinstance(server, dict) else {}
    master, keys = server.get("master_key"), server.get("keys")
    return ServerConfig(
        master_key=master if isinstance(master, Secret) else None,
        keys={
            name: tuple(value for value in values if isinstance(value, Secret))
            for name, values in (keys if isinstance(keys, dict) else {}).items()
            if isinstance(values, list)
        },
    )


def config_warnings(config: Config) -> list[str]:
    """Return warnings, one line each, such as a key that is written out in the file."""
    return list(find_warnings(config))


def fill_derived_values(config: Config) -> Config:
    """Return the configuration with the `model` of runners and tools filled in, and an expert for each
    adapter after that of its base model.
    """
    written = [_fill_model(expert) for expert in config.experts]
    experts = [one for expert in written for one in (expert, *expert.derive_adapters())]
    return msgspec.structs.replace(config, experts=tuple(experts))


def _fill_model(expert: ExpertConfig) -> ExpertConfig:
    if expert.model:
        return expert
    if expert.runner:
        return msgspec.structs.replace(expert, model=expert.runner.model)
    return msgspec.structs.replace(expert, model=f"tool/{expert.tool}") if expert.tool else expert


class _ConfigReader:
    """Walks through the data along the types, collects problems and replaces references."""

    def __init__(self, lines: Mapping[KeyPath, int], env: Mapping[str, str]) -> None:
        self.lines = lines
        self.env = env
        self.problems: list[Problem] = []

    def read(self, value: Any, kind: Any, path: KeyPath) -> Any:
        kind = _choose_union_member(kind, value)
        if kind == OneOrMoreSecrets:
            return self._read_secrets(value if isinstance(value, list) else [value], path)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self._read_struct(value, kind, path)
        origin, args = get_origin(kind), get_args(kind)
        if origin is tuple and isinstance(value, list):
            return [self.read(item, args[0], (*path, n)) for n, item in enumerate(value)]
        if origin is dict and isinstance(value, dict):
            for key in value:
                self._check_name(key, args[0], (*path, key))
            return {key: self.read(item, args[1], (*path, key)) for key, item in value.items()}
        return self._read_leaf(value, kind, path)

    def _read_secrets(self, values: list[Any], path: KeyPath) -> Any:
        if not 1 <= len(values) <= MAX_VALUES:
            return self._add_problem(path, f"has {len(values)} keys; write one, or up to {MAX_VALUES}")
        return [self.read(value, Secret, path) for value in values]

    def _read_struct(self, value: Any, kind: type[msgspec.Struct], path: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self._add_problem(path, f"expected a mapping of keys, got {_type_name(value)}")
        fields = _struct_fields(kind)
        for key in value.keys() - fields.keys():
            if (kind, key) in REMOVED_KEYS:
                self._add_problem(
                    path, f"'{key}' was removed: it had no effect; delete this line", at=(*path, key)
                )
                continue
            near = get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(fields)}"
            # `server:` with nothing in it, and what belongs there at the beginning of the next line.
            if owner := next(
                (n for n in _list_empty(value, fields) if key in _struct_fields(fields[n][0])), None
            ):
                hint = f"it is a key of '{owner}': indent it, as all below `{owner}:`"
            self._add_problem(path, f"unknown key '{key}'; {hint}", at=(*path, key))
        for name, (_, required) in fields.items():
            if required and name not in value:
                self._add_problem(path, f"'{name}' is missing")
        return {
            key: self.read(item, fields[key][0], (*path, key))
            for key, item in value.items()
            if key in fields and not (item is None and _is_container(fields[key][0]))
        }

    def _check_name(self, name: str, kind: Any, path: KeyPath) -> None:
        try:
            msgspec.convert(name, kind)
        except msgspec.ValidationError:
            self._add_problem(path, f"'{name}' cannot be a name; {_describe_names(kind)}")

    def _read_leaf(self, value: Any, kind: Any, path: KeyPath) -> Any:
        if value is None and Secret in (kind, *get_args(kind)):
            return self._add_problem(path, "is empty; write os.environ/NAME, or delete the key")
        if isinstance(value, str) and not VERBATIM_KEYS.intersection(path):
            try:
                value = self._resolve_references(value, kind, path)
            except UnresolvedReferenceError as error:
                return self._add_problem(path, str(error))
        try:
            msgspec.convert(value, kind, dec_hook=_accept_instance)
        except msgspec.ValidationError as error:
            return self._add_problem(path, _explain(error, value, kind))
        return value

    def _resolve_references(self, value: str, kind: Any, path: KeyPath) -> Any:
        kept = RUNNER_VARIABLES if "runner" in path else ()
        # What a command may hold depends on its program, which is known when all of it was read.
        if "cmd" not in path:
            in_command = "runner" in path and not COMMAND_KEYS.isdisjoint(path)
            check_references(value, is_secret=kind is Secret and not in_command, in_command=in_command)
        expanded, by_reference = expand_references(value, self.env, kept)
        if kind is not Secret:
            return expanded
        return Secret(expanded, literal=not by_reference, variables=list_variables(value))

    def _add_problem(self, path: KeyPath, message: str, at: KeyPath | None = None) -> None:
        self.problems.append(Problem(_find_line(self.lines, at or path), _format_path(path), message))


def _choose_union_member(kind: Any, value: Any) -> Any:
    """Return the member of a union that fits the value, or the type itself if it is no union."""
    if get_origin(kind) in (types.UnionType, typing.Union):
        members = [member for member in get_args(kind) if member is not type(None)]
        if value is None and type(None) in get_args(kind):
            return kind if Secret in members else type(None)
        structs = [m for m in members if isinstance(m, type) and issubclass(m, msgspec.Struct)]
        others = [m for m in members if m not in structs]
        if structs and (isinstance(value, dict) or not others):
            return structs[0]
        if isinstance(value, list):
            return next((member for member in others if get_origin(member) is tuple), kind)
        return members[0] if len(members) == 1 else kind
    return kind


def _list_empty(value: Mapping[str, Any], fields: Mapping[str, tuple[Any, bool]]) -> list[str]:
    """The keys that hold other keys and have none."""
    return [
        name
        for name, (kind, _) in fields.items()
        if name in value
        and value[name] is None
        and isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
    ]


def _is_container(kind: Any) -> bool:
    """Whether an empty key counts as absent, such as `experts:` with every line below it commented out."""
    return get_origin(kind) in (tuple, dict) or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))


@cache
def _struct_fields(kind: type[msgspec.Struct]) -> dict[str, tuple[Any, bool]]:
    return {f.encode_name: (f.type, f.required) for f in msgspec.structs.fields(kind)}


def _describe_names(kind: Any) -> str:
    """What a kind of name may be made of."""
    described = (meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description)
    return f"allowed: {next(described, 'text')}"


def _accept_instance(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise ValueError(f"expected text, got {_type_name(value)}")


def _literal_words(kind: Any) -> list[str]:
    """Return the words that a literal type allows, also inside a union."""
    if get_origin(kind) is typing.Literal:
        return [str(word) for word in get_args(kind)]
    return [word for member in get_args(kind) for word in _literal_words(member)] if get_args(kind) else []


_TYPE_NAMES = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}


def _type_name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "a number")


_MSGSPEC_WORDS = (
    ("'str | object'", "text or a mapping"),
    ("'object'", "a mapping"),
    ("'array'", "a list"),
    ("'str'", "text"),
    ("'null'", "nothing"),
    ("'int | float'", "a number"),
    ("'float'", "a number"),
    ("'int'", "a whole number"),
)


def _explain(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
    """Return msgspec's message in the words of a YAML file, without the value: it may be a secret."""
    if isinstance(value, str) and (words := _literal_words(kind)):
        near = get_close_matches(value, words, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(words)}"
        return f"'{value}' is not allowed here; {hint}"
    # The path that msgspec appends is relative to the value; ours names the place in the file.
    text = str(error).split(" - at `")[0].replace("`", "'")
    for word, ours in _MSGSPEC_WORDS:
        text = text.replace(word, ours)
    text = text[0].lower() + text[1:]
    if "'bool'" in text and isinstance(value, str):
        text += "; write true or false"
    return text


def _find_line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _format_path(path: KeyPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _error_reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class YamlError(Exception):
    """The text is not YAML, or a key appears twice; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _YamlLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (declared so upstream)


# YAML 1.1, which PyYAML follows, reads `no` as false (the "Norway problem") and `1e-6` as text. These are the
# resolvers of YAML 1.2's core schema, https://yaml.org/spec/1.2.2/#103-core-schema, without dates.
_TAG = "tag:yaml.org,2002:"
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _YamlLoader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def load_with_lines(text: str) -> tuple[Any, dict[KeyPath, int]]:
    """Return the data, and the line of every value by its path.

    Raises:
        YamlError: the text is not YAML, holds a tag, or gives a key twice.
    """
    loader = _YamlLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        return (None if node is None else _build_node(loader, node, (), lines, frozenset())), lines
    except yaml.MarkedYAMLError as error:
        raise YamlError(*explain_fault(error, text)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(1, str(error).splitlines()[0]) from None
    finally:
        loader.dispose()


def _build_node(
    loader: _YamlLoader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], above: frozenset[int]
) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    # An anchor may refer to its own parent (`&a [*a]`): without this check the walk would never end.
    if id(node) in above:
        raise YamlError(node.start_mark.line + 1, "an alias contains itself; write the value out")
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(loader, node, path, lines, above)
    if isinstance(node, yaml.SequenceNode):
        return [_build_node(loader, item, (*path, n), lines, above) for n, item in enumerate(node.value)]
    return loader.construct_object(node)


def _build_mapping(
    loader: _YamlLoader,
    node: yaml.MappingNode,
    path: KeyPath,
    lines: dict[KeyPath, int],
    above: frozenset[int],
) -> dict[str, Any]:
    # Before merging: `<<` may repeat a key on purpose, the file itself may not.
    _refuse_duplicates(node)
    loader.flatten_mapping(node)
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
        if key is None:
            raise YamlError(
                key_node.start_mark.line + 1, "a key must be a single word; put the rest into its value"
            )
        lines[(*path, key)] = key_node.start_mark.line + 1
        data[key] = _build_node(loader, value_node, (*path, key), lines, above)
    return data


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value == "<<" or not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise YamlError(
                line, f"key '{key.value}' appears twice (first on line {seen[key.value]}); delete one of them"
            )
        seen[key.value] = line
