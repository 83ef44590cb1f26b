"""The bootstrap over queries: every interval of every figure is drawn here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from routers import Floats, Ints


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def resample_rows(n_queries: int, n_draws: int, rng: np.random.Generator) -> Iterator[Ints]:
    """`n_draws` times (n_queries,) row numbers, drawn with replacement."""
    # An iterator, because a matrix of all draws takes gigabytes on large outcome tables.
    return (rng.integers(n_queries, size=n_queries) for _ in range(n_draws))


def resample_weights(n_queries: int, n_draws: int = 1000, seed: int = 0) -> Floats:
    """(1 + n_draws, n_queries) how often each query counts: once each in the first row, then as drawn.

    The same rows weigh every router, so that differences are paired.
    """
    # Drawing rows with replacement is the same as weighting each row by how often it was drawn. As weights
    # every measure is one matrix product over all draws.
    weights = np.ones((1 + n_draws, n_queries), np.float64)
    rows = resample_rows(n_queries, n_draws, np.random.default_rng(seed))
    for draw, chosen in zip(weights[1:], rows, strict=True):
        draw[:] = np.bincount(chosen, minlength=n_queries)
    return weights


def average_by_weight(values: Floats, weights: Floats) -> Floats:
    """(n_draws,) mean of values (n_seeds, n_queries); NaN is passed over, and all NaN gives NaN."""
    known = ~np.isnan(values)
    total = weights @ np.where(known, values, 0.0).sum(axis=0)  # (n_draws,)
    count = weights @ known.sum(axis=0).astype(np.float64)
    mean: Floats = np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)
    return mean


def interval_of(draws: Floats) -> Interval | None:
    """The first draw and the quantiles of the rest; None where the measure is not defined."""
    if np.isnan(draws[0]):
        return None
    # A draw can be undefined where the value is not, such as a task that no resampled query belongs to.
    rest = draws[1:][~np.isnan(draws[1:])]
    return _interval(float(draws[0]), rest if rest.size else draws[:1])


def interval_of_difference(first: Floats, second: Floats, *, n_draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of `first − second`, both (n_queries,), with queries drawn anew in pairs."""
    # Pairing removes what both routers share: hard queries are hard for both. See Efron and Tibshirani,
    # An Introduction to the Bootstrap (1993), chapter 13, on percentile intervals.
    return interval(first - second, n_draws=n_draws, seed=seed)


def interval(values: Floats, *, n_draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of `values` (n_queries,), with queries drawn anew; NaN throughout for no query."""
    return mean_over_sets([values], n_draws=n_draws, seed=seed)


def mean_over_sets(parts: Sequence[Floats], *, n_draws: int = 2000, seed: int = 0) -> Interval:
    """The mean of the sets' means, with queries drawn anew within each set; NaN where a set is empty."""
    if not all(len(part) for part in parts):
        return Interval(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    means = [[part[rows].mean() for rows in resample_rows(len(part), n_draws, rng)] for part in parts]
    return _interval(float(np.mean([part.mean() for part in parts])), np.mean(means, axis=0))


def _interval(value: float, draws: Floats) -> Interval:
    # Percentile interval. BCa would correct skew, but needs a jackknife of every measure.
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))
