"""Feature blocks as one design matrix that is never built: dense, sparse lexical, form."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from ..types import Floats, Floats32, Ints


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The n-grams kept from training, by hashed id, with their inverse document frequency.

    ids: (n_terms,) ascending; idf: (n_terms,)
    """

    ids: Ints
    idf: Floats32

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
        places: Ints = np.minimum(np.searchsorted(self.ids, lexical), max(len(self.ids) - 1, 0))
        values = np.where(self.ids[places] == lexical, self.idf[places], np.float32(0))
        values /= np.sqrt(np.einsum("qs,qs->q", values, values) + np.float32(1e-12))[:, None]
        return places, values

    def matrix(self, lexical: Ints) -> csr_array:
        """(n_queries, n_terms) sparse tf-idf, rows of unit length."""
        n, n_slots = lexical.shape
        if not len(self.ids) or not n_slots:
            return csr_array((n, len(self.ids)), dtype=np.float64)
        places, values = self.rows(lexical)
        starts = np.arange(n + 1) * n_slots
        matrix = csr_array((values.ravel().astype(np.float64), places.ravel(), starts), (n, len(self.ids)))
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix


class Design:
    """X = [dense | lexical | form] as an operator."""

    def __init__(self, dense: Floats32, lexical: csr_array, form: Floats32) -> None:
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
        result: Floats = self._dense @ dense.astype(np.float32) + self._lexical @ lexical + self._form @ form
        return result

    def backward(self, values: Floats) -> Floats:
        """Xᵀ·V, (n_features, n_experts)."""
        return np.concatenate(
            (self._dense.T @ values.astype(np.float32), self._lexical_t @ values, self._form.T @ values)
        )
