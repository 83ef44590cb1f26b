"""Answers that are Python functions, judged by unit tests in the sandbox."""

import ast
import re
from typing import Any

from .sandbox import run_tests
from .types import ExpectedError, Grader, require_words

_FENCED = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_STARTS = re.compile(r"^(?:def |import |from \w+ import |@|class |\w+ ?= ?lambda)")


def code_of(answer: str, name: str) -> str | None:
    """The Python source in an answer that defines `name`, or None.

    The first fenced block that defines it; otherwise the unfenced lines from the first definition on.
    A text cut off at the token limit is shortened to what still parses.
    """
    blocks = [block for block in _FENCED.findall(answer) if _defines(block, name)]
    source = blocks[0] if blocks else _unfenced(answer)
    return _parsing(source) if source and _defines(source, name) else None


def _defines(source: str, name: str) -> bool:
    return (
        re.search(rf"^\s*(?:def {re.escape(name)}\b|{re.escape(name)}\s*=)", source, re.MULTILINE) is not None
    )


def _unfenced(answer: str) -> str | None:
    lines = answer.replace("```", "").splitlines()
    start = next((i for i, line in enumerate(lines) if _STARTS.match(line.strip("` "))), None)
    return None if start is None else "\n".join(lines[start:])


def _parsing(source: str) -> str | None:
    """The longest run of whole leading lines that is valid Python."""
    lines = source.rstrip().splitlines()
    while lines:
        text = "\n".join(lines)
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            lines.pop()
        else:
            return text
    return None


def _check(expected: Any) -> None:
    require_words(expected, "tests")
    if not isinstance(expected.get("name"), str) or not expected["name"].isidentifier():
        raise ExpectedError("expected.name must be the identifier of the function")
    for test in expected["tests"]:
        try:
            ast.parse(test)
        except SyntaxError as error:
            raise ExpectedError(f"expected.tests has invalid Python: {error.msg}") from None


def _score(answer: str, expected: Any) -> float:
    source = code_of(answer, expected["name"])
    return float(source is not None and run_tests(source, expected["tests"]).passed)


CODE = Grader("code", _check, _score)
"""`{name, tests: [statements]}`: the answer defines `name` and every test statement runs without raising."""
