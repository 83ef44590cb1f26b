"""What every grader uses: the `Grader` value, checks of `expected`, and reading an answer in free text."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

DECISION_WINDOW_WORDS = 40
"""The decision must be among the first so many words: later mentions are rambling, not an answer."""

_QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": " - ", "…": "..."})
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+|[.!?][\"')\]]*$")
_HEDGE = re.compile(
    r"\b(i (do not|don't|dont) know|not (quite |entirely )?sure|unsure|uncertain|perhaps|maybe"
    r"|might be|could be|may be|either|cannot (say|answer|tell)|can't (say|answer|tell)"
    r"|hard to say|it depends|or something)\b"
)
_EVASION = re.compile(
    r"\b(i (do not|don't|dont) know|not sure|(cannot|can't) (say|answer|tell|provide|help))\b"
)
_CORRECTION = re.compile(r"^(actually|correction|wait|sorry|no wait|i mean|i was wrong|on second thought)\b")
_NEGATORS = {"not", "never", "no", "neither", "nor", "without", "except", "cannot"} | {
    "isn't",
    "aren't",
    "wasn't",
    "doesn't",
}
_NEGATED_AFTER = re.compile(
    r"^[\"']?,? (is|are|was|were|does|do) (not|never)\b(?! only)|^[\"']? (isn't|aren't|wasn't)\b"
)
_WORD = re.compile(r"[^\s,;:\"()]+")
_MARKUP = re.compile(r"[*`#]+|(?<!\w)_+|_+(?!\w)|^\s*>", re.MULTILINE)


def plain(text: str) -> str:
    """The text without markdown marks and typographic quotes, case kept."""
    return _MARKUP.sub("", unicodedata.normalize("NFKC", text).translate(_QUOTES)).strip()


def fold(text: str) -> str:
    """Plain text without case or accents: `Années` and `annees` are one."""
    # NFKD splits `é` into `e` and a combining accent, which is then dropped (Unicode Annex 15).
    decomposed = unicodedata.normalize("NFKD", plain(text).casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def bare(text: str) -> str:
    """Folded text without punctuation and leading article, single spaces: for equality."""
    words = re.sub(r"[^\w\s'+-]", " ", fold(text)).split()
    if len(words) > 1 and words[0] in {"a", "an", "the"}:
        words = words[1:]
    return " ".join(words)


def sentences(text: str) -> Iterator[str]:
    """Folded statements in order; questions are left out, since a question answers nothing."""
    for piece in _SENTENCE_END.split(fold(text) + " "):
        sentence = (piece or "").strip()
        if sentence and not sentence.rstrip("\"')").endswith("?"):
            yield sentence.rstrip(".! ")


def find_mentions(sentence: str, phrases: Iterable[str]) -> list[re.Match[str]]:
    """Word-bounded occurrences of any phrase in a folded sentence, longest phrase first."""
    # Longest first: an alternation takes the first branch that fits, `New York City` before `New York`.
    parts = sorted({re.escape(fold(phrase)) for phrase in phrases}, key=len, reverse=True)
    return list(re.finditer(rf"(?<![\w])(?:{'|'.join(parts)})(?![\w])", sentence)) if parts else []


def is_negated(sentence: str, mention: re.Match[str]) -> bool:
    """Whether the mention is denied: `not Paris`, `Paris is not`; `not Lyon but Paris` is no denial."""
    if _NEGATED_AFTER.match(sentence[mention.end() :]):
        return True
    clause = re.split(r"[,;:]", sentence[: mention.start()])[-1]
    near = [word.strip("'") for word in _WORD.findall(clause)[-3:]]
    if "but" in near:
        near = near[near.index("but") :]
    return any(word in _NEGATORS for word in near)


def is_hedged(sentence: str) -> bool:
    """Whether a folded sentence refuses to commit itself."""
    return bool(_HEDGE.search(sentence))


def is_evasion(sentence: str) -> bool:
    """Whether a folded sentence declines to answer; `might be` in an explanation does not."""
    return bool(_EVASION.search(sentence))


def is_correction(sentence: str) -> bool:
    """Whether a folded sentence takes back what was said before it."""
    return bool(_CORRECTION.match(sentence))


def is_list(sentence: str) -> bool:
    """Whether a folded sentence enumerates candidates (four short items or more) instead of deciding."""
    items = re.split(r"[,;/|]|\bor\b|\band\b", sentence)
    return sum(0 < len(item.split()) <= 2 for item in items) >= 4


def without_echo(answer: str, prompt: str) -> str:
    """The answer without verbatim repetitions of the prompt, in any spacing and case; one word is none."""
    words = prompt.split()
    if len(words) < 2:
        return answer
    pattern = r"\s+".join(map(re.escape, words))
    return re.sub(pattern, " ", answer, flags=re.IGNORECASE).strip()


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
