"""Graders of texts: short answers in words, exact forms, and longer answers that must cover something."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from .reading import (
    DECISION_WINDOW_WORDS,
    ExpectedError,
    Grader,
    bare,
    find_mentions,
    fold,
    is_correction,
    is_evasion,
    is_hedged,
    is_list,
    is_negated,
    plain,
    require,
    require_words,
    sentences,
    without_echo,
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


MAX_STRANGERS_RATIO = 0.5
"""Of the items an answer lists, at most this share may lie outside the pool."""


def _check_keywords(expected: Any) -> None:
    require(expected, groups=list)
    for group in expected["groups"]:
        require_words({"groups": group}, "groups")
    if not expected["groups"]:
        raise ExpectedError("expected.groups must not be empty")
    if expected.get("reject"):
        require_words(expected, "reject")


def _score_keywords(answer: str, expected: Any) -> float:
    statements = [s for s in sentences(answer) if not is_evasion(s)]
    if expected.get("max_sentences") and len(statements) > expected["max_sentences"]:
        statements = statements[: expected["max_sentences"]]
    wrong = any(
        not is_negated(s, m) for s in statements for m in find_mentions(s, expected.get("reject", ()))
    )
    covered = all(
        any(not is_negated(s, m) for s in statements for m in find_mentions(s, group))
        for group in expected["groups"]
    )
    # A bare keyword is no explanation.
    enough = sum(len(s.split()) for s in statements) >= expected.get("min_words", 3)
    return float(covered and enough and not wrong)


def _check_members(expected: Any) -> None:
    require_words(expected, "pool")
    require(expected, count=int)
    if not 1 <= expected["count"] <= len(expected["pool"]):
        raise ExpectedError("expected.count must be between 1 and the size of expected.pool")


def find_items(answer: str) -> list[str]:
    """The folded items of a bulleted, numbered, one-per-line or comma-separated list, unexplained."""
    lines = [line.strip() for line in fold(answer).splitlines() if line.strip()]
    marked = [
        re.sub(r"^(?:[-•+]|\d+[.)])\s*", "", line) for line in lines if re.match(r"(?:[-•+]|\d+[.)])\s", line)
    ]
    if len(marked) >= 2:
        return [re.split(r"\s*(?::|\s-\s|\(|,)", item)[0] for item in marked]
    body = lines if len(lines) > 2 and all(len(line.split()) <= 4 for line in lines) else lines[:3]
    pieces = [part for line in body for part in re.split(r",|;|\band\b|[.!]\s|:", line)]
    return [piece.strip(" .!\"'") for piece in pieces if 0 < len(piece.split()) <= 4]


def _score_members(answer: str, expected: Any) -> float:
    named = {
        m.group()
        for s in sentences(answer)
        for m in find_mentions(s, expected["pool"])
        if not is_negated(s, m)
    }
    items = find_items(answer)
    n_outside = sum(1 for item in items if not find_mentions(item, expected["pool"]))
    # Listing everything one can think of would always hit the pool.
    honest = n_outside <= MAX_STRANGERS_RATIO * len(items) and len(items) <= 2 * expected["count"] + 2
    return float(len(named) >= expected["count"] and honest)


_CONNECTORS = {
    "and",
    "then",
    "next",
    "finally",
    "first",
    "second",
    "third",
    "last",
    "lastly",
    "followed",
    "by",
    "to",
    "is",
}


def _check_order(expected: Any) -> None:
    require_words(expected, "items")


def is_in_order(answer: str, items: list[str]) -> bool:
    """Whether the first or the last complete run of the items is in this order, nothing else between them."""
    text = re.sub(r"(?m)^\s*(?:[-•+]|\d{1,2}[.)])\s+", " ", fold(answer))
    words = find_mentions(text, items)
    wanted = [fold(item) for item in items]
    # An answer may repeat the list once, before or after sorting it, but no more.
    if not len(wanted) <= len(words) <= 2 * len(wanted):
        return False
    return any(
        [m.group() for m in run] == wanted and _is_adjacent(text, run)
        for run in (words[: len(wanted)], words[-len(wanted) :])
    )


def _is_adjacent(text: str, run: list[re.Match[str]]) -> bool:
    gaps = (text[a.end() : b.start()] for a, b in pairwise(run))
    return all(word in _CONNECTORS for gap in gaps for word in re.findall(r"\w+", gap))


def _score_order(answer: str, expected: Any) -> float:
    unsorted = expected.get("given")
    # The question's own unsorted list would otherwise count as a first, wrong, ordering.
    text = without_echo(answer, unsorted) if unsorted else answer
    return float(is_in_order(text, expected["items"]))


KEYWORDS = Grader("keywords", _check_keywords, _score_keywords)
"""`{groups: [[synonyms …] …], reject, min_words, max_sentences}`: one of every group is said, undenied."""

MEMBERS = Grader("members", _check_members, _score_members)
"""`{pool: [...], count}`: so many different members are listed, most items are members, and the list ends."""

ORDER = Grader("order", _check_order, _score_order)
"""`{items: [...], given}`: all items in this order, nothing between; `given` is ignored where quoted."""
