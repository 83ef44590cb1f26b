"""The decision rule: the engine that serves, the λ table and the measures all choose by it.

    utility = quality − λ · cost ÷ scale − μ · latency ÷ scale

The best utility wins; of equals the cheaper call, then the first.

Reference: Tryage (arXiv 2308.11601), objective with weighted constraints.
Differs: quality instead of loss.
"""

from dataclasses import dataclass
from math import isnan

import numpy as np

from .types import Floats, Ints


@dataclass(frozen=True, slots=True)
class Scale:
    """What a weight of 1 refers to: a typical call's cost to the dearest, its latency to the slowest expert.

    Constant for a pool, so that a weight is a price in dollars for quality, and leaving an expert out never
    reorders the others. λ has no other scale, so the same grid serves tables in cents and in dollars.
    """

    cost_usd: float = 1.0
    latency_s: float = 1.0

    @classmethod
    def of(cls, cost_usd: Floats, latency_s: Floats | None = None) -> "Scale":
        """From what typical calls cost and take, (n_experts,); 1 where nothing is known or all is free."""
        return cls(_largest(cost_usd), 1.0 if latency_s is None else _largest(latency_s))


def compute_utility(
    quality: Floats,
    cost_usd: Floats,
    scale: Scale,
    cost_weight: float,
    latency_s: Floats | None = None,
    latency_weight: float = 0.0,
) -> Floats:
    """What each expert is worth for each query, in quality: a new array of the shape of `quality`.

    Args:
        quality: (n_queries, n_experts) or (n_experts,), not NaN; −inf for an expert that must not be chosen.
        cost_usd, latency_s: of each call, or of each expert's typical call; broadcast to `quality`. NaN, an
            unknown value, counts as the largest of the pool. Not read where the weight is 0.
        cost_weight, latency_weight: λ and μ ≥ 0, in quality for one `scale`.
    """
    penalty: Floats | float = 0.0
    if cost_weight:
        penalty = fill_unknown(cost_usd) * (cost_weight / scale.cost_usd)
    if latency_weight and latency_s is not None:
        penalty = penalty + fill_unknown(latency_s) * (latency_weight / scale.latency_s)
    return quality - penalty


def rank(utility: Floats, cost_usd: Floats, by_name: Ints) -> Ints:
    """The experts, best first, in the shape of `utility`, (n_queries, n_experts) or (n_experts,).

    cost_usd and by_name, of the same shape, break ties: the cheaper first, NaN last, then the lower number.
    """
    order: Ints = np.lexsort((by_name, cost_usd, -utility))
    return order


def pick(utility: Floats, cost_usd: Floats) -> Ints:
    """(n_queries,) the best expert: the first that `rank` names, with experts in their order as `by_name`.

    utility: (n_queries, n_experts); cost_usd broadcasts to it, NaN where unknown.
    """
    # Sorting each row takes twenty times as long as two minima, and the measures try 400 weights.
    # The largest float: an unknown cost is the dearest of equals, and still before what is not among them.
    known = np.where(np.isnan(cost_usd), np.finfo(np.float64).max, cost_usd)
    tied = utility == utility.max(axis=-1, keepdims=True)
    picks: Ints = np.where(tied, known, np.inf).argmin(axis=-1)
    return picks


def fill_unknown(values: Floats) -> Floats:
    """Unknown counts as the largest value of the pool; where all are unknown, as 0 for all."""
    # A sum of non-negative terms is NaN if and only if one of them is: one pass for the common case.
    if not isnan(np.add.reduce(values, axis=None)):
        return values
    unknown = np.isnan(values)
    dearest = np.where(unknown, 0.0, values).max(axis=-1, keepdims=True)
    return np.where(unknown, dearest, values)


def _largest(typical: Floats) -> float:
    return float(np.nanmax(typical, initial=0.0)) or 1.0
