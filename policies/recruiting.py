"""Whom a policy's panel asks: the best who fit under its cap, and who makes one answer of theirs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routers import ExpertProfile, Floats, Ints, Prediction, Query

from .errors import Infeasible
from .panel import Panel
from .plans import Plan, Single
from .voting import form_asked

VOTE = "vote"
AUTO = "auto"
MIN_QUALITY = 0.5
"""Whoever is more often wrong than right makes answers worse, not better."""
TOOL = ("tool", "true")
"""The label of an expert that calls no language model: it can answer, but not weigh answers."""


@dataclass(frozen=True, slots=True)
class PanelRule:
    """How large a panel is, what makes one answer of its answers, and what it may cost in all.

    aggregator: "vote" never asks anybody again; "auto" asks the expert that is expected to be best where a
        vote does not decide, if it is expected to be right at least every other time; a name asks that
        expert, whatever a vote would say
    """

    k: int = 3
    aggregator: str = AUTO
    max_cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query's eligible experts, best first (`order`); arrays are (n_experts,) in the pool's order."""

    pool: Sequence[ExpertProfile]
    order: Ints
    quality: Floats
    cost_usd: Floats
    output_tokens: Floats

    @classmethod
    def of(cls, pool: Sequence[ExpertProfile], order: Ints, prediction: Prediction, row: int) -> "Candidates":
        return cls(
            pool, order, prediction.quality[row], prediction.cost_usd[row], prediction.output_tokens[row]
        )


def recruit(
    rule: PanelRule, query: Query, candidates: Candidates, max_cost_usd: float | None, n_fallbacks: int
) -> Plan:
    """The panel a rule asks for, or a ladder of single experts where no panel can be had.

    Members are taken best first while they fit under the cap, `max_cost_usd` or the rule's own, whichever is
    lower; then the aggregator, if it still fits. A request with tools is for one expert: calls of tools are
    no answers to be weighed.

    Raises:
        Infeasible: nobody fits under the cap.
    """
    cap = min(limit for limit in (rule.max_cost_usd, max_cost_usd, float("inf")) if limit is not None)
    affordable = [e for e in candidates.order.tolist() if _fits(0.0, float(candidates.cost_usd[e]), cap)]
    if not affordable:
        raise Infeasible(_unaffordable(candidates, cap), temporary=False)
    members, spent = _members(1 if query.has_tools else rule.k, affordable, candidates, cap)
    names = tuple(candidates.pool[e].name for e in members)
    behind = tuple(candidates.pool[e].name for e in affordable if e not in members)[:n_fallbacks]
    if len(members) == 1:
        return Single((*names, *behind))
    return Panel(
        members=names,
        quality=tuple(float(candidates.quality[e]) for e in members),
        aggregator=_aggregator(rule, members, candidates, spent, cap),
        fallbacks=behind,
        ballot=rule.aggregator in (AUTO, VOTE),
        form=form_asked(query.text),
    )


def _members(
    k: int, affordable: Sequence[int], candidates: Candidates, cap: float
) -> tuple[list[int], float]:
    chosen: list[int] = []
    spent = 0.0
    for e in affordable:
        cost = float(candidates.cost_usd[e])
        if len(chosen) < k and _fits(spent, cost, cap):
            chosen.append(e)
            spent += cost
    return chosen, spent


def _aggregator(
    rule: PanelRule, members: Sequence[int], candidates: Candidates, spent: float, cap: float
) -> str | None:
    """Who makes one answer of the members' and fits into what they leave of the cap; None votes."""
    if rule.aggregator == VOTE:
        return None
    able = [e for e in candidates.order.tolist() if TOOL not in candidates.pool[e].labels]
    if rule.aggregator == AUTO:
        able = [e for e in able if candidates.quality[e] >= MIN_QUALITY]
    else:
        able = [e for e in able if candidates.pool[e].name == rule.aggregator]
    able.sort(key=lambda e: -candidates.quality[e])
    fitting = (
        candidates.pool[e].name
        for e in able
        if _fits(spent, aggregation_cost_usd(e, members, candidates), cap)
    )
    return next(fitting, None)


def aggregation_cost_usd(e: int, members: Sequence[int], candidates: Candidates) -> float:
    """What expert `e` costs as aggregator: the query again, the members' answers as input; NaN if unknown."""
    price = candidates.pool[e].input_usd_per_token
    read = float(candidates.output_tokens[list(members)].sum())
    free = candidates.cost_usd[e] == 0
    return float(candidates.cost_usd[e]) + read * (0.0 if free else np.nan if price is None else price)


def _fits(spent: float, cost: float, cap: float) -> bool:
    """An unknown price, NaN, fits under no cap but none."""
    return cap == float("inf") or spent + cost <= cap


def _unaffordable(candidates: Candidates, cap: float) -> dict[str, str]:
    return {
        candidates.pool[e].name: f"costs ${candidates.cost_usd[e]:.6f}, over the panel's cap of ${cap:.6f}"
        for e in candidates.order.tolist()
    }
