"""YAML as plain data that remembers its lines.

Booleans are `true` and `false` only, so that `region: no` is Norway and `load_budget: off` a word; numbers as
in YAML 1.2, so that `1e-6` is one; dates stay text.
"""

import re
from typing import Any

import yaml

Path = tuple[str | int, ...]


class YamlError(Exception):
    """Not YAML, or a key given twice; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (declared so upstream)


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
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def load_with_lines(text: str) -> tuple[Any, dict[Path, int]]:
    """The data, and the line of every value by its path.

    Raises:
        YamlError: the text is not YAML, holds a tag, or gives a key twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        return (None if node is None else _build(loader, node, (), lines, frozenset())), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, str(error.problem or error.context)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise YamlError(1, str(error).splitlines()[0]) from None
    finally:
        loader.dispose()


def _build(
    loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int], above: frozenset[int]
) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if id(node) in above:
        raise YamlError(node.start_mark.line + 1, "an alias that contains itself")
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, path, lines, above)
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, n), lines, above) for n, item in enumerate(node.value)]
    return loader.construct_object(node)


def _mapping(
    loader: _Loader, node: yaml.MappingNode, path: Path, lines: dict[Path, int], above: frozenset[int]
) -> dict[str, Any]:
    _refuse_duplicates(node)
    loader.flatten_mapping(node)
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
        if key is None:
            raise YamlError(key_node.start_mark.line + 1, "a key must be a plain word")
        lines[(*path, key)] = key_node.start_mark.line + 1
        data[key] = _build(loader, value_node, (*path, key), lines, above)
    return data


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value == "<<" or not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise YamlError(line, f"key '{key.value}' is given twice (first on line {seen[key.value]})")
        seen[key.value] = line
