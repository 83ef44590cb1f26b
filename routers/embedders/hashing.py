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

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            self._add(vectors[row], text)
        return vectors

    def _add(self, vector: Floats32, text: str) -> None:
        for word in _WORD.findall(text.lower()):
            code = zlib.crc32(word.encode("utf-8", "surrogatepass"))
            vector[(code >> 1) % self.dim] += 1.0 if code & 1 else -1.0
        length = float(np.sqrt(vector @ vector))
        if length:
            vector /= length
        else:
            vector[0] = 1.0
