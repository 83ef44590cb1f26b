"""Do no harm: how far predicted differences between experts are to be trusted.

A predictor can tell easy from hard queries and yet not tell who is better at which. Acting on such
differences routes worse than always asking the best expert. So the part of a difference that varies from
query to query is shrunk by its reliability, measured out of fold; where nothing can be told, the expert that
is best on average stays first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from .protocols import Arrays
from .types import Bools, Floats, Ints

_LEAST = 0.02
"""Too little to leave the best expert for, enough to keep queries in order of what they would gain."""


@dataclass(frozen=True, slots=True)
class Advantage:
    """Shrinks the query-specific differences between experts towards their average differences.

    typical:     (n_experts,) mean predicted quality
    judged:      (n_experts,) whom it concerns; tools that decline what is not for them are left as they are
    reliability: in [0, 1]; 1 trusts every difference as predicted, 0 none
    """

    typical: Floats
    judged: Bools
    reliability: float
    _usual: Floats = field(init=False, repr=False, compare=False)
    """What is said of the average differences, (n_judged,)."""
    _everyone: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        usual = self.typical[self.judged]
        centred = usual - usual.mean() if len(usual) else usual
        object.__setattr__(self, "_usual", (1 - self.reliability) * centred)
        object.__setattr__(self, "_everyone", bool(self.judged.all()))

    @classmethod
    def fit(cls, out_of_fold: Floats, targets: Floats, clusters: Ints, judged: Bools) -> Self:
        """Learn from calibrated out-of-fold quality and what came true, (n_queries, n_experts) each.

        NaN marks what nobody measured.

        The reliability is the slope of true on predicted advantage, less one standard error over `clusters`
        (n_queries,), whose queries are alike.
        """
        typical = out_of_fold.mean(axis=0)
        if judged.sum() < 2:
            return cls(typical, judged, 1.0)
        known = ~np.isnan(targets[:, judged])
        predicted = _advantage(out_of_fold[:, judged], known)
        true = _advantage(np.where(known, targets[:, judged], 0.0), known)
        together = np.bincount(clusters, (predicted * true).sum(axis=1))
        alone = np.bincount(clusters, (predicted**2).sum(axis=1))
        total = alone.sum()
        if total < 1e-9:
            return cls(typical, judged, 0.0)
        slope = together.sum() / total
        error = np.sqrt(((together - slope * alone) ** 2).sum()) / total
        return cls(typical, judged, float(np.clip(slope - error, _LEAST, 1.0)))

    def apply(self, quality: Floats) -> Floats:
        """Quality (n_queries, n_experts) with its differences as far as they can be trusted."""
        if self.reliability == 1.0:
            return quality
        mine = quality if self._everyone else quality[:, self.judged]
        level = np.add.reduce(mine, axis=1, keepdims=True)
        level *= (1 - self.reliability) / len(self._usual)
        trusted = mine * self.reliability
        trusted += level
        trusted += self._usual
        np.minimum(np.maximum(trusted, 0.0, out=trusted), 1.0, out=trusted)
        if self._everyone:
            return trusted
        shrunk = quality.copy()
        shrunk[:, self.judged] = trusted
        return shrunk

    def joined(self, other: "Advantage") -> "Advantage":
        """With the columns of other experts behind, which it does not concern: these stay as they are."""
        return Advantage(
            np.concatenate((self.typical, other.typical)),
            np.concatenate((self.judged, np.zeros_like(other.judged))),
            self.reliability,
        )

    def arrays(self) -> Arrays:
        return {"typical": self.typical, "judged": self.judged, "reliability": np.array(self.reliability)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        return cls(arrays["typical"], arrays["judged"], float(arrays["reliability"]))


def _advantage(values: Floats, known: Bools) -> Floats:
    """Each value less its row's mean, less its column's mean of that; 0 where unknown."""
    n_row = np.maximum(known.sum(axis=1, keepdims=True), 1)
    ahead = np.where(known, values - np.where(known, values, 0.0).sum(axis=1, keepdims=True) / n_row, 0.0)
    n_column = np.maximum(known.sum(axis=0), 1)
    centred: Floats = np.where(known, ahead - ahead.sum(axis=0) / n_column, 0.0)
    return centred
