"""Several predictors, each wrong in its own way, and a forest that learned whom to believe: the default."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from ..protocols import Arrays, Predictor
from ..registry import make_predictor
from ..types import Estimate, Features, Floats, Floats32
from .forest import Growth
from .space import Space
from .stack import Stack, hashed_folds

DEFAULT_MEMBERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("linear", {"alpha": 5.0, "dense": 0.0, "lexical": 1.0}),
    ("knn", {}),
    ("clusters", {}),
    ("linear", {"alpha": 20.0, "dense": 1.0, "lexical": 0.0, "form": 1.0}),
)
"""Words, neighbours, clusters, and a ridge on content and form; by cross-validation, see evals/LOG.md."""

_MIN_QUERIES = 50
"""With fewer there is nothing to learn of who is right when."""


@runtime_checkable
class Located(Protocol):
    """A predictor that looks at nothing but where queries lie."""

    space_: Space

    def predict_at(self, unit: Floats32) -> Estimate:
        """What `predict` gives for the queries that lie there, (n_queries, dim + n_form)."""


@runtime_checkable
class Relearner(Protocol):
    """A predictor that can learn other outcomes in the places it has found without looking at any."""

    def relearn(self, features: Features, targets: Floats) -> Predictor:
        """A twin fitted on these alone."""


class Blend:
    """The weighted mean of its members' predictions, corrected by a forest that learned where it errs.

    The forest reads what each member predicts of a query, out of fold when it learns, and the form of the
    text. Where members disagree the blend is less sure.

    Reference: stacked generalization (Wolpert, 1992).
    Differs: the second level is one forest for all experts, and starts from the mean of the first.
    """

    members_: list[Predictor]
    stack_: Stack | None

    def __init__(
        self,
        members: Sequence[tuple[str, Mapping[str, Any]]] = DEFAULT_MEMBERS,
        weights: Sequence[float] | None = None,
        n_trees: int = 100,
        depth: int = 5,
        rate: float = 0.07,
        n_folds: int = 4,
        seed: int = 0,
    ) -> None:
        """Args:
        members: name and settings of each.
        weights: one each, of any sum; None weighs all alike.
        n_trees, depth: of the forest; no trees, no forest.
        rate: share of what a tree learned that counts.
        n_folds: for the members' out-of-fold predictions.
        """
        self.members = members
        self.weights = weights
        self.n_trees = n_trees
        self.depth = depth
        self.rate = rate
        self.n_folds = n_folds
        self.seed = seed

    def _unfitted(self) -> list[Predictor]:
        return [make_predictor(name, settings) for name, settings in self.members]

    def fit(self, features: Features, targets: Floats) -> Self:
        self._take(member.fit(features, targets) for member in self._unfitted())
        self.stack_ = None
        if self.n_trees and len(features) >= _MIN_QUERIES:
            how = Growth(self.n_trees, self.depth, self.rate, seed=self.seed)
            said = self._out_of_fold(features, targets)
            base = np.einsum("m,mqe->qe", self._shares, said)
            self.stack_ = Stack.fit(features, list(said), base, targets, how)
        return self

    def _out_of_fold(self, features: Features, targets: Floats) -> Floats:
        """(n_members, n_queries, n_experts) predictions by members that have not seen the outcome."""
        said = np.empty((len(self.members_), *targets.shape))
        folds = hashed_folds(features, self.n_folds)
        for fold in np.unique(folds):
            inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            seen, asked = features.take(outside), features.take(inside)
            for member, fresh, prediction in zip(self.members_, self._unfitted(), said, strict=True):
                if isinstance(member, Relearner):
                    fitted = member.relearn(seen, targets[outside])
                else:
                    fitted = fresh.fit(seen, targets[outside])
                prediction[inside] = fitted.predict(asked).mean
        return said

    def _take(self, members: Iterable[Predictor]) -> Self:
        self.members_ = list(members)
        shares = np.ones(len(self.members_)) if self.weights is None else np.asarray(self.weights, np.float64)
        self._shares = shares / shares.sum()
        self._twice = np.tile(self._shares, 2)
        self._located = [member if isinstance(member, Located) else None for member in self.members_]
        return self

    def predict(self, features: Features) -> Estimate:
        estimates = list(self._estimates(features))
        said = [estimate.mean for estimate in estimates]
        # Means above deviations, squared together: E[x²] − E[x]² of all members in one product.
        both = np.concatenate((*said, *(estimate.std for estimate in estimates))).reshape(2 * len(said), -1)
        mean: Floats = self._shares @ both[: len(said)]
        std = self._twice @ np.square(both, out=both)
        std -= mean * mean
        np.sqrt(np.maximum(std, 0.0, out=std), out=std)
        mean, std = mean.reshape(said[0].shape), std.reshape(said[0].shape)
        if self.stack_ is not None:
            mean += self.stack_.correction(features, said)
        return Estimate(mean, std)

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
            "n_trees": self.n_trees,
            "depth": self.depth,
            "rate": self.rate,
            "n_folds": self.n_folds,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        held = {str(n): member.arrays() for n, member in enumerate(self.members_)}
        if self.stack_ is not None:
            held["stack"] = self.stack_.arrays()
        return {f"{part}.{key}": values for part, arrays in held.items() for key, values in arrays.items()}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        held = _part(arrays, "stack.")
        self.stack_ = Stack.from_arrays(held) if held else None
        return self._take(member.restore(_part(arrays, f"{n}.")) for n, member in enumerate(self._unfitted()))


def _part(arrays: Mapping[str, np.ndarray[Any, Any]], prefix: str) -> Arrays:
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}
