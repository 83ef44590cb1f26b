"""Feature blocks as one design matrix that is never built: dense, sparse lexical, form."""

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from ..types import Floats, Floats32, Ints

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
