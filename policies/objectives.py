"""Weighted goals over attributes of experts (size, recency, security …), and goals that precede all weights.

A weighted goal costs `weight · rank`: ranks run evenly from 0, the best of the eligible pool, to 1, the
worst; equals share theirs, and unknown is worst. A weight so has no unit and means the same for every goal,
and a better attribute never ranks an expert lower.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import lru_cache

import numpy as np

from routers import ExpertProfile, Floats, Ints, Sweep

from .errors import Unreachable
from .types import Goal, Objective, PriorityGoal

PRIORITY_PHRASES: Mapping[PriorityGoal, str] = {
    "smallest": "the smallest",
    "latest": "the latest",
    "cheapest": "the cheapest",
    "fastest": "the fastest",
}


class Attributes:
    """The pool's attributes as burdens, (n_experts,) each: less is better, infinite where unknown."""

    def __init__(self, pool: Sequence[ExpertProfile]) -> None:
        self.size = _burden(pool, lambda p: p.parameters_b)
        self.age = _burden(pool, lambda p: None if p.released is None else -_ordinal(p.released))
        self._burdens: dict[Goal, Floats] = {
            "size": self.size,
            "recency": self.age,
            "security": _burden(pool, lambda p: _find_rating(p, "security")),
            "readability": _burden(pool, lambda p: _find_rating(p, "readability")),
        }
        self._standing = lru_cache(maxsize=1024)(self._static_ranks)

    def penalty(self, goals: Sequence[tuple[Goal, float]], eligible: Ints, output_tokens: Floats) -> Floats:
        """(n_experts,) Σ weight · rank among the eligible; 0 for the others.

        output_tokens: (n_experts,) expected length of this answer, for `brevity` and `detail`.
        """
        total = np.zeros(len(output_tokens))
        for goal, weight in goals:
            if goal in self._burdens:
                total[eligible] += weight * self._standing(goal, tuple(eligible.tolist()))
            else:
                length = output_tokens[eligible]
                total[eligible] += weight * ranks(length if goal == "brevity" else -length)
        return total

    def _static_ranks(self, goal: Goal, eligible: tuple[int, ...]) -> Floats:
        return ranks(self._burdens[goal][list(eligible)])

    def priority_burdens(
        self, first: Sequence[PriorityGoal], cost_usd: Floats, latency_s: Floats
    ) -> list[Floats]:
        """The burden of each of `first`, (n_experts,): less is better, infinite where unknown."""
        known = {"smallest": self.size, "latest": self.age, "cheapest": cost_usd, "fastest": latency_s}
        return [
            np.where(np.isnan(known[rank_by_priority]), np.inf, known[rank_by_priority])
            for rank_by_priority in first
        ]


def ranks(burden: Floats) -> Floats:
    """(n,) from 0, the least, to 1, the most; equals share the mean of their places, NaN counts as most."""
    if len(burden) < 2:
        return np.zeros(len(burden))
    values = np.where(np.isnan(burden), np.inf, burden)
    # Ranks, not min–max: one very large expert must not compress the others; size and log(size) must agree.
    # Ties take the mean of their places, as in Spearman's ρ.
    less = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1) - 1
    shared: Floats = (less + equal / 2) / (len(values) - 1)
    return shared


def rank_by_priority(
    order: Ints, quality: Floats, burdens: Sequence[Floats], within: float
) -> tuple[Ints, float]:
    """The order with the nearly best experts first, by `burdens`; and the margin of the first.

    order: eligible experts by utility; quality: (n_experts,). Near means q ≥ max q − within. The rest keep
    their order. The margin is the least change of a quality that would change who is first.
    """
    # Lexicographic among the nearly best, where Tryage (arXiv 2308.11601) has a weight: with λ → ∞ the
    # smallest expert would answer everything.
    above = quality - (quality[order].max() - within)
    near = above[order] >= 0
    by_burden = np.lexsort([values[order] for values in reversed(burdens)])  # stable: equals stay by utility
    first = int(np.argmax(near[by_burden]))
    preferred = order[by_burden[:first]]  # would be first if their quality were near the best
    ranked = np.concatenate((order[by_burden[near[by_burden]]], order[~near]))
    return ranked, float(min([above[ranked[0]], *-above[preferred]]))


def resolve_target(objective: Objective, sweep: Sweep | None) -> Objective:
    """The objective with the weight on cost that meets its targets; if both are set, the cheapest.

    Raises:
        Unreachable: no weight does, or there is no table.
    """
    if objective.max_usd_per_1k is None and objective.target_quality is None:
        return objective
    if sweep is None:
        raise Unreachable(
            "there is no λ table for these experts: each needs outcomes (`thalamus fit`) and a price"
        )
    # Cost falls and quality falls as λ grows: the smallest λ within the budget is the best that it buys, the
    # largest λ that reaches the quality the cheapest way to it.
    weight = 0.0
    if (usd := objective.max_usd_per_1k) is not None:
        bought = sweep.weight_for_cost(usd / 1000)
        if bought is None:
            least = 1000 * float(sweep.cost_usd.min())
            raise Unreachable(f"max_usd_per_1k: {usd:g} is out of reach; the least they cost is {least:.4g}")
        weight = bought
    if (quality := objective.target_quality) is not None:
        reached = sweep.weight_for_quality(quality)
        if reached is None:
            most = float(sweep.quality.max())
            raise Unreachable(f"target_quality: {quality:g} is out of reach; they reach {most:.4f}")
        if reached < weight:
            raise Unreachable(f"target_quality: {quality:g} is out of reach for {usd:g} dollars a thousand")
        weight = reached
    return replace(objective, cost=weight, max_usd_per_1k=None, target_quality=None)


def describe_priorities(objective: Objective) -> str:
    """The priority goals of an objective as a phrase."""
    return ", then ".join(PRIORITY_PHRASES[goal] for goal in objective.first)


def _burden(pool: Sequence[ExpertProfile], of: Callable[[ExpertProfile], float | None]) -> Floats:
    values = [of(profile) for profile in pool]
    return np.array([np.inf if value is None else value for value in values], np.float64)


def _ordinal(released: str) -> int:
    return date.fromisoformat(released).toordinal()


def _find_rating(profile: ExpertProfile, name: str) -> float | None:
    rating = dict(profile.ratings).get(name)
    return None if rating is None else -rating
