"""From predictions to decisions: the main path of Thalamus, the same online and offline.

For each query: reject the experts that fail a constraint, score the others (quality − λ·cost − μ·latency,
minus the goals of the objective), rank them, put the best first in the plan, and keep for each other expert
the reason why not. Pure: no clock, no I/O; randomness comes in as `draws`.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import msgspec
import numpy as np

from routers import (
    GENERAL,
    Bools,
    ExpertProfile,
    Floats,
    Ints,
    Prediction,
    Query,
    Scale,
    Sweep,
    Tier,
    compute_utility,
    fill_unknown,
    rank,
)

from .errors import Infeasible
from .objectives import Attributes, describe_priorities, rank_by_priority, resolve_target
from .plans import Plan, Single
from .recruiting import Candidates, PanelRule, compute_chances, find_rare, recruit
from .types import Decision, Fleet, Objective, Policy, Require, RoutingHints, Session, tighten


class Consult(msgspec.Struct, frozen=True):
    """The engine's request to its driver: predict `rows` of the queries at `tier`."""

    tier: Tier
    rows: Ints


Rejections = dict[str, str]
USUAL_WITHIN = Objective().within


def static_rejections(
    pool: Sequence[ExpertProfile],
    labels: frozenset[tuple[str, str]],
    models: frozenset[str] | None,
    exclude: frozenset[str],
) -> Rejections:
    """The experts that these parts of a `Require` reject for every query: by label or by name."""

    def reason(profile: ExpertProfile) -> str | None:
        if profile.name in exclude:
            return "excluded"
        if models is not None and profile.name not in models:
            return "not among the models asked for"
        missing = sorted(labels - profile.labels)
        return f"lacks label {missing[0][0]}={missing[0][1]}" if missing else None

    reasons = ((profile.name, reason(profile)) for profile in pool)
    return {name: why for name, why in reasons if why}


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Limits of the experts as arrays (n_experts,), inf where unknown; their abilities, None where unknown.

    prefix_tokens:     tokens before every conversation (prompt preset)
    least_room_tokens: tokens that fit into every window after its prefix
    """

    context_tokens: Floats
    prefix_tokens: Floats
    max_output_tokens: Floats
    least_room_tokens: float
    abilities: tuple[frozenset[str] | None, ...]
    content_parts: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, pool: Sequence[ExpertProfile]) -> "PoolLimits":
        def to_bounds(values: Iterable[int | None]) -> Floats:
            return np.array([np.inf if value is None else float(value) for value in values])

        context, prefix = to_bounds(p.context_tokens for p in pool), to_bounds(p.prefix_tokens for p in pool)
        return cls(
            context_tokens=context,
            prefix_tokens=prefix,
            least_room_tokens=float((context - prefix).min(initial=np.inf)),
            max_output_tokens=to_bounds(p.max_output_tokens for p in pool),
            abilities=tuple(p.abilities for p in pool),
            content_parts=tuple(p.content_parts for p in pool),
        )

    def lack(self, ability: str) -> Bools:
        """(n_experts,) whether an expert is known to lack an ability."""
        rows = zip(self.abilities, self.content_parts, strict=True)
        return np.array(
            [own is not None and ability not in own and ability not in parts for own, parts in rows], bool
        )

    def find_unknown(self, expert: int, needs: frozenset[str]) -> str | None:
        """An ability of these that an expert is neither known to have nor known to lack."""
        unknown = needs - (self.abilities[expert] or frozenset()) - self.content_parts[expert]
        return min(unknown, default=None)

    def count_required_tokens(self, query: Query) -> Floats:
        """(n_experts,) tokens of the prefix, the conversation and the answer that the query asks for."""
        answer = np.minimum(self.max_output_tokens, query.max_output_tokens or 0)
        return query.n_input_tokens + answer + self.prefix_tokens


class Engine:
    """Decides for one pool of experts; every array it reads is in the pool's order."""

    def __init__(
        self,
        pool: Sequence[ExpertProfile],
        scale: Scale | None = None,
        sweep_of: Callable[[Tier], Sweep | None] = lambda tier: None,
        sample_of: Callable[[Tier], Floats | None] = lambda tier: None,
    ) -> None:
        """Args:
        scale: what weights are measured against.
        sweep_of: the λ table of the pool per tier, for targets in dollars or quality.
        sample_of: what recruits panels, for some queries fitted on, (n_queries, n_experts) per tier.
        """
        self.pool = tuple(pool)
        self.names = tuple(profile.name for profile in pool)
        self.scale = scale or Scale()
        self._sweep_of = sweep_of
        self._sample_of = sample_of
        self._rare = lru_cache(maxsize=64)(self._find_rare)
        self._limits = PoolLimits.of(self.pool)
        self._attributes = Attributes(self.pool)
        self._guessed: Bools = np.array([profile.quality is not None for profile in pool], bool)
        self._all_experts = np.arange(len(self.names))
        self._by_name = np.argsort(np.argsort(self.names))  # rank of each name, breaks ties
        self._savings = {profile.name: _find_saving(profile) for profile in pool}
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
        may_encode = "encoder" in tiers and policy.encoder != "never"
        first: Tier = "static" if "static" in tiers else "encoder" if may_encode else "prior"
        if may_encode and policy.encoder == "always":
            first = "encoder"
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
        if hints and any(hint is not None and hint.session for hint in hints):
            prediction = self._count_cached(prediction, hints)
        decisions = []
        for row, query in enumerate(queries):
            hint = hints[row] if hints else None
            objective = hint.objective if hint and hint.objective else policy.objective
            if objective.max_usd_per_1k is not None or objective.target_quality is not None:
                objective = self._resolve_target(objective, prediction)
            require = tighten(policy.require, hint.require) if hint else policy.require
            rejections = self._find_rejections(query, row, prediction, require, fleet)
            if query.needs:
                self._reject_unknown_readers(query.needs, rejections)
            # The common case, no rejection, makes no array.
            eligible = self._list_eligible(rejections) if rejections else self._all_experts
            utility = compute_utility(  # (n_experts,)
                prediction.quality[row],
                prediction.cost_usd[row],
                self.scale,
                objective.cost,
                prediction.latency_s[row] + fleet.wait_s if objective.latency else None,
                objective.latency,
            )
            if objective.goals:
                utility -= self._attributes.penalty(objective.goals, eligible, prediction.output_tokens[row])
            ranking = self._rank(policy, objective, row, prediction, utility, eligible)
            # Each precedes what is above it. Exploration is last: its propensity is that of the final choice.
            if policy.mapping:
                ranking = self._apply_mapping(ranking, policy.mapping, row, prediction)
            if objective.first:
                ranking = self._apply_priorities(ranking, objective, row, prediction, fleet)
            if objective.max_usd_per_1k is not None:  # it was not resolved: nothing is measured
                ranking = self._apply_budget(ranking, objective.max_usd_per_1k / 1000, row, prediction)
            if hint and hint.session and hint.session.is_tool_loop:
                ranking = self._apply_session(ranking, hint.session, row, prediction)
            elif policy.explore and draws is not None:
                ranking = _apply_exploration(ranking, policy.explore, float(draws[row]))
            plan = self._make_plan(policy, require, query, ranking.order, utility, prediction, row)
            if not plan.is_sequential:
                by = "" if query.keywords is None else ", keywords told by an expert"
                ranking = ranking._replace(reason=f"{plan.kind}{by}; {ranking.reason}")
            made = self._make_decision(policy, row, prediction, plan, ranking, utility, rejections)
            decisions.append(self._add_session(made, hint.session) if hint and hint.session else made)
        return decisions

    def _list_eligible(self, rejections: Rejections) -> Ints:
        return np.array([e for e, name in enumerate(self.names) if name not in rejections])

    def _count_cached(self, prediction: Prediction, hints: Sequence[RoutingHints | None]) -> Prediction:
        """The prediction, where tokens that prompt caches hold cost what cached tokens cost."""
        cost = prediction.cost_usd.copy()  # (n_queries, n_experts)
        for row, hint in enumerate(hints):
            if hint is not None and hint.session is not None:
                cost[row] -= [self._find_saved_usd(hint.session, name) for name in self.names]
        # Never below 0: a count may be that of another tokenizer than the estimate's.
        return msgspec.structs.replace(prediction, cost_usd=np.maximum(cost, 0.0))

    def _add_session(self, decision: Decision, session: Session) -> Decision:
        saved = self._find_saved_usd(session, session.previous)
        return msgspec.structs.replace(decision, session=session, switch_usd=saved)

    def _find_saved_usd(self, session: Session, expert: str) -> float:
        return self._savings.get(expert, 0.0) * session.cached_tokens.get(expert, 0)

    def _apply_session(
        self, ranking: "_Ranking", session: Session, row: int, prediction: Prediction
    ) -> "_Ranking":
        """The last expert first in a loop of tools, and last where it repeats itself."""
        own = self.names.index(session.previous) if session.previous in self.names else -1
        others = ranking.order[ranking.order != own]
        if len(others) == len(ranking.order) or not len(others):
            return ranking  # it is not eligible, or it is the only one
        if not session.is_stalled:
            # Another expert did not choose these calls, and providers sign what a model thought before them.
            reason = f"{session.previous} called the tools and reads their results"
            return ranking._replace(order=np.concatenate(([own], others)), reason=reason)
        # What was worth its price has failed several times: the best of the others, at any cost.
        by_quality = others[np.argsort(-prediction.quality[row][others], kind="stable")]
        reason = f"{session.previous} repeats itself: the best of the others"
        return ranking._replace(order=np.concatenate((by_quality, [own])), reason=reason)

    def _resolve_target(self, objective: Objective, prediction: Prediction) -> Objective:
        if not prediction.evidence.any():
            return objective  # without evidence no quality is predicted that cost could be traded for
        return resolve_target(objective, self._sweep_of(prediction.tier))

    def _find_rejections(
        self, query: Query, row: int, prediction: Prediction, require: Require, fleet: Fleet
    ) -> Rejections:
        """The experts that the constraints, this query, this prediction or the state of the fleet reject."""
        # The first failed rule names the reason: rules run from what never changes (window, abilities) to
        # what changes with each moment (availability), and setdefault keeps the first.
        found: Rejections = {}
        limits = self._limits
        # One comparison of integers for short queries; arrays only where some window may be too small.
        if query.n_input_tokens + (query.max_output_tokens or 0) > limits.least_room_tokens:
            n_tokens = limits.count_required_tokens(query)
            _reject(
                found,
                prediction,
                limits.context_tokens < n_tokens,
                lambda e: f"context window {limits.context_tokens[e]:.0f} < {n_tokens[e]:.0f} tokens",
            )
        for name, reason in query.declined.items():
            found.setdefault(name, reason)
        for ability in sorted(query.needs):
            _reject(found, prediction, limits.lack(ability), partial(_describe_lack, ability))
        if query.has_tools:
            _reject(found, prediction, limits.lack("tools"), lambda e: "cannot call tools")
        if (cap := require.max_cost_usd) is not None:
            cost = prediction.cost_usd[row]
            _reject(
                found,
                prediction,
                ~(cost <= cap),  # not `cost > cap`: NaN, an unknown price, must fail
                lambda e: _describe_cost(cost[e], cap),
            )
        if (limit := require.max_latency_s) is not None:
            # NaN, an unknown latency, passes: nothing is known against it, and time-outs still apply.
            latency = prediction.latency_s[row] + fleet.wait_s  # (n_experts,)
            _reject(
                found,
                prediction,
                latency > limit,
                lambda e: f"latency {latency[e]:.2f} s > limit {limit:.2f} s",
            )
        if (floor := require.min_quality) is not None:
            quality = prediction.quality[row]
            _reject(
                found, prediction, quality < floor, lambda e: f"quality {quality[e]:.2f} < floor {floor:.2f}"
            )
        if not all(fleet.available.tolist()):
            _reject(
                found,
                prediction,
                ~fleet.available,
                lambda e: fleet.unavailable.get(prediction.experts[e], "unavailable"),
            )
        # Static reasons win: an operator reads "excluded" rather than "unavailable" for an excluded expert.
        if standing := self._standing(require.labels, require.models, require.exclude):
            found |= standing
        # `temporary` tells the gateway 503 (wait) from 400 (change the request).
        if len(found) == len(self.names):
            gone = fleet.unavailable
            raise Infeasible(found, temporary=any(gone.get(name) == why for name, why in found.items()))
        return found

    def _reject_unknown_readers(self, needs: frozenset[str], found: Rejections) -> None:
        """Reject experts of unknown abilities where another is left that is known to have those needed.

        A sound or a film sent to a model of text is refused, or answered by a guess that looks like an
        answer. Where no expert is known to read it, one that may be able to is still worth a call.
        """
        unknown = {
            name: self._limits.find_unknown(e, needs)
            for e, name in enumerate(self.names)
            if name not in found
        }
        able = next((name for name, ability in unknown.items() if ability is None), None)
        if able is not None:
            found |= {
                name: f"{_describe_lack(ability).replace('cannot', 'is not known to', 1)}, as {able} is"
                for name, ability in unknown.items()
                if ability is not None
            }

    def _make_plan(
        self,
        policy: Policy,
        require: Require,
        query: Query,
        order: Ints,
        utility: Floats,
        prediction: Prediction,
        row: int,
    ) -> Plan:
        if policy.panel is None:
            return Single(tuple([self.names[e] for e in order[: 1 + policy.n_fallbacks].tolist()]))
        rule, recruiting = policy.panel, prediction.recruiting
        worth = utility  # (n_experts,)
        if recruiting is not None:
            # Another's word on quality, where it has one; cost and the other goals weigh as in the ranking.
            known = np.where(np.isnan(recruiting[row]), prediction.quality[row], recruiting[row])
            worth = utility - prediction.quality[row] + known
            ranked = rank(worth, prediction.cost_usd[row], self._by_name)
            order = ranked[np.isin(ranked, order)]
        shares = recruiting is not None and prediction.shares and not np.isnan(recruiting[row]).any()
        chance = recruiting[row] if recruiting is not None and shares else compute_chances(worth)
        candidates = Candidates.of(self.pool, order, chance, prediction, row)
        rare = self._rare(rule, prediction.tier, prediction.shares) if rule.trim else None
        return recruit(rule, query, candidates, require.max_cost_usd, policy.n_fallbacks, rare)

    def _find_rare(self, rule: PanelRule, tier: Tier, shares: bool) -> Bools | None:
        """(n_experts,) whom a rule would hardly ever recruit; never one that was not measured.

        None where no query that was fitted on is known.
        """
        sample = self._sample_of(tier)
        if sample is None or not len(sample):
            return None
        known = ~np.isnan(sample).any(axis=0)  # (n_experts,)
        worth = np.where(known, sample, -np.inf)
        chances = np.where(known, sample, 0.0) if shares else compute_chances(worth)
        return find_rare(rule, chances) & known

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
            assumed_length=prediction.assumed_length,
            head=prediction.head,
            skills=None if prediction.skills is None else prediction.skills[row],
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
        order = rank(utility, prediction.cost_usd[row], self._by_name)
        if len(eligible) < len(order):
            may = np.zeros(len(order), bool)
            may[eligible] = True
            order = order[may[order]]
        best = order.item(0)
        measured = prediction.evidence.item(best)
        if not measured and self._has_no_basis(policy, objective, row, prediction, eligible):
            order, reason = self._rank_by_default(policy, eligible)
        elif measured or self._guessed.item(best) or prediction.evidence.any():
            basis = prediction.tier if measured else "guess"
            reason = f"best of {len(order)} by {basis}: quality {prediction.quality.item(row, best):.2f}"
        else:
            reason = f"best of {len(order)} by weights alone: quality unknown"
        lead = utility.item(order.item(0)) - utility.item(order.item(1)) if len(order) > 1 else float("inf")
        return _Ranking(order, reason, lead)

    def _has_no_basis(
        self, policy: Policy, objective: Objective, row: int, prediction: Prediction, eligible: Ints
    ) -> bool:
        """Whether no outcome, no operator's guess, no known price and no goal distinguishes the experts."""
        if objective.goals or objective.first or prediction.evidence.any():
            return False
        # The default answers until something is measured, except where a request asks for something else.
        if policy.default and objective == policy.objective:
            return True
        weighs = (objective.cost and _differ(prediction.cost_usd[row, eligible])) or (
            objective.latency and _differ(prediction.latency_s[row, eligible])
        )
        return not (weighs or self._guessed[eligible].any())

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
        quality, within = prediction.quality[row], objective.within
        slowest = fill_unknown(prediction.latency_s[row] + fleet.wait_s)
        burdens = self._attributes.priority_burdens(objective.first, prediction.cost_usd[row], slowest)
        if prediction.evidence[ranking.order].any():
            basis = f"within {within:g} of the best quality of {len(ranking.order)}"
        else:
            # Guesses closer than their deviation may be equal, and so may what was not even guessed of; a
            # price is known.
            quality = np.where(self._guessed, quality, quality[ranking.order].max())
            if within == USUAL_WITHIN:  # a distance that a request names counts as it is
                within = max(within, float(prediction.quality_std[row, ranking.order].max()))
            basis = f"of {len(ranking.order)} that may be as good, as nothing is measured"
        order, margin = rank_by_priority(ranking.order, quality, burdens, within)
        known = prediction.quality[row, order[0]]
        return _Ranking(order, f"{describe_priorities(objective)} {basis}: quality {known:.2f}", margin)

    def _apply_budget(self, ranking: "_Ranking", usd: float, row: int, prediction: Prediction) -> "_Ranking":
        """The ranking with the experts whose price is within a budget first; the cheapest, where none is."""
        cost = np.where(np.isnan(prediction.cost_usd[row]), np.inf, prediction.cost_usd[row])[ranking.order]
        within = cost <= usd
        if within[0]:
            return ranking
        if within.any():
            order = np.concatenate((ranking.order[within], ranking.order[~within]))
            said = "within the budget by price, as nothing is measured"
        else:
            order = ranking.order[np.argsort(cost, kind="stable")]
            said = "none is within the budget by price: the cheapest"
        return ranking._replace(order=order, reason=f"{said}; {ranking.reason}")

    def _rank_by_default(self, policy: Policy, eligible: Ints) -> tuple[Ints, str]:
        if policy.default in (self.names[e] for e in eligible):
            first = self.names.index(str(policy.default))
            rest = eligible[eligible != first]
            return np.concatenate(([first], rest)), "no evidence: the policy's default expert"
        return eligible, "no evidence: the first expert that meets the constraints"


