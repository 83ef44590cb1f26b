"""From words and signs to tokens: one vocabulary for `3 * 4`, `3 times 4` and `three multiplied by four`."""

# ruff: noqa: SIM905  lists of words read better as text

import re
from dataclasses import dataclass
from fractions import Fraction

from .numbers import MAX_BITS, TOO_LARGE, parse_number_words
from .types import NotComputable, Refused

MAX_WORDS = 24
Piece = tuple[str, str, bool]
"""Kind, text, and whether a space stands before it."""


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is "number" or the name of an operator or word; `spaced` says that a space stands before it."""

    kind: str
    value: Fraction = Fraction(0)
    text: str = ""
    spaced: bool = False


_PIECE = re.compile(
    r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d])|\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?(?![\d.]\d)|\.\d+)"
    r"|(?P<ordinal>(?<=\d)(?:st|nd|rd|th)\b)"
    r"|(?P<word>[a-z]+(?:'[a-z]+)?)"
    r"|(?P<sign>\*\*|[-+*/^%()=!,√$°])"
    r"|(?P<space>\s+)"
)

# Longest first within the same beginning; "" drops the words.
_PHRASES: dict[tuple[str, ...], str] = {
    tuple(phrase.split()): kind
    for kind, phrases in {
        "+": "plus|added to|is added to|added with|increased by|is increased by|more than|greater than",
        "-": "minus|decreased by|is decreased by|reduced by|is reduced by|diminished by|take away",
        "from right": "less than|fewer than|subtracted from|is subtracted from|taken from|taken away from",
        "*": "times|multiplied by|is multiplied by|are multiplied by|multiplied with|times by",
        "/": "divided by|is divided by|over",
        "mod": "mod|modulo|modulus",
        "^": (
            "to the power of|to the power|raised to the power of|raised to the power|raised to|raised by"
            "|is raised to|is raised to the power of|is raised to the power"),
        "to the": "to the|raised to the",
        "power": "power",
        "squared": "squared|to the second power",
        "cubed": "cubed|to the third power",
        "%": "percent|per cent|pct",
        "of": "of",
        "off": "off",
        "and": "and",
        "by": "by",
        "from": "from",
        "with": "with",
        "to": "to",
        "into": "into",
        "between": "between",
        "sqrt": "square root of|square root|sqrt of|sqrt|positive square root of|principal square root of",
        "cbrt": "cube root of|cube root|cubic root of|cbrt|third root of",
        "sum": "sum of|total of|sum|total",
        "product": "product of|product",
        "difference": (
            "difference between|difference of|positive difference between|absolute difference between"),
        "quotient": "quotient of",
        "mean": "average of|mean of|arithmetic mean of|average value of",
        "median": "median of",
        "max": "maximum of|max of|largest of|greatest of|max",
        "min": "minimum of|min of|smallest of|least of|min",
        "gcd": "greatest common divisor of|greatest common factor of|highest common factor of|gcd of|gcf of"
        "|hcf of|gcd|hcf|gcf",
        "lcm": "least common multiple of|lowest common multiple of|smallest common multiple of|lcm of|lcm",
        "remainder": "remainder when|remainder of|remainder if|remainder after|remainder from",
        "is": "is|gets|being",
        "factorial": "factorial",
        "factorial of": "factorial of",
        "abs": "absolute value of|modulus of|abs",
        "negative": "negative|minus sign",
        "reciprocal": "reciprocal of|multiplicative inverse of|inverse of",
        "half": "half of|one half of|half",
        "third": "third of|one third of",
        "quarter": "quarter of|one quarter of|one fourth of|fourth of",
        "fifth": "fifth of|one fifth of",
        "tenth": "tenth of|one tenth of",
        "thirds": "thirds of",
        "quarters": "quarters of|fourths of",
        "fifths": "fifths of",
        "eighths": "eighths of",
        "tenths": "tenths of",
        "twice": "twice|double|two times",
        "thrice": "thrice|triple|three times",
        "square of": "square of",
        "cube of": "cube of",
        "add": "add|adding|add up|adding up|add together|sum up|total up",
        "subtract": "subtract|subtracting|deduct|take",
        "multiply": "multiply|multiplying",
        "divide": "divide|dividing",
        "square": "square|squaring",
        "cube": "cube|cubing",
        "halve": "halve|halving",
        "raise": "raise|raising",
        "increase": "increase|increasing",
        "decrease": "decrease|decreasing|reduce|reducing",
        "together": "together",
        "round": "round|rounding",
        "": "the|a|an|number|numbers|value|quantity|integer|integers|both|dollars|euros|exactly|all",
    }.items()
    for phrase in phrases.split("|")
}  # fmt: skip
_ORDINALS = {
    word: n for n, word in enumerate("fourth fifth sixth seventh eighth ninth tenth".split(), start=4)
}
_LONGEST = max(map(len, _PHRASES))


def tokenise(text: str) -> list[Token]:
    """All of the text as tokens.

    Raises:
        NotComputable: a word or sign that no computation has.
        Refused: a number of more digits than would be computed with.
    """
    pieces = _pieces(text)
    tokens: list[Token] = []
    at = 0
    while at < len(pieces):
        kind, piece, spaced = pieces[at]
        if kind == "number":
            tokens.append(Token("number", _parse_number(piece), piece, spaced))
            at += 1
        elif kind == "word":
            token, n_words = _match_words(pieces, at)
            if token:
                tokens.append(token)
            at += n_words
        elif kind == "ordinal":
            tokens.append(Token("ordinal"))
            at += 1
        else:
            tokens.append(Token("^" if piece == "**" else piece, text=piece, spaced=spaced))
            at += 1
    return tokens


def _pieces(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    at, spaced = 0, False
    while at < len(text):
        found = _PIECE.match(text, at)
        if found is None:
            raise NotComputable
        at = found.end()
        kind = found.lastgroup or ""
        if kind == "space":
            spaced = True
            continue
        # `3 x 4`: an x behind something may be a times sign; at the start it is a name.
        if kind == "word" and found.group() == "x" and pieces:
            kind, spaced = "sign", True
        pieces.append((kind, found.group(), spaced))
        spaced = False
    return pieces


def _match_words(pieces: list[Piece], at: int) -> tuple[Token | None, int]:
    """The token that starts at a word (None if the words say nothing) and how many pieces it took."""
    words: list[str] = []
    for kind, piece, spaced in pieces[at : at + MAX_WORDS]:
        if kind != "word" and not (piece == "-" and words and not spaced):
            break
        words.append(piece)
    spelled = [word for word in words if word != "-"]  # twenty-three
    if found := parse_number_words(spelled):
        value, n_taken = found
        return Token("number", Fraction(value), "", True), _count_hyphenated(words, n_taken)
    if words[0] in _ORDINALS and words[1:2] == ["power"]:
        return Token("number", Fraction(_ORDINALS[words[0]]), "", True), 1
    for length in range(min(_LONGEST, len(words)), 0, -1):
        said = _PHRASES.get(tuple(words[:length]))
        if said is not None:
            return (Token(said, spaced=True) if said else None), length
    raise NotComputable


def _count_hyphenated(words: list[str], n_taken: int) -> int:
    n_pieces = 0
    while n_taken:
        n_taken -= words[n_pieces] != "-"
        n_pieces += 1
    return n_pieces


def _parse_number(text: str) -> Fraction:
    digits = text.replace(",", "")
    # A digit holds 3.3 bits. Checked before `int`, whose time grows with the square of the length
    # (CVE-2020-10735).
    if len(digits) > MAX_BITS // 4:
        raise Refused(TOO_LARGE)
    if digits[0] == "0" and digits[1:2].isdigit():
        raise NotComputable  # a code, a date or an hour, not a number
    return Fraction(digits)
