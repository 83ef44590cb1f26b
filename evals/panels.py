"""Replays plans, panels included, on recorded outcomes; no expert is called."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies import Attempt, Gather, Gathered, Heard, Plan
from routers import Bools, Floats, Ints, OutcomeTable

RIGHT = 0.5
"""A score from here on counts as a right answer where answers themselves were not recorded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one plan came to. `cost_usd` is of every call; NaN where the cost of one call is not known.

    pick: column of the expert whose answer it is; of the first member where that cannot be told
    by_proxy: whether the score stands for a vote on answers that were not recorded
    """

    pick: int
    score: float
    cost_usd: float
    by_proxy: bool = False


def replay_plan(plan: Plan, table: OutcomeTable, row: int) -> Outcome:
    """Drive a plan with the outcomes recorded for one query; one without a measurement failed.

    What an aggregator would say was never recorded: it fails, and the vote counts. Where answers were not
    recorded either, a panel scores 1 if more than half of its members' scores are at least 0.5, else 0.
    """
    column = {name: n for n, name in enumerate(table.experts)}
    steps = plan.attempts()
    spent = 0.0
    try:
        step = next(steps)
        while True:
            heard: Heard = "moved_on"
            if isinstance(step, Gather):
                asked = [column[name] for name in step.experts if _measured(table, row, column[name])]
                spent += float(table.cost_usd[row, asked].sum())
                answers = _answers(table, row, asked)
                if answers is None:
                    votes = np.isin(np.arange(table.n_experts), asked)[None]
                    return Outcome(asked[0], float(majority_right(table.score[[row]], votes)[0]), spent, True)
                heard = Gathered({table.experts[e]: text for e, text in answers.items()})
            elif _answered(step, table, row, column[step.expert]):
                e = column[step.expert]
                return Outcome(e, float(table.score[row, e]), spent + float(table.cost_usd[row, e]))
            step = steps.send(heard)
    except StopIteration as done:
        if done.value is None:
            return Outcome(column[plan.experts[0]], np.nan, np.nan)
        return Outcome(column[done.value], float(table.score[row, column[done.value]]), spent)


def _measured(table: OutcomeTable, row: int, e: int) -> bool:
    return not np.isnan(table.score[row, e])


def _answered(step: Attempt, table: OutcomeTable, row: int, e: int) -> bool:
    return step.answers is None and _measured(table, row, e)


def _answers(table: OutcomeTable, row: int, asked: Sequence[int]) -> dict[int, str] | None:
    """Answers by column; None where one is missing."""
    told = table.answers[row] if table.answers is not None else (None,) * table.n_experts
    found = {e: told[e] for e in asked}
    texts = {e: text for e, text in found.items() if text is not None}
    return texts if len(texts) == len(found) else None


def majority_right(score: Floats, votes: Floats | Ints | Bools) -> Floats:
    """(n_queries,) 1 where more than half of the votes score at least 0.5: the proxy for a vote on answers.

    votes: (n_queries, n_experts) how often each is asked; an expert without a measurement has none
    """
    counted = np.where(np.isnan(score), 0, votes)
    right = np.where(score >= RIGHT, counted, 0).sum(axis=1)
    most: Floats = (2 * right > counted.sum(axis=1)).astype(np.float64)
    return most


def oracle_of(score: Floats, votes: Floats | Ints) -> Floats:
    """(n_queries,) the best score among those who are asked; NaN where none of them was measured."""
    best = np.where((votes > 0) & ~np.isnan(score), score, -np.inf).max(axis=1)
    return np.where(np.isinf(best), np.nan, best)
