"""Every measure as a function of query weights: all ones give the value, resampled counts its interval."""

import numpy as np

from routers import Floats

from ..significance import Interval


def resampled(n_queries: int, n_draws: int = 1000, seed: int = 0) -> Floats:
    """(1 + n_draws, n_queries) how often each query counts: once each in the first row, then drawn anew.

    The same rows weigh every router, so that differences are paired.
    """
    weights = np.ones((1 + n_draws, n_queries), np.float64)
    rng = np.random.default_rng(seed)
    for draw in weights[1:]:
        draw[:] = np.bincount(rng.integers(n_queries, size=n_queries), minlength=n_queries)
    return weights


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """(n_draws,) mean of values (n_seeds, n_queries); NaN is passed over, and all NaN gives NaN."""
    known = ~np.isnan(values)
    total = weights @ np.where(known, values, 0.0).sum(axis=0)
    count = weights @ known.sum(axis=0).astype(np.float64)
    mean: Floats = np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)
    return mean


def interval_of(draws: Floats) -> Interval | None:
    """The first draw and the quantiles of the rest; None where the measure is not defined."""
    if np.isnan(draws[0]):
        return None
    rest = draws[1:][~np.isnan(draws[1:])]
    if not rest.size:
        return Interval(float(draws[0]), float(draws[0]), float(draws[0]))
    low, high = np.quantile(rest, [0.025, 0.975])
    return Interval(float(draws[0]), float(low), float(high))
