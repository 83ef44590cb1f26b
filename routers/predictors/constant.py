"""The baseline: every expert's training mean, the same for all queries."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..protocols import Arrays
from ..types import Estimate, Features, Floats
from .targets import centre_targets


class Constant:
    """The mean target of each expert.

    Reference: none; the best single expert, the baseline of every router benchmark.
    Differs: nothing.
    """

    mean_: Floats
    std_: Floats

    def fit(self, features: Features, targets: Floats) -> Self:
        parts = centre_targets(targets)
        self.mean_ = parts.mean
        self.std_ = parts.std / np.sqrt(np.maximum(parts.count, 1))
        return self

    def predict(self, features: Features) -> Estimate:
        n = len(features)
        return Estimate(np.repeat(self.mean_[None], n, axis=0), np.repeat(self.std_[None], n, axis=0))

    def settings(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> Arrays:
        return {"mean": self.mean_, "std": self.std_}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        return self
