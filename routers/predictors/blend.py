"""Blend, the default: the mean of several predictors, a forest that corrects it, and novelty."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from ..protocols import Arrays, Predictor
from ..registry import make_predictor
from ..types import Estimate, Features, Floats, Floats32
from .clusters import spherical_kmeans
from .forest import ForestSettings, Stack, hash_folds
from .space import Space, multiply_rows
from .targets import centre_targets

_FORM = 1.0
"""Weight of the form features beside the dense ones."""
_N_CLUSTERS = 64
_N_STEPS = 15
_N_PARTS = 5
_FAMILIAR = 0.95
_ALIKE = 0.01
"""Distances below this are never strange."""
_PRIOR = 5.0
"""Queries at the usual distance that every cluster has from the start."""


@dataclass(frozen=True, slots=True)
class ClusterNovelty:
    """Distances from clusters of training queries, each in units of what is usual in that cluster.

    A topic that is spread widely reaches further than one whose queries are all alike: the same distance
    may be usual beside the one, and novel beside the other.

    rates: (n_clusters,) float32, strangeness by distance 1 − cosine; pulls: (dim + n_form, n_clusters)
    float32, the unit centroids times these

    Reference: local outlier factor (Breunig et al., 2000).
    Differs: by cluster instead of by neighbour, so that a query costs one small product.
    """

    space: Space
    rates: Floats32
    pulls: Floats32

    @classmethod
    def of(cls, features: Features, seed: int) -> "ClusterNovelty":
        """One query in five is kept aside, to tell what is usual for those that no cluster was made of."""
        held = hash_folds(features, _N_PARTS) == 0
        space = Space.of(features, _FORM, None)
        rows = space.rows(features)
        taught, asked = (rows[~held], rows[held]) if 0 < held.sum() < len(held) else (rows, rows)
        n_clusters = max(1, min(_N_CLUSTERS, len(taught) // 4))
        centroids = spherical_kmeans(taught, n_clusters, _N_STEPS, seed).T
        distance = 1.0 - taught @ centroids  # (n_taught, n_clusters)
        nearest, own = distance.argmin(axis=1), distance.min(axis=1).astype(np.float64)
        total = np.bincount(nearest, own, n_clusters) + _PRIOR * own.mean()
        radius = np.maximum(total / (np.bincount(nearest, minlength=n_clusters) + _PRIOR), _ALIKE)
        usual = max(float(np.quantile(((1.0 - asked @ centroids) / radius).min(axis=1), _FAMILIAR)), 1.0)
        rates = (1.0 / (radius * usual)).astype(np.float32)
        return cls(space, rates, np.ascontiguousarray(centroids * rates))

    def novelty(self, features: Features) -> Floats32:
        """(n_queries,), below 1 for 95 % of those like the ones learned."""
        distance = self.rates - multiply_rows(self.space.unit(features), self.pulls)
        novelty: Floats32 = np.minimum.reduce(distance, axis=1)
        return novelty

    def arrays(self) -> Arrays:
        return {**self.space.arrays(), "rates": self.rates, "pulls": self.pulls}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "ClusterNovelty":
        return cls(Space.from_arrays(arrays, _FORM), arrays["rates"], arrays["pulls"])


def compute_fade(novelty: Floats32, start: float, end: float) -> Floats:
    """(n_queries, 1) 1 up to `start`, falling to 0 at `end`."""
    left = (end - novelty.astype(np.float64)[:, None]) / (end - start)
    return np.minimum(np.maximum(left, 0.0, out=left), 1.0, out=left)


DEFAULT_MEMBERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("linear", {"alpha": 5.0, "dense": 0.0, "lexical": 1.0}),
    ("knn", {}),
    ("clusters", {}),
    ("linear", {"alpha": 20.0, "dense": 1.0, "lexical": 0.0, "form": 1.0}),
)
"""Words, neighbours, clusters, and a ridge on content and form; by cross-validation, see evals/LOG.md."""

_MIN_QUERIES = 50
"""With fewer there is nothing to learn of who is right when, nor of what is familiar."""
_FOREST_FADES = 1.0, 1.25
_MEMBERS_FADE = 1.1, 1.5
"""Strangeness from which on they count less, and at which they count no longer."""


@runtime_checkable
class RefittablePredictor(Protocol):
    """A predictor that can learn other outcomes in the places it has found without looking at any."""

    def refit(self, features: Features, targets: Floats) -> Predictor:
        """A twin fitted on these alone."""


class Blend:
    """The weighted mean of its members' predictions, corrected by a forest that learned where it errs.

    The forest reads what each member predicts of a query, out of fold when it learns, and the form of the
    text. Where members disagree the blend is less sure. Where a query is like none that was learned from, the
    correction fades, then what the members predict, and the experts' means are left.

    Reference: stacked generalization (Wolpert, 1992).
    Differs: the second level is one forest for all experts, and starts from the mean of the first; both fade.
    """

    members_: list[Predictor]
    stack_: Stack | None
    novelty_: ClusterNovelty | None
    mean_: Floats

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

    def _make_unfitted(self) -> list[Predictor]:
        return [make_predictor(name, settings) for name, settings in self.members]

    def fit(self, features: Features, targets: Floats) -> Self:
        self._take(member.fit(features, targets) for member in self._make_unfitted())
        self.mean_ = centre_targets(targets).mean
        self.stack_, self.novelty_ = None, None
        if len(features) < _MIN_QUERIES:
            return self
        self.novelty_ = ClusterNovelty.of(features, self.seed)
        if self.n_trees:
            how = ForestSettings(self.n_trees, self.depth, self.rate, seed=self.seed)
            said = self._out_of_fold(features, targets)
            base = np.einsum("m,mqe->qe", self._shares, said)  # (n_queries, n_experts)
            self.stack_ = Stack.fit(features, list(said), base, targets, how)
        return self

    def _out_of_fold(self, features: Features, targets: Floats) -> Floats:
        """(n_members, n_queries, n_experts) predictions by members that have not seen the outcome."""
        said = np.empty((len(self.members_), *targets.shape))
        folds = hash_folds(features, self.n_folds)
        for fold in np.unique(folds):
            inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            seen, asked = features.take(outside), features.take(inside)
            for member, fresh, prediction in zip(self.members_, self._make_unfitted(), said, strict=True):
                if isinstance(member, RefittablePredictor):
                    fitted = member.refit(seen, targets[outside])
                else:
                    fitted = fresh.fit(seen, targets[outside])
                prediction[inside] = fitted.predict(asked).mean
        return said

    def _take(self, members: Iterable[Predictor]) -> Self:
        self.members_ = list(members)
        shares = np.ones(len(self.members_)) if self.weights is None else np.asarray(self.weights, np.float64)
        self._shares = shares / shares.sum()
        self._twice = np.tile(self._shares, 2)
        return self

    def predict(self, features: Features) -> Estimate:
        said = [member.predict(features) for member in self.members_]
        means, stds = [estimate.mean for estimate in said], [estimate.std for estimate in said]
        rows = np.concatenate((features.form, *means, *stds), axis=1)
        both = rows[:, features.form.shape[1] :].reshape(len(rows), 2 * len(said), means[0].shape[1])
        mean: Floats = np.matmul(self._shares, both[:, : len(said)])  # (n_queries, n_experts)
        # E[x²] − E[x]² of all members: squares of means and of deviations in one product.
        std = np.matmul(self._twice, np.square(both))  # (n_queries, n_experts)
        std -= mean * mean
        np.sqrt(np.maximum(std, 0.0, out=std), out=std)
        correction = None if self.stack_ is None else self.stack_.correction(rows)
        if self.novelty_ is not None:
            mean, correction = self._fade(mean, correction, self.novelty_.novelty(features))
        if correction is not None:
            mean += correction
        return Estimate(mean, std)

    def _fade(
        self, mean: Floats, correction: Floats | None, novelty: Floats32
    ) -> tuple[Floats, Floats | None]:
        """What is left of the members' mean and of its correction, (n_queries, n_experts) each."""
        if max(novelty.tolist(), default=0.0) <= _FOREST_FADES[0]:
            return mean, correction
        if correction is not None:
            correction = correction * compute_fade(novelty, *_FOREST_FADES)
        return self.mean_ + (mean - self.mean_) * compute_fade(novelty, *_MEMBERS_FADE), correction

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
        if self.novelty_ is not None:
            held["familiar"] = {**self.novelty_.arrays(), "mean": self.mean_}
        return {f"{part}.{key}": values for part, arrays in held.items() for key, values in arrays.items()}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.stack_, self.novelty_ = None, None
        if stack := _part(arrays, "stack."):
            self.stack_ = Stack.from_arrays(stack)
        if familiar := _part(arrays, "familiar."):
            self.novelty_, self.mean_ = ClusterNovelty.from_arrays(familiar), familiar["mean"]
        return self._take(
            member.restore(_part(arrays, f"{n}.")) for n, member in enumerate(self._make_unfitted())
        )


def _part(arrays: Mapping[str, np.ndarray[Any, Any]], prefix: str) -> Arrays:
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}
