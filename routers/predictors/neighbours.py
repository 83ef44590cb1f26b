"""Outcomes of queries alike in content and form: the space they are compared in, clusters, and kNN."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, Self

import numpy as np

from ..features import Features, FormScale
from ..protocols import Arrays
from ..types import Estimate, Floats, Floats32, Ints
from .targets import centre_targets

_TINY = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class Space:
    """Unit vectors of [dense | weight · form], in their principal directions if those are fewer.

    axes: (dim + n_form, n_dims); (0, 0) where all directions are kept
    """

    scale: FormScale
    weight: float
    axes: Floats32

    @classmethod
    def of(cls, features: Features, weight: float, n_dims: int | None) -> "Space":
        plain = cls(FormScale.of(features), weight, np.zeros((0, 0), np.float32))
        return cls(plain.scale, weight, _principal_axes(plain.rows(features), n_dims))

    def equals(self, other: "Space") -> bool:
        """Whether every query has the same unit vector in both."""
        return self.weight == other.weight and self.scale.key == other.scale.key

    def rows(self, features: Features) -> Floats32:
        """(n_queries, n_dims) float32; of unit length before the smaller directions were dropped."""
        unit = self.unit(features)
        return multiply_rows(unit, self.axes) if self.axes.size else unit

    def unit(self, features: Features) -> Floats32:
        """(n_queries, dim + n_form) float32 of unit length; the same in every space of one weight."""
        return features.once((self.weight, self.scale.key), self._unit)

    def _unit(self, features: Features) -> Floats32:
        if self.weight == 1.0:
            rows = self.scale.beside(features)
        else:
            form = self.scale.standardise(features) * np.float32(self.weight)
            rows = np.concatenate((features.dense, form), axis=1)
        unit: Floats32 = rows / np.sqrt(np.vecdot(rows, rows) + _TINY)[:, None]
        return unit

    def arrays(self) -> Arrays:
        return {"form_mean": self.scale.mean, "form_gain": self.scale.gain, "axes": self.axes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]], weight: float) -> "Space":
        return cls(FormScale(arrays["form_mean"], arrays["form_gain"]), weight, arrays["axes"])


def multiply_rows(rows: Floats32, matrix: Floats32) -> Floats32:
    """rows @ matrix with the same bits for a row alone and in a batch.

    A matrix product may sum in another order for another number of rows; a batch must equal its singles.
    """
    products: Floats32
    if len(rows) == 1:
        products = rows.dot(matrix)
        return products
    products = np.empty((len(rows), matrix.shape[1]), np.float32)
    for row, product in zip(rows, products, strict=True):
        np.dot(row, matrix, out=product)
    return products


def _principal_axes(rows: Floats32, n_dims: int | None) -> Floats32:
    n_rows, dim = rows.shape
    if n_dims is None or n_dims >= dim or n_rows <= n_dims:
        return np.zeros((0, 0), np.float32)
    wide = rows.astype(np.float64)  # sums of many float32 products lose digits
    _, vectors = np.linalg.eigh(wide.T @ wide)
    return np.ascontiguousarray(vectors[:, -n_dims:], dtype=np.float32)  # eigh sorts ascending


_SHARPEST = 300.0
"""Beyond twice this the exponential of a cosine is no finite number."""


class Clusters:
    """Spherical k-means; each cluster's outcomes shrunk to the expert's mean, mixed by nearness.

    Reference: Avengers (arXiv 2505.19797): k-means clusters and ranks of models per cluster.
    Differs: means shrunk to the expert's mean instead of ranks, mixed over all clusters by nearness.
    """

    space_: Space
    centroids_: Floats32
    value_: Floats
    std_: Floats
    mean_: Floats

    def __init__(
        self,
        n_clusters: int = 64,
        prior: float = 5.0,
        sharpness: float = 30.0,
        form: float = 1.0,
        n_steps: int = 15,
        seed: int = 0,
    ) -> None:
        """Args:
        n_clusters: upper bound; never more than a quarter of the training queries.
        prior: how many outcomes the expert's mean counts for.
        sharpness: of the softmax over cosines; more than 300 count as 300, which takes the nearest alone.
        form: weight of the form features beside the dense ones.
        n_steps: Lloyd steps.
        """
        self.n_clusters = n_clusters
        self.prior = prior
        self.sharpness = sharpness
        self.form = form
        self.n_steps = n_steps
        self.seed = seed

    def fit(self, features: Features, targets: Floats) -> Self:
        n = max(1, min(self.n_clusters, len(features) // 4))
        self.space_ = Space.of(features, self.form, None)
        rows = self.space_.rows(features)
        self.centroids_ = spherical_kmeans(rows, n, self.n_steps, self.seed)
        return self._learn(rows, targets)

    def refit(self, features: Features, targets: Floats) -> Self:
        """A twin with the same clusters that knows these outcomes alone."""
        twin = type(self)(**self.settings())
        twin.space_, twin.centroids_ = self.space_, self.centroids_
        return twin._learn(self.space_.rows(features), targets)

    def _learn(self, rows: Floats32, targets: Floats) -> Self:
        parts = centre_targets(targets)
        member = np.argmax(rows @ self.centroids_.T, axis=1)  # (n_queries,)
        belongs = np.zeros((len(self.centroids_), len(rows)))
        belongs[member, np.arange(len(rows))] = 1.0  # (n_clusters, n_queries)
        count = belongs @ parts.known  # (n_clusters, n_experts)
        self.mean_ = parts.mean
        self.value_ = belongs @ parts.residual / (count + self.prior)  # (n_clusters, n_experts)
        self.std_ = parts.std * np.sqrt(count + self.prior) / (count + self.prior)
        return self._ready()

    def _ready(self) -> Self:
        """Lay out what predicting reads: values, deviations and ones side by side, to be weighed at once."""
        self.sharpest = min(self.sharpness, _SHARPEST)
        said = self.mean_ + self.value_
        self.table = np.concatenate((said, self.std_, np.ones((len(said), 1))), axis=1)
        self._columns = np.ascontiguousarray(self.centroids_.T)
        return self

    @property
    def space(self) -> Space:
        return self.space_

    @property
    def pulls(self) -> Floats32:
        """(dim + n_form, n_clusters) the centroids."""
        return self._columns

    def predict(self, features: Features) -> Estimate:
        return self.read(multiply_rows(self.space_.unit(features), self._columns))

    def read(self, products: Floats32) -> Estimate:
        """The prediction, given the cosines with the centroids, (n_queries, n_clusters)."""
        share = products.astype(np.float64)
        # No maximum is taken off as softmax usually does: exp of at most 300 · 1 is finite.
        share *= self.sharpest
        read = np.exp(share, out=share).dot(self.table)  # (n_queries, 2 · n_experts + 1)
        read /= read[:, -1:]  # the column of ones holds the softmax's denominator
        n_experts = len(self.mean_)
        return Estimate(read[:, :n_experts], read[:, n_experts:-1])

    def settings(self) -> dict[str, Any]:
        return {
            "n_clusters": self.n_clusters,
            "prior": self.prior,
            "sharpness": self.sharpness,
            "form": self.form,
            "n_steps": self.n_steps,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        return {
            **self.space_.arrays(),
            "centroids": self.centroids_,
            "value": self.value_,
            "std": self.std_,
            "mean": self.mean_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.space_ = Space.from_arrays(arrays, self.form)
        self.centroids_, self.value_ = arrays["centroids"], arrays["value"]
        self.std_, self.mean_ = arrays["std"], arrays["mean"]
        return self._ready()


def spherical_kmeans(rows: Floats32, n_clusters: int, n_steps: int, seed: int) -> Floats32:
    """(n_clusters, dim) unit centroids; an empty cluster restarts at the row served worst."""
    if not len(rows):
        return np.zeros((n_clusters, rows.shape[1]), np.float32)
    ordered = rows[np.lexsort(rows.T)]  # so that the order of the training queries does not matter
    start = np.random.default_rng(seed).choice(len(rows), n_clusters, replace=False)
    centroids: Floats32 = ordered[start].copy()
    for _ in range(n_steps):
        similarity = ordered @ centroids.T  # (n_rows, n_clusters)
        nearest = similarity.argmax(axis=1)
        count = np.bincount(nearest, minlength=n_clusters)
        start, empty = np.cumsum(count) - count, np.flatnonzero(count == 0)
        sums = np.zeros_like(centroids)
        grouped = ordered[np.argsort(nearest, kind="stable")]
        # Without empty clusters: for an empty slice reduceat gives the row at its start, not 0.
        sums[count > 0] = np.add.reduceat(grouped, start[count > 0], axis=0)
        sums[empty] = ordered[np.argsort(similarity.max(axis=1), kind="stable")[: len(empty)]]
        # Concept vectors: Dhillon and Modha, Machine Learning 42, 2001.
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = (sums / np.where(norm > 0, norm, 1)).astype(np.float32)
    return centroids


_SAMPLE = 8192
_N_CELL_STEPS = 6
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
        sample = rows[np.lexsort(rows.T)][
            :: max(1, len(rows) // _SAMPLE)
        ]  # sorted: queries may come in any order
        centroids = np.ascontiguousarray(spherical_kmeans(sample, n_cells, _N_CELL_STEPS, 0).T)
        cell = np.argmax(rows @ centroids, axis=1)  # (n_rows,)
        order = np.argsort(cell, kind="stable")
        start = np.searchsorted(cell[order], np.arange(n_cells + 1))  # (n_cells + 1,)
        return cls(np.ascontiguousarray(rows[order]), start, centroids), order

    def near(self, row: Floats32, n_least: int = 0) -> tuple[Floats32, Ints]:
        """Cosines with the rows of the nearest cells, at least `n_least`, and which rows those are."""
        closeness = row.dot(self.centroids)  # (n_cells,)
        # Lists: a loop over NumPy's scalars takes longer than the conversion.
        order, close = closeness.argsort()[::-1].tolist(), closeness.tolist()
        least, most = max(n_least, self._least), max(n_least, self._most)
        far = close[order[0]] - _REACH
        similarity = np.empty(int(most) + self._largest, np.float32)
        places, n_rows = [], 0
        for cell in order:
            if n_rows >= (least if close[cell] < far else most):
                break
            end = n_rows + self._sizes[cell]
            self._blocks[cell].dot(row, similarity[n_rows:end])  # straight into its place, without a copy
            places.append(self._places[cell])
            n_rows = end
        return similarity[:n_rows], np.concatenate(places)

    def arrays(self) -> Arrays:
        return {"cell_rows": self.rows, "cell_start": self.start, "cell_centroids": self.centroids}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Cells":
        return cls(arrays["cell_rows"], arrays["cell_start"], arrays["cell_centroids"])


def find_near(similarity: Floats32, k: int) -> Ints:
    """Where the k largest of (n,) similarities are, all equal to the k-th, and some of the next."""
    n_high = 2 * k
    depth = len(similarity) // n_high
    if depth < 2:
        return np.arange(len(similarity))
    # Each of some maxima is one of the similarities: what is below the k-th largest maximum is not among the
    # k largest. Maxima are quick to find; to partition all similarities takes five times as long.
    high = np.maximum.reduce(similarity[: depth * n_high].reshape(depth, n_high), axis=0)
    high.partition(n_high - k)
    near: Ints = (similarity >= high[n_high - k]).nonzero()[0]
    return near


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
            pull, share = self._look_around(row)
            np.add(self.mean_, pull, out=mean[n])
            np.multiply(self.std_, share, out=std[n])
        return Estimate(mean, std)

    def _look_around(self, row: Floats32) -> tuple[Floats32, Floats32 | float]:
        """What the neighbours add to the mean, and by how much they narrow the spread; (n_experts,) each."""
        places = None
        if self.cells_ is None:
            similarity = row @ self.columns_  # (n_queries_learned,)
        else:
            similarity, places = self.cells_.near(row, 4 * self.k)
        near = find_near(similarity, self.k)
        close: Floats32 = similarity.take(near)
        last = len(close) - min(self.k, len(close))
        ordered = close.copy()
        ordered.partition(last)
        edge = ordered[last]  # the k-th nearest
        weights = close - edge
        top = np.maximum.reduce(weights)
        if top <= _SAME:  # all as near as the k-th, more than k of them: each weighs the same
            np.greater_equal(close, edge, out=weights)
        else:
            weights /= top
            np.maximum(weights, 0.0, out=weights)  # what is less near than the k-th
        if places is not None:
            near = places.take(near)
        residual = self.residual_.take(near, axis=0)  # (n_near, n_experts)
        if self.complete_:
            # Σwr / (Σw + prior): the expert's mean is a neighbour of weight `prior` and residual 0.
            total = float(np.add.reduce(weights)) + self.prior
            pull = weights.dot(residual)  # (n_experts,)
            pull /= total
            return pull, sqrt(float(weights.dot(weights)) + self.prior) / total
        known = self.known_.take(near, axis=0)  # (n_near, n_experts), 1 where measured
        totals = weights @ known + np.float32(self.prior)  # (n_experts,)
        square = (weights * weights) @ known
        # (n_experts,) each
        return weights @ residual / totals, np.sqrt(square + np.float32(self.prior)) / totals

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
