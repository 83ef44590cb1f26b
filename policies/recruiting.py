"""The members of a policy's panel: who is recruited and how many, under its cap, and the aggregator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np

from routers import Bools, ExpertProfile, Floats, Ints, Prediction, Query

from .errors import Infeasible
from .panel import Panel
from .plans import Plan, Single
from .voting import detect_form

VOTE = "vote"
AUTO = "auto"
BY_TEXT = "text"
"""Keywords are found in the query itself."""
MIN_QUALITY = 0.5
"""An aggregator that is more often wrong than right makes answers worse."""
TOOL = ("tool", "true")
"""The label of an expert that calls no language model: it can answer, but not weigh answers."""


SHARPNESS = 50.0
"""Of the softmax over worth: two hundredths of quality make an expert 2.7 times as likely to be recruited."""

PanelSize = Literal["fixed", "mass", "gain"]
Draw = Literal["best", "without_replacement", "with_replacement", "random"]


@dataclass(frozen=True, slots=True)
class PanelRule:
    """Who is recruited for a panel, what makes one answer of their answers, and what it may cost in all.

    aggregator: "vote" makes no further call; "auto" asks, where a vote does not decide, the expert that was
        measured to weigh answers best, if that is likelier right than the best member; without measurements
        the expert of highest expected quality, if that is at least `MIN_QUALITY`; a name always asks that one
    predictor: the head of the artifact that chooses the members; None is the policy's
    size: "fixed" asks `k`; "mass" the fewest that have `mass` of the probability of being recruited; "gain"
        stops where a further one makes a right answer among theirs likelier by less than `min_gain`
    draw: the best first, or drawn by their probability; "with_replacement" an expert drawn twice is asked
        once, and its vote counts twice; "random" draws all alike
    trim: experts that would be recruited for a smaller share of the queries fitted on are not recruited
    keywords: recruit by named skills: "text" finds keywords in the query, a name asks that expert for them
    keywords_wait_s: how long a decision waits for that expert
    """

    k: int = 3
    aggregator: str = AUTO
    max_cost_usd: float | None = None
    predictor: str | None = None
    size: PanelSize = "fixed"
    mass: float = 0.8
    min_gain: float = 0.05
    draw: Draw = "best"
    trim: float = 0.0
    keywords: str | None = None
    keywords_wait_s: float = 0.3

    @property
    def head(self) -> str | None:
        """The head that chooses the members; None where the policy's does, or named skills do."""
        return None if self.keywords else self.predictor


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query's eligible experts, best first (`order`); arrays are (n_experts,) in the pool's order.

    chance: of being recruited, 0 for experts that are not eligible
    weighs: of a right answer as aggregator, NaN where it was not tried; None where none was
    """

    pool: Sequence[ExpertProfile]
    order: Ints
    quality: Floats
    cost_usd: Floats
    output_tokens: Floats
    chance: Floats
    weighs: Floats | None = None

    @classmethod
    def of(
        cls, pool: Sequence[ExpertProfile], order: Ints, chance: Floats, prediction: Prediction, row: int
    ) -> "Candidates":
        eligible = np.zeros(len(pool))
        eligible[order] = chance[order]
        whole = eligible.sum()
        if whole <= 0:  # those that a published rule would draw are not eligible
            eligible[order] = whole = 1.0
            whole = float(len(order))
        return cls(
            pool,
            order,
            prediction.quality[row],
            prediction.cost_usd[row],
            prediction.output_tokens[row],
            eligible / whole,
            None if prediction.weighs is None else prediction.weighs[row],
        )


def compute_chances(worth: Floats) -> Floats:
    """(…, n_experts) the probability of being recruited: a softmax over worth, in units of quality."""
    # Less the largest, which leaves the softmax as it is and keeps `exp` from overflowing.
    raised = np.exp(SHARPNESS * (worth - worth.max(axis=-1, keepdims=True)))
    chances: Floats = raised / raised.sum(axis=-1, keepdims=True)
    return chances


def find_rare(rule: PanelRule, chances: Floats) -> Bools:
    """(n_experts,) who would be recruited for less than the rule's share of some queries.

    chances: (n_queries, n_experts) of being recruited, for queries like those to come

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2: who is used on < 5 % of the test set is out.
    Differs: the share is known beforehand, from the queries fitted on, so that a query is decided by itself.
    """
    if rule.draw == "best":
        # Every query asks its k most probable, however small their chances.
        place = np.argsort(np.argsort(-chances, axis=1, kind="stable"), axis=1, kind="stable")
        share: Floats = (place < rule.k).mean(axis=0)
    else:
        share = (1 - (1 - chances) ** rule.k).mean(axis=0)
    return share < rule.trim


def recruit(
    rule: PanelRule,
    query: Query,
    candidates: Candidates,
    max_cost_usd: float | None,
    n_fallbacks: int,
    rare: Bools | None = None,
) -> Plan:
    """The panel a rule asks for, or a single expert with fallbacks where no panel is possible.

    Members are taken in the order of the rule while they fit under the cap, `max_cost_usd` or the rule's own,
    whichever is lower; then the aggregator, if it still fits. A request with tools gets one expert: tool
    calls cannot be compared as answers. Draws depend on the query's text alone: the same query is decided
    alike again, and in replay.

    Raises:
        Infeasible: no expert fits under the cap.
    """
    # The request's cap and the rule's add up: the lower one counts.
    cap = min(limit for limit in (rule.max_cost_usd, max_cost_usd, float("inf")) if limit is not None)
    affordable = [e for e in candidates.order.tolist() if _fits(0.0, float(candidates.cost_usd[e]), cap)]
    if not affordable:
        raise Infeasible(_explain_unaffordable(candidates, cap), temporary=False)
    k = 1 if query.has_tools else rule.k
    common = [e for e in affordable if rare is None or not rare[e]] or affordable
    votes = _choose_members(rule, k, _order(rule, k, query, common, candidates), candidates, cap)
    members = list(votes)
    spent = sum(float(candidates.cost_usd[e]) for e in members)
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
        votes=() if max(votes.values()) == 1 else tuple(votes.values()),
    )


def _order(
    rule: PanelRule, k: int, query: Query, able: Sequence[int], candidates: Candidates
) -> Sequence[int]:
    """Whom to recruit first, next and so on; with replacement the `k` that were drawn."""
    if rule.draw == "best":
        return able
    rng = np.random.default_rng(crc32(query.text.encode("utf-8", "surrogatepass")))
    chance = np.ones(len(able)) if rule.draw == "random" else candidates.chance[list(able)]
    chance = np.maximum(chance, 1e-12)
    if rule.draw == "with_replacement":
        return [able[n] for n in rng.choice(len(able), k, p=chance / chance.sum()).tolist()]
    # The order of exponential clocks at these rates is that of draws without replacement.
    return [able[n] for n in np.argsort(rng.exponential(size=len(able)) / chance, kind="stable").tolist()]


def _choose_members(
    rule: PanelRule, k: int, queue: Sequence[int], candidates: Candidates, cap: float
) -> dict[int, int]:
    """Who is recruited and how many votes each has, in this order."""
    votes: dict[int, int] = {}
    spent, mass, wrong = 0.0, 0.0, 1.0
    # Greedy in the order of the queue, not the best subset: a member that is too dear is skipped.
    for e in queue:
        if e in votes:
            votes[e] += 1
            continue
        cost, quality = float(candidates.cost_usd[e]), float(candidates.quality[e])
        if len(votes) == k or not _fits(spent, cost, cap):
            continue
        # Errors that are independent: a further member helps where all before it are wrong.
        if votes and (
            (rule.size == "mass" and mass >= rule.mass)
            or (rule.size == "gain" and wrong * quality < rule.min_gain)
        ):
            break
        votes[e] = 1
        spent += cost
        mass += float(candidates.chance[e])
        wrong *= 1 - min(max(quality, 0.0), 1.0)
    return votes or {queue[0]: 1}


def _choose_aggregator(
    rule: PanelRule, members: Sequence[int], candidates: Candidates, spent: float, cap: float
) -> str | None:
    """The expert that aggregates the members' answers within the rest of the cap; None votes."""
    if rule.aggregator == VOTE:
        return None
    able = [e for e in candidates.order.tolist() if TOOL not in candidates.pool[e].labels]
    # By quality, not utility: the aggregator runs once, and a bad one spoils every member's answer.
    rating = candidates.quality
    if rule.aggregator != AUTO:
        able = [e for e in able if candidates.pool[e].name == rule.aggregator]
    elif candidates.weighs is None:
        able = [e for e in able if candidates.quality[e] >= MIN_QUALITY]
    else:
        rating = candidates.weighs
        able = [e for e in able if _is_worth_asking(float(rating[e]), members, candidates)]
    able.sort(key=lambda e: -rating[e])
    fitting = (
        candidates.pool[e].name
        for e in able
        if _fits(spent, aggregation_cost_usd(e, members, candidates), cap)
    )
    return next(fitting, None)


def _is_worth_asking(weighs: float, members: Sequence[int], candidates: Candidates) -> bool:
    """Whether an aggregator is likelier right than the best member: it needs a right answer among theirs."""
    quality = np.clip(candidates.quality[list(members)], 0.0, 1.0)
    return bool(weighs * (1 - np.prod(1 - quality)) > quality.max())


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
