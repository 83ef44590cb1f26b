"""Composition of Experts: classify the category, then predict each expert's score in it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np

from ..categories.classify import Classifier, Kind, Propagation, make_classifier
from ..categories.taxonomy import UNKNOWN, CategoryScores, Taxonomy
from ..categories.uncertainty import NeighbourNovelty, Uncertainty
from ..protocols import Arrays
from ..types import Estimate, Features, Floats, Floats32, Ints
from .neighbours import Space, spherical_kmeans
from .targets import centre_targets

_SAME = 1e-9
"""Posteriors closer than this are equal."""
_MIN_HELD = 20
"""Queries that must be held back before anything is promised of the uncertain ones."""


class CoE:
    """Category classifier, uncertainty with a general category, and shrunk category × expert scores.

    Categories are the task tags of the training queries, spread to untagged ones; without tags, clusters.

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
        confidence: float = 0.8,
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
        rounds, confidence, temperature: how tags spread to untagged queries, see `Propagation`.
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
        paper = self.mode == "paper"
        self.space_ = Space.of(features, 0.0 if paper else self.form, None if paper else self.n_dims)
        rows = self.space_.rows(features)
        self.taxonomy_, labels = self._labels(rows, tasks)
        order = np.lexsort(features.dense[:, :4].T)  # the order of the queries must not matter
        self._fit_classifier(rows[order], labels[order])
        strength = 0.0 if paper else self.strength
        n = len(self.taxonomy_)
        parts = centre_targets(targets)
        scores = CategoryScores.of(targets, labels, n, strength)
        self.value_ = np.where(np.isnan(scores.value), parts.mean, scores.value)
        self.std_ = parts.std * np.sqrt(1.0 / np.maximum(scores.count + strength, 1.0))
        return self

    def _labels(self, rows: Floats32, tasks: Sequence[str]) -> tuple[Taxonomy, Ints]:
        if any(tasks) or not len(rows):
            taxonomy = Taxonomy.of(tasks, self.min_count)
            labels = taxonomy.labels(tasks)
            spreading = Propagation(self.rounds, self.confidence, self.temperature, self.k)
            return taxonomy, spreading.spread(rows, labels, len(taxonomy))
        n = max(1, min(self.n_clusters, len(rows) // 4))
        nearest = (rows @ spherical_kmeans(rows, n, 15, self.seed).T).argmax(axis=1)
        names = [f"cluster-{c:02d}" for c in nearest]
        taxonomy = Taxonomy.of(names)
        return taxonomy, taxonomy.labels(names)

    def _fit_classifier(self, rows: Floats32, labels: Ints) -> None:
        """Every tenth query ranks the signals, every tenth sets the threshold; the rest teach."""
        known = np.flatnonzero(labels != UNKNOWN)
        place = np.arange(len(known)) % 10
        enough = len(known) >= 10 * _MIN_HELD
        taught = known[place < 8] if enough else known
        ranked, held = known[place == 8], known[place == 9] if enough else known[:0]
        self.classifier_ = self._make_unfitted().fit(rows[taught], labels[taught], len(self.taxonomy_))
        asked = np.concatenate((ranked, held))
        self.uncertainty_ = Uncertainty.fit(
            NeighbourNovelty.of(rows[taught], self.k),
            self.classifier_.posterior(rows[asked]),
            rows[asked],
            self.alpha,
            len(ranked),
            entropy_alone=self.mode == "paper",
        )

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
