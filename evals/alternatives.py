"""What users would do instead: rules on length and keywords, LiteLLM's tiers, a blind mix.

They are rows to compare with. Each is fitted on the training part and meets the same budgets as the routers,
at the costs of the table.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import version
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from routers import Features, Floats, Ints, OutcomeTable

from .evaluate import FRONTIER, SplitResult, evaluate_picks, mean_point
from .measures.budgets import N_BUDGETS, lambdas, pick_values

ALTERNATIVES = ("rules", "heuristic_v2", "blind_mix")
"""The rows, by name. Beside them stands no language model as router: it would cost a call a query."""

SHORT, LONG = 200, 800
"""Characters at which prompts count as short and as long; LiteLLM's heuristic has the same borders."""
KEYWORDS = {
    "code": r"```|\b(def|class|function|python|java|javascript|sql|code|regex|bug|algorithm)\b",
    "mathematics": r"\b(solve|calculate|equation|probability|theorem|proof|prove|integral|how many)\b|[$=]",
    "choice": r"(?:^|\s)\(?[A-D][.):]\s",
    "writing": r"\b(write|summari[sz]e|translate|rewrite|essay|poem|story|letter|email)\b",
}
"""Kinds of prompts by their words; the first that matches counts."""
_LEAST = 20
"""Training queries that a cell of the rules must have to speak for itself."""

_PREDICTOR = "litellm.router_strategy.complexity_router.tier_predictor"
_CLASSIFIER = "litellm.router_strategy.adaptive_router.classifier"
N_TIERS = 4
_MAX_RUNGS = 8
"""Experts on a ladder: 330 ladders of four tiers."""


def rules(train: OutcomeTable, train_x: Features, texts: tuple[str, ...], x: Features) -> Floats:
    """(n_queries, n_experts) mean training score among prompts of like length and keywords.

    Fifteen cells; one with few training queries counts as the whole table. Stronger than rules written by
    hand, since its experts were measured.
    """
    overall = train.means()["score"]
    overall = np.where(np.isnan(overall), 0.0, overall)
    cells = np.array([_cell(text) for text in train.texts])
    means: dict[int, Floats] = {}
    for cell in np.unique(cells).tolist():
        inside = cells == cell
        mean = train.take(inside).means()["score"]
        means[cell] = np.where(np.isnan(mean), overall, mean) if inside.sum() >= _LEAST else overall
    found = [means.get(_cell(text), overall) for text in texts]
    return np.array(found).reshape(len(texts), train.n_experts)


def _cell(text: str) -> int:
    kinds = list(KEYWORDS.values())
    kind = next((n for n, words in enumerate(kinds) if re.search(words, text, re.IGNORECASE)), len(kinds))
    return kind * 3 + (len(text) >= SHORT) + (len(text) >= LONG)


@dataclass(frozen=True, slots=True)
class TierReadings:
    """What LiteLLM's heuristic_v2 says of each text: for each of its four tiers the chance of success.

    success: text → (N_TIERS,), not falling; threshold: the chance that it asks of a tier by default;
    missing: why there are no readings, "" where there are some
    """

    success: Mapping[str, tuple[float, ...]]
    threshold: float
    missing: str = ""


def read_tiers(texts: Iterable[str]) -> TierReadings:
    """The tiers of the installed LiteLLM. Its import takes three seconds; no call leaves the process."""
    # LiteLLM fetches prices from the web when it is imported, unless it is told to use its own copy.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor_module, classifier = import_module(_PREDICTOR), import_module(_CLASSIFIER)
            artifact = predictor_module.resolve_tier_artifact("ultrafeedback")
            predictor = predictor_module.TierSuccessPredictor(artifact)
        success = {text: _read_tier(predictor, classifier, text) for text in dict.fromkeys(texts)}
        return TierReadings(success, float(predictor.routing_threshold))
    except (ImportError, AttributeError, OSError, ValueError, KeyError, TypeError):
        return TierReadings({}, 1.0, _explain_missing())


def _read_tier(predictor: Any, classifier: Any, text: str) -> tuple[float, ...]:
    chances = predictor.predict(text, classifier.classify_prompt(text)).probabilities
    return tuple(float(chances[tier]) for tier in range(1, N_TIERS + 1))


def _explain_missing() -> str:
    try:
        return f"litellm {version('litellm')} has no tier predictor heuristic_v2"
    except ImportError:
        return "litellm is not installed"


def evaluate_tiers(train: OutcomeTable, test: OutcomeTable, readings: TierReadings) -> SplitResult:
    """The tiers on a price ladder: an expert for each, none cheaper than that of an easier tier.

    Threshold and ladder are those with the best training score: within each budget, at each λ, and free.
    """
    thresholds = _thresholds(readings, train.texts)
    rungs = _rungs(train)  # (n_rungs,) columns, cheapest first
    ladders = np.array(
        list(combinations_with_replacement(range(len(rungs)), N_TIERS))
    )  # (n_ladders, N_TIERS)
    score, usd = _fill(train.score), _fill(train.cost_usd)
    options, test_tiers = [], []
    for threshold in thresholds:
        members = np.eye(N_TIERS)[_tiers(readings, train.texts, threshold)]  # (n_train, N_TIERS) one-hot
        by_score, by_usd = (members.T @ values[:, rungs] / len(train) for values in (score, usd))
        each = np.arange(N_TIERS)
        options.append((by_score[each, ladders].sum(axis=1), by_usd[each, ladders].sum(axis=1)))
        test_tiers.append(_tiers(readings, test.texts, threshold))

    def picks_of(option: int) -> Ints:
        threshold, ladder = divmod(option, len(ladders))
        picks: Ints = rungs[ladders[ladder][test_tiers[threshold]]]
        return picks

    trained, paid = (np.concatenate(values) for values in zip(*options, strict=True))  # (n_options,)
    return _choose(train, test, trained, paid, picks_of)


