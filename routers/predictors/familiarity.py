"""How strange a query is beside those that were learned from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..protocols import Arrays
from ..types import Features, Floats, Floats32
from .clusters import spherical_kmeans
from .space import Space, one_by_one
from .stack import hashed_folds

_FORM = 1.0
"""Weight of the form features beside the dense ones."""
_N_CLUSTERS = 64
_N_STEPS = 15
_N_PARTS = 5
_FAMILIAR = 0.95
_ALIKE = 0.01
"""Distances below this are never strange."""
_PRIOR = 5.0
"""Queries at the usual distance that every cluster has from the start."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Distances from clusters of training queries, each in units of what is usual in that cluster.

    A topic that is spread widely reaches further than one whose queries are all alike: the same distance
    may be nothing new beside the one, and unheard of beside the other.

    rates: (n_clusters,) float32, strangeness by distance 1 − cosine; pulls: (dim + n_form, n_clusters)
    float32, the unit centroids times these

    Reference: local outlier factor (Breunig et al., 2000), here by cluster instead of by neighbour.
    """

    space: Space
    rates: Floats32
    pulls: Floats32

    @classmethod
    def of(cls, features: Features, seed: int) -> "Familiarity":
        """One query in five is kept aside, to tell what is usual for those that no cluster was made of."""
        held = hashed_folds(features, _N_PARTS) == 0
        space = Space.of(features, _FORM, None)
        rows = space.rows(features)
        taught, asked = (rows[~held], rows[held]) if 0 < held.sum() < len(held) else (rows, rows)
        n_clusters = max(1, min(_N_CLUSTERS, len(taught) // 4))
        centroids = spherical_kmeans(taught, n_clusters, _N_STEPS, seed).T
        distance = 1.0 - taught @ centroids
        nearest, own = distance.argmin(axis=1), distance.min(axis=1).astype(np.float64)
        total = np.bincount(nearest, own, n_clusters) + _PRIOR * own.mean()
        radius = np.maximum(total / (np.bincount(nearest, minlength=n_clusters) + _PRIOR), _ALIKE)
        usual = max(float(np.quantile(((1.0 - asked @ centroids) / radius).min(axis=1), _FAMILIAR)), 1.0)
        rates = (1.0 / (radius * usual)).astype(np.float32)
        return cls(space, rates, np.ascontiguousarray(centroids * rates))

    def strangeness(self, features: Features) -> Floats32:
        """(n_queries,), below 1 for 95 % of those like the ones learned."""
        distance = self.rates - one_by_one(self.space.unit(features), self.pulls)
        strangeness: Floats32 = np.minimum.reduce(distance, axis=1)
        return strangeness

    def arrays(self) -> Arrays:
        return {**self.space.arrays(), "rates": self.rates, "pulls": self.pulls}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Familiarity":
        return cls(Space.from_arrays(arrays, _FORM), arrays["rates"], arrays["pulls"])


def fading(strangeness: Floats32, start: float, end: float) -> Floats:
    """(n_queries, 1) 1 up to `start`, falling to 0 at `end`."""
    left = (end - strangeness.astype(np.float64)[:, None]) / (end - start)
    return np.minimum(np.maximum(left, 0.0, out=left), 1.0, out=left)
