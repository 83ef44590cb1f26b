"""Evaluates one router, named by a spec such as `knn:k=50@static`, on one training and test part."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies import Objective, Policy
from routers import (
    PREDICTORS,
    ArtifactError,
    Bools,
    DataError,
    Extractor,
    FitSettings,
    Floats,
    Ints,
    OutcomeTable,
    Tier,
    cross_fit,
    make_predictor,
)

from .measures.budgets import GRID, N_BUDGETS, choose_lambdas, lambdas, pick_values, route
from .replay import Replay, replay

FRONTIER: Floats = GRID[::8]  # every eighth: the curve is drawn, not read off
"""The λ that a frontier is drawn at."""
# Below every score in [0, 1], so never the best; finite, so that means and differences stay numbers.
NEVER = -1.0
"""Quality of an expert that must not be picked."""


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """A predictor of the registry with settings, on an embedder tier; `name` is the spec as given."""

    name: str
    predictor: str
    settings: Mapping[str, Any]
    tier: Tier

    def describe(self) -> dict[str, Any]:
        """What it is, for a report."""
        return {"predictor": self.predictor, "tier": self.tier, **self.settings}


def parse_router_specs(text: str, tiers: Sequence[Tier]) -> list[RouterSpec]:
    """Routers from their names, comma-separated: `NAME[:MODE][:KEY=VALUE]…[@static|@encoder]`.

    A bare word is a mode, as in `coe:paper`. Without `@` a router works on the best of the tiers there are.

    Raises:
        DataError: no such predictor, tier or setting, or one router twice.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise DataError("--routers: name one at least")
    if len(set(names)) < len(names):
        raise DataError(f"--routers: {next(n for n in names if names.count(n) > 1)!r} is named twice")
    return [_parse_spec(name, tiers) for name in names]


def _parse_spec(name: str, tiers: Sequence[Tier]) -> RouterSpec:
    body, _, tier_name = name.partition("@")
    predictor, *pairs = body.split(":")
    if predictor not in PREDICTORS:
        raise DataError(f"--routers: no predictor {predictor!r}; there are {', '.join(sorted(PREDICTORS))}")
    tier = next((tier for tier in tiers if tier == tier_name), None) if tier_name else tiers[-1]
    if tier is None:
        raise DataError(f"--routers: {name!r}: no tier {tier_name!r}; there are {', '.join(tiers)}")
    settings = dict(_parse_setting(name, pair) for pair in pairs)
    try:
        make_predictor(predictor, settings)
    except (ArtifactError, ValueError) as error:
        raise DataError(f"--routers: {name!r}: {error}") from None
    return RouterSpec(name, predictor, settings, tier)


