"""The mean of several predictors, each wrong in its own way: the default."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from ..protocols import Arrays, Predictor
from ..registry import make_predictor
from ..types import Estimate, Features, Floats, Floats32
from .space import Space

DEFAULT_MEMBERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("linear", {"alpha": 5.0, "dense": 0.0, "lexical": 1.0}),
    ("knn", {}),
    ("clusters", {}),
)
"""Words, neighbours and clusters; chosen by cross-validation, see evals/LOG.md."""


@runtime_checkable
class Located(Protocol):
    """A predictor that looks at nothing but where queries lie."""

    space_: Space

    def predict_at(self, unit: Floats32) -> Estimate:
        """What `predict` gives for the queries that lie there, (n_queries, dim + n_form)."""


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
        return self._take(member.fit(features, targets) for member in self._unfitted())

    def _take(self, members: Iterable[Predictor]) -> Self:
        self.members_ = list(members)
        shares = np.ones(len(self.members_)) if self.weights is None else np.asarray(self.weights, np.float64)
        self._shares: list[float] = (shares / shares.sum()).tolist()
        self._located = [member if isinstance(member, Located) else None for member in self.members_]
        return self

    def predict(self, features: Features) -> Estimate:
        mean, square = np.zeros(()), np.zeros(())
        for share, estimate in zip(self._shares, self._estimates(features), strict=True):
            mean = mean + share * estimate.mean
            square = square + share * (estimate.mean**2 + estimate.std**2)
        return Estimate(mean, np.sqrt(np.maximum(square - mean**2, 0.0)))

    def _estimates(self, features: Features) -> Iterator[Estimate]:
        """Each member's; where queries lie is found once for all members of one space."""
        units: dict[float, Floats32] = {}
        for member, located in zip(self.members_, self._located, strict=True):
            if located is None:
                yield member.predict(features)
                continue
            weight = located.space_.weight
            if weight not in units:
                units[weight] = located.space_.unit(features)
            yield located.predict_at(units[weight])

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
        return self._take(
            member.restore({k.removeprefix(f"{n}."): v for k, v in arrays.items() if k.startswith(f"{n}.")})
            for n, member in enumerate(self._unfitted())
        )
