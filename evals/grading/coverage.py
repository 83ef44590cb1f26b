"""Longer answers: keywords they must cover, members they must list, an order they must keep."""

import re
from itertools import pairwise
from typing import Any

from .reading import (
    ExpectedError,
    Grader,
    find_mentions,
    fold,
    is_evasion,
    is_negated,
    require,
    require_words,
    sentences,
    without_echo,
)

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
