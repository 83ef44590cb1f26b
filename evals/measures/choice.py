"""How often the choice was the best there was, and what the others cost."""

import numpy as np

from routers import Floats

from .bootstrap import weighted_mean
from .run import Ground, Run


def optimal(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Share of queries on which an expert that scored best was picked; ties count."""
    return weighted_mean(run.best, weights)


def optimal_strict(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Share of the queries with one best expert alone on which that one was picked."""
    return weighted_mean(run.best_alone, weights)


def regret(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean of the oracle's score less the score of the picked expert."""
    return weighted_mean(ground.table.oracle()[None] - run.score, weights)


def measured(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Share of decisions whose outcome is in the table; the others enter no other figure."""
    decided = run.picks >= 0
    return weighted_mean(np.where(decided, ~np.isnan(run.score), np.nan), weights)
