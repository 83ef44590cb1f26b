"""What is asked, freed from how it is asked: one clause and the asker's wishes for the answer."""

# ruff: noqa: SIM905  lists of words read better as text

import re
import unicodedata

from .numbers import SMALL_WORDS
from .types import Directives, NotComputable

# The patterns below are tried on every question; longer texts are never one computation.
MAX_CHARS = 600

_SIGNS = str.maketrans(
    {
        "×": "*", "✕": "*", "✖": "*", "·": "*", "⋅": "*", "∗": "*", "∙": "*",
        "÷": "/", "⁄": "/", "∕": "/", "−": "-", "–": "-", "—": "-", "‑": "-", "﹣": "-",
        "’": "'", "‘": "'", "“": '"', "”": '"', "²": "^2 ", "³": "^3 ", "℃": "°c", "℉": "°f", "º": "°",
        "½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "£": "£", "\\": " ",
    }
)  # fmt: skip

_COUNT = r"(?P<n>\d{1,2}|" + "|".join(list(SMALL_WORDS)[:20]) + ")"
_NEAREST = {
    "integer": 0, "whole number": 0, "whole": 0, "unit": 0, "one": 0, "tenth": 1, "hundredth": 2,
    "thousandth": 3, "ten": -1, "hundred": -2, "thousand": -3,
}  # fmt: skip
_ROUND_TO = (
    r"[,(]?\s*(?:\b(?:and|then)\s+)?(?:\b(?:rounded|correct|accurate|exact)(?:\s+off)?\s+)?"
    r"\b(?:to|with|using|at)\s+(?:the\s+)?(?:exactly\s+)?"
)
_PLACES = re.compile(
    _ROUND_TO + _COUNT + r"\s*(?:decimal places?|decimals|decimal digits|places|d\.?p\.?)\)?"
)
_SIGNIFICANT = re.compile(_ROUND_TO + _COUNT + r"\s*(?:significant (?:figures?|digits?)|s\.?f\.?)\)?(?!\w)")
_TO_NEAREST = re.compile(_ROUND_TO + r"nearest (?P<unit>" + "|".join(_NEAREST) + r")\b\)?")
_ISO = re.compile(
    r"\(?(?:\bin\s+|\bas\s+|\busing\s+|\buse\s+)?(?:the\s+)?\b(?:format\s+)?yyyy-mm-dd\b(?:\s+format)?\)?"
)
_ISO_WORD = re.compile(r"\b(?:in|as|using|use)\s+(?:the\s+)?iso(?:[ -]?8601)?\b(?:\s+(?:format|date|form))?")
_FRACTION = re.compile(
    r"\bas\s+(?:a|the)\s+(?:simplified\s+|reduced\s+|common\s+)?fraction\b(?:\s+in\s+(?:lowest"
    r"|simplest)\s+(?:terms|form))?"
)

_INSTRUCTION_HEADS = frozenset(
    "answer reply respond return give output write provide state show print just only please no do don't "
    "use thanks thank round express keep hi hello hey quick question q a format compute calculate solve here "
    "quickly exactly keep be work evaluate determine find simplify convert tell".split()
)
_INSTRUCTION_WORDS = _INSTRUCTION_HEADS | frozenset(
    "with the an number numeric numerical numeral numerals result value integer digit digits final nothing "
    "else explanation explanations explain words word in as one single figure figures and your it using "
    "without any working units unit text commas comma steps step by of to me you i my this that following "
    "problem sum expression calculation weekday day name date days week plain decimal form full not include "
    "is are or for there show more than other separators thousands thousand exact short concise brief simple "
    "correct off up if needed necessary possible first name month year yes line sentence alone itself so"
    " much "
    "very can could would math maths arithmetic simply arabic whole conversion time task carefully out below "
    "equation english symbols symbol punctuation anything additional extra".split()
)
_MORE_WORDS = frozenset("work working explain explanation explanations steps step sentence words".split())
_NEGATIONS = frozenset("no not don't without nothing only just alone".split())
_NUMBER_ONLY = re.compile(
    r"\b(?:only|just|nothing|alone|no|without|single)\b.*\b(?:number|numeral|value|digits?|integer|figure"
    r"|units?)\b"
    r"|\b(?:number|numeral|value|digits?|integer|figure)\b.*\b(?:only|alone|nothing|itself)\b"
    r"|\bas (?:a|an) (?:plain |single |whole )*(?:number|integer|decimal)\b|\bwith (?:a|an|the) (?:number"
    r"|integer)\b"
)
_INLINE_ONLY = re.compile(
    r"[,(;-]?\s*\b(?:as an? (?:plain |single |whole |exact )?(?:decimal(?: number)?|number|integer|whole"
    r" number)"
    r"|(?:just|only)(?: give)?(?: me)? the (?:number|answer|result|value|digits)"
    r"|(?:number|numbers|answer|result|digits) only|no (?:explanation|words|units))\b\s*\)?"
)
_POLITE = re.compile(
    r"[,\s]*\b(?:please|thanks|thank you|for me|thx|pls|plz)\b[,\s]*(?=[.?!]*$)|\b(?:please|pls"
    r"|kindly)\b,?\s*"
)
_BREAK = re.compile(r"(?<=[.?!;])\s+|[\n\r]+|:\s+|(?<=\?)(?=\S)")

