"""Numeric answers: which number of a rambling text is the answer."""

import re
from typing import Any

from .reading import ExpectedError, Grader, is_hedged, require

_UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORD_VALUES = {word: i for i, word in enumerate(_UNITS)} | {word: 10 * i for i, word in enumerate(_TENS, 2)}
_SPELLED = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[ -]({'|'.join(_UNITS[1:10])}))?|({'|'.join(_UNITS)}))( hundred)?\b"
)
# Not inside a word (`B2`); a comma or a narrow or plain no-break space groups thousands.
_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:[,\u202f\u00a0]\d{3})+|\d+)(?:\.\d+)?(?![\w]*\d)")
_RESULT = re.compile(
    r"(?:=|≈|\bequals|\b(?:answer|result|total)(?: is| of)?:?|\bthere (?:are|were)"
    r"|\bis|\bare|\bwas|\bhas|\bhave|\bmakes|\bleaves)\s*"
    r"(?:about |approximately |exactly |now |then |only |a total of |equal to |left with "
    r"|[$€£\"'(\[{]|\\boxed)*$"
)
# `between 3 and 4`, `7 or 8`: the answer has not decided.
_ALTERNATIVES = re.compile(r"\b(?:between\s+{n}\s+and|{n}\s+or|or)\s*$".replace("{n}", r"[-\d.,]+"))
_BOLD = re.compile(r"\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*(?!\w)")
_GOES_ON = re.compile(r"[^.\n]*?(?:=|\bis\b|\bare\b|\bequals?\b|\b(?:makes|gives)\b)[^.\n]*\d")
MAX_UNDECIDED_NUMBERS = 5
"""An answer without a stated result that names more different numbers than this is a list, not an answer."""


def write_as_digits(text: str) -> str:
    """The text with number words up to the hundreds written as digits."""

    def digits(match: re.Match[str]) -> str:
        tens, unit, small, hundred = match.groups()
        value = _WORD_VALUES[tens] + (_WORD_VALUES[unit] if unit else 0) if tens else _WORD_VALUES[small]
        return str(value * 100 if hundred else value)

    return _SPELLED.sub(digits, text)


def extract_number(answer: str) -> float | None:
    """The number an answer gives, or None.

    In this order: the number the answer starts with, unless the sentence goes on to another result; the last
    one stated as a result (`= 7`, `is 7`, `there are 7`), unless a calculation goes on from it; the last
    number, if there are few. Alternatives (`7 or 8`) and hedges give None.
    """
    text = write_as_digits(_BOLD.sub(r"\1", re.sub(r"\\[\[\]()]|\$(?=\d)|`", " ", answer.casefold())))
    found = list(_NUMBER.finditer(text))
    if not found or is_hedged(text):
        return None
    # Models first answer and then explain, or calculate and then conclude; prose in between is no answer.
    chosen = _find_leading(text, found) or _find_stated(text, found) or _last(found)
    if chosen is None or _is_alternative(text, chosen):
        return None
    return _value(chosen)


def _value(match: re.Match[str]) -> float:
    return float(re.sub(r"[,\u202f\u00a0]", "", match.group()).replace("−", "-"))


def _calculates_on(text: str, match: re.Match[str]) -> bool:
    return bool(
        re.match(
            r"[^\S\n]*(?:%|[a-z]+)?[^\S\n]*(?:[-+*/×÷^=<>]|(?:plus|minus|times|divided)\b)",
            text[match.end() :],
        )
    )


def _find_leading(text: str, found: list[re.Match[str]]) -> re.Match[str] | None:
    first = found[0]
    at_start = not text[: first.start()].strip(" $€£\"'(")
    # `1. First …` numbers a list; `1.` alone is an answer.
    is_bullet = re.match(r"[.)]\s", text[first.end() :]) and len(found) > 1
    goes_on = _calculates_on(text, first) or _GOES_ON.match(text[first.end() :])
    return first if at_start and not is_bullet and not goes_on else None


def _find_stated(text: str, found: list[re.Match[str]]) -> re.Match[str] | None:
    results = [m for m in found if _RESULT.search(text[: m.start()]) and not _calculates_on(text, m)]
    return results[-1] if results else None


def _last(found: list[re.Match[str]]) -> re.Match[str] | None:
    return found[-1] if len({_value(match) for match in found}) <= MAX_UNDECIDED_NUMBERS else None


def _is_alternative(text: str, match: re.Match[str]) -> bool:
    after = re.match(r"\s*(?:or|to)\s+[-\d]", text[match.end() :])
    return bool(after) or bool(_ALTERNATIVES.search(text[: match.start()]))


def _check(expected: Any) -> None:
    require(expected, value=(int, float))
    tolerance = expected.get("tolerance", 0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or tolerance < 0:
        raise ExpectedError("expected.tolerance must be a number of at least 0")


def _score(answer: str, expected: Any) -> float:
    given = extract_number(answer)
    if given is None:
        return 0.0
    # 1e-9 for decimals that binary floats cannot hold, such as .1 + .2.
    return float(abs(given - expected["value"]) <= expected.get("tolerance", 0) + 1e-9)


NUMBER = Grader("number", _check, _score)
"""`{value, tolerance}`: the answer's number is within `tolerance` (absolute, default 0) of `value`."""
