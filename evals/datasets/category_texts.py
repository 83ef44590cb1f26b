"""What teaches categories beside an outcome table: a taxonomy in a file, and ungraded prompts."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from routers import GENERAL, CategoryTexts, DataError
from routers.text_files import decode_text

from .flat import json_rows
from .logs import read_prompt
from .records import Record, field_name

MAX_POOL = 5000
"""Prompts kept of a pool: each is read by the encoder, which takes milliseconds."""
_FIELDS = ("name", "description", "examples")


def read_taxonomy(path: Path) -> CategoryTexts:
    """The categories of a YAML or JSON file, taught by their descriptions and examples.

    Raises:
        DataError: names the file, the category and the field at fault.
    """
    try:
        content = yaml.safe_load(decode_text(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    entries = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: categories: a list of {{name, description, examples}} is needed")
    names: list[str] = []
    texts: list[str] = []
    tags: list[str] = []
    for n, entry in enumerate(entries):
        name, said = _read_category(entry, f"{path}: categories[{n}]")
        if name in names:
            raise DataError(f"{path}: categories[{n}].name: {name!r} is there already")
        names.append(name)
        texts += said
        tags += [name] * len(said)
    return CategoryTexts(tuple(name for name in names if name != GENERAL), tuple(texts), tuple(tags))


def _read_category(entry: Any, place: str) -> tuple[str, list[str]]:
    """The name of a category and the texts that belong to it."""
    if not isinstance(entry, dict):
        raise DataError(f"{place}: {{name, description, examples}} is needed, not {entry!r}")
    for key in entry:
        if key not in _FIELDS:
            raise DataError(f"{place}: there is no field {key!r}; it has {', '.join(_FIELDS)}")
    name = _read_text(entry.get("name"), f"{place}.name")
    if not name:
        raise DataError(f"{place}.name: a text is needed")
    description = _read_text(entry.get("description"), f"{place}.description")
    examples = entry.get("examples") or []
    if not isinstance(examples, list):
        raise DataError(f"{place}.examples: a list of texts is needed, not {examples!r}")
    texts = [_read_text(text, f"{place}.examples[{n}]") for n, text in enumerate(examples)]
    said = [text for text in (description, *texts) if text]
    if not said:
        raise DataError(f"{place}: {name} has neither a description nor an example; give one")
    return name, said


def _read_text(value: Any, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: a text is needed, not {value!r}")
    return value.strip()


def read_pool(path: Path) -> list[str]:
    """The prompts of a file, each once: a line each in a text file, a field or messages each in JSON lines.

    Raises:
        DataError: no such file, or a line without a prompt: names it.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; --pool takes a text or JSON-lines file, or the word journal")
    if path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        found = [_read_prompt(row) for row in json_rows(path)]
    else:
        try:
            found = [line.strip() for line in decode_text(path.read_bytes()).split("\n")]
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
    prompts = list(dict.fromkeys(text for text in found if text))
    if not prompts:
        raise DataError(f"{path}: no prompt in it")
    return prompts


def _read_prompt(row: Record) -> str:
    fields: Mapping[str, Any] = {field_name(name): value for name, value in row.fields.items()}
    if isinstance(fields.get("prompt"), str):
        return str(fields["prompt"]).strip()
    return read_prompt(row).strip()


def thin_pool(prompts: Sequence[str]) -> list[str]:
    """At most `MAX_POOL` of the prompts, drawn by a hash: the same ones in every fit."""
    drawn = sorted(prompts, key=lambda text: zlib.crc32(text.encode("utf-8", "replace")))[:MAX_POOL]
    return drawn if len(prompts) > MAX_POOL else list(prompts)


def join_texts(taxonomy: CategoryTexts | None, pool: Iterable[str]) -> CategoryTexts | None:
    """A taxonomy with a pool of prompts behind its own texts; None where there is neither."""
    seeds = taxonomy or CategoryTexts()
    fresh = [text for text in pool if text not in set(seeds.texts)]
    if taxonomy is None and not fresh:
        return None
    return CategoryTexts(seeds.names, (*seeds.texts, *fresh), (*seeds.tags, *([""] * len(fresh))))