_REFERS_BACK = re.compile(r"\b(?:that|this|it)\b")


def extract_question(text: str) -> tuple[str, Directives]:
    """The one clause that asks something, lower-case and without closing marks, and how to write the answer.

    Raises:
        NotComputable: nothing or more than one thing is left, or the text is long.
    """
    if len(text) > MAX_CHARS:
        raise NotComputable
    plain = unicodedata.normalize("NFC", text).translate(_SIGNS).lower()
    plain = re.sub(r"[^\S\n]+", " ", plain).replace("**answer**", "answer").strip()
    plain, directives = _take_directives(plain)
    clauses = [_strip_marks(clause) for clause in _BREAK.split(plain)]
    asked = [clause for clause in clauses if clause and not _is_instruction(clause)]
    if len(asked) == 2 and _REFERS_BACK.search(asked[1]):
        asked = [", ".join(asked)]  # The rope is 5 m long. What is that in feet?
    if len(asked) != 1:
        raise NotComputable
    core = _strip_marks(re.sub(r"\s+", " ", _POLITE.sub(" ", asked[0])))
    return _strip_asides(core), directives


def _strip_marks(clause: str) -> str:
    clause = clause.strip(" \t.?;,\"'`*")
    while clause.endswith("!") and not clause[-2:-1].isdigit() and clause[-2:-1] != ")":
        clause = clause[:-1].rstrip(" .?;,\"'`*")
    return clause


def _strip_asides(core: str) -> str:
    """Without `, and give only the number` and the like at its end or beginning."""
    for mark in (" and ", ", ", " - ", " (", "; "):
        head, found, tail = core.rpartition(mark)
        if found and head and _is_instruction(tail) and (mark != " (" or tail.endswith(")")):
            return _strip_asides(_strip_marks(head).removesuffix(" and"))
        head, found, tail = core.partition(mark)
        if found and tail and mark in (" and ", ", ", "; ") and _is_instruction(head):
            return _strip_asides(_strip_marks(tail))
    return core


def _take_directives(text: str) -> tuple[str, Directives]:
    n_places = n_significant = None
    if found := _PLACES.search(text):
        n_places = _parse_count(found["n"])
        text = _cut(text, found)
    elif found := _SIGNIFICANT.search(text):
        n_significant = max(1, _parse_count(found["n"]))
        text = _cut(text, found)
    elif found := _TO_NEAREST.search(text):
        n_places = _NEAREST[found["unit"]]
        text = _cut(text, found)
    iso = as_fraction = False
    for pattern in (_ISO, _ISO_WORD):
        if found := pattern.search(text):
            iso, text = True, _cut(text, found)
    if found := _FRACTION.search(text):
        as_fraction, text = True, _cut(text, found)
    number_only = bool(_NUMBER_ONLY.search(text))
    text = _INLINE_ONLY.sub(" ", text)
    return text, Directives(n_places, n_significant, number_only, iso, as_fraction)


def _cut(text: str, found: re.Match[str]) -> str:
    return f"{text[: found.start()]} {text[found.end() :]}"


def _parse_count(word: str) -> int:
    return int(word) if word.isdigit() else SMALL_WORDS[word]


def _is_instruction(clause: str) -> bool:
    words = re.findall(r"[^\W_]+(?:'[a-z]+)?", clause)
    if any(word.isdigit() for word in words) or not words:
        return not words and not re.search(r"\d", clause)
    if not all(word in _INSTRUCTION_WORDS for word in words) or _INSTRUCTION_HEADS.isdisjoint(words):
        return False
    # "Show your work", "reply in words": more than a result is asked for, and no tool can give it.
    more = _MORE_WORDS.intersection(words) - ({"work"} if "out" in words else set())
    return not more or not _NEGATIONS.isdisjoint(words)
