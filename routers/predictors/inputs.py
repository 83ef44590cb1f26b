"""A query as one vector of moderate length: content, form, and words in their principal directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..protocols import Arrays
from ..types import Features, Floats, Floats32
from .design import Lexicon
from .space import FormScale

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_N_STEPS = 6
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Inputs:
    """[dense · content | form · form | words], as float32; a batch has the very bits of its singles.

    content: (dim, n_content) axes of the dense block, words: (n_terms + 1, n_words) axes of the tf-idf block;
    either is (0, 0) where the block is taken as it is or left out.
    """

    scale: FormScale
    form: float
    lexicon: Lexicon
    content: Floats32
    words: Floats32

    @classmethod
    def of(cls, features: Features, form: float, n_content: int | None, n_words: int, seed: int) -> "Inputs":
        """n_content None keeps the dense block as it is; n_words 0 and form 0 leave those out."""
        lexicon = Lexicon.of(features.lexical if n_words else features.lexical[:, :0], 2)
        words = np.zeros((0, 0), np.float32)
        if n_words and len(lexicon.ids) and len(features):
            words = _axes(lexicon.matrix(features.lexical), n_words, seed)
        return cls(FormScale.of(features), form, lexicon, _content(features, n_content), words)

    def rows(self, features: Features) -> Floats32:
        """(n_queries, n_inputs) float32."""
        blocks = [self._content(features)]
        if self.form:
            blocks.append(self.scale.scaled(features) * np.float32(self.form))
        if self.words.size:
            blocks.append(self._words(features))
        return np.concatenate(blocks, axis=1)

    def _content(self, features: Features) -> Floats32:
        # In double precision and rounded: a sum's order, which batches change, is not seen in 24 bits.
        if not self.content.size:
            return features.dense
        return (features.dense.astype(np.float64) @ self.content.astype(np.float64)).astype(np.float32)

    def _words(self, features: Features) -> Floats32:
        read = np.zeros((len(features), self.words.shape[1]))
        for start in range(0, len(features), _CHUNK):
            block = slice(start, start + _CHUNK)
            places, values = self.lexicon.rows(features.lexical[block])
            axes = self.words[places].astype(np.float64)
            read[block] = np.einsum("qs,qsw->qw", values.astype(np.float64), axes)
        return read.astype(np.float32)

    def arrays(self) -> Arrays:
        return {
            "form_mean": self.scale.mean,
            "form_gain": self.scale.gain,
            "ids": self.lexicon.ids,
            "idf": self.lexicon.idf,
            "content": self.content,
            "words": self.words,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]], form: float) -> "Inputs":
        return cls(
            FormScale(arrays["form_mean"], arrays["form_gain"]),
            form,
            Lexicon(arrays["ids"], arrays["idf"]),
            arrays["content"],
            arrays["words"],
        )


def _content(features: Features, n_content: int | None) -> Floats32:
    dense = features.dense.astype(np.float64)
    if n_content is None or n_content >= dense.shape[1] or len(dense) <= n_content:
        return np.zeros((0, 0), np.float32)
    _, vectors = np.linalg.eigh(dense.T @ dense)
    return np.ascontiguousarray(vectors[:, -n_content:], dtype=np.float32)


def _axes(matrix: "csr_array", n_axes: int, seed: int) -> Floats32:
    """(n_terms, n_axes) leading right singular vectors, by subspace iteration; those of no weight are 0."""
    n_terms = matrix.shape[1]
    basis = np.random.default_rng(seed).normal(size=(n_terms, min(n_axes, n_terms)))
    for _ in range(_N_STEPS):
        basis = np.linalg.qr(matrix.T @ (matrix @ basis))[0]
    seen = matrix @ basis
    weight, turn = np.linalg.eigh(seen.T @ seen)
    axes: Floats = basis @ turn[:, ::-1]
    axes[:, weight[::-1] < 1e-9 * max(float(weight[-1]), 1e-30)] = 0.0
    return axes.astype(np.float32)
