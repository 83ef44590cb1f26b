"""Feature blocks as one design matrix that is never built: dense, sparse lexical, form."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from ..protocols import Arrays
from ..types import Bools, Features, Floats, Floats32, Ints
from .space import FormScale

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Lexicon:
    """The n-grams kept from training, by hashed id, with their inverse document frequency.

    ids: (n_terms,) ascending; idf: (n_terms,). One place more, the last, stands for every other id and for
    padding; its value is 0.
    """

    def __init__(self, ids: Ints, idf: Floats32) -> None:
        self.ids = ids
        self.idf = idf
        self._values = np.append(idf, np.float32(0))
        self._last = int(ids[-1]) + 1 if len(ids) else 0
        self._place = np.full(self._last + 1, len(ids), np.int64)
        self._place[ids] = np.arange(len(ids))

    @classmethod
    def of(cls, lexical: Ints, min_count: int) -> "Lexicon":
        """N-grams that occur in at least `min_count` rows of lexical (n_queries, n_slots)."""
        ordered = np.sort(lexical, axis=1)
        first = np.ones(ordered.shape, bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        ids, counts = np.unique(ordered[first & (ordered >= 0)], return_counts=True)
        kept = counts >= min_count
        idf = np.log((1 + len(lexical)) / (1 + counts[kept])) + 1
        return cls(ids[kept].astype(np.int64), idf.astype(np.float32))

    def rows(self, lexical: Ints) -> tuple[Ints, Floats32]:
        """Each id's place among the kept and tf-idf value, (n_queries, n_slots) each; rows of unit length."""
        places = self._place[np.minimum(lexical, self._last)]  # padding, -1, finds the last place
        values = self._values[places]
        values /= np.sqrt(np.einsum("qs,qs->q", values, values) + np.float32(1e-12))[:, None]
        return places, values

    def row(self, ids: Ints) -> tuple[Ints, Floats32]:
        """What `rows` gives for one query, (n_slots,) each, its padding left out."""
        places = self._place.take(ids[ids >= 0], mode="clip")
        values = self._values.take(places)
        values /= sqrt(float(values.dot(values)) + 1e-12)
        return places, values

    def matrix(self, lexical: Ints) -> "csr_array":
        """(n_queries, n_terms + 1) sparse tf-idf, rows of unit length."""
        from scipy.sparse import csr_array  # fitting alone needs SciPy

        n, n_slots = lexical.shape
        places, values = self.rows(lexical)
        starts = np.arange(n + 1) * n_slots
        shape = (n, len(self.ids) + 1)
        matrix = csr_array((values.ravel().astype(np.float64), places.ravel(), starts), shape)
        matrix.eliminate_zeros()
        matrix.sum_duplicates()
        return matrix


class Design:
    """X = [dense | lexical | form] as an operator."""

    def __init__(self, dense: Floats, lexical: "csr_array", form: Floats) -> None:
        self._dense = dense
        self._lexical = lexical
        self._lexical_t = lexical.T.tocsr()
        self._form = form
        self._ends = np.cumsum([dense.shape[1], lexical.shape[1]])
        self.shape = (dense.shape[0], int(self._ends[-1]) + form.shape[1])

    def blocks(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Weights (n_features, n_experts) per block."""
        dense, lexical, form = np.split(weights, self._ends)
        return dense, lexical, form

    def forward(self, weights: Floats) -> Floats:
        """X·W, (n_queries, n_experts)."""
        dense, lexical, form = self.blocks(weights)
        result: Floats = self._dense @ dense + self._lexical @ lexical + self._form @ form
        return result

    def backward(self, values: Floats) -> Floats:
        """Xᵀ·V, (n_features, n_experts)."""
        return np.concatenate((self._dense.T @ values, self._lexical_t @ values, self._form.T @ values))


_TOLERANCE = 1e-5
_MAX_STEPS = 300


def solve_ridge(design: Design, residual: Floats, known: Bools, alpha: float) -> Floats:
    """(n_features, n_experts) weights minimising Σ_known (r − Xw)² + α·|w|² for every expert.

    Each column stops moving once its gradient is `_TOLERANCE` of what it was.
    """
    weights = np.zeros((design.shape[1], residual.shape[1]))
    gradient = design.backward(residual)  # (n_features, n_experts)
    direction = gradient.copy()
    size = (gradient**2).sum(axis=0)
    enough = size * _TOLERANCE**2 + 1e-30
    for _ in range(_MAX_STEPS):
        if (size <= enough).all():
            break
        curved = design.backward(np.where(known, design.forward(direction), 0.0)) + alpha * direction
        step = np.where(size > enough, size / np.maximum((direction * curved).sum(axis=0), 1e-30), 0.0)
        weights += step * direction
        gradient -= step * curved
        shrunk = (gradient**2).sum(axis=0)
        direction = gradient + (shrunk / np.maximum(size, 1e-30)) * direction
        size = shrunk
    return weights


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
            blocks.append(self.scale.standardise(features) * np.float32(self.form))
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
    seen = matrix @ basis  # (n_queries, n_axes)
    weight, turn = np.linalg.eigh(seen.T @ seen)
    axes: Floats = basis @ turn[:, ::-1]
    axes[:, weight[::-1] < 1e-9 * max(float(weight[-1]), 1e-30)] = 0.0
    return axes.astype(np.float32)
