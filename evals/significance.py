"""Paired bootstrap over queries: how sure a difference is, given these queries."""

from dataclasses import dataclass

import numpy as np

from routers import Floats


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def paired_interval(first: Floats, second: Floats, *, n_draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of `first − second`, both (n_queries,), with queries drawn anew in pairs."""
    return interval(first - second, n_draws=n_draws, seed=seed)


def interval(values: Floats, *, n_draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of `values` (n_queries,), with queries drawn anew; NaN throughout for no query."""
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = np.fromiter((_resampled_mean(values, rng) for _ in range(n_draws)), np.float64, n_draws)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def _resampled_mean(values: Floats, rng: np.random.Generator) -> float:
    return float(values[rng.integers(len(values), size=len(values))].mean())
