"""What all imports share: notes of what changed, names that are allowed, and the finished file."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..loading import ConfigError, YamlError, load_with_lines, parse_config
from ..schema import BASE_EMBEDDER
from ..values import NAME_PATTERN, KeyPath

HEADER = "# Made from {source} by `thalamus config {command}`.\n"
TRANSCRIPTIONS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
NAME = re.compile(NAME_PATTERN)
ALIAS = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
MAX_NAME_CHARS = 100
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
PLACEHOLDER = "https://a1b2c3d4e5f6g7h8.example"
"""Stands for every variable when a new file is checked: long enough for a key, and an address."""


class ImportFailedError(Exception):
    """The file is no configuration of the tool; `str()` begins with `:line: `."""


@dataclass(slots=True)
class ImportNotes:
    """What an import did not carry over, and what it carried over in another form; one line each."""

    lost: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def forget_changes(self, name: str, aliases: Iterable[str]) -> None:
        """Leave out what changed of an expert that is not carried over; `aliases` are its names before."""
        starts = tuple(f"{one}: " for one in (name, *aliases))
        # In place, because those who write notes hold the list.
        self.changed[:] = [
            line for line in self.changed if not (line.startswith(starts) or f"' is now '{name}'" in line)
        ]


@dataclass(frozen=True, slots=True)
class ImportedConfig:
    """Our configuration as YAML text, the number of its experts and aliases, and the notes."""

    text: str
    n_experts: int
    n_aliases: int
    notes: ImportNotes


class AnyVariable(Mapping[str, str]):
    """An environment in which every variable is set."""

    def __getitem__(self, name: str) -> str:
        return PLACEHOLDER

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_mapping(text: str, needs: str, tool: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """The mapping in a YAML text and the line of every value.

    Raises:
        ImportFailedError: the text is not YAML, or has no key `needs`.
    """
    try:
        data, lines = load_with_lines(text)
    except YamlError as error:
        raise ImportFailedError(f":{error.line}: {error.message}") from None
    if not isinstance(data, dict) or needs not in data:
        raise ImportFailedError(f":1: no '{needs}': this is not a {tool} configuration")
    return data, lines


class ExpertNames:
    """Gives experts names that are allowed here and keeps the old ones as aliases."""

    def __init__(self, notes: ImportNotes, wanted: Iterable[str]) -> None:
        """`wanted` are all names of the file: one that is allowed stays with the entry that has it."""
        self.aliases: dict[str, str] = {}
        self._notes = notes
        self._reserved = {name for name in wanted if make_name(name) == name}
        self._taken: set[str] = set()

    def claim(self, wanted: str) -> str:
        """The name for the entry that is called `wanted`, unique in the new file."""
        name = wanted
        if make_name(wanted) != wanted or wanted in self._taken:
            name = self.make_unique(make_name(wanted))
            self._note_rename(wanted, name)
        self._taken.add(name)
        return name

    def make_unique(self, name: str) -> str:
        """The name, with a number where it is taken; it is taken from now on."""
        taken = self._taken | self._reserved
        unique = next(n for n in (name, *(f"{name}-{k}" for k in range(2, 10_000))) if n not in taken)
        self._taken.add(unique)
        return unique

    def _note_rename(self, wanted: str, name: str) -> None:
        if is_reserved(wanted):
            meaning = "an embedder" if wanted == BASE_EMBEDDER else "the router's choice"
            self._notes.changed.append(
                f"'{wanted}' is now '{name}', and clients must ask for that: '{wanted}' means {meaning} here"
            )
        elif not ALIAS.fullmatch(wanted) or not wanted.strip():
            self._notes.changed.append(f"'{wanted}' is now '{name}'")
        else:
            self.aliases[wanted] = name
            self._notes.changed.append(f"'{wanted}' is now '{name}'; the old name is kept as an alias")


def make_name(text: str) -> str:
    """The text as a name that is allowed for an expert; itself where it is one."""
    name = text
    if not NAME.fullmatch(text):
        plain = unicodedata.normalize("NFC", text).translate(TRANSCRIPTIONS)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        name = re.sub(r"[^A-Za-z0-9._:@/+-]+", "-", plain).strip("-._:@/+")[:MAX_NAME_CHARS] or "expert"
    return "expert-" + name.replace(":", "-") if is_reserved(name) else name


def is_reserved(name: str) -> bool:
    """Whether the name means something here already: a policy, or the built-in embedder."""
    return name == "auto" or name.startswith("auto:") or name == BASE_EMBEDDER


def finish(sections: dict[str, Any], notes: ImportNotes, source: str, command: str) -> ImportedConfig:
    """The new file. What our own check refuses is taken out and listed, so that the rest can be used."""
    kept = {key: value for key, value in sections.items() if value}
    for _ in range(10_000):
        try:
            parse_config(dump_yaml(kept), env=AnyVariable())
            break
        except ConfigError as error:
            _take_out(kept, error.problems[0].field, error.problems[0].message, notes)
    # A name of the old file may hold a line break, which would end the comment.
    comments = [f"# not carried over: {' '.join(line.split())}\n" for line in notes.lost]
    comments += [f"# changed: {' '.join(line.split())}\n" for line in notes.changed]
    kept = {key: value for key, value in kept.items() if value}
    text = HEADER.format(source=source, command=command) + "".join(comments) + dump_yaml(kept)
    return ImportedConfig(text, len(kept.get("experts", ())), len(kept.get("aliases", ())), notes)


def _take_out(sections: dict[str, Any], field: str, message: str, notes: ImportNotes) -> None:
    section, _, rest = field.partition(".")
    if place := re.match(r"experts\[(\d+)\]", field):
        expert = sections["experts"].pop(int(place[1]))
        name = expert["name"]
        notes.lost.append(f"{name}: {field[place.end() :].lstrip('.') or 'the expert'}: {message}")
        aliases = sections.get("aliases", {})
        of_it = [alias for alias, target in aliases.items() if target == name]
        notes.forget_changes(name, of_it)
        for alias in of_it:
            del aliases[alias]
            notes.lost.append(f"the alias '{alias}' of {name}")
        return
    # A name may contain dots: the longest one that fits is meant.
    named = [name for name in sections.get(section, ()) if f"{rest}.".startswith(f"{name}.")]
    if section in ("aliases", "policies") and named:
        name = max(named, key=len)
        del sections[section][name]
        notes.lost.append(f"{section}.{name}: {message}")
    elif sections.pop(section, None) is not None:
        notes.lost.append(f"{field}: {message}")
    else:
        raise ImportFailedError(f": cannot be carried over: {field}: {message}")


class _Dumper(yaml.SafeDumper):
    """Writes YAML 1.2: `1e5` is a number there, so the text needs quotes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))
