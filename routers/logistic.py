"""Regularised logistic regression, all outputs at once, gaps in the targets allowed."""

from collections.abc import Callable

import numpy as np

from .types import Floats

Loss = Callable[[Floats], tuple[float, Floats]]
"""Logits (n_queries, n_outputs) → value, and its gradient by the logits."""

_MAX_STEPS = 300


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(−z)), for any z."""
    # the same function as σ, without overflow for large |z|
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return result


def softmax(logits: Floats) -> Floats:
    """Rows that sum to 1."""
    share: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))  # at most 1: no overflow
    share /= share.sum(axis=1, keepdims=True)
    return share


def fit_sigmoids(rows: Floats, targets: Floats, weight: Floats, offset: Floats, penalty: Floats) -> Floats:
    """(n_features, n_outputs) minimising Σ weight · cross-entropy(y, σ(Xw + offset)) + ½ Σ penalty·w².

    rows: (n_queries, n_features); targets, weight, offset: (n_queries, n_outputs), targets and weight in
    [0, 1]; penalty: (n_features,) > 0
    """

    def loss(logits: Floats) -> tuple[float, Floats]:
        z = logits + offset
        # −y·log σ(z) − (1 − y)·log(1 − σ(z)) = log(1 + eᶻ) − y·z, without overflow.
        value = (weight * (np.logaddexp(0.0, z) - targets * z)).sum()
        return float(value), weight * (sigmoid(z) - targets)

    return _minimise(rows, targets.shape[1], loss, penalty, curvature=0.25)  # σ′ = σ(1 − σ) ≤ 1/4


def fit_softmax(rows: Floats, targets: Floats, penalty: Floats) -> Floats:
    """(n_features, n_outputs) weights minimising Σ cross-entropy(y, softmax(Xw)) + ½ Σ penalty·w²."""

    def loss(logits: Floats) -> tuple[float, Floats]:
        top = logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top  # (n_queries, 1), log Σ exp
        return float((targets * (total - logits)).sum()), softmax(logits) - targets

    # The Hessian of softmax is at most ½(I − 11ᵀ/K): Böhning, Ann. Inst. Stat. Math. 44, 1992.
    return _minimise(rows, targets.shape[1], loss, penalty, curvature=0.5)


def _minimise(rows: Floats, n_outputs: int, loss: Loss, penalty: Floats, curvature: float) -> Floats:
    """By L-BFGS in coordinates in which the curvature's upper bound, curvature·XᵀX + penalty, is 1."""
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import minimize

    factor = cholesky(curvature * rows.T @ rows + np.diag(penalty))  # upper triangular
    shape = (rows.shape[1], n_outputs)

    def value(flat: Floats) -> tuple[float, Floats]:
        weights = solve_triangular(factor, flat.reshape(shape))
        at, by_logit = loss(rows @ weights)
        gradient = rows.T @ by_logit + penalty[:, None] * weights
        at += 0.5 * float((penalty[:, None] * weights**2).sum())
        return at, solve_triangular(factor, gradient, trans="T").ravel()

    limits = {"maxiter": _MAX_STEPS, "maxfun": 2 * _MAX_STEPS, "ftol": 1e-13, "gtol": 1e-6}
    found = minimize(value, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=limits)
    weights: Floats = solve_triangular(factor, found.x.reshape(shape))
    return weights
