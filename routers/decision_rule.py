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


@dataclass(frozen=True, slots=True)
class ChoicePath:
    """What is chosen for each query at every weight on cost, exactly: one stage between any two changes.

    weight: (n_stages,) one of each stage, ascending from 0; first: (n_queries,) the choices at 0
    stage, row, before, after: (n_moves,) in which stage which query moves from an expert to a cheaper one
    """

    weight: Floats
    first: Ints
    stage: Ints
    row: Ints
    before: Ints
    after: Ints

    def mean(self, values: Floats) -> Floats:
        """(n_stages,) mean of `values` (n_queries, n_experts) over the choices; NaN ones are passed over."""
        known = (~np.isnan(values)).astype(np.float64)
        total, count = self._sum(np.where(known > 0, values, 0.0)), self._sum(known)
        mean: Floats = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0.5)
        return mean

    def _sum(self, values: Floats) -> Floats:
        last = self.first.copy()
        last[self.row] = self.after  # moves are in order: the last of a query counts
        # From the end: where the last choices are free, their cost is 0 and no rounded remainder.
        change = np.zeros(len(self.weight))
        np.add.at(change, self.stage, values[self.row, self.before] - values[self.row, self.after])
        later = np.append(np.cumsum(change[:0:-1])[::-1], 0.0)  # (n_stages,) of all moves after each
        total: Floats = values[np.arange(len(values)), last].sum() + later
        return total


def trace_choices(quality: Floats, cost_usd: Floats, scale: Scale) -> ChoicePath:
    """Follow the choices from weight 0 to where every query goes to the cheapest expert that it may.

    quality: (n_queries, n_experts), −inf for an expert that must not be chosen; cost_usd broadcasts to it.
    """
    cost = np.broadcast_to(fill_unknown(cost_usd) / scale.cost_usd, quality.shape)
    rows = np.arange(len(quality))
    first = chosen = pick(quality, cost)
    moves: list[tuple[Floats, Ints, Ints, Ints]] = []
    weight = np.zeros(len(quality))  # (n_queries,) at which each last moved
    # A query moves to cheaper experts only, so it moves less often than there are experts.
    for _ in range(quality.shape[1] - 1):
        cheaper = cost[rows, chosen][:, None] - cost  # (n_queries, n_experts)
        with np.errstate(invalid="ignore"):  # −inf less −inf, where no expert may be chosen
            worse = quality[rows, chosen][:, None] - quality
        # The utilities of two experts are equal where the weight is their quality per cost.
        may = (cheaper > 0) & ~np.isnan(worse)
        at = np.divide(worse, cheaper, out=np.full(quality.shape, np.inf), where=may)
        at = np.maximum(at, weight[:, None])
        weight = at.min(axis=1, initial=np.inf)
        moved = np.flatnonzero(np.isfinite(weight))
        if not len(moved):
            break
        after = np.where(at == weight[:, None], cost, np.inf).argmin(axis=1)
        moves.append((weight[moved], moved, chosen[moved], after[moved]))
        chosen = np.where(np.isfinite(weight), after, chosen)
    if not moves:
        nothing = np.zeros(0, np.int64)
        return ChoicePath(np.zeros(1), first, nothing, nothing, nothing, nothing)
    when, row, before, after = (np.concatenate(parts) for parts in zip(*moves, strict=True))
    order = np.argsort(when, kind="stable")
    when, row, before, after = when[order], row[order], before[order], after[order]
    # Weights that are equal but for rounding are one.
    is_new = np.diff(when, prepend=-1.0) > 1e-9 * when + 1e-12
    stage = np.cumsum(is_new.astype(np.int64))  # (n_moves,) from 1: stage 0 is before any move
    start = when[np.append(is_new[1:], True)]  # (n_stages − 1,)
    end = np.append(when[is_new][1:], np.inf)
    # A little inside the stage: where utilities are equal, rounding would choose.
    inside = np.minimum(start * (1 + 1e-6) + 1e-12, (start + end) / 2)
    # Behind the last there is room: a prompt shorter than all of the sample's moves later than they do.
    inside[-1] = start[-1] * 1.1 + 1e-12
    return ChoicePath(np.concatenate(([0.0], inside)), first, stage, row, before, after)


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
