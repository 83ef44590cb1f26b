"""Short answers in words: accepted and rejected phrases."""

import re
from collections.abc import Sequence
from typing import Any

from .reading import DECISION_WINDOW_WORDS, bare, corrects, hedged, is_list, mentions, negated, sentences
from .types import Grader, require_words


def decides(answer: str, accept: Sequence[str], reject: Sequence[str] = ()) -> bool:
    """Whether the answer settles on an accepted phrase.

    The first statement that names any candidate decides. It must name an accepted one, un-negated, and no
    rejected one, without a hedge and without enumerating candidates; no later statement may take it back.
    """
    if bare(answer) in {bare(phrase) for phrase in accept}:
        return True
    statements = list(sentences(answer))
    seen = 0
    for at, statement in enumerate(statements):
        named = mentions(statement, [*accept, *reject])
        if named:
            if seen + len(statement[: named[0].start()].split()) > DECISION_WINDOW_WORDS:
                return False
            right = {m.span() for m in mentions(statement, accept)}
            standing = [m.span() in right for m in named if not negated(statement, m)]
            firm = not (hedged(statement) or is_list(statement))
            return any(standing) and all(standing) and firm and not any(map(corrects, statements[at + 1 :]))
        seen += len(statement.split())
    return False


def _check(expected: Any) -> None:
    require_words(expected, "accept")
    if expected.get("reject"):
        require_words(expected, "reject")


def _score(answer: str, expected: Any) -> float:
    return float(decides(answer, expected["accept"], expected.get("reject", ())))


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
        for m in mentions(statement, expected["accept"])
    )
    return float(alone and decides(answer, expected["accept"], expected.get("reject", ())))


TEXT = Grader("text", _check, _score)
"""`{accept: [...], reject: [...]}`: the answer settles on an accepted phrase."""

TRANSLATION = Grader("translation", _check, _score_translation)
"""`{accept, reject}`: as `text`, with the accepted phrase alone, announced or quoted."""

EXACT = Grader("exact", _check_exact, _score_exact)
"""`{accept: [...]}`: the first line is an accepted phrase alone (case, punctuation, article aside)."""
