"""The result of one router over a whole protocol: the input of every measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from routers import Bools, Floats, Ints, OutcomeTable

Kind = Literal["router", "baseline", "reference"]


@dataclass(frozen=True, slots=True)
class Run:
    """One router on every query that was tested. Arrays are (n_seeds, n_queries), NaN where not tested.

    score, cost_usd:           with λ = 0
    at_budget, at_budget_usd:  mean over the budgets of `area`
    saving, saving_usd:        with the λ of `cost_saved`
    single, single_usd:        of the best single expert as each training part names it
    share, saving_share:       (n_queries, n_experts) how often each expert was picked, over seeds
    best, best_alone:          whether an expert that did best was picked; NaN in the second where several did
    picks:                     column picked with λ = 0, −1 where untested or not one expert
    quality:                   (n_seeds, n_queries, n_experts) predicted; None where nothing was
    frontier:                  (n_lambdas, 3) λ, mean score and mean cost on the test parts
    rate:                      decisions per second of each test part; empty where nothing was decided
    """

    name: str
    kind: Kind
    score: Floats
    cost_usd: Floats
    at_budget: Floats
    at_budget_usd: Floats
    saving: Floats
    saving_usd: Floats
    single: Floats
    single_usd: Floats
    share: Floats
    saving_share: Floats
    best: Floats
    best_alone: Floats
    picks: Ints
    quality: Floats | None
    frontier: Floats
    rate: Floats


@dataclass(frozen=True, slots=True)
class EvalContext:
    """What all runs of a protocol share.

    domains: names of task groups that `accuracy_in_domain` and `accuracy_out_of_domain` average over
    strong:  (n_seeds,) the better expert of two, as the training part names it; −1 where there are not two
    """

    table: OutcomeTable
    domains: Mapping[str, tuple[str, ...]]
    strong: Ints

    def of_task(self, task: str) -> Bools:
        """(n_queries,) which queries belong to the task."""
        return np.array([name == task for name in self.table.tasks], bool)