def _thresholds(readings: TierReadings, texts: Sequence[str]) -> list[float]:
    """The default, and those between which the easiest tiers of the training texts change."""
    chances = np.array([readings.success[text][:-1] for text in texts])
    return sorted({readings.threshold, *np.quantile(chances, np.arange(1, 10) / 10).tolist()})


def _tiers(readings: TierReadings, texts: Sequence[str], threshold: float) -> Ints:
    """(n_queries,) the first tier whose chance of success is enough, else the last."""
    enough = np.array([readings.success[text] for text in texts]).reshape(-1, N_TIERS) >= threshold
    enough[:, -1] = True
    tiers: Ints = enough.argmax(axis=1)
    return tiers


def _rungs(train: OutcomeTable) -> Ints:
    """Columns of experts that no other beats in both score and cost, cheapest first."""
    means = train.means()
    score, cost = _unknown_last(means["score"]), means["cost_usd"]
    if np.isnan(cost).any():
        return np.array([train.best_single()])
    order = np.lexsort((-score, cost))
    best = np.maximum.accumulate(score[order])
    first = np.concatenate(([True], best[1:] > best[:-1]))
    found: Ints = order[first]
    # Evenly spaced among many, both ends kept.
    return found[np.linspace(0, len(found) - 1, min(len(found), _MAX_RUNGS)).round().astype(np.int64)]


def _choose(
    train: OutcomeTable, test: OutcomeTable, trained: Floats, paid: Floats, picks_of: Callable[[int], Ints]
) -> SplitResult:
    """The result of the best option by training score and cost, (n_options,), of each with its test picks."""
    cost, best = train.means()["cost_usd"], train.best_single()

    def first_of(value: Floats) -> Ints:
        # Rounding must not decide between options that route alike.
        return picks_of(int(np.lexsort((paid, -value.round(12)))[0]))

    free = evaluate_picks(test, first_of(trained))
    if np.isnan(cost).any():
        return free
    budgets = [
        first_of(np.where(paid <= budget * (1 + 1e-9), trained, -np.inf))
        for budget in np.linspace(cost.min(), cost[best], N_BUDGETS)
    ]
    enough = trained >= np.nanmean(train.score[:, best]) - 1e-12
    frugal = (
        first_of(np.where(enough, -paid, -np.inf)) if enough.any() else np.full(len(test), best, np.int64)
    )
    drawn = [first_of(trained - lam * paid / cost.max()) for lam in lambdas(cost)[::8].tolist()]
    return _with_budgets(free, test, budgets, frugal, drawn)


def evaluate_blind_mix(train: OutcomeTable, test: OutcomeTable) -> SplitResult:
    """Two experts mixed without a look at the query: its hash decides, and the share meets the budget.

    At each budget the pair on the upper hull of the training means: no blind mix expects more.
    """
    means = train.means()
    score, cost, best = _unknown_last(means["score"]), means["cost_usd"], train.best_single()
    always = np.full(len(test), best, np.int64)
    free = evaluate_picks(test, always)
    if np.isnan(cost).any():
        return free
    hull = _hull(score, cost)
    draw = np.array([_draw(text) for text in test.texts])  # (n_test,) in [0, 1)
    budgets = []
    for budget in np.linspace(cost.min(), cost[best], N_BUDGETS).tolist():
        dear = min(int(np.searchsorted(cost[hull], budget * (1 + 1e-9), side="right")), len(hull) - 1)
        cheap = max(dear - 1, 0)
        room = cost[hull[dear]] - cost[hull[cheap]]
        share = (budget - cost[hull[cheap]]) / room if room > 0 else 1.0
        budgets.append(np.where(draw < share, hull[dear], hull[cheap]))
    return _with_budgets(free, test, budgets, always, [])


def _hull(score: Floats, cost: Floats) -> Ints:
    """Columns on the upper concave hull of score over cost, from the cheapest to the best."""
    found: list[int] = []
    for column in np.lexsort((-score, cost)).tolist():
        if found and score[column] <= score[found[-1]]:
            continue
        # A point below the line from the one before it to the new one goes; slopes compared crosswise.
        while len(found) > 1:
            (a, b), c = found[-2:], column
            if (score[b] - score[a]) * (cost[c] - cost[a]) > (score[c] - score[a]) * (cost[b] - cost[a]):
                break
            found.pop()
        found.append(column)
    return np.array(found)


def _draw(text: str) -> float:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _with_budgets(
    free: SplitResult, test: OutcomeTable, budgets: Sequence[Ints], frugal: Ints, drawn: Sequence[Ints]
) -> SplitResult:
    """The result with what the picks at each budget, without loss and at each λ came to."""
    nowhere = np.full((len(FRONTIER), 2), np.nan)
    return replace(
        free,
        at_budget=np.mean([pick_values(test.score, picks) for picks in budgets], axis=0),
        at_budget_usd=np.mean([pick_values(test.cost_usd, picks) for picks in budgets], axis=0),
        saving=pick_values(test.score, frugal),
        saving_usd=pick_values(test.cost_usd, frugal),
        saving_share=np.eye(test.n_experts)[frugal],
        frontier=np.array([mean_point(test, picks) for picks in drawn]) if drawn else nowhere,
    )


def _fill(values: Floats) -> Floats:
    """(n_queries, n_experts) with each expert's mean where unmeasured; 0 where nothing was."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean = np.divide(total, known.sum(axis=0), out=np.zeros(values.shape[1]), where=known.any(axis=0))
    return np.where(known, values, mean)


def _unknown_last(score: Floats) -> Floats:
    return np.where(np.isnan(score), -np.inf, score)
