"""Targets with gaps: means per expert, residuals that are 0 in a gap, and the predictor of these means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from zlib import crc32

import numpy as np

from ..features import Features
from ..protocols import Arrays
from ..types import Bools, Estimate, Floats, Ints


@dataclass(frozen=True, slots=True)
class Centred:
    """Targets less their expert's mean.

    mean:     (n_experts,) over what was measured; the mean of the other experts where nothing was
    std:      (n_experts,) of what was measured around it, never 0 for lack of data
    count:    (n_experts,) how many were measured
    known:    (n_queries, n_experts)
    residual: (n_queries, n_experts), 0 where unknown
    """

    mean: Floats
    std: Floats
    count: Floats
    known: Bools
    residual: Floats


def centre_targets(targets: Floats) -> Centred:
    """Take targets (n_queries, n_experts) apart; NaN marks an unmeasured outcome."""
    known = ~np.isnan(targets)
    count = known.sum(axis=0).astype(np.float64)
    total = np.where(known, targets, 0.0).sum(axis=0)
    seen = count > 0
    mean = np.divide(total, count, out=np.zeros_like(total), where=seen)
    mean[~seen] = mean[seen].mean() if seen.any() else 0.5  # 0.5: nothing was measured at all
    residual = np.where(known, targets - mean, 0.0)  # (n_queries, n_experts)
    variance = np.divide((residual**2).sum(axis=0), count, out=np.zeros_like(total), where=seen)
    pooled = float(variance[seen].mean()) if seen.any() else 0.25  # 0.25: the largest variance in [0, 1]
    std = np.sqrt(
        (variance * count + pooled) / (count + 1)
    )  # one pseudo-observation: 2 equal outcomes prove little
    return Centred(mean, std, count, known, residual)


_N_KEYS = 32
"""Dense columns that order queries alike in form."""


def query_order(features: Features) -> Ints:
    """(n_queries,) rows in an order of their own."""
    order: Ints = np.lexsort(np.concatenate((features.form, features.dense[:, :_N_KEYS]), axis=1).T)
    return order


def expert_order(targets: Floats) -> Ints:
    """(n_experts,) columns by what they hold; those that hold the same stay as they came."""
    if not len(targets):
        return np.arange(targets.shape[1])
    # lexsort's last key counts first
    order: Ints = np.lexsort(np.where(np.isnan(targets), np.inf, targets)[::-1])
    return order


def hash_folds(features: Features, n_folds: int) -> Ints:
    """(n_queries,) fold by a hash of all features: equal queries share a fold, in any order."""
    parts = zip(features.dense, features.lexical, features.form, strict=True)
    return np.array([crc32(b"".join(map(bytes, part))) % n_folds for part in parts], np.int64)


class Constant:
    """The mean target of each expert.

    Reference: none; the best single expert, the baseline of every router benchmark.
    Differs: nothing.
    """

    mean_: Floats
    std_: Floats

    def fit(self, features: Features, targets: Floats) -> Self:
        parts = centre_targets(targets)
        self.mean_ = parts.mean
        self.std_ = parts.std / np.sqrt(np.maximum(parts.count, 1))
        return self

    def predict(self, features: Features) -> Estimate:
        n = len(features)
        return Estimate(np.repeat(self.mean_[None], n, axis=0), np.repeat(self.std_[None], n, axis=0))

    def settings(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> Arrays:
        return {"mean": self.mean_, "std": self.std_}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        return self
