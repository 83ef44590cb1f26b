"""The names and phrases by which wrappings are recognised, from the data file `wrappings.toml`."""

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import msgspec

PARAGRAPH = "\n\n"

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_WORD = re.compile(r"[\W_]+")
_WORD = re.compile(r"\w")


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """The first words of a paragraph that a program writes, and how far it goes."""

    start: str
    to: str = ""
    parts: bool = False
    line: bool = False
    rest: bool = False
    instructions: bool = False


class Templates(msgspec.Struct, frozen=True):
    """The labels of prompt templates, in lower case."""

    begin: tuple[str, ...]
    begin_words: tuple[str, ...]
    material_words: tuple[str, ...]
    context: tuple[str, ...]
    request: tuple[str, ...]
    own_request: tuple[str, ...]
    after: tuple[str, ...]
    end: tuple[str, ...]


class Markup(msgspec.Struct, frozen=True):
    """Names of elements that are never a wrapping."""

    names: frozenset[str]


class WrappingLists(msgspec.Struct, frozen=True):
    """The data file: names and phrases by what they stand for."""

    request: frozenset[str]
    request_or_text: frozenset[str]
    context: frozenset[str]
    instructions: frozenset[str]
    material: frozenset[str]
    context_words: frozenset[str]
    instruction_words: frozenset[str]
    request_words: frozenset[str]
    neutral_words: frozenset[str]
    notes: tuple[str, ...]
    openings: tuple[Opening, ...]
    templates: Templates
    markup: Markup


@dataclass(frozen=True, slots=True)
class CleanText:
    """A turn without wrappings; `asks_more` where what was dropped tells how to answer."""

    text: str
    asks_more: bool = False


@lru_cache(maxsize=1)
def read_lists() -> WrappingLists:
    """The lists of the data file in this package."""
    text = files(__package__).joinpath("wrappings.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), WrappingLists)


def normalize_name(raw: str) -> str:
    """A name in lower case, "-" between its words: `userQuery`, `USER_QUERY`, `user query` → `user-query`."""
    name = raw if raw.isupper() else _CAMEL.sub("-", raw)
    return _NOT_WORD.sub("-", name).strip("-").lower()


def has_word(text: str) -> bool:
    """Whether a text says anything at all."""
    return _WORD.search(text) is not None
