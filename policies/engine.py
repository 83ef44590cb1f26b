"""From predictions to decisions: the main path of Thalamus, the same online and offline.

For each query: reject the experts that fail a constraint, score the others (quality − λ·cost − μ·latency,
minus the goals of the objective), rank them, put the best first in the plan, and keep for each other expert
the reason why not. Pure: no clock, no I/O; randomness comes in as `draws`.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isnan
from typing import NamedTuple

import numpy as np

from routers import GENERAL, ExpertProfile, Floats, Ints, Prediction, Query, Sweep, Tier

from .constraints import PoolLimits, Rejections, query_rejections, static_rejections, tighten
from .errors import Infeasible
from .objectives import Attributes, describe_priorities, rank_by_priority, resolve_target
from .plans import Plan, Single
from .recruiting import Candidates, recruit
from .types import Decision, Fleet, Objective, Policy, Require, RoutingHints


@dataclass(frozen=True, slots=True)
class Consult:
    """The engine's request to its driver: predict `rows` of the queries at `tier`."""

    tier: Tier
    rows: Ints


@dataclass(frozen=True, slots=True)
class Scale:
    """What a weight of 1 refers to: a typical call's cost to the dearest, its latency to the slowest expert.

    Constant for a pool, so that a weight is a price in dollars for quality, and leaving an expert out never
    reorders the others.
    """

    cost_usd: float = 1.0
    latency_s: float = 1.0

    @classmethod
    def of(cls, cost_usd: Floats, latency_s: Floats) -> "Scale":
        """From what typical calls cost and take, (n_experts,); 1 where nothing is known or all is free."""
        return cls(_largest(cost_usd), _largest(latency_s))


