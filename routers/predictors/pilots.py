"""RouterRetriever's rule as a router of experts: how near a query lies to where each expert did best."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np

from ..embedding_selection import PilotIndex, PilotLibrary
from ..features import Features
from ..protocols import Arrays
from ..types import Estimate, Floats
from .neighbours import Space, spherical_kmeans
from .targets import centre_targets

_LEAST_SLOPE = 0.1


class Pilots:
    """Similarity to the pilots of an expert, as a score by one line for all experts.

    Datasets are the task tags; without tags, clusters.

    Reference: RouterRetriever (arXiv 2409.02685), Algorithm 1; there experts are embedding models.
    Differs: similarity becomes a score by a least-squares line common to all experts, which changes no order.
    Improved: `PilotLibrary`'s improved rule, the form of a text beside its content, and the line starts where
    the datasets near the query lead one to expect, for all experts alike.
    """

    space_: Space
    library_: PilotLibrary
    index_: PilotIndex
    level_: Floats
    centre_: float
    slope_: float
    std_: Floats

    def __init__(
        self,
        mode: Literal["paper", "improved"] = "improved",
        n_clusters: int = 16,
        form: float = 1.0,
        max_pilots: int | None = None,
        seed: int = 0,
    ) -> None:
        """Args:
        mode: `paper` for the published rule, ties to the first expert.
        n_clusters: how many datasets to make where queries bear no tags.
        form: weight of the form features beside the dense ones; 0 in `paper`.
        max_pilots: only an expert's so many heaviest pilots count; None for all.
        """
        self.mode: Literal["paper", "improved"] = mode
        self.n_clusters = n_clusters
        self.form = form
        self.max_pilots = max_pilots
        self.seed = seed

    def fit(self, features: Features, targets: Floats) -> Self:
        return self.fit_tagged(features, targets, [""] * len(features))

    def fit_tagged(self, features: Features, targets: Floats, tasks: Sequence[str]) -> Self:
        self.space_ = Space.of(features, 0.0 if self.mode == "paper" else self.form, None)
        rows = self.space_.rows(features)
        names = list(tasks)
        if not any(names) and len(rows):
            n = max(1, min(self.n_clusters, len(rows) // 4))
            nearest = (rows @ spherical_kmeans(rows, n, 15, self.seed).T).argmax(axis=1)  # (n_queries,)
            names = [f"cluster-{c:02d}" for c in nearest]
        experts = [str(e) for e in range(targets.shape[1])]
        library = PilotLibrary.empty(experts, rows.shape[1])
        for dataset in sorted(set(names)):
            inside = np.array([name == dataset for name in names])
            library = library.add_dataset(dataset, rows[inside], targets[inside], self.mode)
        self.library_ = library
        self.index_ = library.index(self.mode, self.max_pilots)
        self.level_ = _levels(targets, names, library.datasets)
        self._draw_line(features, targets)
        return self

    def _draw_line(self, features: Features, targets: Floats) -> None:
        """Least squares from similarity to score, one line for all experts."""
        parts = centre_targets(targets)
        score, level = self._read(features)
        self.centre_ = float(score.mean()) if score.size else 0.0
        x = np.where(parts.known, score - self.centre_, 0.0)
        y = np.where(parts.known, targets - level[:, None], 0.0)
        spread = (x**2).sum()
        self.slope_ = 0.0
        if spread > 0:
            # Never so low that experts would lose the order of their similarities.
            least = _LEAST_SLOPE * np.sqrt((y**2).sum() / spread)
            self.slope_ = float(max((x * y).sum() / spread, least))
        self.std_ = parts.std * np.sqrt(1 / np.maximum(parts.count, 1) + 0.02)

    def _read(self, features: Features) -> tuple[Floats, Floats]:
        """Similarity (n_queries, n_experts), and what to expect of a mean expert (n_queries,)."""
        rows = self.space_.rows(features)
        overall = self.level_[-1]
        if self.mode == "paper":
            return self.index_.scores(rows), np.full(len(rows), overall)
        pull = self.index_.pull(rows)  # (n_queries, n_pilots)
        near = (pull @ self.index_.of_dataset) @ (self.level_[:-1] - overall)  # (n_queries,)
        return self.index_.shares(pull), overall + near

    def predict(self, features: Features) -> Estimate:
        score, level = self._read(features)
        mean = level[:, None] + self.slope_ * (score - self.centre_)  # (n_queries, n_experts)
        return Estimate(mean, np.repeat(self.std_[None], len(features), axis=0))

    def settings(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "n_clusters": self.n_clusters,
            "form": self.form,
            "max_pilots": self.max_pilots,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        return {
            **self.space_.arrays(),
            **{f"library.{key}": values for key, values in self.library_.arrays().items()},
            "level": self.level_,
            "centre": np.array(self.centre_),
            "slope": np.array(self.slope_),
            "std": self.std_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        held = {k.removeprefix("library."): v for k, v in arrays.items() if k.startswith("library.")}
        self.library_ = PilotLibrary.from_arrays(held)
        self.index_ = self.library_.index(self.mode, self.max_pilots)
        self.space_ = Space.from_arrays(arrays, 0.0 if self.mode == "paper" else self.form)
        self.level_, self.std_ = arrays["level"], arrays["std"]
        self.centre_, self.slope_ = float(arrays["centre"]), float(arrays["slope"])
        return self


def _levels(targets: Floats, names: Sequence[str], datasets: Sequence[str]) -> Floats:
    """(n_datasets + 1,) mean over all outcomes of each dataset, and of all datasets, which fills gaps."""
    known = ~np.isnan(targets)
    means = centre_targets(targets).mean
    overall = means.mean() if len(means) else 0.0
    levels = []
    for dataset in datasets:
        inside = known & np.array([name == dataset for name in names])[:, None]
        levels.append(targets[inside].mean() if inside.any() else overall)
    return np.array([*levels, overall])
