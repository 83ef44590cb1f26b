"""The members of a policy's panel: the best that fit under its cap, and the aggregator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routers import ExpertProfile, Floats, Ints, Prediction, Query

from .errors import Infeasible
from .panel import Panel
from .plans import Plan, Single
from .voting import detect_form

VOTE = "vote"
AUTO = "auto"
MIN_QUALITY = 0.5
"""An aggregator that is more often wrong than right makes answers worse."""
TOOL = ("tool", "true")
"""The label of an expert that calls no language model: it can answer, but not weigh answers."""


@dataclass(frozen=True, slots=True)
class PanelRule:
    """How large a panel is, what makes one answer of its answers, and what it may cost in all.

    aggregator: "vote" makes no further call; "auto" asks the expert of highest expected quality where a vote
        does not decide, if that quality is at least `MIN_QUALITY`; a name always asks that expert
    predictor: the head of the artifact that chooses the members; None is the policy's
    """

    k: int = 3
    aggregator: str = AUTO
    max_cost_usd: float | None = None
    predictor: str | None = None


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
    """The panel a rule asks for, or a single expert with fallbacks where no panel is possible.

    Members are taken best first while they fit under the cap, `max_cost_usd` or the rule's own, whichever is
    lower; then the aggregator, if it still fits. A request with tools gets one expert: tool calls cannot
    be compared as answers.

    Raises:
        Infeasible: no expert fits under the cap.
    """
    # The request's cap and the rule's add up: the lower one counts.
    cap = min(limit for limit in (rule.max_cost_usd, max_cost_usd, float("inf")) if limit is not None)
    affordable = [e for e in candidates.order.tolist() if _fits(0.0, float(candidates.cost_usd[e]), cap)]
    if not affordable:
        raise Infeasible(_explain_unaffordable(candidates, cap), temporary=False)
    members, spent = _choose_members(1 if query.has_tools else rule.k, affordable, candidates, cap)
    names = tuple(candidates.pool[e].name for e in members)
    behind = tuple(candidates.pool[e].name for e in affordable if e not in members)[:n_fallbacks]
    if len(members) == 1:
        return Single((*names, *behind))
    return Panel(
        members=names,
        quality=tuple(float(candidates.quality[e]) for e in members),
        aggregator=_choose_aggregator(rule, members, candidates, spent, cap),
        fallbacks=behind,
        ballot=rule.aggregator in (AUTO, VOTE),
        form=detect_form(query.text),
    )


def _choose_members(
    k: int, affordable: Sequence[int], candidates: Candidates, cap: float
) -> tuple[list[int], float]:
    chosen: list[int] = []
    spent = 0.0
    # Greedy in the order of utility, not the best subset: a member that is too dear is skipped.
    for e in affordable:
        cost = float(candidates.cost_usd[e])
        if len(chosen) < k and _fits(spent, cost, cap):
            chosen.append(e)
            spent += cost
    return chosen, spent


def _choose_aggregator(
    rule: PanelRule, members: Sequence[int], candidates: Candidates, spent: float, cap: float
) -> str | None:
    """The expert that aggregates the members' answers within the rest of the cap; None votes."""
    if rule.aggregator == VOTE:
        return None
    able = [e for e in candidates.order.tolist() if TOOL not in candidates.pool[e].labels]
    if rule.aggregator == AUTO:
        able = [e for e in able if candidates.quality[e] >= MIN_QUALITY]
    else:
        able = [e for e in able if candidates.pool[e].name == rule.aggregator]
    # By quality, not utility: the aggregator runs once, and a bad one spoils every member's answer.
    able.sort(key=lambda e: -candidates.quality[e])
    fitting = (
        candidates.pool[e].name
        for e in able
        if _fits(spent, aggregation_cost_usd(e, members, candidates), cap)
    )
    return next(fitting, None)


def aggregation_cost_usd(e: int, members: Sequence[int], candidates: Candidates) -> float:
    """Expected cost of `e` as aggregator: its input is the query plus the answers; NaN if unknown."""
    price = candidates.pool[e].input_usd_per_token
    read = float(candidates.output_tokens[list(members)].sum())
    free = candidates.cost_usd[e] == 0
    return float(candidates.cost_usd[e]) + read * (0.0 if free else np.nan if price is None else price)


def _fits(spent: float, cost: float, cap: float) -> bool:
    """Whether the cost fits; an unknown price, NaN, fits only where there is no cap."""
    return cap == float("inf") or spent + cost <= cap


def _explain_unaffordable(candidates: Candidates, cap: float) -> dict[str, str]:
    return {
        candidates.pool[e].name: f"costs ${candidates.cost_usd[e]:.6f}, over the panel's cap of ${cap:.6f}"
        for e in candidates.order.tolist()
    }
