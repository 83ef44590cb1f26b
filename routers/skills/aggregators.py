"""Who makes one answer of several: per category, the expert that was right most often when it did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Floats


@dataclass(frozen=True, slots=True)
class Aggregators:
    """Beta posteriors of the chance that an expert, shown others' answers, gives the right one.

    right, wrong: (n_categories, n_experts)
    """

    categories: tuple[str, ...]
    experts: tuple[str, ...]
    right: Floats
    wrong: Floats

    @classmethod
    def of(
        cls,
        experts: Sequence[str],
        trials: Mapping[str, Floats],
        accuracy: Floats,
        strength: float = 10.0,
    ) -> "Aggregators":
        """From scores of aggregated answers per category, (n_trials, n_experts) each, NaN where not tried.

        accuracy: (n_experts,) of their own answers, a first guess that counts for `strength` trials; what an
            expert did as aggregator anywhere counts as much again for the categories where it was not tried.

        Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1: the aggregator is chosen per task.
        Differs: with a prior, and with uncertainty; the paper takes the highest share on synthetic items.
        """
        n_right, n_wrong = np.zeros((2, len(trials), len(experts)))
        for row, scores in enumerate(trials.values()):
            known = ~np.isnan(scores)
            n_right[row] = np.where(known, scores, 0.0).sum(axis=0)
            n_wrong[row] = np.where(known, 1 - scores, 0.0).sum(axis=0)
        overall = (n_right.sum(axis=0) + strength * accuracy) / ((n_right + n_wrong).sum(axis=0) + strength)
        return cls(
            tuple(trials),
            tuple(experts),
            n_right + strength * overall,
            n_wrong + strength * (1 - overall),
        )

    def best(self, category: str, among: Sequence[str] | None = None) -> str:
        """The aggregator for a category, of `among` if given; for one never tried, the best over all.

        Raises:
            ValueError: nobody is left to choose from.
        """
        columns = [e for e, name in enumerate(self.experts) if among is None or name in among]
        if not columns:
            raise ValueError(f"no aggregator among {among}; there are {', '.join(self.experts)}")
        mean = self.mean(category)
        return self.experts[max(columns, key=lambda e: mean[e])]

    def mean(self, category: str) -> Floats:
        """(n_experts,) expected share of right answers as aggregator."""
        if category in self.categories:
            row = self.categories.index(category)
            right, wrong = self.right[row], self.wrong[row]
        else:
            right, wrong = self.right.sum(axis=0), self.wrong.sum(axis=0)
        share: Floats = right / (right + wrong)
        return share
