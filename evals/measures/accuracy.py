"""Mean score with λ = 0: pooled, relative to the best single expert, and as a macro average over tasks."""

import numpy as np

from routers import Floats

from .bootstrap import weighted_mean
from .run import Ground, Run


def accuracy(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean score over all tested queries."""
    return weighted_mean(run.score, weights)


def gain(run: Run, ground: Ground, weights: Floats) -> Floats:
    """accuracy / accuracy of the best single expert as chosen on the training part − 1."""
    single = weighted_mean(run.single, weights)
    relative: Floats = (
        np.divide(
            weighted_mean(run.score, weights), single, out=np.full_like(single, np.nan), where=single > 0
        )
        - 1
    )
    return relative


def accuracy_in_domain(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean over the training tasks of their accuracies."""
    return _macro(run, ground, weights, "in_domain")


def accuracy_out_of_domain(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean over the tasks never trained on of their accuracies."""
    return _macro(run, ground, weights, "out_of_domain")


def _macro(run: Run, ground: Ground, weights: Floats, domain: str) -> Floats:
    tasks = ground.domains.get(domain, ())
    if not tasks:
        return np.full(len(weights), np.nan)
    means = []
    for task in tasks:
        rows = ground.of_task(task)
        means.append(weighted_mean(run.score[:, rows], weights[:, rows]))
    macro: Floats = np.mean(means, axis=0)
    return macro
