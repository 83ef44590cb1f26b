"""When a category is too uncertain to act on: three signals, their maximum, and a conformal threshold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from ..protocols import Arrays
from ..types import Bools, Floats, Floats32

_MAX_REFERENCES = 2048
_CHUNK = 256


def entropy(posterior: Floats) -> Floats:
    """(n_queries,) −Σ p log p / log n_categories, in [0, 1]; 0 with a single category."""
    logs = np.log(np.where(posterior > 0, posterior, 1.0))
    total: Floats = -(posterior * logs).sum(axis=1) / max(np.log(posterior.shape[1]), 1e-12)
    return np.maximum(total, 0.0)


def closeness(posterior: Floats) -> Floats:
    """(n_queries,) 1 − (first − second posterior), in [0, 1]; 0 with a single category."""
    if posterior.shape[1] < 2:
        return np.zeros(len(posterior))
    top = np.partition(posterior, posterior.shape[1] - 2, axis=1)
    nearness: Floats = 1.0 - (top[:, -1] - top[:, -2])
    return nearness


def conformal_threshold(scores: Floats, alpha: float) -> float:
    """The ⌈(n + 1)(1 − α)⌉-th smallest of n scores: at most α of further ones like them lie above it.

    Infinite where there are too few scores to promise that.

    Reference: split-conformal prediction, Vovk et al. (2005); the promise holds for exchangeable queries.
    """
    rank = ceil((len(scores) + 1) * (1.0 - alpha) - 1e-9)
    return float(np.sort(scores)[rank - 1]) if 1 <= rank <= len(scores) else np.inf


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank of a value among those seen, in (0, 1): strictly increasing and continuous."""

    values: Floats
    ranks: Floats

    @classmethod
    def of(cls, seen: Floats) -> "Ranks":
        values, counts = np.unique(seen, return_counts=True)
        return cls(values, np.cumsum(counts) / (len(seen) + 1))

    def __call__(self, values: Floats) -> Floats:
        """(n_queries,) ranks; beyond the greatest value seen they go on towards 1."""
        if not len(self.values):
            return np.zeros(len(values))
        last, top = self.ranks[-1], max(float(self.values[-1]), 1e-12)
        inside = np.interp(values, self.values, self.ranks)
        beyond = 1.0 - (1.0 - last) * top / np.maximum(values, top)
        return np.where(values > top, beyond, inside)


@dataclass(frozen=True, slots=True)
class NeighbourNovelty:
    """How far a row lies from its k-th nearest reference: 1 − cosine."""

    references: Floats32
    k: int

    @classmethod
    def of(cls, rows: Floats32, k: int) -> "NeighbourNovelty":
        """Every so-many-th row, so that there are at most 2,048."""
        return cls(rows[:: max(1, -(-len(rows) // _MAX_REFERENCES))], k)

    def distance(self, rows: Floats32) -> Floats:
        """(n_queries,) ≥ 0; 0 without references."""
        n = len(self.references)
        if not n:
            return np.zeros(len(rows))
        place = max(n - self.k, 0)
        found = np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            block = slice(start, start + _CHUNK)
            found[block] = np.partition(rows[block] @ self.references.T, place, axis=1)[:, place]
        return np.maximum(1.0 - found, 0.0)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The greatest of three ranks: entropy, closeness of the first two, distance; and where it is too much.

    Each signal is ranked among queries held back in training, so that no scale decides which of them counts.
    With `entropy_alone` the entropy itself is all there is.
    """

    novelty: NeighbourNovelty
    by_entropy: Ranks
    by_closeness: Ranks
    by_distance: Ranks
    threshold: float
    entropy_alone: bool = False

    @classmethod
    def fit(
        cls,
        novelty: NeighbourNovelty,
        posterior: Floats,
        rows: Floats32,
        alpha: float,
        n_ranked: int,
        entropy_alone: bool = False,
    ) -> "Uncertainty":
        """From queries the classifier has not seen: the first `n_ranked` rank, the rest set the threshold."""
        unset = cls(
            novelty,
            by_entropy=Ranks.of(entropy(posterior[:n_ranked])),
            by_closeness=Ranks.of(closeness(posterior[:n_ranked])),
            by_distance=Ranks.of(novelty.distance(rows[:n_ranked])),
            threshold=np.inf,
            entropy_alone=entropy_alone,
        )
        level = unset.level(posterior[n_ranked:], rows[n_ranked:])
        return replace(unset, threshold=conformal_threshold(level, alpha))

    def level(self, posterior: Floats, rows: Floats32) -> Floats:
        """(n_queries,) in [0, 1]."""
        if self.entropy_alone:
            return entropy(posterior)
        ranks = (
            self.by_entropy(entropy(posterior)),
            self.by_closeness(closeness(posterior)),
            self.by_distance(self.novelty.distance(rows)),
        )
        greatest: Floats = np.maximum.reduce(ranks)
        return greatest

    def is_too_uncertain(self, posterior: Floats, rows: Floats32) -> Bools:
        """(n_queries,) whether the general category is the answer."""
        beyond: Bools = self.level(posterior, rows) > self.threshold + 1e-9
        return beyond

    def excess(self, posterior: Floats, rows: Floats32) -> Floats:
        """(n_queries,) 0 up to the threshold, growing to 1 where nothing like the query was ever seen."""
        if not self.threshold < 1.0:
            return np.zeros(len(posterior))
        share = (self.level(posterior, rows) - self.threshold) / (1.0 - self.threshold)
        return np.clip(share, 0.0, 1.0)

    def arrays(self) -> Arrays:
        ranks = {"entropy": self.by_entropy, "closeness": self.by_closeness, "distance": self.by_distance}
        return {
            "references": self.novelty.references,
            "threshold": np.array(self.threshold),
            **{f"{name}_values": held.values for name, held in ranks.items()},
            **{f"{name}_ranks": held.ranks for name, held in ranks.items()},
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray[Any, Any]], k: int, entropy_alone: bool = False
    ) -> "Uncertainty":
        def ranks(name: str) -> Ranks:
            return Ranks(arrays[f"{name}_values"], arrays[f"{name}_ranks"])

        return cls(
            NeighbourNovelty(arrays["references"], k),
            ranks("entropy"),
            ranks("closeness"),
            ranks("distance"),
            float(arrays["threshold"]),
            entropy_alone,
        )
