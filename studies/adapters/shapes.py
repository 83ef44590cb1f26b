"""What an adapter is taught: fields of template families whose prompts are drawn at random."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from ..probe_families import FAMILIES


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt with the answer that is taught, and how code grades another answer to it."""

    prompt: str
    answer: str
    grader: str
    expected: Any


Draw = Callable[[Random], Lesson]


@dataclass(frozen=True, slots=True)
class Field:
    """What one adapter is taught, and under which system prompt."""

    name: str
    system: str
    lessons: tuple[tuple[float, Draw], ...]
    """How often a family is drawn, and the family."""
    tests: Mapping[str, Draw]
    """Families that are never taught, by their names among the bundled probes."""


def ask_text(prompt: str, answer: str, wrong: Sequence[str] = ()) -> Lesson:
    """An answer in words; the wrong ones that the answer contains are left out."""
    reject = [word for word in dict.fromkeys(wrong) if word.casefold() not in answer.casefold()]
    return Lesson(prompt, answer, "text", {"accept": [answer]} | ({"reject": reject} if reject else {}))


def ask_number(prompt: str, value: int, answer: str | None = None) -> Lesson:
    return Lesson(prompt, str(value) if answer is None else answer, "number", {"value": float(value)})


def ask_yes_no(prompt: str, *, is_true: bool) -> Lesson:
    return Lesson(prompt, "Yes" if is_true else "No", "yes_no", {"answer": is_true})


def ask_literal(prompt: str, answer: str) -> Lesson:
    """An answer of which every character counts."""
    return Lesson(prompt, answer, "literal", {"text": answer})


def join_words(items: Sequence[str], last: str = "and") -> str:
    """As a sentence lists them: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


@cache
def _read_probes() -> list[tuple[str, str]]:
    return [
        (item.prompt.casefold(), str(item.expected).casefold())
        for family in FAMILIES
        for item in family.items
    ]


def is_probed(given: str, answer: str) -> bool:
    """Whether a bundled probe that names the one expects the other."""
    asked, expected = (re.compile(rf"\b{re.escape(text.casefold())}\b") for text in (given, answer))
    return any(asked.search(prompt) and expected.search(wanted) for prompt, wanted in _read_probes())


def leave_out_probed(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The rows of which no probe names one part and asks for another: what is probed is not taught."""
    return tuple(
        row
        for row in rows
        if not any(is_probed(a, b) for a in row for b in row if a != b or len(set(row)) == 1)
    )
