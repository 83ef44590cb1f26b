"""Composition of Experts: classify the category, then predict each expert's score in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal, Self

import numpy as np

from ..categories.taxonomy import (
    GENERAL,
    UNKNOWN,
    CategoryScores,
    Classifier,
    Kind,
    Propagation,
    Taxonomy,
    make_classifier,
)
from ..features import Features
from ..protocols import Arrays, CategoryExamples
from ..types import Bools, Estimate, Floats, Floats32, Ints
from .neighbours import Space, spherical_kmeans
from .targets import centre_targets

_MAX_REFERENCES = 2048
_CHUNK = 256


def entropy(posterior: Floats) -> Floats:
    """(n_queries,) −Σ p log p / log n_categories, in [0, 1]; 0 with a single category."""
    logs = np.log(np.where(posterior > 0, posterior, 1.0))  # p log p tends to 0
    total: Floats = -(posterior * logs).sum(axis=1) / max(np.log(posterior.shape[1]), 1e-12)
    return np.maximum(total, 0.0)


def closeness(posterior: Floats) -> Floats:
    """(n_queries,) 1 − (first − second posterior), in [0, 1]; 0 with a single category."""
    if posterior.shape[1] < 2:
        return np.zeros(len(posterior))
    # the last is the largest, before it the second
    top = np.partition(posterior, posterior.shape[1] - 2, axis=1)
    nearness: Floats = 1.0 - (top[:, -1] - top[:, -2])
    return nearness


def conformal_threshold(scores: Floats, alpha: float) -> float:
    """The ⌈(n + 1)(1 − α)⌉-th smallest of n scores: at most α of further ones like them lie above it.

    Infinite where there are too few scores to promise that.

    Reference: split-conformal prediction, Vovk et al. (2005); the promise holds for exchangeable queries.
    """
    rank = ceil((len(scores) + 1) * (1.0 - alpha) - 1e-9)  # 0.1 and its like are no exact binary fractions
    return float(np.sort(scores)[rank - 1]) if 1 <= rank <= len(scores) else np.inf


@dataclass(frozen=True, slots=True)
class Ranks:
    """The rank of a value among those seen, in (0, 1): strictly increasing and continuous."""

    values: Floats
    ranks: Floats

    @classmethod
    def of(cls, seen: Floats) -> "Ranks":
        values, counts = np.unique(seen, return_counts=True)
        return cls(values, np.cumsum(counts) / (len(seen) + 1))

    def __call__(self, values: Floats) -> Floats:
        """(n_queries,) ranks; beyond the greatest value seen they go on towards 1."""
        if not len(self.values):
            return np.zeros(len(values))
        last, top = self.ranks[-1], max(float(self.values[-1]), 1e-12)
        inside = np.interp(values, self.values, self.ranks)
        beyond = 1.0 - (1.0 - last) * top / np.maximum(values, top)
        return np.where(values > top, beyond, inside)


@dataclass(frozen=True, slots=True)
class NeighbourNovelty:
    """How far a row lies from its k-th nearest reference: 1 − cosine."""

    references: Floats32
    k: int

    @classmethod
    def of(cls, rows: Floats32, k: int) -> "NeighbourNovelty":
        """Every so-many-th row, so that there are at most 2,048."""
        return cls(rows[:: max(1, -(-len(rows) // _MAX_REFERENCES))], k)

    def distance(self, rows: Floats32) -> Floats:
        """(n_queries,) ≥ 0; 0 without references."""
        n = len(self.references)
        if not n:
            return np.zeros(len(rows))
        place = max(n - self.k, 0)
        found = np.empty(len(rows))
        for start in range(0, len(rows), _CHUNK):
            block = slice(start, start + _CHUNK)
            found[block] = np.partition(rows[block] @ self.references.T, place, axis=1)[:, place]
        return np.maximum(1.0 - found, 0.0)


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The greatest of three ranks: entropy, closeness of the first two, distance; and where it is too much.

    Each signal is ranked among queries held back in training, so that no scale decides which of them counts.
    With `entropy_alone` the entropy itself is all there is.
    """

    novelty: NeighbourNovelty
    by_entropy: Ranks
    by_closeness: Ranks
    by_distance: Ranks
    threshold: float
    entropy_alone: bool = False

    @classmethod
    def fit(
        cls,
        novelty: NeighbourNovelty,
        posterior: Floats,
        rows: Floats32,
        alpha: float,
        n_ranked: int,
        entropy_alone: bool = False,
    ) -> "Uncertainty":
        """From queries the classifier has not seen: the first `n_ranked` rank, the rest set the threshold."""
        unset = cls(
            novelty,
            by_entropy=Ranks.of(entropy(posterior[:n_ranked])),
            by_closeness=Ranks.of(closeness(posterior[:n_ranked])),
            by_distance=Ranks.of(novelty.distance(rows[:n_ranked])),
            threshold=np.inf,
            entropy_alone=entropy_alone,
        )
        level = unset.measure_uncertainty(posterior[n_ranked:], rows[n_ranked:])
        return replace(unset, threshold=conformal_threshold(level, alpha))

    def measure_uncertainty(self, posterior: Floats, rows: Floats32) -> Floats:
        """(n_queries,) in [0, 1]."""
        if self.entropy_alone:
            return entropy(posterior)
        ranks = (
            self.by_entropy(entropy(posterior)),
            self.by_closeness(closeness(posterior)),
            self.by_distance(self.novelty.distance(rows)),
        )
        greatest: Floats = np.maximum.reduce(ranks)
        return greatest

    def is_too_uncertain(self, posterior: Floats, rows: Floats32) -> Bools:
        """(n_queries,) whether the general category is the answer."""
        beyond: Bools = self.measure_uncertainty(posterior, rows) > self.threshold + 1e-9
        return beyond

    def excess(self, posterior: Floats, rows: Floats32) -> Floats:
        """(n_queries,) 0 up to the threshold, growing to 1 where nothing like the query was ever seen."""
        if not self.threshold < 1.0:
            return np.zeros(len(posterior))
        share = (self.measure_uncertainty(posterior, rows) - self.threshold) / (1.0 - self.threshold)
        return np.clip(share, 0.0, 1.0)

    def arrays(self) -> Arrays:
        ranks = {"entropy": self.by_entropy, "closeness": self.by_closeness, "distance": self.by_distance}
        return {
            "references": self.novelty.references,
            "threshold": np.array(self.threshold),
            **{f"{name}_values": held.values for name, held in ranks.items()},
            **{f"{name}_ranks": held.ranks for name, held in ranks.items()},
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray[Any, Any]], k: int, entropy_alone: bool = False
    ) -> "Uncertainty":
        def ranks(name: str) -> Ranks:
            return Ranks(arrays[f"{name}_values"], arrays[f"{name}_ranks"])

        return cls(
            NeighbourNovelty(arrays["references"], k),
            ranks("entropy"),
            ranks("closeness"),
            ranks("distance"),
            float(arrays["threshold"]),
            entropy_alone,
        )