def _find_saving(profile: ExpertProfile) -> float:
    """USD by which a cached input token is cheaper; 0 where a price is unknown."""
    price, cached = profile.input_usd_per_token, profile.cached_input_usd_per_token
    return 0.0 if price is None or cached is None else max(0.0, price - cached)


def _differ(values: Floats) -> bool:
    """Whether the known ones among values tell experts apart."""
    known = values[~np.isnan(values)]
    return len(known) > 0 and bool(known.min() < known.max())


LACKS = {
    "vision": "cannot see images",
    "audio": "cannot hear audio",
    "files": "cannot read files",
    "video": "cannot watch video",
    "audio_output": "cannot answer in audio",
    "image_output": "cannot answer with images",
}


def _describe_lack(ability: str, expert: int = 0) -> str:
    """Why an expert without an ability cannot be asked; a part of an unknown type needs one of its name."""
    return LACKS.get(ability, f"is not known to read parts of the type '{ability[:64]}'")


def _describe_cost(cost_usd: float, cap_usd: float) -> str:
    """Why a cost fails a cap; NaN is an unknown price."""
    known = f"cost ${cost_usd:.6f} > cap" if cost_usd == cost_usd else "price unknown, cap"
    return f"{known} ${cap_usd:.6f}"


def _reject(found: Rejections, prediction: Prediction, failed: Bools, reason: Callable[[int], str]) -> None:
    for expert in np.flatnonzero(failed).tolist():
        found.setdefault(prediction.experts[expert], reason(expert))


class _Ranking(NamedTuple):
    """Eligible experts, best first; why the first is first, by which margin and with which probability."""

    order: Ints
    reason: str
    margin: float
    propensity: float = 1.0


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