class Engine:
    """Decides for one pool of experts; every array it reads is in the pool's order."""

    def __init__(
        self,
        pool: Sequence[ExpertProfile],
        scale: Scale | None = None,
        sweep_of: Callable[[Tier], Sweep | None] = lambda tier: None,
    ) -> None:
        """Args:
        scale: what weights are measured against.
        sweep_of: the λ table of the pool per tier, for targets in dollars or quality.
        """
        self.pool = tuple(pool)
        self.names = tuple(profile.name for profile in pool)
        self.scale = scale or Scale()
        self._sweep_of = sweep_of
        self._limits = PoolLimits.of(self.pool)
        self._attributes = Attributes(self.pool)
        self._has_guesses = any(profile.quality is not None for profile in pool)
        self._all_experts = np.arange(len(self.names))
        self._by_name = np.argsort(np.argsort(self.names))  # rank of each name, breaks ties
        self._standing = lru_cache(maxsize=1024)(partial(static_rejections, self.pool))

    def route(
        self,
        policy: Policy,
        queries: Sequence[Query],
        fleet: Fleet,
        hints: Sequence[RoutingHints | None] | None = None,
        *,
        tiers: Sequence[Tier] = ("static", "encoder"),
        margin: float = 0.0,
        draws: Floats | None = None,
    ) -> Generator[Consult, Prediction | None, list[Decision]]:
        """Decide on the cheapest sufficient tier. A generator: its driver computes the embeddings.

        The driver answers each `Consult` with a `Prediction` for its rows. It may answer the second one with
        None (no time for the encoder): then the first decision stands. Where embedding fails it sends a
        prediction of tier "prior".

        Args:
            tiers: what the driver can predict at.
            margin: below this distance in utility between the first two, `adaptive` asks the encoder too.
            draws: (n_queries,) uniform in [0, 1), used by exploration.

        Raises:
            Infeasible: no expert meets the constraints of some query.
            Unreachable: no weight meets a target in dollars or quality.
        """
        rows = np.arange(len(queries))
        first = _choose_first_tier(policy, tiers)
        prediction = yield Consult(first, rows)
        if prediction is None:
            raise ValueError("only the second prediction can be declined")
        decisions = self.decide(policy, queries, prediction, fleet, hints, draws)
        # Two-stage routing: a query escalates to the encoder only if another expert could overtake the first.
        if policy.encoder != "adaptive" or first != "static" or "encoder" not in tiers:
            return decisions
        unsure = np.array([n for n in rows.tolist() if decisions[n].margin < margin], dtype=np.int64)
        if not len(unsure) or (closer := (yield Consult("encoder", unsure))) is None:
            return decisions
        chosen = unsure.tolist()
        second = self.decide(
            policy,
            [queries[n] for n in chosen],
            closer,
            fleet,
            None if hints is None else [hints[n] for n in chosen],
            None if draws is None else draws[unsure],
        )
        for n, decision in zip(chosen, second, strict=True):
            decisions[n] = decision
        return decisions

    def decide(
        self,
        policy: Policy,
        queries: Sequence[Query],
        prediction: Prediction,
        fleet: Fleet,
        hints: Sequence[RoutingHints | None] | None = None,
        draws: Floats | None = None,
    ) -> list[Decision]:
        """One decision a query, each for itself: a batch equals its singles.

        Raises:
            Infeasible: no expert meets the constraints of some query.
            Unreachable: no weight meets a target in dollars or quality.
        """
        if prediction.experts != self.names:
            raise ValueError(f"prediction is for {prediction.experts}, the pool is {self.names}")
        decisions = []
        for row, query in enumerate(queries):
            hint = hints[row] if hints else None
            objective = hint.objective if hint and hint.objective else policy.objective
            if objective.max_usd_per_1k is not None or objective.target_quality is not None:
                objective = self._resolve_target(objective, prediction)
            require = tighten(policy.require, hint.require) if hint else policy.require
            rejections = self._find_rejections(query, row, prediction, require, fleet)
            eligible = self._find_eligible(rejections)
            # u = q − λ·cost/scale − μ·(latency + wait)/scale − Σ w·rank   (n_experts,)
            # Tryage (arXiv 2308.11601), objective with weighted constraints; here quality instead of loss.
            utility = prediction.quality[row] - self._compute_penalty(objective, row, prediction, fleet)
            if objective.goals:
                utility -= self._attributes.penalty(objective.goals, eligible, prediction.output_tokens[row])
            ranking = self._rank(policy, objective, row, prediction, utility, eligible)
            # Order matters: a mapping precedes the weights, priority goals (flags) precede the mapping, and
            # exploration comes last, so that its propensity is the probability of the final choice.
            if policy.mapping:
                ranking = self._apply_mapping(ranking, policy.mapping, row, prediction)
            if objective.first:
                ranking = self._apply_priorities(ranking, objective, row, prediction, fleet)
            if policy.explore and draws is not None:
                ranking = _apply_exploration(ranking, policy.explore, float(draws[row]))
            plan = self._make_plan(policy, require, query, ranking.order, prediction, row)
            if not plan.is_sequential:
                ranking = ranking._replace(reason=f"{plan.kind}; {ranking.reason}")
            decisions.append(self._make_decision(policy, row, prediction, plan, ranking, utility, rejections))
        return decisions

    def _resolve_target(self, objective: Objective, prediction: Prediction) -> Objective:
        if not prediction.evidence.any():
            return objective  # without evidence no quality is predicted that cost could be traded for
        return resolve_target(objective, self._sweep_of(prediction.tier))

    def _find_eligible(self, rejections: Rejections) -> Ints:
        # The common case, no rejection, makes no array.
        if not rejections:
            return self._all_experts
        return np.array([e for e, name in enumerate(self.names) if name not in rejections])

    def _find_rejections(
        self, query: Query, row: int, prediction: Prediction, require: Require, fleet: Fleet
    ) -> Rejections:
        standing: Rejections = self._standing(require.labels, require.models, require.exclude)
        passing = query_rejections(query, row, prediction, require, self._limits, fleet)
        # Static reasons win: an operator reads "excluded" rather than "unavailable" for an excluded expert.
        rejections = {**passing, **standing} if standing else passing
        # `temporary` tells the gateway 503 (wait) from 400 (change the request).
        if len(rejections) == len(self.names):
            gone = fleet.unavailable
            raise Infeasible(
                rejections, temporary=any(gone.get(name) == why for name, why in rejections.items())
            )
        return rejections

    def _compute_penalty(
        self, objective: Objective, row: int, prediction: Prediction, fleet: Fleet
    ) -> Floats | float:
        """(n_experts,) what cost and latency take from the utility; 0 where neither weighs anything."""
        penalty: Floats | float = 0.0
        if objective.cost:
            dearest = _fill_unknown(prediction.cost_usd[row])
            penalty = dearest * (objective.cost / self.scale.cost_usd)
        if objective.latency:
            slowest = _fill_unknown(prediction.latency_s[row] + fleet.wait_s)
            penalty = penalty + slowest * (objective.latency / self.scale.latency_s)
        return penalty

    def _make_plan(
        self, policy: Policy, require: Require, query: Query, order: Ints, prediction: Prediction, row: int
    ) -> Plan:
        if policy.panel is None:
            return Single(tuple([self.names[e] for e in order[: 1 + policy.n_fallbacks].tolist()]))
        candidates = Candidates.of(self.pool, order, prediction, row)
        return recruit(policy.panel, query, candidates, require.max_cost_usd, policy.n_fallbacks)

    def _make_decision(
        self,
        policy: Policy,
        row: int,
        prediction: Prediction,
        plan: Plan,
        ranking: "_Ranking",
        utility: Floats,
        rejections: Rejections,
    ) -> Decision:
        return Decision(
            policy=policy.name,
            experts=self.names,
            chosen=plan.experts[0],
            plan=plan,
            tier=prediction.tier,
            reason=ranking.reason,
            order=ranking.order,
            utility=utility,
            quality=prediction.quality[row],
            quality_std=prediction.quality_std[row],
            output_tokens=prediction.output_tokens[row],
            cost_usd=prediction.cost_usd[row],
            latency_s=prediction.latency_s[row],
            evidence=prediction.evidence,
            rejections=rejections,
            margin=ranking.margin,
            propensity=ranking.propensity,
        )

    def _rank(
        self,
        policy: Policy,
        objective: Objective,
        row: int,
        prediction: Prediction,
        utility: Floats,
        eligible: Ints,
    ) -> "_Ranking":
        """Eligible experts, best first, and the reason for the first. Ties: the cheaper, then by name."""
        # An unknown price, NaN, sorts last among equals.
        order = np.lexsort((self._by_name, prediction.cost_usd[row], -utility))
        if len(eligible) < len(order):
            may = np.zeros(len(order), bool)
            may[eligible] = True
            order = order[may[order]]
        best = order.item(0)
        measured = prediction.evidence.item(best)
        if not measured and self._has_no_basis(policy, objective, prediction):
            order, reason = self._rank_by_default(policy, eligible)
        else:
            basis = prediction.tier if measured else "guess"
            reason = f"best of {len(order)} by {basis}: quality {prediction.quality.item(row, best):.2f}"
        return _Ranking(order, reason, _margin(order, utility))

    def _has_no_basis(self, policy: Policy, objective: Objective, prediction: Prediction) -> bool:
        """Whether no outcome, no operator's guess and no goal of the request distinguishes experts."""
        has_goals = objective.goals or objective.first
        return (
            not has_goals and bool(policy.default or not self._has_guesses) and not prediction.evidence.any()
        )

    def _apply_mapping(
        self, ranking: "_Ranking", mapping: Mapping[str, tuple[str, ...]], row: int, prediction: Prediction
    ) -> "_Ranking":
        """The ranking with the eligible experts of the query's category first, the others in order."""
        categories = prediction.categories
        category = categories[row] if categories is not None else GENERAL
        wanted = mapping.get(category, mapping.get(GENERAL, ()))
        place = {self.names[e]: e for e in ranking.order.tolist()}
        first = [place[name] for name in wanted if name in place]
        reason = f"category {category}" if categories is not None else f"category unknown, so {GENERAL}"
        if not first:
            return ranking._replace(reason=f"{reason}: no expert mapped to it is eligible; {ranking.reason}")
        rest = ranking.order[~np.isin(ranking.order, first)]
        order = np.concatenate((np.array(first, np.int64), rest))
        return ranking._replace(order=order, reason=f"{reason}: mapped to {self.names[first[0]]}")

    def _apply_priorities(
        self, ranking: "_Ranking", objective: Objective, row: int, prediction: Prediction, fleet: Fleet
    ) -> "_Ranking":
        """The ranking with the priority goals of the objective before all weights."""
        quality = prediction.quality[row]
        slowest = _fill_unknown(prediction.latency_s[row] + fleet.wait_s)
        burdens = self._attributes.priority_burdens(objective.first, prediction.cost_usd[row], slowest)
        order, margin = rank_by_priority(ranking.order, quality, burdens, objective.within)
        reason = f"{describe_priorities(objective)} of {len(order)}: quality {quality[order[0]]:.2f}"
        return _Ranking(order, reason, margin)

    def _rank_by_default(self, policy: Policy, eligible: Ints) -> tuple[Ints, str]:
        if policy.default in (self.names[e] for e in eligible):
            first = self.names.index(str(policy.default))
            rest = eligible[eligible != first]
            return np.concatenate(([first], rest)), "no evidence: the policy's default expert"
        return eligible, "no evidence: the first expert that meets the constraints"


