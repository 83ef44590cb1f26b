"""The seams of `routers`: what an extractor and a predictor must do, and nothing more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .features import Features
from .types import Estimate, Floats, Query, Tier

Arrays = dict[str, NDArray[Any]]


class Extractor(Protocol):
    """Queries to features, per tier; the one in use is `routers.FeatureExtractor`."""

    @property
    def fingerprints(self) -> dict[Tier, str]:
        """Per tier it can extract: equal fingerprints give equal features."""

    def extract(self, queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        """Features in order; `reuse` gives the words and form already extracted for the same queries."""


class Predictor(Protocol):
    """Learned map from features to one value per expert (quality, log output tokens …).

    Constructors only store settings; `fit` returns self; learned attributes end in `_`. The contracts every
    predictor must pass are in `tests/contracts`: a batch equals its singles, order of queries and of experts
    does not matter, save → load gives the same bits, an empty batch gives an empty answer.
    """

    def fit(self, features: Features, targets: Floats) -> Self:
        """Learn from targets (n_queries, n_experts); NaN marks an unmeasured outcome."""

    def predict(self, features: Features) -> Estimate:
        """Mean and standard deviation of the mean, (n_queries, n_experts) each."""

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, JSON-able: `type(p)(**p.settings())` is an unfitted twin."""

    def arrays(self) -> Arrays:
        """Learned state as arrays; no pickle, so that an artifact runs no code when it is read."""

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        """Take learned state back from `arrays()`; returns self."""


@runtime_checkable
class TagLearner(Protocol):
    """A predictor that learns from task tags too, where the training queries bear any.

    Tags are known in training alone: no predictor sees one when it predicts, and `fit` without them must do
    (categories are then found by clustering). `routers.fit_predictor` calls whichever fits.
    """

    def fit_tagged(self, features: Features, targets: Floats, tasks: Sequence[str]) -> Any:
        """As `fit`, with one tag a query; "" for an untagged query. Returns self."""


@dataclass(frozen=True, slots=True)
class CategoryExamples:
    """Queries without outcomes that teach categories, as features.

    names: the closed list of categories, without the general one; () takes them from the tags
    tags:  one a query, "" where its category is unknown
    """

    names: tuple[str, ...]
    features: Features
    tags: Sequence[str]


@runtime_checkable
class ExampleLearner(Protocol):
    """A predictor that learns categories from examples and from queries without an outcome too."""

    def fit_examples(
        self, features: Features, targets: Floats, tasks: Sequence[str], examples: CategoryExamples
    ) -> Any:
        """As `TagLearner.fit_tagged`, with further queries that were never answered. Returns self."""


@runtime_checkable
class Categorizer(Protocol):
    """A predictor that tells categories, by which a policy can map queries to experts."""

    def categories(self, features: Features) -> tuple[str, ...]:
        """One a query; `routers.GENERAL` where none is certain enough."""
