"""Features of queries: dense vectors, hashed words, and form (length, digits, code …) scaled to [0, 1]."""

import re
from collections.abc import Sequence
from math import log1p
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .embedders.tokens import head_and_tail
from .errors import EmbedderError
from .protocols import Embedder
from .query import code_share, estimate_tokens, guess_language, query_of
from .types import Features, Floats, Floats32, Ints, Query, Tier

FORM_VERSION = 1
"""Part of fingerprints: raise it whenever a value changes."""

FORM_SAMPLE_CHARS = 8192
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
    sample = head_and_tail(text, FORM_SAMPLE_CHARS)
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


N_SLOTS = 1 << 15

LEXICAL_VERSION = 1
"""Part of fingerprints: raise it whenever slots change."""

MAX_CHARS = 2048
"""Characters beyond Latin that are read per text."""

_BITS = 15
_SALTS = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F], np.uint32)
"""Odd multipliers: token, token pair, character, character pair."""

_FIRST_BEYOND_LATIN = 0x370
_SPACES_AND_SIGNS = (0x2000, 0x2BFF)


def lexical_slots(ids: Sequence[Sequence[int]], texts: Sequence[str]) -> Ints:
    """(n_texts, n_slots) int64 in [0, N_SLOTS): slots of each text, ascending, then -1 to the widest.

    Slots are hashed tokens and pairs of neighbours. Characters beyond Latin, many of which a WordPiece
    vocabulary knows only as unknown, count too, alone and in pairs.
    """
    rows = [_slots(tokens, text) for tokens, text in zip(ids, texts, strict=True)]
    slots = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
    for row, found in enumerate(rows):
        slots[row, : len(found)] = found
    return slots


def _slots(tokens: Sequence[int], text: str) -> NDArray[np.uint32]:
    hashed = _ngrams(np.array(tokens, np.uint32), _SALTS[0], _SALTS[1])
    if not text.isascii():
        letters = _beyond_latin(text[:MAX_CHARS])
        hashed = np.concatenate([hashed, _ngrams(letters, _SALTS[2], _SALTS[3])])
    hashed.sort()
    if len(hashed) < 2:
        return hashed
    first = np.empty(len(hashed), bool)
    first[0] = True
    np.not_equal(hashed[1:], hashed[:-1], out=first[1:])
    return hashed[first]


def _ngrams(codes: NDArray[np.uint32], alone: np.uint32, paired: np.uint32) -> NDArray[np.uint32]:
    """Slots of each code and of each pair of neighbours; unsigned products wrap, which is the hash."""
    if not len(codes):
        return codes
    pairs = (codes[:-1] * alone ^ codes[1:]) * paired
    return np.concatenate([codes * alone, pairs]) >> np.uint32(32 - _BITS)


def _beyond_latin(text: str) -> NDArray[np.uint32]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    low, high = _SPACES_AND_SIGNS
    return codes[(codes >= _FIRST_BEYOND_LATIN) & ((codes < low) | (codes > high))]


__all__ = [
    "FORM_NAMES",
    "N_SLOTS",
    "FeatureExtractor",
    "TokenEmbedder",
    "code_share",
    "estimate_tokens",
    "form_features",
    "guess_language",
    "query_of",
]


class TokenEmbedder(Embedder, Protocol):
    """An embedder whose tokens can be had first: words and vector share one tokenisation."""

    def ids(self, text: str) -> list[int]:
        """Non-negative ids below 2³², at most as many as the embedder reads."""

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> Floats32:
        """(n_texts, dim) unit rows; what `embed` gives for the texts the ids are of."""


class FeatureExtractor:
    """Features of either tier; words and form are the same in both, and a text is tokenised once for them.

    `static` is a `StaticEmbedder` (in tests a `HashingEmbedder`). Without an encoder only the static tier can
    be asked for. `extract` may be called from many threads.
    """

    def __init__(self, static: TokenEmbedder, encoder: Embedder | None = None) -> None:
        self._static = static
        self._encoder = encoder

    @property
    def fingerprints(self) -> dict[Tier, str]:
        """Per tier it can extract, what its features depend on: equal fingerprints give equal features."""
        rest = f"lexical-{N_SLOTS}-b{LEXICAL_VERSION}+form-{len(FORM_NAMES)}-b{FORM_VERSION}"
        # Words come from the static embedder's tokenizer, whichever tier the vector is from.
        of_static = f"{self._static.fingerprint}+{rest}"
        if self._encoder is None:
            return {"static": of_static}
        return {"static": of_static, "encoder": f"{self._encoder.fingerprint}+{of_static}"}

    def extract(self, queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        """Features of the queries, in order; `reuse` gives the words and form already extracted for them.

        Raises:
            EmbedderError: there is no encoder, or a tier without features (`prior`) is asked for.
            ValueError: `reuse` is of another number of queries.
        """
        if tier not in self.fingerprints:
            raise EmbedderError(
                f"no features for the tier {tier!r}: it is one of {', '.join(self.fingerprints)}"
            )
        if reuse is not None and len(reuse) != len(queries):
            raise ValueError(f"reuse has {len(reuse)} queries, not {len(queries)}")
        texts = [query.text for query in queries]
        if tier == "encoder" and self._encoder is not None:
            lexical, form = self._words_and_form(texts, None, reuse)
            return Features(tier, self._encoder.embed(texts), lexical, form)
        ids = [self._static.ids(text) for text in texts]
        lexical, form = self._words_and_form(texts, ids, reuse)
        return Features(tier, self._static.embed_ids(ids), lexical, form)

    def _words_and_form(
        self, texts: Sequence[str], ids: list[list[int]] | None, reuse: Features | None
    ) -> tuple[Ints, Floats]:
        if reuse is not None:
            return reuse.lexical, reuse.form
        ids = ids if ids is not None else [self._static.ids(text) for text in texts]
        return lexical_slots(ids, texts), form_features(texts)
