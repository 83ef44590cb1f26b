"""Answers that pick one of a few: yes or no, a lettered option."""

import re
from typing import Any

from .reading import fold, hedged, plain, sentences
from .text import decides
from .types import ExpectedError, Grader, require

_YES = re.compile(r"\b(yes|yeah|yep|true|correct|indeed|certainly|of course|absolutely)\b")
_NO = re.compile(r"\b(no|nope|false|incorrect|not (?:true|correct)|untrue|wrong)\b")
_BOTH = re.compile(r"\byes and no\b|\bno and yes\b|\byes or no\b|\btrue or false\b")
YES_NO_WINDOW_WORDS = 12
"""A verdict comes within so many words of a statement's start, or it is part of the prose."""


def verdict(answer: str) -> bool | None:
    """The first decisive word of the first statement that has one; None without, with both, or hedged."""
    for statement in list(sentences(answer))[:2]:
        opening = " ".join(statement.split()[:YES_NO_WINDOW_WORDS])
        if hedged(statement) or _BOTH.search(opening):
            return None
        no, yes = _NO.search(opening), _YES.search(opening)
        if yes and no:
            return _first_of_two(opening, yes, no)
        if yes or no:
            return yes is not None
    return None


def _first_of_two(opening: str, yes: re.Match[str], no: re.Match[str]) -> bool | None:
    """`No, that is not correct` is a no; `Yes, no doubt` a yes; a bare `yes no` is neither."""
    first, second = sorted((yes, no), key=lambda m: m.start())
    if no.start() <= yes.start() < no.end():
        return False
    return (
        first is yes
        if second.start() - first.end() > 1 and "," in opening[first.end() : second.start()]
        else None
    )


def _check_yes_no(expected: Any) -> None:
    require(expected, answer=bool)


def _score_yes_no(answer: str, expected: Any) -> float:
    return float(verdict(answer) is expected["answer"])


_LETTER_ALONE = re.compile(r"^\W*(?:(?:answer|option)\W+)?([A-H])(?:\W*$|[).:]|\s+-)", re.IGNORECASE)
_LETTER_STATED = re.compile(
    r"\b(?:answer|option|choice|choose|pick)(?: is)?:?\W+(?:option\s+)?([A-H])\b(?!')", re.IGNORECASE
)


def chosen_letter(answer: str) -> str | None:
    """The option letter an answer settles on; None where it lists several options or states two."""
    text = plain(answer)
    stated = {letter.upper() for letter in _LETTER_STATED.findall(text)}
    if stated:
        return stated.pop() if len(stated) == 1 else None
    if hedged(fold(text)):
        return None
    listed = re.findall(r"(?:^|\s)\(?([A-H])[).:](?=\s|$)", text)
    alone = _LETTER_ALONE.match(text)
    return alone.group(1).upper() if alone and len(set(listed)) <= 1 else None


def _check_choice(expected: Any) -> None:
    require(expected, answer=str, options=dict)
    if expected["answer"] not in expected["options"]:
        raise ExpectedError("expected.answer must be one of the letters in expected.options")


def _score_choice(answer: str, expected: Any) -> float:
    letter = chosen_letter(answer)
    if letter is not None:
        return float(letter == expected["answer"])
    options = expected["options"]
    others = [text for key, text in options.items() if key != expected["answer"]]
    return float(decides(answer, [options[expected["answer"]]], others))


YES_NO = Grader("yes_no", _check_yes_no, _score_yes_no)
"""`{answer: true | false}`: the first decisive word."""

CHOICE = Grader("choice", _check_choice, _score_choice)
"""`{answer: "B", options: {"A": …, "B": …}}`: the letter, or the option's text alone."""