_SAME = 1e-9
"""Posteriors closer than this are equal."""
_MIN_HELD = 20
"""Queries that must be held back before anything is promised of the uncertain ones."""


class CoE:
    """Category classifier, uncertainty with a general category, and shrunk category × expert scores.

    Categories are a closed list with examples, or the task tags of the training queries; both spread to
    untagged queries. Without either, categories are clusters.

    Reference: Composition of Experts (arXiv 2412.01868): category router, uncertainty, category → expert.
    Differs: neither the paper's embedder nor its judge; the mapping under a budget is a policy's, from
    `routers.solve_mapping`; without one it is the highest score of the category. Improved: the whole
    posterior instead of its greatest, scores shrunk, the form of a text beside its content, and a smooth way
    to the general category.
    """

    taxonomy_: Taxonomy
    space_: Space
    classifier_: Classifier
    uncertainty_: Uncertainty
    value_: Floats
    std_: Floats

    def __init__(
        self,
        mode: Literal["paper", "improved"] = "improved",
        classifier: Kind | None = None,
        k: int = 15,
        alpha: float = 0.1,
        strength: float = 20.0,
        form: float = 1.0,
        n_dims: int | None = 128,
        n_clusters: int = 24,
        min_count: int = 5,
        rounds: int = 3,
        confidence: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Args:
        mode: `paper` for hard categories, plain votes, entropy alone, content alone and scores as they are.
        classifier: neighbours, multinomial logistic regression, or nearest centroid; None takes neighbours in
        `paper`, else logistic regression.
        k: neighbours that vote, and that measure distance.
        alpha: share of queries like the training ones that may be sent to the general category.
        strength: outcomes the expert's overall mean counts for in a category; 0 in `paper`.
        form: weight of the form features beside the dense ones; 0 in `paper`.
        n_dims: principal directions kept; None keeps all.
        n_clusters: categories to make where queries bear no tags.
        min_count: queries a tag needs to be a category.
        rounds, confidence, temperature: how tags spread to untagged queries, see `Propagation`; `improved`
        spreads over a graph and needs a confidence of 0.5, `paper` in rounds and of 0.8.
        """
        self.mode: Literal["paper", "improved"] = mode
        self.classifier = classifier
        self.k = k
        self.alpha = alpha
        self.strength = strength
        self.form = form
        self.n_dims = n_dims
        self.n_clusters = n_clusters
        self.min_count = min_count
        self.rounds = rounds
        self.confidence = confidence
        self.temperature = temperature
        self.seed = seed

    def fit(self, features: Features, targets: Floats) -> Self:
        return self.fit_tagged(features, targets, [""] * len(features))

    def fit_tagged(self, features: Features, targets: Floats, tasks: Sequence[str]) -> Self:
        nothing = CategoryExamples((), features.take(slice(0, 0)), ())
        return self.fit_examples(features, targets, tasks, nothing)

    def fit_examples(
        self, features: Features, targets: Floats, tasks: Sequence[str], examples: CategoryExamples
    ) -> Self:
        paper = self.mode == "paper"
        whole = features.join(examples.features) if len(examples.features) else features
        tags = [*tasks, *examples.tags]
        self.space_ = Space.of(whole, 0.0 if paper else self.form, None if paper else self.n_dims)
        rows = self.space_.rows(whole)
        self.taxonomy_, labels = self._name_categories(rows, tags, examples.names)
        order = np.lexsort(whole.dense[:, :4].T)  # the order of the queries must not matter
        labels = self._fit_classifier(rows, labels, order, len(features))
        strength = 0.0 if paper else self.strength
        parts = centre_targets(targets)
        scores = CategoryScores.of(targets, labels[: len(features)], len(self.taxonomy_), strength)
        self.value_ = np.where(np.isnan(scores.value), parts.mean, scores.value)
        self.std_ = parts.std * np.sqrt(1.0 / np.maximum(scores.count + strength, 1.0))
        return self

    def _name_categories(
        self, rows: Floats32, tags: Sequence[str], names: tuple[str, ...]
    ) -> tuple[Taxonomy, Ints]:
        """The categories, and the place of each query that has one; the others are `UNKNOWN`."""
        if names:
            taxonomy = Taxonomy((*names, GENERAL))
            return taxonomy, taxonomy.labels(tags, is_closed=True)
        if any(tags) or not len(rows):
            taxonomy = Taxonomy.of(tags, self.min_count)
            return taxonomy, taxonomy.labels(tags)
        n = max(1, min(self.n_clusters, len(rows) // 4))
        nearest = (rows @ spherical_kmeans(rows, n, 15, self.seed).T).argmax(axis=1)
        clusters = [f"cluster-{c:02d}" for c in nearest]
        taxonomy = Taxonomy.of(clusters)
        return taxonomy, taxonomy.labels(clusters)

    def _fit_classifier(self, rows: Floats32, labels: Ints, order: Ints, n_measured: int) -> Ints:
        """All labels, with those of untagged queries where they are certain.

        Every tenth query ranks the signals, every tenth sets the threshold; the rest teach. These are drawn
        from all queries, tagged or not: among those alone whose label is certain the threshold would be too
        low, and more than α of a gateway's queries would go to the general category.
        """
        asked = order[order < n_measured]
        if len(asked) < 10 * _MIN_HELD:  # then those without an outcome are asked too
            asked = order[(order < n_measured) | (labels[order] == UNKNOWN)]
        place = np.arange(len(asked)) % 10
        enough = len(asked) >= 10 * _MIN_HELD
        ranked, held = asked[place == 8], asked[place == 9] if enough else asked[:0]
        free = np.ones(len(rows), bool)
        if enough:
            free[ranked] = free[held] = False
        n = len(self.taxonomy_)
        paper = self.mode == "paper"
        confidence = self.confidence if self.confidence is not None else 0.8 if paper else 0.5
        spreading = Propagation(self.rounds, confidence, self.temperature, self.k)
        spread = spreading.spread if paper else spreading.spread_over_graph
        found = labels.copy()
        found[free] = spread(rows[free], labels[free], n)
        taught = order[free[order] & (found[order] != UNKNOWN)]
        self.classifier_ = self._make_unfitted().fit(rows[taught], found[taught], n)
        rest = np.flatnonzero(~free & (found == UNKNOWN))
        found[rest] = spreading.read_certain(self.classifier_.posterior(rows[rest]))
        both = np.concatenate((ranked, held))
        self.uncertainty_ = Uncertainty.fit(
            NeighbourNovelty.of(rows[taught], self.k),
            self.classifier_.posterior(rows[both]),
            rows[both],
            self.alpha,
            len(ranked),
            entropy_alone=paper,
        )
        return found

    def _make_unfitted(self) -> Classifier:
        paper = self.mode == "paper"
        return make_classifier(self.classifier or ("knn" if paper else "logistic"), self.k, plain=paper)

    def predict(self, features: Features) -> Estimate:
        rows = self.space_.rows(features)
        share = self._share(self.classifier_.posterior(rows), rows)
        mean = share @ self.value_  # (n_queries, n_experts)
        # E[x²] of the mixture; the variance is E[x²] − E[x]²
        square = share @ (self.value_**2 + self.std_**2)
        return Estimate(mean, np.sqrt(np.maximum(square - mean**2, 0.0)))

    def _share(self, posterior: Floats, rows: Floats32) -> Floats:
        """(n_queries, n_categories) how much each category's scores count."""
        if self.mode == "paper":
            top = posterior >= posterior.max(axis=1, keepdims=True, initial=0.0) - _SAME
            share: Floats = top / top.sum(axis=1, keepdims=True)
            general = self.uncertainty_.is_too_uncertain(posterior, rows).astype(np.float64)
        else:
            share = posterior
            general = self.uncertainty_.excess(posterior, rows)
        share = share * (1.0 - general)[:, None]
        share[:, -1] += general  # the general category is the last
        return share

    def categories(self, features: Features) -> tuple[str, ...]:
        """Per query the likeliest category; the general one where that is too uncertain."""
        rows = self.space_.rows(features)
        posterior = self.classifier_.posterior(rows)
        general = self.uncertainty_.is_too_uncertain(posterior, rows)
        places = np.where(general, len(self.taxonomy_) - 1, posterior.argmax(axis=1))
        return tuple(self.taxonomy_.names[place] for place in places.tolist())

    def settings(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "classifier": self.classifier,
            "k": self.k,
            "alpha": self.alpha,
            "strength": self.strength,
            "form": self.form,
            "n_dims": self.n_dims,
            "n_clusters": self.n_clusters,
            "min_count": self.min_count,
            "rounds": self.rounds,
            "confidence": self.confidence,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        return {
            **{f"space.{key}": values for key, values in self.space_.arrays().items()},
            **{f"classifier.{key}": values for key, values in self.classifier_.arrays().items()},
            **{f"uncertainty.{key}": values for key, values in self.uncertainty_.arrays().items()},
            "names": np.array(self.taxonomy_.names, dtype=str),
            "value": self.value_,
            "std": self.std_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        def part(name: str) -> Arrays:
            return {k.removeprefix(name): v for k, v in arrays.items() if k.startswith(name)}

        paper = self.mode == "paper"
        self.taxonomy_ = Taxonomy(tuple(str(name) for name in arrays["names"]))
        self.space_ = Space.from_arrays(part("space."), 0.0 if paper else self.form)
        self.classifier_ = self._make_unfitted().restore(part("classifier."))
        self.uncertainty_ = Uncertainty.from_arrays(part("uncertainty."), self.k, paper)
        self.value_, self.std_ = arrays["value"], arrays["std"]
        return self
