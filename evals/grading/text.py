"""Short answers in words: accepted and rejected phrases, yes or no, a lettered option."""

import re
from collections.abc import Sequence
from typing import Any

from .reading import (
    DECISION_WINDOW_WORDS,
    ExpectedError,
    Grader,
    bare,
    find_mentions,
    fold,
    is_correction,
    is_hedged,
    is_list,
    is_negated,
    plain,
    require,
    require_words,
    sentences,
)


def is_decided_for(answer: str, accept: Sequence[str], reject: Sequence[str] = ()) -> bool:
    """Whether the answer settles on an accepted phrase.

    The first statement that names any candidate decides. It must name an accepted one, un-negated, and no
    rejected one, without a hedge and without enumerating candidates; no later statement may take it back.
    """
    # The phrase alone needs no sentence around it, and may itself look like a hedge (`maybe`).
    if bare(answer) in {bare(phrase) for phrase in accept}:
        return True
    statements = list(sentences(answer))
    seen = 0
    for at, statement in enumerate(statements):
        named = find_mentions(statement, [*accept, *reject])
        if named:
            if seen + len(statement[: named[0].start()].split()) > DECISION_WINDOW_WORDS:
                return False
            # Spans, because a rejected phrase can contain an accepted one: `not guilty` and `guilty`.
            right = {m.span() for m in find_mentions(statement, accept)}
            standing = [m.span() in right for m in named if not is_negated(statement, m)]
            firm = not (is_hedged(statement) or is_list(statement))
            return (
                any(standing) and all(standing) and firm and not any(map(is_correction, statements[at + 1 :]))
            )
        seen += len(statement.split())
    return False


def _check(expected: Any) -> None:
    require_words(expected, "accept")
    if expected.get("reject"):
        require_words(expected, "reject")


def _score(answer: str, expected: Any) -> float:
    return float(is_decided_for(answer, expected["accept"], expected.get("reject", ())))


def _check_exact(expected: Any) -> None:
    require_words(expected, "accept")


def _score_exact(answer: str, expected: Any) -> float:
    first = next((line for line in answer.splitlines() if line.strip()), "")
    return float(bare(first) in {bare(phrase) for phrase in expected["accept"]})


_BEFORE = re.compile(
    r"(?:^|[\"'(:,]|\b(?:is|means|say|as|word|translates to|would be)) ?"
    r"(?:(?:the|a|an|to|el|la|le|das|der|die) )?$"
)
_AFTER = re.compile(r"^[\"')]*(?:$|[,.;:(/=!-]| [-(]| (?:or|in|which|is|means|and means|for)\b)")


def _score_translation(answer: str, expected: Any) -> float:
    """A decided answer in which an accepted phrase stands by itself: `casa de mujer` is not `casa`."""
    alone = any(
        _BEFORE.search(statement[: m.start()]) and _AFTER.match(statement[m.end() :])
        for statement in sentences(answer)
        for m in find_mentions(statement, expected["accept"])
    )
    return float(alone and is_decided_for(answer, expected["accept"], expected.get("reject", ())))


TEXT = Grader("text", _check, _score)
"""`{accept: [...], reject: [...]}`: the answer settles on an accepted phrase."""

TRANSLATION = Grader("translation", _check, _score_translation)
"""`{accept, reject}`: as `text`, with the accepted phrase alone, announced or quoted."""

EXACT = Grader("exact", _check_exact, _score_exact)
"""`{accept: [...]}`: the first line is an accepted phrase alone (case, punctuation, article aside)."""


_YES = re.compile(r"\b(yes|yeah|yep|true|correct|indeed|certainly|of course|absolutely)\b")
_NO = re.compile(r"\b(no|nope|false|incorrect|not (?:true|correct)|untrue|wrong)\b")
_BOTH = re.compile(r"\byes and no\b|\bno and yes\b|\byes or no\b|\btrue or false\b")
YES_NO_WINDOW_WORDS = 12
"""A verdict comes within so many words of a statement's start, or it is part of the prose."""


def find_verdict(answer: str) -> bool | None:
    """The first decisive word of the first statement that has one; None without, with both, or hedged."""
    for statement in list(sentences(answer))[:2]:
        opening = " ".join(statement.split()[:YES_NO_WINDOW_WORDS])
        if is_hedged(statement) or _BOTH.search(opening):
            return None
        no, yes = _NO.search(opening), _YES.search(opening)
        # `No, that is true` has both; the order and a comma between them decide.
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
    return float(find_verdict(answer) is expected["answer"])


_LETTER_ALONE = re.compile(r"^\W*(?:(?:answer|option)\W+)?([A-H])(?:\W*$|[).:]|\s+-)", re.IGNORECASE)
_LETTER_STATED = re.compile(
    r"\b(?:answer|option|choice|choose|pick)(?: is)?:?\W+(?:option\s+)?([A-H])\b(?!')", re.IGNORECASE
)


def find_letter(answer: str) -> str | None:
    """The option letter an answer settles on; None where it lists several options or states two."""
    text = plain(answer)
    stated = {letter.upper() for letter in _LETTER_STATED.findall(text)}
    if stated:
        # `The answer is A, or option B` states two letters and decides nothing.
        return stated.pop() if len(stated) == 1 else None
    if is_hedged(fold(text)):
        return None
    # Repeating all options before a choice is common; then only a stated letter counts.
    listed = re.findall(r"(?:^|\s)\(?([A-H])[).:](?=\s|$)", text)
    alone = _LETTER_ALONE.match(text)
    return alone.group(1).upper() if alone and len(set(listed)) <= 1 else None


def _check_choice(expected: Any) -> None:
    require(expected, answer=str, options=dict)
    if expected["answer"] not in expected["options"]:
        raise ExpectedError("expected.answer must be one of the letters in expected.options")


def _score_choice(answer: str, expected: Any) -> float:
    letter = find_letter(answer)
    if letter is not None:
        return float(letter == expected["answer"])
    options = expected["options"]
    others = [text for key, text in options.items() if key != expected["answer"]]
    return float(is_decided_for(answer, [options[expected["answer"]]], others))


YES_NO = Grader("yes_no", _check_yes_no, _score_yes_no)
"""`{answer: true | false}`: the first decisive word."""

CHOICE = Grader("choice", _check_choice, _score_choice)
"""`{answer: "B", options: {"A": …, "B": …}}`: the letter, or the option's text alone."""