def _largest(typical: Floats) -> float:
    return float(np.nanmax(typical, initial=0.0)) or 1.0


def _choose_first_tier(policy: Policy, tiers: Sequence[Tier]) -> Tier:
    if policy.encoder == "always" and "encoder" in tiers:
        return "encoder"
    if "static" in tiers:
        return "static"
    return "encoder" if "encoder" in tiers and policy.encoder != "never" else "prior"


def _fill_unknown(values: Floats) -> Floats:
    """Unknown counts as the largest value of the pool; where all are unknown, as 0 for all."""
    # A sum of non-negative terms is NaN if and only if one of them is: one pass for the common case.
    if not isnan(np.add.reduce(values, axis=None)):
        return values
    unknown = np.isnan(values)
    dearest = np.where(unknown, 0.0, values).max(axis=-1, keepdims=True)
    return np.where(unknown, dearest, values)


class _Ranking(NamedTuple):
    """Eligible experts, best first; why the first is first, by which margin and with which probability."""

    order: Ints
    reason: str
    margin: float
    propensity: float = 1.0


def _margin(order: Ints, utility: Floats) -> float:
    return utility.item(order.item(0)) - utility.item(order.item(1)) if len(order) > 1 else float("inf")


def _apply_exploration(ranking: _Ranking, share: float, draw: float) -> _Ranking:
    """Epsilon-greedy exploration. The margin is that of the unexplored ranking."""
    rank, propensity = _draw_rank(share, len(ranking.order), draw)
    if not rank:
        return ranking._replace(propensity=propensity)
    # The best expert stays next in line: exploring must not cost the answer if the explored expert fails.
    order = np.concatenate(([ranking.order[rank]], np.delete(ranking.order, rank)))
    reason = f"explored with probability {propensity:.3f}"
    return _Ranking(order, reason, ranking.margin, propensity)


def _draw_rank(share: float, n_eligible: int, draw: float) -> tuple[int, float]:
    """A rank and its propensity: with probability `share` any eligible expert, evenly; else the best."""
    # P(rank) = ε/n, plus 1 − ε for the best: Σ = 1. Off-policy estimates divide by it.
    even = share / n_eligible
    rank = min(int(draw / even), n_eligible - 1) if draw < share else 0
    return rank, even + (1 - share if rank == 0 else 0.0)
