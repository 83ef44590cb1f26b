"""What a grader is and what it may look at."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Gradable(Protocol):
    """The part of a probe that grading reads."""

    @property
    def prompt(self) -> str: ...

    @property
    def grader(self) -> str: ...

    @property
    def expected(self) -> Any: ...


class ExpectedError(ValueError):
    """`expected` has not the form its grader needs; the message names the field."""


@dataclass(frozen=True, slots=True)
class Grader:
    """A named way to score an answer.

    `check` raises `ExpectedError` for an `expected` that the grader could not use;
    `score` gives a number in [0, 1] and never raises for any answer.
    """

    name: str
    check: Callable[[Any], None]
    score: Callable[[str, Any], float]


def require(expected: Any, **fields: type | tuple[type, ...]) -> None:
    """Check that `expected` is an object with these fields of these types.

    Raises:
        ExpectedError: naming the first field that is missing or of another type.
    """
    if not isinstance(expected, dict):
        raise ExpectedError(f"expected must be an object with {', '.join(fields)}")
    for name, types in fields.items():
        if name not in expected:
            raise ExpectedError(f"expected.{name} is missing")
        if not isinstance(expected[name], types):
            raise ExpectedError(f"expected.{name} has the wrong type")


def require_words(expected: Any, *names: str) -> None:
    """Check that these fields are non-empty lists of non-empty strings.

    Raises:
        ExpectedError: naming the field.
    """
    require(expected, **dict.fromkeys(names, list))
    for name in names:
        words = expected[name]
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise ExpectedError(f"expected.{name} must be a non-empty list of non-empty strings")
