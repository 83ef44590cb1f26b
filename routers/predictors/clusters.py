"""Outcomes by k-means cluster of queries alike in content and form, near clusters weighing most."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..protocols import Arrays
from ..types import Estimate, Features, Floats, Floats32
from .space import Space, multiply_rows
from .targets import centre_targets

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
        member = np.argmax(rows @ self.centroids_.T, axis=1)
        belongs = np.zeros((len(self.centroids_), len(rows)))
        belongs[member, np.arange(len(rows))] = 1.0
        count = belongs @ parts.known  # (n_clusters, n_experts)
        self.mean_ = parts.mean
        self.value_ = belongs @ parts.residual / (count + self.prior)  # (n_clusters, n_experts)
        self.std_ = parts.std * np.sqrt(count + self.prior) / (count + self.prior)
        return self._ready()

    def _ready(self) -> Self:
        """Lay out what predicting reads: values, deviations and ones side by side, to be weighed at once."""
        self._sharpness = min(self.sharpness, _SHARPEST)
        said = self.mean_ + self.value_
        self._table = np.concatenate((said, self.std_, np.ones((len(said), 1))), axis=1)
        self._columns = np.ascontiguousarray(self.centroids_.T)
        return self

    def predict(self, features: Features) -> Estimate:
        share = multiply_rows(self.space_.unit(features), self._columns).astype(np.float64)
        share *= self._sharpness
        read = np.exp(share, out=share).dot(self._table)  # (n_queries, 2 · n_experts + 1)
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
        sums[count > 0] = np.add.reduceat(grouped, start[count > 0], axis=0)
        sums[empty] = ordered[np.argsort(similarity.max(axis=1), kind="stable")[: len(empty)]]
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = (sums / np.where(norm > 0, norm, 1)).astype(np.float32)
    return centroids
