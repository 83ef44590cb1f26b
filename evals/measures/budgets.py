"""What a router is worth, as defined numbers; each is a mean over queries, so that it can be bootstrapped.

For predicted quality q̂ and expected cost ĉ (training means) a router takes
argmax q̂ − λ·ĉ/max(ĉ), as the engine does (`routers.pick`). Every λ is chosen on the training part, from
out-of-fold predictions; the test part is only read.
"""

from dataclasses import dataclass

import numpy as np

from routers import Floats, Ints, OutcomeTable, Scale, compute_utility, pick, trace_choices

N_BUDGETS = 50
# Geometric, since λ acts on ratios. Qualities differ by at most 1, so at 30 a thirtieth of the mean
# cost outweighs any of them: practically every query goes to the cheapest expert.
GRID: Floats = np.concatenate(([0.0], np.geomspace(1e-4, 30.0, 400)))
"""The λ that frontiers are drawn at, in quality for the experts' mean cost; `lambdas` converts it."""


@dataclass(frozen=True, slots=True)
class Split:
    """One train/test split: outcomes and a router's quality predictions on both parts.

    train_quality: (n_train, n_experts), out of fold; test_quality: (n_test, n_experts)
    """

    train: OutcomeTable
    test: OutcomeTable
    train_quality: Floats
    test_quality: Floats


@dataclass(frozen=True, slots=True)
class BudgetResult:
    """Per test query, the outcome of routing it; pooled over folds by `pool`. All (n_test,).

    score:        with λ = 0
    single:       of the best single expert as the training part names it
    at_budget:    mean over the budgets of `area`; at_budget_usd the cost that came with it
    saving:       with the λ of `cost_saved`; saving_usd and single_usd what it and the best single cost
    """

    score: Floats
    single: Floats
    at_budget: Floats
    at_budget_usd: Floats
    saving: Floats
    saving_usd: Floats
    single_usd: Floats


def evaluate_split(split: Split) -> BudgetResult:
    """Choose every λ on the training part and read the test part once with each."""
    best = split.train.best_single()
    cost = split.train.means()["cost_usd"]
    picks = route(split.test_quality, cost, 0.0)  # (n_test,)
    unread = np.full(len(split.test), np.nan)
    result = BudgetResult(
        score=pick_values(split.test.score, picks),
        single=split.test.score[:, best],
        at_budget=unread,
        at_budget_usd=unread,
        saving=unread,
        saving_usd=unread,
        single_usd=unread,
    )
    return result if np.isnan(cost).any() else _with_costs(split, result, best, cost)


def _with_costs(split: Split, result: BudgetResult, best: int, cost: Floats) -> BudgetResult:
    chosen = choose_lambdas(split.train, split.train_quality)
    scores = np.zeros(len(split.test))
    usd = np.zeros(len(split.test))
    # Neighbouring budgets often choose the same λ: route once and weigh by the count.
    for lam, n in zip(*np.unique(chosen.budgets, return_counts=True), strict=True):
        picks = route(split.test_quality, cost, lam)
        scores += pick_values(split.test.score, picks) * n / N_BUDGETS
        usd += pick_values(split.test.cost_usd, picks) * n / N_BUDGETS
    frugal = (
        np.full(len(split.test), best, np.int64)
        if chosen.saving is None
        else route(split.test_quality, cost, chosen.saving)
    )
    return BudgetResult(
        score=result.score,
        single=result.single,
        at_budget=scores,
        at_budget_usd=usd,
        saving=pick_values(split.test.score, frugal),
        saving_usd=pick_values(split.test.cost_usd, frugal),
        single_usd=split.test.cost_usd[:, best],
    )


@dataclass(frozen=True, slots=True)
class Choices:
    """Every λ that the training part decides.

    budgets: (N_BUDGETS,) the smallest λ that meets each budget of `area`
    saving:  the largest λ at which the training score is still the best single's; None where none is
    """

    budgets: Floats
    saving: float | None


def choose_lambdas(train: OutcomeTable, train_quality: Floats) -> Choices:
    """From out-of-fold quality (n_train, n_experts) on a training part whose costs are known."""
    cost, best = train.means()["cost_usd"], train.best_single()
    # Every λ at which a choice changes, not a grid: between two of its steps all of a flat prediction moves.
    path = trace_choices(train_quality, cost, Scale.of(cost))
    usd, score = path.mean(train.cost_usd), path.mean(train.score)  # (n_stages,)
    budgets = []
    for budget in np.linspace(cost.min(), cost[best], N_BUDGETS):
        # A mean and the single expert's cost are the same number up to rounding; 1e-9 keeps them equal.
        meets = np.flatnonzero(usd <= budget * (1 + 1e-9))
        # The smallest λ that meets the budget weighs quality most. If none does, the largest is the cheapest.
        budgets.append(path.weight[meets[0]] if meets.size else path.weight[-1])
    # The largest λ that loses nothing in training; the test score may still differ, and is reported with it.
    enough = np.flatnonzero(score >= np.nanmean(train.score[:, best]) - 1e-9)
    return Choices(np.array(budgets), float(path.weight[enough[-1]]) if enough.size else None)


def lambdas(cost_usd: Floats) -> Floats:
    """The λ of `GRID` for experts with these typical costs, (n_experts,), in the scale of the engine."""
    # Steps of the mean cost: beside one very dear expert the others would else share a few steps.
    converted: Floats = GRID * (cost_usd.max() / (cost_usd.mean() or 1.0))
    return converted


def route(quality: Floats, cost_usd: Floats, lam: float) -> Ints:
    """(n_queries,) the pick by quality (n_queries, n_experts) and typical costs (n_experts,)."""
    return pick(compute_utility(quality, cost_usd, Scale.of(cost_usd), lam), cost_usd)


def pick_values(values: Floats, picks: Ints) -> Floats:
    """(n_queries,) the value of the expert picked for each query."""
    return values[np.arange(len(values)), picks]


def pool(results: list[BudgetResult]) -> BudgetResult:
    """The test queries of all folds in one reading."""
    fields = BudgetResult.__dataclass_fields__
    return BudgetResult(**{name: np.concatenate([getattr(r, name) for r in results]) for name in fields})


def summary(result: BudgetResult) -> dict[str, float]:
    """accuracy, gain over the best single, area and its cost, cost_saved and the score difference with it."""
    single = result.single.mean()
    return {
        "accuracy": result.score.mean(),
        "gain": result.score.mean() / single - 1,
        "area": result.at_budget.mean(),
        "area_usd": result.at_budget_usd.mean(),
        # A ratio of sums, not a mean of ratios: cheap queries would dominate the latter.
        "cost_saved": 1 - result.saving_usd.sum() / result.single_usd.sum(),
        "cost_saved_score": result.saving.mean() - single,
    }
