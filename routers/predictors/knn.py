"""Rows grouped around centroids, so that a search looks into the near groups alone."""

from collections.abc import Mapping
from math import sqrt
from typing import Any, Self

import numpy as np

from ..protocols import Arrays
from ..types import Estimate, Features, Floats, Floats32, Ints
from .clusters import spherical_kmeans
from .space import Space
from .targets import centre_targets

_SAMPLE = 8192
_N_STEPS = 6
_DENSITY = 0.5
"""Cells, over the root of how many rows there are."""
_REACH = 0.25
"""How much less near than the nearest a cell may be, by the cosine of its centroid, to be looked into."""
_LEAST, _MOST = 0.12, 0.2
"""Of all rows that a search looks at, about; between these it is the reach that tells."""


class Cells:
    """rows: (n_rows, dim), those of one cell together; start: (n_cells + 1,); centroids: (dim, n_cells)"""

    def __init__(self, rows: Floats32, start: Ints, centroids: Floats32) -> None:
        self.rows = rows
        self.start = start
        self.centroids = centroids
        self._blocks = np.split(rows, start[1:-1])
        self._places = np.split(np.arange(len(rows)), start[1:-1])
        self._sizes: list[int] = np.diff(start).tolist()
        self._largest = 1 + max(self._sizes)
        self._least, self._most = _LEAST * len(rows), _MOST * len(rows)

    @classmethod
    def of(cls, rows: Floats32) -> tuple["Cells", Ints]:
        """The cells, and where each of their rows stands in `rows`."""
        n_cells = max(1, int(_DENSITY * np.sqrt(len(rows))))
        sample = rows[np.lexsort(rows.T)][:: max(1, len(rows) // _SAMPLE)]
        centroids = np.ascontiguousarray(spherical_kmeans(sample, n_cells, _N_STEPS, 0).T)
        cell = np.argmax(rows @ centroids, axis=1)
        order = np.argsort(cell, kind="stable")
        start = np.searchsorted(cell[order], np.arange(n_cells + 1))
        return cls(np.ascontiguousarray(rows[order]), start, centroids), order

    def near(self, row: Floats32, n_least: int = 0) -> tuple[Floats32, Ints]:
        """Cosines with the rows of the nearest cells, at least `n_least`, and which rows those are."""
        closeness = row.dot(self.centroids)  # (n_cells,)
        order, close = closeness.argsort()[::-1].tolist(), closeness.tolist()
        least, most = max(n_least, self._least), max(n_least, self._most)
        far = close[order[0]] - _REACH
        similarity = np.empty(int(most) + self._largest, np.float32)
        places, n_rows = [], 0
        for cell in order:
            if n_rows >= (least if close[cell] < far else most):
                break
            end = n_rows + self._sizes[cell]
            self._blocks[cell].dot(row, similarity[n_rows:end])
            places.append(self._places[cell])
            n_rows = end
        return similarity[:n_rows], np.concatenate(places)

    def arrays(self) -> Arrays:
        return {"cell_rows": self.rows, "cell_start": self.start, "cell_centroids": self.centroids}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Cells":
        return cls(arrays["cell_rows"], arrays["cell_start"], arrays["cell_centroids"])


_SAME = 1e-5
"""Cosines closer than this are equal: float32 products do not tell them apart."""


class KNN:
    """k nearest training queries by cosine over content and form.

    A neighbour weighs as much as it is more similar than the k-th, so that the estimate moves smoothly when
    the k-th changes: ties need no rule, and a batch equals its singles however the products are rounded.
    A neighbour without an outcome of an expert weighs nothing for that expert.

    Reference: arXiv 2505.12601: well-tuned kNN matches or beats learned routers.
    Differs: weights fall linearly to 0 at the k-th neighbour, and means are shrunk to the expert's mean.
    """

    space_: Space
    columns_: Floats32
    cells_: Cells | None
    residual_: Floats32
    known_: Floats32
    mean_: Floats
    std_: Floats
    complete_: bool

    def __init__(
        self,
        k: int = 200,
        prior: float = 2.0,
        form: float = 1.0,
        n_dims: int | None = 32,
        exact: int = 8192,
    ) -> None:
        """Args:
        k: how many neighbours.
        prior: weight of the expert's mean, in neighbours of full weight.
        form: weight of the form features beside the dense ones.
        n_dims: principal directions kept for the search; None keeps all.
        exact: with more training queries than this, only those in the cells next to a query are looked at.
        """
        self.k = k
        self.prior = prior
        self.form = form
        self.n_dims = n_dims
        self.exact = exact

    def fit(self, features: Features, targets: Floats) -> Self:
        parts = centre_targets(targets)
        self.space_ = Space.of(features, self.form, self.n_dims)
        rows, order = self.space_.rows(features), np.arange(len(features))
        self.cells_ = None
        if len(rows) > self.exact:
            self.cells_, order = Cells.of(rows)
            rows = rows[:0]
        self.columns_ = np.ascontiguousarray(rows.T)
        self.residual_ = parts.residual[order].astype(np.float32)
        self.known_ = parts.known[order].astype(np.float32)
        self.mean_, self.std_ = parts.mean, parts.std
        self.complete_ = bool(parts.known.all())
        return self

    def predict(self, features: Features) -> Estimate:
        shape = len(features), len(self.mean_)
        mean, std = np.empty(shape), np.empty(shape)
        if not len(self.residual_):
            mean[:], std[:] = self.mean_, self.std_
            return Estimate(mean, std)
        for n, row in enumerate(self.space_.rows(features)):
            pull, share = self._read(row)
            np.add(self.mean_, pull, out=mean[n])
            np.multiply(self.std_, share, out=std[n])
        return Estimate(mean, std)

    def _read(self, row: Floats32) -> tuple[Floats32, Floats32 | float]:
        """What the neighbours add to the mean, and by how much they narrow the spread; (n_experts,) each."""
        if self.cells_ is None:
            nearest, weights = self._neighbours(row @ self.columns_)
        else:
            similarity, places = self.cells_.near(row, 4 * self.k)
            nearest, weights = self._neighbours(similarity)
            nearest = places.take(nearest)
        residual = self.residual_.take(nearest, axis=0)  # (n_near, n_experts)
        if self.complete_:
            total = float(np.add.reduce(weights)) + self.prior
            pull = weights.dot(residual)
            pull /= total
            return pull, sqrt(float(weights.dot(weights)) + self.prior) / total
        known = self.known_.take(nearest, axis=0)  # (n_near, n_experts), 1 where measured
        totals = weights @ known + np.float32(self.prior)  # (n_experts,)
        square = (weights * weights) @ known
        return weights @ residual / totals, np.sqrt(square + np.float32(self.prior)) / totals

    def _neighbours(self, similarity: Floats32) -> tuple[Ints, Floats32]:
        """The k nearest, or all as near as the k-th where these are alike, and what each weighs."""
        last = max(len(similarity) - self.k, 0)
        nearest = similarity.argpartition(last)[last:]  # the k-th comes first
        lead = similarity.take(nearest)
        edge = lead[0]
        lead -= edge
        top = np.maximum.reduce(lead)
        if top <= _SAME:
            nearest = (similarity >= edge).nonzero()[0]
            return nearest, np.ones(len(nearest), np.float32)
        lead /= top
        return nearest, lead

    def settings(self) -> dict[str, Any]:
        return {
            "k": self.k,
            "prior": self.prior,
            "form": self.form,
            "n_dims": self.n_dims,
            "exact": self.exact,
        }

    def arrays(self) -> Arrays:
        return {
            **self.space_.arrays(),
            **({} if self.cells_ is None else self.cells_.arrays()),
            "columns": self.columns_,
            "residual": self.residual_,
            "known": self.known_,
            "mean": self.mean_,
            "std": self.std_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.space_ = Space.from_arrays(arrays, self.form)
        self.columns_ = arrays["columns"]
        self.cells_ = Cells.from_arrays(arrays) if "cell_rows" in arrays else None
        self.residual_, self.known_ = arrays["residual"], arrays["known"]
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        self.complete_ = bool(self.known_.all())
        return self
