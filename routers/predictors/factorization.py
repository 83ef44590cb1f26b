"""Item response theory: queries have demands and a difficulty, experts have abilities."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np

from ..features import Features
from ..logistic import fit_sigmoids, sigmoid, softmax
from ..protocols import Arrays
from ..types import Estimate, Floats, Floats32
from .neighbours import Space, spherical_kmeans
from .targets import centre_targets

_SHARPNESS = 30.0
"""Of the softmax over cosines to landmarks."""
_TINY = 1e-6
"""Demands that vary less than this are none."""
_FREE = 1e-2
"""Penalty on intercepts: enough to keep them finite."""


class Factorization:
    """P = σ(a_q·θ_e − b_q): what a query demands and how hard it is are read off its features.

    Fitted in convex stages: the difficulty b_q common to all experts; what each expert deviates from it; the
    `n_factors` directions that hold most of those deviations, which are the demands; abilities θ_e anew,
    given the demands. Where outcomes are few, an expert's ability leans on the demands the others taught.

    Reference: IRT-Router (arXiv 2506.01048), P = 1 / (1 + exp(−a_qᵀθ_e + b_q)); EmbedLLM (arXiv 2410.02223)
    factors the same matrix.
    Differs: stages instead of joint descent, so that equal data give equal bits; targets of any range are
    brought to [0, 1]; no neighbours warm a query up. Improved: the form of a text and its nearness to
    landmarks beside its content.
    """

    space_: Space
    landmarks_: Floats32
    difficulty_: Floats
    demand_: Floats
    ability_: Floats
    range_: Floats
    std_: Floats

    def __init__(
        self,
        mode: Literal["paper", "improved"] = "improved",
        n_factors: int = 8,
        penalty: float = 1.0,
        form: float = 1.0,
        n_dims: int | None = 128,
        n_landmarks: int = 64,
        seed: int = 0,
    ) -> None:
        """Args:
        mode: `paper` reads content alone.
        n_factors: demands per query; no more than there are experts.
        penalty: ridge on every direction, for difficulty and for deviations.
        form: weight of the form features beside the dense ones; 0 in `paper`.
        n_dims: principal directions kept; None keeps all.
        n_landmarks: k-means centres; 0 in `paper`.
        """
        self.mode: Literal["paper", "improved"] = mode
        self.n_factors = n_factors
        self.penalty = penalty
        self.form = form
        self.n_dims = n_dims
        self.n_landmarks = n_landmarks
        self.seed = seed

    def fit(self, features: Features, targets: Floats) -> Self:
        parts = centre_targets(targets)
        measured = targets[parts.known]
        low, high = (measured.min(), measured.max()) if measured.size else (0.5, 0.5)
        self.range_ = np.array([low, high - low])  # σ answers in [0, 1]; targets may be log lengths
        scaled = np.where(parts.known, (targets - low) / (high - low if high > low else 1.0), 0.0)
        self._make_space(features)
        x = self._inputs(features)
        self._fit_stages(x, scaled, parts.known.astype(np.float64))
        residual = np.where(parts.known, targets - self._mean(x), 0.0)
        spread = np.sqrt((residual**2).sum(axis=0) / np.maximum(parts.count, 1))
        self.std_ = np.maximum(spread, 0.1 * parts.std) * np.sqrt(1 / np.maximum(parts.count, 1) + 0.02)
        return self

    def _make_space(self, features: Features) -> None:
        paper = self.mode == "paper"
        self.space_ = Space.of(features, 0.0 if paper else self.form, self.n_dims)
        rows = self.space_.rows(features)
        n = 0 if paper else min(self.n_landmarks, len(rows) // 4)
        self.landmarks_ = spherical_kmeans(rows, n, 15, self.seed) if n else rows[:0]

    def _inputs(self, features: Features) -> Floats:
        """(n_queries, n_inputs): directions of the space, shares of landmarks, 1."""
        rows = self.space_.rows(features)
        wide = rows.astype(np.float64)
        if len(self.landmarks_):
            # (n_queries, n_landmarks)
            share = softmax(_SHARPNESS * (rows @ self.landmarks_.T).astype(np.float64))
            wide = np.concatenate((wide, share), axis=1)
        return np.column_stack((wide, np.ones(len(rows))))

    def _fit_stages(self, x: Floats, targets: Floats, known: Floats) -> None:
        penalty = np.append(np.full(x.shape[1] - 1, self.penalty), _FREE)
        count = known.sum(axis=1, keepdims=True)  # (n_queries, 1)
        mean = (known * targets).sum(axis=1, keepdims=True) / np.maximum(count, 1)
        share = count / max(known.shape[1], 1)
        self.difficulty_ = -fit_sigmoids(x, mean, share, np.zeros_like(mean), penalty)[:, 0]
        # −b_q, (n_queries, n_experts)
        common = np.repeat(-(x @ self.difficulty_)[:, None], known.shape[1], axis=1)
        # (n_inputs − 1, n_experts): without the intercept
        deviation = fit_sigmoids(x, targets, known, common, penalty)[:-1]
        self.demand_ = _directions(x[:, :-1], deviation, self.n_factors)
        asked = self._demands(x)  # (n_queries, n_factors + 2)
        ridge = np.append(np.ones(asked.shape[1] - 1), _FREE)
        self.ability_ = fit_sigmoids(asked, targets, known, common, ridge)

    def _demands(self, x: Floats) -> Floats:
        """(n_queries, n_factors + 2) what each query demands; at the end its difficulty, and 1."""
        return np.column_stack((x[:, :-1] @ self.demand_, x @ self.difficulty_, np.ones(len(x))))

    def _mean(self, x: Floats) -> Floats:
        low, span = self.range_
        # σ(a_q·θ_e − b_q), arXiv 2506.01048
        right = sigmoid(self._demands(x) @ self.ability_ - (x @ self.difficulty_)[:, None])
        mean: Floats = low + span * right
        return mean

    def predict(self, features: Features) -> Estimate:
        mean = self._mean(self._inputs(features))
        return Estimate(mean, np.repeat(self.std_[None], len(features), axis=0))

    def settings(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "n_factors": self.n_factors,
            "penalty": self.penalty,
            "form": self.form,
            "n_dims": self.n_dims,
            "n_landmarks": self.n_landmarks,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        return {
            **self.space_.arrays(),
            "landmarks": self.landmarks_,
            "difficulty": self.difficulty_,
            "demand": self.demand_,
            "ability": self.ability_,
            "range": self.range_,
            "std": self.std_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.space_ = Space.from_arrays(arrays, 0.0 if self.mode == "paper" else self.form)
        self.landmarks_, self.range_, self.std_ = arrays["landmarks"], arrays["range"], arrays["std"]
        self.difficulty_, self.demand_ = arrays["difficulty"], arrays["demand"]
        self.ability_ = arrays["ability"]
        return self


def _directions(x: Floats, deviation: Floats, n_factors: int) -> Floats:
    """(n_inputs, n_factors) the inputs' combinations that hold most of x @ deviation, of unit spread on x."""
    spread = x @ deviation  # (n_queries, n_experts)
    _, vectors = np.linalg.eigh(spread.T @ spread)
    demand = deviation @ vectors[:, ::-1][:, :n_factors]  # (n_inputs, n_factors); eigh sorts ascending
    size = np.sqrt(((x @ demand) ** 2).sum(axis=0) / max(len(x), 1))
    scaled: Floats = demand / np.where(size > _TINY, size, np.inf)
    return scaled
