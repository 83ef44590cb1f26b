"""The mean of several predictors, each wrong in its own way: the default."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ..protocols import Arrays, Predictor
from ..registry import make_predictor
from ..types import Estimate, Features, Floats

DEFAULT_MEMBERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("linear", {"alpha": 5.0, "dense": 0.0, "lexical": 1.0}),
    ("knn", {}),
    ("clusters", {}),
)
"""Words, neighbours and clusters; chosen by cross-validation, see evals/LOG.md."""


class Blend:
    """Weighted mean of its members' predictions; where they disagree it is less sure."""

    members_: list[Predictor]

    def __init__(
        self,
        members: Sequence[tuple[str, Mapping[str, Any]]] = DEFAULT_MEMBERS,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Args:
        members: name and settings of each.
        weights: one each, of any sum; None weighs all alike.
        """
        self.members = members
        self.weights = weights

    def _unfitted(self) -> list[Predictor]:
        return [make_predictor(name, settings) for name, settings in self.members]

    def fit(self, features: Features, targets: Floats) -> Self:
        self.members_ = [member.fit(features, targets) for member in self._unfitted()]
        return self

    def predict(self, features: Features) -> Estimate:
        estimates = [member.predict(features) for member in self.members_]
        shares = np.ones(len(estimates)) if self.weights is None else np.asarray(self.weights, np.float64)
        shares = shares / shares.sum()
        mean = shares[0] * estimates[0].mean
        square = shares[0] * (estimates[0].mean ** 2 + estimates[0].std ** 2)
        for share, estimate in zip(shares[1:], estimates[1:], strict=True):
            mean = mean + share * estimate.mean
            square = square + share * (estimate.mean**2 + estimate.std**2)
        return Estimate(mean, np.sqrt(np.maximum(square - mean**2, 0.0)))

    def settings(self) -> dict[str, Any]:
        return {
            "members": [[name, dict(settings)] for name, settings in self.members],
            "weights": None if self.weights is None else list(self.weights),
        }

    def arrays(self) -> Arrays:
        return {
            f"{n}.{key}": values
            for n, member in enumerate(self.members_)
            for key, values in member.arrays().items()
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.members_ = [
            member.restore({k.removeprefix(f"{n}."): v for k, v in arrays.items() if k.startswith(f"{n}.")})
            for n, member in enumerate(self._unfitted())
        ]
        return self
