"""Whether predicted scores come true."""

import numpy as np

from routers import Floats

from .bootstrap import weighted_mean
from .run import Ground, Run

N_BINS = 10


def brier(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean squared difference of predicted and measured score, over all experts."""
    if run.quality is None:
        return np.full(len(weights), np.nan)
    off = (run.quality - ground.table.score) ** 2
    return weighted_mean(np.moveaxis(off, 2, 0).reshape(-1, off.shape[1]), weights)


def calibration_error(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Expected calibration error: |mean predicted − mean measured| over ten bins of equal count.

    Drawn anew a bin is never exactly right: the interval lies a little above the value.
    """
    if run.quality is None:
        return np.full(len(weights), np.nan)
    counts, said, came = (weights @ part for part in _by_query(run, ground))
    total = counts.sum(axis=1)
    error: Floats = np.divide(
        np.abs(said - came).sum(axis=1), total, out=np.full_like(total, np.nan), where=total > 0
    )
    return error


def reliability(run: Run, ground: Ground) -> list[tuple[float, float, int]]:
    """Per bin mean predicted score, mean measured score and how many outcomes; empty bins are left out."""
    if run.quality is None:
        return []
    counts, said, came = (part.sum(axis=0) for part in _by_query(run, ground))
    return [
        (float(said[n] / counts[n]), float(came[n] / counts[n]), int(counts[n]))
        for n in range(N_BINS)
        if counts[n]
    ]


def _by_query(run: Run, ground: Ground) -> tuple[Floats, Floats, Floats]:
    """Counts, predicted and measured sums per query and bin, (n_queries, N_BINS) each."""
    quality = run.quality if run.quality is not None else np.empty((0, *ground.table.score.shape))
    known = ~np.isnan(quality) & ~np.isnan(ground.table.score)
    edges = np.quantile(quality[known], np.arange(1, N_BINS) / N_BINS) if known.any() else np.empty(0)
    counts, said, came = (np.zeros((quality.shape[1], N_BINS)) for _ in range(3))
    _, query, expert = np.nonzero(known)
    predicted = quality[known]
    place = query, np.searchsorted(edges, predicted, side="right")
    np.add.at(counts, place, 1.0)
    np.add.at(said, place, predicted)
    np.add.at(came, place, ground.table.score[query, expert])
    return counts, said, came
