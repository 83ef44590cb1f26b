"""How a text is written, whatever it says: length, digits, code, options …, each scaled to [0, 1]."""

import re
from collections.abc import Sequence
from math import log1p

import numpy as np

from .embedders.tokens import head_and_tail
from .types import Floats

FORM_VERSION = 1
"""Part of fingerprints: raise it whenever a value changes."""

SAMPLE_CHARS = 8192
"""Longer texts are counted in head and tail; only `length` sees all of it."""

_SHARES = {
    "digits": (b"0123456789", 5.0),
    "capitals": (bytes(range(65, 91)), 5.0),
    "punctuation": (b".,:;!?'-", 5.0),
    "code_signs": (b"{}()[]<>=_;#&|", 5.0),
    "formula_signs": (b"\\$^", 20.0),
    "operators": (b"+-*/=%<>", 10.0),
    "non_ascii": (bytes(range(128, 256)), 1.0),
}
"""Share of the bytes that are among these, times a scale, at most 1."""

_COUNTS = {
    "lines": (b"\n", log1p(200)),
    "words": (b" \n\t", log1p(5000)),
    "questions": (b"?", log1p(10)),
    "quotes": (b'"`', log1p(40)),
}
"""log(1 + count) over the value that scores 1."""

_PATTERNS = {
    "numbers": (re.compile(r"\d+(?:[.,]\d+)*+"), log1p(50)),
    "options": (re.compile(r"^[ \t]{0,8}\(?[A-Ja-j1-9][.):](?=\s)", re.MULTILINE), log1p(8)),
    "bullets": (re.compile(r"^[ \t]{0,8}[-*•](?=\s)", re.MULTILINE), log1p(20)),
    "units": (
        re.compile(
            r"\d\s?(?:[kcm]?m|km/h|mph|[km]?g|lbs?|oz|[km]?l|miles?|feet|foot|inch(?:es)?|yards?|met(?:er|re)s?"
            r"|lit(?:er|re)s?|pounds?|ounces?|gallons?|grams?|°\s?[CF]|hours?|minutes?|seconds?|days?|weeks?"
            r"|months?|years?|dollars?|cents?|percent|%)(?!\w)"
        ),
        log1p(8),
    ),
}
"""log(1 + matches) over the value that scores 1."""

_FLAGS = {
    "arithmetic": re.compile(r"\d\s{0,3}[-+*/×÷^=]\s{0,3}\d"),
    "fence": re.compile("```"),
    "blank": re.compile("__"),
    "ends_asking": re.compile(r"[?？]\s{0,8}\Z"),
    "ends_open": re.compile(r"[:：]\s{0,8}\Z"),
}
"""1 where the pattern is found."""

_PHRASES = {
    "yes_no": ("yes or no", "true or false", "yes/no", "true/false"),
    "brief": ("one word", "one sentence", "briefly", "only the", "just the", "single word"),
    "stepwise": ("step by step", "show your work", "explain why", "in detail", "reason"),
}
"""1 where one of the phrases is found, in any case."""

_LONGEST_CHARS = 100_000

FORM_NAMES: tuple[str, ...] = ("length", *_SHARES, *_COUNTS, *_PATTERNS, *_FLAGS, *_PHRASES)


def form_features(texts: Sequence[str]) -> Floats:
    """(n_texts, n_form) in [0, 1], columns as in FORM_NAMES."""
    form = np.array([_form(text) for text in texts], np.float64)
    return np.minimum(form.reshape(len(texts), len(FORM_NAMES)), 1.0)


def _form(text: str) -> list[float]:
    sample = head_and_tail(text, SAMPLE_CHARS)
    data = sample.encode("utf-8", "surrogatepass")
    lower = sample.lower()
    n_bytes = len(data) or 1
    return [
        log1p(len(text)) / log1p(_LONGEST_CHARS),
        *(_count(data, codes) * scale / n_bytes for codes, scale in _SHARES.values()),
        *(log1p(_count(data, codes)) / full for codes, full in _COUNTS.values()),
        *(log1p(len(pattern.findall(sample))) / full for pattern, full in _PATTERNS.values()),
        *(1.0 if pattern.search(sample) else 0.0 for pattern in _FLAGS.values()),
        *(1.0 if any(phrase in lower for phrase in phrases) else 0.0 for phrases in _PHRASES.values()),
    ]


def _count(data: bytes, codes: bytes) -> int:
    """How many bytes are among `codes`; deleting them in C is quicker than any count in Python."""
    return len(data) - len(data.translate(None, codes))
