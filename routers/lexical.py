"""Which words stand in a text: token n-grams hashed to slots."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .types import Ints

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
