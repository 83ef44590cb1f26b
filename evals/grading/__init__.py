"""Graders: code that scores an answer in [0, 1]. See README.md for the rules each one follows."""

from collections.abc import Mapping
from types import MappingProxyType

from .code import CODE
from .number import NUMBER
from .reading import ExpectedError, Gradable, Grader, without_echo
from .text import (
    BULLETS,
    CHOICE,
    EXACT,
    JSON,
    KEYWORDS,
    LITERAL,
    MEMBERS,
    ORDER,
    PATTERN,
    TEXT,
    TRANSLATION,
    YES_NO,
)

__all__ = ["GRADERS", "ExpectedError", "Gradable", "Grader", "check_expected", "grade"]

MAX_ANSWER_CHARS = 20_000

GRADERS: Mapping[str, Grader] = MappingProxyType(
    {
        grader.name: grader
        for grader in (
            TEXT,
            TRANSLATION,
            EXACT,
            NUMBER,
            YES_NO,
            CHOICE,
            KEYWORDS,
            MEMBERS,
            ORDER,
            LITERAL,
            PATTERN,
            BULLETS,
            JSON,
            CODE,
        )
    }
)


def grade(answer: str, probe: Gradable) -> float:
    """How good the answer is, in [0, 1]; a repetition of the prompt counts as no answer.

    Raises:
        ExpectedError: if the probe names no known grader.
    """
    grader = GRADERS.get(probe.grader)
    if grader is None:
        raise ExpectedError(f"unknown grader {probe.grader!r}; there are {', '.join(sorted(GRADERS))}")
    text = without_echo(answer[:MAX_ANSWER_CHARS], probe.prompt)
    return grader.score(text, probe.expected) if text.strip() else 0.0


def check_expected(grader: str, expected: object) -> None:
    """Check that `expected` has the form this grader needs.

    Raises:
        ExpectedError: naming the field at fault, or the graders there are.
    """
    if grader not in GRADERS:
        raise ExpectedError(f"grader {grader!r} is unknown; there are {', '.join(sorted(GRADERS))}")
    GRADERS[grader].check(expected)
