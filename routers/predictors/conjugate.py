"""Ridge regression by conjugate gradients, all experts at once, gaps in the targets allowed."""

import numpy as np

from ..types import Bools, Floats
from .design import Design

_TOLERANCE = 1e-5
_MAX_STEPS = 300


def solve_ridge(design: Design, residual: Floats, known: Bools, alpha: float) -> Floats:
    """(n_features, n_experts) weights minimising Σ_known (r − Xw)² + α·|w|² for every expert.

    Each column stops moving once its gradient is `_TOLERANCE` of what it was.
    """
    weights = np.zeros((design.shape[1], residual.shape[1]))
    gradient = design.backward(residual)
    direction = gradient.copy()
    size = (gradient**2).sum(axis=0)
    enough = size * _TOLERANCE**2 + 1e-30
    for _ in range(_MAX_STEPS):
        if (size <= enough).all():
            break
        curved = design.backward(np.where(known, design.forward(direction), 0.0)) + alpha * direction
        step = np.where(size > enough, size / np.maximum((direction * curved).sum(axis=0), 1e-30), 0.0)
        weights += step * direction
        gradient -= step * curved
        shrunk = (gradient**2).sum(axis=0)
        direction = gradient + (shrunk / np.maximum(size, 1e-30)) * direction
        size = shrunk
    return weights
