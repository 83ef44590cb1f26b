"""Predictors of disjoint sets of experts, side by side and independent."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ..features import Features
from ..protocols import Arrays, Predictor
from ..registry import make_predictor
from ..types import Estimate, Floats

ONE: tuple[tuple[str, Mapping[str, Any]], ...] = (("blend", {}),)


class Joined:
    """Each part predicts experts of its own: adding some leaves what is said of the others, to the bit.

    Parts are fitted apart, each on the queries its experts were measured on, and joined by `of`.
    """

    parts_: list[Predictor]

    def __init__(
        self, parts: Sequence[tuple[str, Mapping[str, Any]]] = ONE, columns: Sequence[int] | None = None
    ) -> None:
        """Args:
        parts: name and settings of each.
        columns: which experts of all parts to keep, in this order; None keeps all.
        """
        self.parts = parts
        self.columns = columns

    @classmethod
    def of(cls, fitted: Sequence[tuple[str, Predictor]], columns: Sequence[int] | None = None) -> "Joined":
        """Fitted predictors with their names in the registry, experts in the order of the parts."""
        joined = cls([(name, part.settings()) for name, part in fitted], columns)
        joined.parts_ = [part for _, part in fitted]
        return joined

    @property
    def parts_with_names(self) -> list[tuple[str, Predictor]]:
        """The fitted parts with their names."""
        return [(name, part) for (name, _), part in zip(self.parts, self.parts_, strict=True)]

    def fit(self, features: Features, targets: Floats) -> Self:
        """The last part learns all experts there are; the ones before it, none."""
        *others, last = (make_predictor(name, settings) for name, settings in self.parts)
        no_targets = targets[:, :0]
        self.parts_ = [*(part.fit(features, no_targets) for part in others), last.fit(features, targets)]
        return self

    def predict(self, features: Features) -> Estimate:
        estimates = [part.predict(features) for part in self.parts_]
        mean = np.concatenate([estimate.mean for estimate in estimates], axis=1)
        std = np.concatenate([estimate.std for estimate in estimates], axis=1)
        novelty = estimates[0].novelty  # the first part's experts are those that a lead concerns
        if self.columns is None:
            return Estimate(mean, std, novelty)
        return Estimate(mean[:, list(self.columns)], std[:, list(self.columns)], novelty)

    def settings(self) -> dict[str, Any]:
        parts = [[name, dict(settings)] for name, settings in self.parts]
        return {"parts": parts} if self.columns is None else {"parts": parts, "columns": list(self.columns)}

    def arrays(self) -> Arrays:
        return {
            f"{n}.{key}": values
            for n, part in enumerate(self.parts_)
            for key, values in part.arrays().items()
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.parts_ = [
            make_predictor(name, settings).restore(
                {
                    key.removeprefix(f"{n}."): values
                    for key, values in arrays.items()
                    if key.startswith(f"{n}.")
                }
            )
            for n, (name, settings) in enumerate(self.parts)
        ]
        return self
