"""An embedder out of nothing, for tests: hashed words, no weights, no dependencies beyond numpy."""

import re
import zlib
from collections.abc import Sequence

import numpy as np

from ..errors import EmbedderError
from ..types import Floats32

_WORD = re.compile(r"\w+|[^\w\s]")


class HashingEmbedder:
    """Signed hashed bag of words in `dim` dimensions: deterministic, similar texts are near."""

    def __init__(self, dim: int = 64) -> None:
        """Raises: EmbedderError: no dimension at all."""
        if dim < 1:
            raise EmbedderError(f"dim is {dim}; it is at least 1")
        self.dim = dim
        self.fingerprint = f"hashing-d{dim}"

    def ids(self, text: str) -> list[int]:
        """A 32-bit code per word or sign."""
        return [zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in _WORD.findall(text.lower())]

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        return self.embed_ids([self.ids(text) for text in texts])

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> Floats32:
        """(n_texts, dim) unit rows of texts as `ids` gives them."""
        vectors = np.zeros((len(ids), self.dim), np.float32)
        for row, codes in enumerate(ids):
            self._add(vectors[row], codes)
        return vectors

    def _add(self, vector: Floats32, codes: Sequence[int]) -> None:
        for code in codes:
            vector[(code >> 1) % self.dim] += 1.0 if code & 1 else -1.0
        length = float(np.sqrt(vector @ vector))
        if length:
            vector /= length
        else:
            vector[0] = 1.0
