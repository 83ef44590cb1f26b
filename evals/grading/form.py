"""Answers whose form counts: exact characters, patterns, bullet lists, JSON."""

import json
import re
from collections.abc import Iterator
from typing import Any

from .reading import ExpectedError, Grader, bare, find_mentions, fold, plain, require, require_words

_WRAPPING = " \t\"'`.,;:!*"
_ANNOUNCED = re.compile(r"^[^\n]{0,80}?(?:\bis|:|=|->|→)\s*")


def _check_literal(expected: Any) -> None:
    require(expected, text=str)
    if not expected["text"].strip():
        raise ExpectedError("expected.text must not be empty")


def _score_literal(answer: str, expected: Any) -> float:
    wanted = expected["text"]
    lines = [line.strip() for line in plain(answer).splitlines() if line.strip()]
    if not lines:
        return 0.0
    for line in dict.fromkeys([lines[0], lines[1] if _is_announcement(lines) else lines[0]]):
        tail = _ANNOUNCED.sub("", line)
        quoted = re.findall(r'"([^"]+)"', line)
        if wanted in (line, line.strip(_WRAPPING), tail, tail.strip(_WRAPPING)) or quoted[-1:] == [wanted]:
            return 1.0
    return 0.0


def _is_announcement(lines: list[str]) -> bool:
    """Whether the first line only announces the second (`Here it is:`)."""
    return len(lines) > 1 and lines[0].endswith(":")


def _check_pattern(expected: Any) -> None:
    require(expected, pattern=str)
    try:
        re.compile(expected["pattern"])
    except re.error as error:
        raise ExpectedError(f"expected.pattern is not a regular expression: {error}") from None


def _score_pattern(answer: str, expected: Any) -> float:
    text = plain(answer) if expected.get("plain", True) else answer.strip()
    return float(re.fullmatch(expected["pattern"], text, re.DOTALL) is not None)


def _check_bullets(expected: Any) -> None:
    require(expected, count=int, marker=str)
    if expected.get("pool"):
        require_words(expected, "pool")


def _score_bullets(answer: str, expected: Any) -> float:
    marker = r"\d+[.)]" if expected["marker"] == "1." else re.escape(expected["marker"])
    items = re.findall(rf"(?m)^\s*{marker}\s*(\S.*)$", answer)
    pool = expected.get("pool")
    named = {bare(item) for item in items if not pool or find_mentions(fold(item), pool)}
    return float(len(items) == expected["count"] == len(named))


def _check_json(expected: Any) -> None:
    require(expected, value=(dict, list))


def json_values(answer: str) -> Iterator[Any]:
    """Every JSON object or array that starts somewhere in the text, outermost first."""
    decoder = json.JSONDecoder()
    at = 0
    while (start := re.search(r"[{\[]", answer[at:])) is not None:
        at += start.start()
        try:
            value, length = decoder.raw_decode(answer[at:])
        except (ValueError, RecursionError):
            at += 1
            continue
        yield value
        at += length


def _score_json(answer: str, expected: Any) -> float:
    first = next(json_values(answer), None)
    return float(first is not None and _same(first, expected["value"]))


def _same(given: Any, wanted: Any) -> bool:
    """Equality of JSON values; strings without case and outer space, numbers also when written as strings."""
    if isinstance(wanted, dict):
        return (
            isinstance(given, dict)
            and given.keys() == wanted.keys()
            and all(_same(given[k], wanted[k]) for k in wanted)
        )
    if isinstance(wanted, list):
        return isinstance(given, list) and len(given) == len(wanted) and all(map(_same, given, wanted))
    if isinstance(wanted, bool) or wanted is None:
        return given is wanted
    return not isinstance(given, bool | None) and str(given).strip().casefold() == str(wanted).casefold()


LITERAL = Grader("literal", _check_literal, _score_literal)
"""`{text}`: exactly these characters, case and all, as the first line, or announced or quoted in it."""

PATTERN = Grader("pattern", _check_pattern, _score_pattern)
"""`{pattern, plain}`: the whole answer matches; markdown marks are removed first unless `plain` is false."""

BULLETS = Grader("bullets", _check_bullets, _score_bullets)
"""`{count, marker, pool}`: so many different items behind this marker (`1.` stands for any number)."""

JSON = Grader("json", _check_json, _score_json)
"""`{value}`: the first JSON object or array in the answer equals `value`."""