def _parse_setting(name: str, pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals and key.isalpha():
        return "mode", key
    if not key or not equals:
        raise DataError(f"--routers: {name!r}: {pair!r} is neither a mode nor KEY=VALUE")
    try:
        # `k=50` becomes a number and `flag=true` a bool; what is not JSON is taken as text.
        return key, json.loads(value)
    except ValueError:
        return key, value


@dataclass(frozen=True, slots=True)
class SplitResult:
    """The result of one router on one test part; fields as in `measures.Run`, arrays (n_test,).

    share, saving_share: (n_test, n_experts); frontier: (len(FRONTIER), 2) mean score and cost, NaN without λ;
    rate: decisions a second, 0 where the engine decided nothing
    """

    score: Floats
    cost_usd: Floats
    at_budget: Floats
    at_budget_usd: Floats
    saving: Floats
    saving_usd: Floats
    share: Floats
    saving_share: Floats
    picks: Ints
    quality: Floats | None
    frontier: Floats
    rate: float = 0.0


def evaluate_router(
    train: OutcomeTable, test: OutcomeTable, router_spec: RouterSpec, read: Extractor, seed: int
) -> SplitResult:
    """Fit, choose every λ out of fold on the training part, and let the engine decide the test part.

    λ = 0 and the λ of `cost_saved` are the engine's decisions; the budgets in between are the same rule on
    the same predictions, all queries at once.
    """
    settings = FitSettings(router_spec.predictor, router_spec.settings, seed=seed, tiers=(router_spec.tier,))
    artifact, out_of_fold = cross_fit(train, read, settings)
    policy = Policy(router_spec.name, encoder="always" if router_spec.tier == "encoder" else "never")
    started = time.perf_counter()
    free = replay(test, artifact, read, policy)
    # The elapsed time covers predicting and deciding; features were read beforehand.
    rate = len(test) / max(time.perf_counter() - started, 1e-9)
    # (n_test, n_experts)
    quality = np.array([decision.quality for decision in free.decisions]).reshape(test.score.shape)
    rejected = _find_rejected(free, test.experts)
    by_predictions = evaluate_predictions(
        train, test, out_of_fold[router_spec.tier], np.where(rejected, NEVER, quality)
    )
    result = _with_decisions(by_predictions, free, np.where(rejected, np.nan, quality), rate)
    cost = train.means()["cost_usd"]
    # One unknown mean cost makes λ meaningless: the rule would compare a price with nothing.
    saving = None if np.isnan(cost).any() else choose_lambdas(train, out_of_fold[router_spec.tier]).saving
    if not saving:
        return result
    frugal = replay(test, artifact, read, replace(policy, objective=Objective(cost=saving)))
    return replace(
        result,
        saving=frugal.score,
        saving_usd=frugal.cost_usd,
        saving_share=np.eye(test.n_experts)[frugal.picks],
    )


def _find_rejected(free: Replay, experts: tuple[str, ...]) -> Bools:
    """(n_test, n_experts) experts that the engine rejected, such as tools without an answer."""
    return np.array([[name in decision.rejections for name in experts] for decision in free.decisions], bool)


def _with_decisions(result: SplitResult, free: Replay, quality: Floats, rate: float) -> SplitResult:
    return replace(
        result,
        score=free.score,
        cost_usd=free.cost_usd,
        share=np.eye(result.share.shape[1])[free.picks],
        picks=free.picks,
        quality=quality,
        rate=rate,
    )


def evaluate_predictions(
    train: OutcomeTable, test: OutcomeTable, train_quality: Floats, quality: Floats
) -> SplitResult:
    """The result of predictions alone: train_quality out of fold, quality on the test part.

    Ties go to the cheaper expert, then by name, as the engine breaks them.
    """
    cost = train.means()["cost_usd"]
    # Experts are sorted once, cheapest first; argmax then takes the first of equals, which is the engine's
    # tie-break. lexsort sorts by its last key first: cost, then name.
    order = np.lexsort((np.array(train.experts), cost))
    names = [train.experts[n] for n in order]
    if np.isnan(cost).any():
        return evaluate_picks(test, order[route(quality[:, order], cost[order], 0.0)], quality)
    ordered, cost = train.only(names), cost[order]
    chosen = choose_lambdas(ordered, train_quality[:, order])
    share = np.full(len(test), ordered.best_single(), np.int64)
    # Many budgets share one λ, so each distinct λ is routed once.
    picked = {lam: order[route(quality[:, order], cost, lam)] for lam in {0.0, *chosen.budgets.tolist()}}
    budgets = [picked[lam] for lam in chosen.budgets.tolist()]
    # Without a λ that loses nothing in training, every query goes to the best single expert.
    frugal = order[share] if chosen.saving is None else order[route(quality[:, order], cost, chosen.saving)]
    drawn = [order[route(quality[:, order], cost, lam)] for lam in lambdas(cost)[::8].tolist()]
    return replace(
        evaluate_picks(test, picked[0.0], quality),
        at_budget=sum((pick_values(test.score, p) for p in budgets), np.zeros(len(test))) / N_BUDGETS,
        at_budget_usd=sum((pick_values(test.cost_usd, p) for p in budgets), np.zeros(len(test))) / N_BUDGETS,
        saving=pick_values(test.score, frugal),
        saving_usd=pick_values(test.cost_usd, frugal),
        saving_share=np.eye(test.n_experts)[frugal],
        frontier=np.array([mean_point(test, picks) for picks in drawn]),
    )


def evaluate_picks(test: OutcomeTable, picks: Ints, quality: Floats | None = None) -> SplitResult:
    """The result of a rule without λ: only its picks."""
    share = np.eye(test.n_experts)[picks]  # (n_test, n_experts), one 1 a row
    score, usd = pick_values(test.score, picks), pick_values(test.cost_usd, picks)
    return _result_without_lambda(score, usd, share, picks, quality)


def evaluate_random(test: OutcomeTable) -> SplitResult:
    """Every expert as often as every other: expected score and cost."""
    even = np.full(test.score.shape, 1 / test.n_experts)  # (n_test, n_experts)
    no_pick = np.full(len(test), -1, np.int64)
    return _result_without_lambda(_mean(test.score), _mean(test.cost_usd), even, no_pick, None)


def _result_without_lambda(
    score: Floats, usd: Floats, share: Floats, picks: Ints, quality: Floats | None
) -> SplitResult:
    none = np.full(len(score), np.nan)
    return SplitResult(
        score=score,
        cost_usd=usd,
        at_budget=none,
        at_budget_usd=none,
        saving=none,
        saving_usd=none,
        share=share,
        saving_share=np.full(share.shape, np.nan),
        picks=picks,
        quality=quality,
        frontier=np.full((len(FRONTIER), 2), np.nan),
    )


def _mean(values: Floats) -> Floats:
    """(n_queries,) mean over the experts that were measured; NaN for none."""
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    # Not nanmean: it warns on rows that are NaN throughout, and such rows are ordinary here.
    total = np.where(known, values, 0.0).sum(axis=1)
    mean: Floats = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return mean


def mean_point(test: OutcomeTable, picks: Ints) -> Floats:
    """(2,) mean score and cost of these picks, over the queries where both are known; NaN for none."""
    score, usd = pick_values(test.score, picks), pick_values(test.cost_usd, picks)
    # A point needs both coordinates; queries that lack one would move score and cost differently.
    known = ~np.isnan(score) & ~np.isnan(usd)
    return np.array([score[known].mean(), usd[known].mean()]) if known.any() else np.full(2, np.nan)
