"""Recruits experts: draws as in Symbolic-MoE, or the best k without repetition.

Everything random comes in as `draws`, uniform in [0, 1): the same draws recruit the same experts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Bools, Floats, Ints

MIN_SHARE = 0.05


def draw_with_replacement(probabilities: Floats, draws: Floats) -> Ints:
    """(n_queries, k) experts drawn by their probabilities, one for each draw (n_queries, k); some twice.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2, k = 3.
    """
    edges = np.cumsum(probabilities, axis=1)
    edges[:, -1] = np.inf
    draw: Ints = (draws[:, :, None] >= edges[:, None, :]).sum(axis=2)
    return draw


def trim_rare(recruited: Ints, probabilities: Floats, draws: Floats, min_share: float = MIN_SHARE) -> Ints:
    """The same, without experts recruited for less than `min_share` of the queries: others are drawn instead.

    recruited, draws: (n_queries, k). Where no expert reaches the share, all stay.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2. The released code has it and never calls it.
    """
    n_experts = probabilities.shape[1]
    asked = (recruited[:, :, None] == np.arange(n_experts)).any(axis=1)
    kept: Bools = asked.mean(axis=0) >= min_share if len(asked) else np.ones(n_experts, bool)
    if kept.all() or not kept.any():
        return recruited
    left = np.where(kept, probabilities, 0.0)
    total = left.sum(axis=1, keepdims=True)
    left = np.where(total > 0, left / np.where(total > 0, total, 1), kept / kept.sum())
    instead = draw_with_replacement(_close_tail(left), draws)
    return np.where(kept[recruited], recruited, instead)


def _close_tail(probabilities: Floats) -> Floats:
    """Columns of 0 behind the last that is not, given none of the rounding either."""
    last = probabilities.shape[1] - 1 - (probabilities[:, ::-1] > 0).argmax(axis=1)
    closed = probabilities.copy()
    closed[np.arange(len(closed)), last] += 1.0
    return closed


def best(value: Floats, k: int) -> Ints:
    """(n_queries, k) the experts of highest value, each once; of equals the one named first."""
    order: Ints = np.argsort(-value, axis=1, kind="stable")[:, :k]
    return order


def enough(probabilities: Floats, mass: float, k_max: int) -> Bools:
    """(n_queries, n_experts) the fewest experts, most probable first, that have `mass` between them.

    At least one, at most `k_max`: a query that is clear needs one expert, one that is not needs several.

    Reference: Harder Tasks Need More Experts (arXiv 2403.07652), equation 4.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    rank = np.arange(probabilities.shape[1])
    chosen = ((before < mass) | (rank == 0)) & (rank < k_max)
    asked = np.zeros(probabilities.shape, bool)
    np.put_along_axis(asked, order, chosen, axis=1)
    return asked


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
            ValueError: no expert is left to choose from.
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
