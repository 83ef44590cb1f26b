"""Blend, the default: the mean of several predictors, a forest that corrects it, and novelty."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from ..calibration import Z_95
from ..features import Features, compiled
from ..protocols import Arrays, Predictor
from ..registry import make_predictor
from ..types import Bools, Estimate, Floats, Floats32, Ints
from .compiled import CompiledBlend
from .neighbours import Space, multiply_rows, spherical_kmeans
from .targets import centre_targets, expert_order, hash_folds, query_order

MAX_DEPTH = 8
"""The answers along a path are one byte."""
_FEW = 64
"""Rows that a forest reads at once: the leaves they fall into stay in a core's cache."""
_MAX_ASKED = 6000
"""Of more rows than this only some choose the questions; all fill the leaves."""


@dataclass(frozen=True, slots=True)
class ForestSettings:
    """How a forest grows.

    n_trees, depth: how many trees, and questions in each, at most `MAX_DEPTH`
    rate: share of what a tree learned that counts; the next learns what is left
    n_tries: questions drawn at random per level, of which the one that tells most is asked
    prior: how many outcomes of 0 are in a leaf from the start
    """

    n_trees: int = 100
    depth: int = 5
    rate: float = 0.07
    n_tries: int = 16
    prior: float = 60.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Forest:
    """The sum of boosted oblivious trees, their questions drawn at random.

    column, threshold: (n_trees, depth) the question of each level, whether a row has more there
    leaf: (n_trees · 2^depth, n_outputs) what is answered

    Reference: gradient boosting (Friedman, 2001); oblivious trees as in CatBoost (arXiv 1706.09516);
    randomised splits (extremely randomised trees, Geurts et al., 2006).
    Differs: one forest for all outputs; thresholds are drawn at random and the best of `n_tries` is kept.
    """

    column: Ints
    threshold: Floats
    leaf: Floats32
    _asked: tuple[Ints, Floats, Ints, Floats] = field(init=False, repr=False, compare=False)
    """All questions in one row, eight a tree, so that a tree's answers are a byte; where its leaves start."""

    def __post_init__(self) -> None:
        n_trees, depth = self.column.shape
        before = ((0, 0), (MAX_DEPTH - depth, 0))  # packbits takes the highest bit first
        columns = np.pad(self.column, before).ravel()
        edges = np.pad(self.threshold, before, constant_values=np.inf).ravel()  # nothing has more
        # the leaves of tree t begin at t · 2^depth
        start, wide = np.arange(n_trees) << depth, self.leaf.astype(np.float64)
        object.__setattr__(self, "_asked", (columns, edges, start, wide))

    @classmethod
    def grow(cls, rows: Floats, residual: Floats, known: Bools, how: ForestSettings) -> "Forest":
        """Learn residual (n_rows, n_outputs), which is 0 where unknown, from rows (n_rows, n_columns)."""
        low, span = rows.min(axis=0), np.ptp(rows, axis=0)  # (n_columns,) each
        rng = np.random.default_rng(how.seed)
        column = np.empty((how.n_trees, how.depth), np.int64)
        threshold = np.empty((how.n_trees, how.depth))
        leaf = np.empty((how.n_trees, 2**how.depth, residual.shape[1]))
        left, asked = residual.copy(), slice(None, None, 1 + len(rows) // _MAX_ASKED)
        for tree in range(how.n_trees):
            tally = _ResidualSums(left[asked], known[asked], how.prior)
            place = np.zeros(len(rows[asked]), np.int64)
            for level in range(how.depth):
                tried = rng.integers(rows.shape[1], size=how.n_tries)
                edge = low[tried] + rng.random(how.n_tries) * span[tried]
                places = 2 * place + (rows[asked, tried] > edge).T  # (n_tries, n_rows)
                best = tally.best_partition(places, 2 ** (level + 1))
                place = places[best]
                column[tree, level], threshold[tree, level] = tried[best], edge[best]
            place = _places(rows, column[tree], threshold[tree])
            # Shrinkage by the rate: Friedman, 2001, section 5.
            leaf[tree] = how.rate * _ResidualSums(left, known, how.prior).values(place, 2**how.depth)
            left -= np.where(known, leaf[tree][place], 0.0)
        return cls(column, threshold, leaf.reshape(-1, residual.shape[1]).astype(np.float32))

    def read(self, rows: Floats) -> Floats:
        """(n_rows, n_outputs); a row's answer does not depend on its company."""
        columns, edges, start, leaf = self._asked
        result = np.empty((len(rows), self.leaf.shape[1]))
        for n in range(0, len(rows), _FEW):
            block = slice(n, n + _FEW)
            place = (
                np.packbits(rows[block].take(columns, axis=1) > edges, axis=1) + start
            )  # (n_block, n_trees)
            np.add.reduce(leaf.take(place, axis=0), axis=1, out=result[block])  # double: no order is seen
        return result

    def rescale(self, column: Ints, centre: Floats, unit: Floats) -> "Forest":
        """The same forest for rows whose columns stand elsewhere and are not yet centred and scaled.

        column: (n_columns,) where each is now; centre, unit: (n_columns,) as it is now
        """
        threshold = centre[self.column] + unit[self.column] * self.threshold
        return Forest(column[self.column], threshold, self.leaf)

    def arrays(self) -> Arrays:
        return {"column": self.column, "threshold": self.threshold, "leaf": self.leaf}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Forest":
        return cls(arrays["column"], arrays["threshold"], arrays["leaf"])


def _places(rows: Floats, column: Ints, threshold: Floats) -> Ints:
    """(n_rows,) the leaf of one tree that each row falls into."""
    places: Ints = (rows[:, column] > threshold) @ (1 << np.arange(len(column))[::-1])
    return places


class _ResidualSums:
    """Sums of residuals by leaf, from which the gain of a partition follows."""

    def __init__(self, residual: Floats, known: Bools, prior: float) -> None:
        self._residual = np.ascontiguousarray(residual.T)
        self._known = None if known.all() else np.ascontiguousarray(known.T.astype(np.float64))
        self._prior = prior
        self._n_repeats, self._repeated = 1, (self._residual, self._known)

    def best_partition(self, places: Ints, n_places: int) -> int:
        """Which of the partitions (n_tries, n_rows) explains most of the residuals' squares."""
        n_tries = len(places)
        flat = (places + n_places * np.arange(n_tries)[:, None]).ravel()  # a bin for each try and place
        explained = np.zeros(n_tries)
        for total, count in self._sums(flat, n_tries, n_tries * n_places):
            # The structure score G² / (H + λ) of XGBoost, arXiv 1603.02754, equation 6.
            explained += (total**2 / (count + self._prior)).reshape(n_tries, n_places).sum(axis=1)
        return int(explained.argmax())

    def values(self, place: Ints, n_places: int) -> Floats:
        """(n_places, n_outputs) shrunk means."""
        columns = [total / (count + self._prior) for total, count in self._sums(place, 1, n_places)]
        return np.stack(columns, axis=1)

    def _sums(self, flat: Ints, n_tries: int, n_places: int) -> Iterator[tuple[Floats, Floats]]:
        """Per output the sum of residuals in each place, and how many there are."""
        if n_tries != self._n_repeats:  # a tree asks as often at each of its levels
            known = None if self._known is None else np.tile(self._known, n_tries)
            self._n_repeats, self._repeated = n_tries, (np.tile(self._residual, n_tries), known)
        residuals, known = self._repeated  # (n_outputs, n_tries · n_rows) each
        count = np.bincount(flat, minlength=n_places).astype(np.float64)
        for e, residual in enumerate(residuals):
            if known is not None:
                count = _sum_by_place(flat, known[e], n_places)
            yield _sum_by_place(flat, residual, n_places), count


def _sum_by_place(flat: Ints, weights: Floats, n_places: int) -> Floats:
    return np.asarray(np.bincount(flat, weights, n_places), np.float64)


@dataclass(frozen=True, slots=True)
class Stack:
    """A forest that corrects a prediction, from the form of the text and what each member said.

    unit: the spread of the targets, in which the forest answers
    """

    unit: float
    forest: Forest

    @classmethod
    def fit(
        cls, features: Features, members: Sequence[Floats], base: Floats, targets: Floats, how: ForestSettings
    ) -> "Stack | None":
        """From out-of-fold predictions (n_queries, n_experts), the members' and the one to be corrected.

        None where the targets do not vary.
        """
        parts = centre_targets(targets)
        unit = float(np.sqrt((parts.residual**2).sum() / max(parts.known.sum(), 1)))
        if unit < 1e-9:
            return None
        n_form, n_experts = features.form.shape[1], targets.shape[1]
        # Splits are drawn from columns in a canonical order: the order of the experts does not matter;
        # and from predictions in units of the targets.
        queries = query_order(features)
        order = expert_order(targets[queries])
        experts = np.concatenate([n_form + n * n_experts + order for n in range(len(members))])
        column = np.concatenate((np.arange(n_form), experts))
        centre = np.concatenate((np.zeros(n_form), np.tile(parts.mean[order], len(members))))
        scale = np.where(np.arange(len(column)) < n_form, 1.0, unit)  # form keeps its own unit
        rows = np.concatenate((features.form, *members), axis=1)
        rows = (rows[queries][:, column] - centre) / scale
        known = parts.known[queries]
        residual = np.where(known, targets[queries] - base[queries], 0.0) / unit
        return cls(unit, Forest.grow(rows, residual, known, how).rescale(column, centre, scale))

    def correction(self, rows: Floats) -> Floats:
        """(n_queries, n_experts) what to add.

        rows: (n_queries, n_form + n_members · n_experts or more) form, then each member's prediction
        """
        found = self.forest.read(rows)
        found *= self.unit
        return found

    @property
    def questions(self) -> tuple[Ints, Floats, Floats32, float]:
        """Column and threshold of each question, the leaves, and their unit."""
        return self.forest.column, self.forest.threshold, self.forest.leaf, self.unit

    def arrays(self) -> Arrays:
        return {**self.forest.arrays(), "unit": np.array(self.unit)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Stack":
        return cls(float(arrays["unit"]), Forest.from_arrays(arrays))


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
        total = np.bincount(nearest, own, n_clusters) + _PRIOR * own.mean()  # (n_clusters,)
        # (n_clusters,)
        radius = np.maximum(total / (np.bincount(nearest, minlength=n_clusters) + _PRIOR), _ALIKE)
        # Of queries kept aside: no centroid was drawn towards them, as none is towards those to come.
        usual = max(float(np.quantile(((1.0 - asked @ centroids) / radius).min(axis=1), _FAMILIAR)), 1.0)
        rates = (1.0 / (radius * usual)).astype(np.float32)
        return cls(space, rates, np.ascontiguousarray(centroids * rates))

    def novelty(self, features: Features) -> Floats32:
        """(n_queries,), below 1 for 95 % of those like the ones learned."""
        return self.read(multiply_rows(self.space.unit(features), self.pulls))

    def read(self, products: Floats32) -> Floats32:
        """The novelty, given the products with the pulls, (n_queries, n_clusters)."""
        # rate·(1 − cos) = rate − u·(rate·c): one product gives every distance in its unit.
        novelty: Floats32 = np.minimum.reduce(self.rates - products, axis=1)
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

SLOW_MEMBERS = ("knn",)
"""They take as long as all others together: looking at every query that was learned."""
_AS_GOOD = 0.01
"""A member is not needed where, with 95 % certainty, the others' choices lose less than this without it.

Out of fold and before the forest, which learns to make up for it: evals/LOG.md has four data sets.
"""
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


@runtime_checkable
class ProductReader(Protocol):
    """What needs of a query only its unit vector's products with some columns."""

    @property
    def space(self) -> Space: ...

    @property
    def pulls(self) -> Floats32:
        """(dim + n_form, n_columns)"""

    def read(self, products: Floats32) -> Any:
        """What it says, given the products, (n_queries, n_columns)."""


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
        lean: bool = False,
    ) -> None:
        """Args:
        members: name and settings of each.
        weights: one each, of any sum; None weighs all alike.
        n_trees, depth: of the forest; no trees, no forest.
        rate: share of what a tree learned that counts.
        n_folds: for the members' out-of-fold predictions.
        lean: on the static tier, leave out slow members without which the others choose as well.
        """
        self.members = members
        self.weights = weights
        self.n_trees = n_trees
        self.depth = depth
        self.rate = rate
        self.n_folds = n_folds
        self.seed = seed
        self.lean = lean

    def _make_unfitted(self) -> list[Predictor]:
        return [make_predictor(name, settings) for name, settings in self.members]

    def fit(self, features: Features, targets: Floats) -> Self:
        self.mean_ = centre_targets(targets).mean
        self.stack_, self.novelty_ = None, None
        self._take(member.fit(features, targets) for member in self._make_unfitted())
        if len(features) < _MIN_QUERIES:
            return self
        self.novelty_ = ClusterNovelty.of(features, self.seed)
        if self.n_trees:
            how = ForestSettings(self.n_trees, self.depth, self.rate, seed=self.seed)
            said = self._out_of_fold(features, targets)
            # The encoder's milliseconds hide what a member takes; the static embedder's microseconds do not.
            if self.lean and features.tier == "static":
                said = self._leave_out_slow(said, targets)
            base = np.einsum("m,mqe->qe", self._shares, said)  # (n_queries, n_experts)
            self.stack_ = Stack.fit(features, list(said), base, targets, how)
        return self._ready()

    def _out_of_fold(self, features: Features, targets: Floats) -> Floats:
        """(n_members, n_queries, n_experts) predictions by members that have not seen the outcome."""
        said = np.empty((len(self.members_), *targets.shape))  # (n_members, n_queries, n_experts)
        folds = hash_folds(features, self.n_folds)
        for fold in np.unique(folds):
            inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            # no member predicts what it was fitted on
            seen, asked = features.take(outside), features.take(inside)
            for member, fresh, prediction in zip(self.members_, self._make_unfitted(), said, strict=True):
                if isinstance(member, RefittablePredictor):
                    fitted = member.refit(seen, targets[outside])
                else:
                    fitted = fresh.fit(seen, targets[outside])
                prediction[inside] = fitted.predict(asked).mean
        return said

    def _leave_out_slow(self, said: Floats, targets: Floats) -> Floats:
        """Drop the slow members that are not needed; said (n_members, n_queries, n_experts) of the others."""
        complete = ~np.isnan(targets).any(axis=1)
        score, measured = targets[complete], said[:, complete]
        rows = np.arange(len(score))
        for name in SLOW_MEMBERS:
            kept = [n for n, (member, _) in enumerate(self.members) if member != name]
            if len(kept) in (0, len(self.members)) or not len(score):
                continue
            full = np.einsum("m,mqe->qe", self._shares, measured).argmax(axis=1)
            less = np.einsum("m,mqe->qe", self._shares[kept], measured[kept]).argmax(axis=1)
            change = score[rows, less] - score[rows, full]  # (n_complete,)
            worst = change.mean() - Z_95 * change.std() / np.sqrt(len(change))
            if worst > -_AS_GOOD:
                self.members = [self.members[n] for n in kept]
                self.weights = None if self.weights is None else [self.weights[n] for n in kept]
                self._take([self.members_[n] for n in kept])
                said, measured = said[kept], measured[kept]
        return said

    def _take(self, members: Iterable[Predictor]) -> Self:
        self.members_ = list(members)
        shares = np.ones(len(self.members_)) if self.weights is None else np.asarray(self.weights, np.float64)
        self._shares = shares / shares.sum()
        self._twice = np.tile(self._shares, 2)  # for the means, and for the deviations
        return self._ready()

    def _ready(self) -> Self:
        """Put side by side the columns that members and novelty multiply a query's unit vector by."""
        parts = [*self.members_, self.novelty_]
        readers = [part for part in parts if isinstance(part, ProductReader)]
        self._space = readers[0].space if readers else None
        self._places: list[slice | None] = []  # each part's columns; None where it reads the features itself
        blocks, end = [], 0
        for part in parts:
            if isinstance(part, ProductReader) and self._space is not None and part.space.equals(self._space):
                blocks.append(part.pulls)
                self._places.append(slice(end, end + part.pulls.shape[1]))
                end += part.pulls.shape[1]
            else:
                self._places.append(None)
        self._pulls = np.concatenate(blocks, axis=1) if blocks else np.zeros((0, 0), np.float32)
        self.compiled_ = self._compile() if compiled else None
        return self

    def _compile(self) -> CompiledBlend | None:
        """Itself for the compiled code; None where that does not know a member."""
        stack, novelty = self.stack_, self.novelty_
        if self._space is None:
            return None
        if novelty is not None and not novelty.space.equals(self._space):
            return None
        try:
            return CompiledBlend(
                self._space,
                self.members_,
                self._shares,
                None if novelty is None else self.mean_,
                (*_FOREST_FADES, *_MEMBERS_FADE),
                novelty=None if novelty is None else (novelty.rates, novelty.pulls),
                forest=None if stack is None else stack.questions,
            )
        except ValueError:
            return None

    def predict(self, features: Features) -> Estimate:
        return self.compiled_.predict(features) if self.compiled_ else self.read(features)

    def read(self, features: Features) -> Estimate:
        """What `predict` gives, by NumPy alone."""
        # One product for all who ask where a query lies: several smaller ones take longer.
        products = np.zeros((len(features), 0), np.float32)
        if self._space is not None:
            products = multiply_rows(self._space.unit(features), self._pulls)
        said: list[Estimate] = [
            part.predict(features) if place is None else part.read(products[:, place])  # type: ignore[attr-defined]
            for part, place in zip(self.members_, self._places, strict=False)
        ]
        means, stds = [estimate.mean for estimate in said], [estimate.std for estimate in said]
        rows = np.concatenate((features.form, *means, *stds), axis=1)
        # (n_queries, 2 · n_members, n_experts): means, then deviations.
        both = rows[:, features.form.shape[1] :].reshape(len(rows), 2 * len(said), means[0].shape[1])
        mean: Floats = np.matmul(self._shares, both[:, : len(said)])  # (n_queries, n_experts)
        # E[x²] − E[x]² of all members: squares of means and of deviations in one product.
        std = np.matmul(self._twice, np.square(both))  # (n_queries, n_experts)
        std -= mean * mean
        np.sqrt(np.maximum(std, 0.0, out=std), out=std)  # rounding can leave less than 0
        correction = None if self.stack_ is None else self.stack_.correction(rows)  # (n_queries, n_experts)
        novelty: Floats32 | None = None
        if self.novelty_ is not None:
            place = self._places[-1]
            novelty = (  # (n_queries,)
                self.novelty_.novelty(features) if place is None else self.novelty_.read(products[:, place])
            )
            # Most queries are familiar, and every fade is 1 up to the first start.
            if max(novelty.tolist(), default=0.0) > _FOREST_FADES[0]:
                mean = self.mean_ + (mean - self.mean_) * compute_fade(novelty, *_MEMBERS_FADE)
                if correction is not None:
                    correction *= compute_fade(novelty, *_FOREST_FADES)
        if correction is not None:
            mean += correction
        return Estimate(mean, std, None if novelty is None else novelty.astype(np.float64))

    def settings(self) -> dict[str, Any]:
        return {
            "members": [[name, dict(settings)] for name, settings in self.members],
            "weights": None if self.weights is None else list(self.weights),
            "n_trees": self.n_trees,
            "depth": self.depth,
            "rate": self.rate,
            "n_folds": self.n_folds,
            "seed": self.seed,
            "lean": self.lean,
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
