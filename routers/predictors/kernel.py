"""Kernel ridge regression: content and form by a Gaussian kernel over landmarks, words linearly."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..features import Features
from ..protocols import Arrays
from ..types import Estimate, Floats, Floats32
from .linear import Linear
from .neighbours import Space
from .targets import query_order

_CHUNK = 512
_SMALLEST = 1e-6
"""Share of the largest eigenvalue below which a direction among landmarks is noise."""


class Kernel:
    """k(z, z′) = exp(γ(cos − 1)) over [dense | form] and a lexical kernel, in one ridge.

    With as many landmarks as queries it is exact.

    Reference: Nyström approximation (Williams and Seeger, NIPS 2000).
    Differs: the words stay linear beside the Gaussian kernel; directions below 1e-6 are dropped as noise.
    """

    space_: Space
    landmarks_: Floats32
    linear_: Linear

    def __init__(
        self,
        alpha: float = 3.0,
        gamma: float = 3.0,
        form: float = 0.7,
        lexical: float = 0.5,
        n_landmarks: int = 1024,
        seed: int = 0,
    ) -> None:
        """Args:
        alpha: ridge strength.
        gamma: how sharply similarity falls.
        form: weight of the form features beside the dense ones; 0 leaves them out.
        lexical: share of the words in the kernel; 0 leaves them out.
        n_landmarks: training queries that stand for all.
        """
        self.alpha = alpha
        self.gamma = gamma
        self.form = form
        self.lexical = lexical
        self.n_landmarks = n_landmarks
        self.seed = seed

    def fit(self, features: Features, targets: Floats) -> Self:
        order = query_order(features)
        ordered, values = features.take(order), targets[order]
        self.space_ = Space.of(ordered, self.form, None)
        rows = self.space_.rows(ordered)
        n = min(self.n_landmarks, len(rows))
        chosen = np.sort(np.random.default_rng(self.seed).choice(len(rows), n, replace=False))
        self.landmarks_ = rows[chosen]
        root = _inverse_root(self._similarity(self.landmarks_))
        # φ(x) = k(x, landmarks)·K^(−1/2): φ·φᵀ is Nyström's approximation of the kernel.
        lift = Features(ordered.tier, self._similarity(rows) @ root, ordered.lexical, ordered.form)
        self.linear_ = Linear(self.alpha, 1.0, self.lexical).fit(lift, values).lift(root)
        return self

    def predict(self, features: Features) -> Estimate:
        similarity = self._similarity(self.space_.rows(features))
        lift = Features(features.tier, similarity, features.lexical, features.form)
        return self.linear_.predict(lift)

    def _similarity(self, rows: Floats32) -> Floats32:
        """(n_queries, n_landmarks) in (0, 1]."""
        result = np.empty((len(rows), len(self.landmarks_)), np.float32)
        for start in range(0, len(rows), _CHUNK):
            block = slice(start, start + _CHUNK)
            # On unit vectors a Gaussian: |z − z′|² = 2 − 2cos.
            result[block] = np.exp(np.float32(self.gamma) * (rows[block] @ self.landmarks_.T - np.float32(1)))
        return result

    def settings(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "gamma": self.gamma,
            "form": self.form,
            "lexical": self.lexical,
            "n_landmarks": self.n_landmarks,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        linear = {f"linear.{key}": values for key, values in self.linear_.arrays().items()}
        return {**self.space_.arrays(), "landmarks": self.landmarks_, **linear}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.space_ = Space.from_arrays(arrays, self.form)
        self.landmarks_ = arrays["landmarks"]
        held = {k.removeprefix("linear."): v for k, v in arrays.items() if k.startswith("linear.")}
        self.linear_ = Linear(self.alpha, 1.0, self.lexical).restore(held)
        return self


def _inverse_root(similarity: Floats32) -> Floats32:
    """K^(−1/2) over the directions that are more than rounding."""
    if not len(similarity):
        return similarity
    weight, vectors = np.linalg.eigh(similarity.astype(np.float64))
    kept = weight > _SMALLEST * weight[-1]
    inverse = np.where(kept, 1 / np.sqrt(np.where(kept, weight, 1.0)), 0.0)
    root: Floats32 = (vectors * inverse @ vectors.T).astype(np.float32)  # (n_landmarks, n_landmarks)
    return root
