"""Which expert answers which category: the best mapping a budget allows, exactly, as an integer program.

    max  Σ_c w_c Σ_e s_ce x_ce
    s.t. Σ_e x_ce = 1,  x_ce ≤ y_e,  Σ_e size_e y_e ≤ B,  Σ_ce w_c cost_ce x_ce ≤ $,  Σ_e y_e ≤ K,
         x, y ∈ {0, 1}

Reference: Composition of Experts (arXiv 2412.01868), its parameter budget.
Differs: memory, money, latency and the number of experts beside parameters; pairs that must or must not be;
a second expert per category to fail over to; of equally good mappings the one that takes least.
"""

import numpy as np

from .budget import CategoryMapping, MappingBudget, MappingProblem, Measure
from .program import Program

_SLACK = 1e-7
"""Scores closer than this are equal."""
_STEP = 1e-5
"""How far below a mapping's total the next is looked for, of all there is: above the solver's tolerance."""


def solve_mapping(
    problem: MappingProblem,
    budget: MappingBudget | None = None,
    *,
    second: bool = False,
    least: Measure = "size",
) -> CategoryMapping | None:
    """The best mapping within the budget, of equally good ones the one that takes the least of `least`.

    None if no mapping fits.

    second: also name an expert to fail over to, wherever the budget leaves room for one.
    """
    program = Program(problem, budget or MappingBudget(), second)
    best = program.run(-program.value)
    if best is None:
        return None
    floor = float(program.value @ best) - _SLACK
    thrifty = program.run(program.measure(least), at_least=(program.value, floor))
    return program.read(best if thrifty is None else thrifty)


def upper_bound(problem: MappingProblem, budget: MappingBudget | None = None) -> float:
    """No mapping within the budget is expected to score more: the linear relaxation; NaN if none fits."""
    program = Program(problem, budget or MappingBudget(), second=False)
    found = program.run(-program.value, whole=False)
    return float("nan") if found is None else float(program.value @ found)


def budget_curve(
    problem: MappingProblem,
    along: Measure = "size",
    budget: MappingBudget | None = None,
    *,
    second: bool = False,
    n_points: int = 200,
) -> list[CategoryMapping]:
    """Every mapping that is the best for some budget on `along`, smallest first; other limits stay.

    Money changes in steps too small to walk through: there `n_points` budgets evenly spaced are solved.
    """
    limits = budget or MappingBudget()
    top = solve_mapping(problem, limits, second=second, least=along)
    if top is None:
        return []
    found = _even(problem, top, limits, second, n_points) if along == "usd" else []
    if along != "usd":
        found = [top]
        while len(found) < n_points and (smaller := _next_smaller(problem, found[-1], along, limits, second)):
            found.append(smaller)
        found.reverse()
    return found


def _next_smaller(
    problem: MappingProblem, last: CategoryMapping, along: Measure, limits: MappingBudget, second: bool
) -> CategoryMapping | None:
    taken = len(last.experts) if along == "experts" else float(getattr(last, along))
    if not taken > 0:
        return None
    every = {"size": problem.size, "memory": problem.memory}.get(along)
    step = 1.0 if every is None else _STEP * float(np.nansum(every))
    return solve_mapping(problem, limits.at(along, taken - step), second=second, least=along)


def _even(
    problem: MappingProblem, top: CategoryMapping, limits: MappingBudget, second: bool, n_points: int
) -> list[CategoryMapping]:
    cost = np.where(np.isnan(problem.cost_usd), np.inf, problem.cost_usd).min(axis=1)
    least = float(problem.share @ cost)
    found: list[CategoryMapping] = []
    for limit in np.linspace(least, top.usd, n_points) if np.isfinite(least) and top.usd >= least else ():
        point = solve_mapping(problem, limits.at("usd", float(limit)), second=second, least="usd")
        if point is not None and (not found or point.quality > found[-1].quality + _SLACK):
            found.append(point)
    return found or [top]
