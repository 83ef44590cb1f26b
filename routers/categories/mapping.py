"""What is mapped, what it may take, and a mapping."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..errors import DataError
from ..outcomes import OutcomeTable
from ..types import Floats
from .taxonomy import CategoryScores, Taxonomy

Measure = Literal["size", "memory", "usd", "experts"]


@dataclass(frozen=True, slots=True)
class MappingBudget:
    """What a mapping may take; None sets no limit.

    size, memory: of all experts in use together, in the problem's units; usd: mean cost of a query;
    latency_s: of every pair in use; experts: how many
    """

    size: float | None = None
    memory: float | None = None
    usd: float | None = None
    latency_s: float | None = None
    experts: int | None = None

    def at(self, along: Measure, limit: float) -> "MappingBudget":
        """With another limit on one measure; numbers of experts are rounded down."""
        if along == "experts":
            return replace(self, experts=int(limit))
        if along == "size":
            return replace(self, size=limit)
        return replace(self, memory=limit) if along == "memory" else replace(self, usd=limit)


@dataclass(frozen=True, slots=True)
class MappingProblem:
    """What there is to choose from; NaN is unknown, and an unknown size or cost fails any budget on it.

    share: (n_categories,) of the queries, summing to 1
    score, cost_usd, latency_s: (n_categories, n_experts)
    size, memory: (n_experts,) parameters and bytes, in any unit
    pinned, forbidden: pairs (category, expert) that must and must not be
    """

    categories: tuple[str, ...]
    experts: tuple[str, ...]
    share: Floats
    score: Floats
    cost_usd: Floats
    latency_s: Floats
    size: Floats
    memory: Floats
    pinned: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    forbidden: frozenset[tuple[str, str]] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class CategoryMapping:
    """One mapping: per category the expert and whom to fail over to, and what it takes; NaN where unknown.

    quality: expected score; active_size: mean size of the expert that answers; usd: mean cost of a query
    """

    categories: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str | None, ...]
    experts: tuple[str, ...]
    quality: float
    size: float
    memory: float
    active_size: float
    usd: float

    def by_category(self) -> dict[str, tuple[str, ...]]:
        """Who is to be asked, in order: what a policy's `mapping` holds."""
        pairs = zip(self.categories, self.first, self.second, strict=True)
        return {name: (one,) if other is None else (one, other) for name, one, other in pairs}


FAILOVER = 0.05
"""Share of calls the second expert is assumed to take: what its score counts beside the first's."""


class Program:
    """The integer program in x (n_categories · n_experts), perhaps x′ (as many), and y (n_experts)."""

    def __init__(self, problem: MappingProblem, budget: MappingBudget, second: bool) -> None:
        self.problem = problem
        self.second = second
        self.n_c, self.n_e = problem.score.shape
        self.n_x = self.n_c * self.n_e
        self.n = self.n_x * (2 if second else 1) + self.n_e
        # Σ share · score is what is maximised
        gain = (problem.share[:, None] * np.nan_to_num(problem.score)).ravel()
        rest = np.zeros(self.n_e)
        self.value: Floats = (
            np.concatenate(((1 - FAILOVER) * gain, FAILOVER * gain, rest))
            if second
            else np.concatenate((gain, rest))
        )
        self.lower, self.upper = np.zeros(self.n), np.ones(self.n)
        self._close_pairs(budget)
        self.rows: list[tuple[Any, float, float]] = [self._one_each(), self._only_present()]
        if second:
            self.rows.append((self._per_category(self.n_x), 0.0, 1.0))
        self._limit(budget)

    def _close_pairs(self, budget: MappingBudget) -> None:
        p = self.problem
        closed = np.isnan(p.score)  # (n_categories, n_experts)
        if budget.latency_s is not None:
            closed |= p.latency_s > budget.latency_s
        if budget.usd is not None:
            closed |= np.isnan(p.cost_usd)
        for category, expert in p.forbidden:
            closed[p.categories.index(category), p.experts.index(expert)] = True
        flat = closed.ravel()
        for start in range(0, self.n - self.n_e, self.n_x):
            self.upper[start : start + self.n_x][flat] = 0.0
        for category, expert in p.pinned:
            self.lower[p.categories.index(category) * self.n_e + p.experts.index(expert)] = 1.0
        for name, limit in (("size", budget.size), ("memory", budget.memory)):
            if limit is not None:
                self.upper[-self.n_e :][np.isnan(getattr(p, name))] = 0.0

    def _per_category(self, start: int) -> Any:
        """(n_categories, n) sums of a block of pairs over its experts."""
        from scipy.sparse import csr_array

        row = np.repeat(np.arange(self.n_c), self.n_e)
        return csr_array((np.ones(self.n_x), (row, start + np.arange(self.n_x))), (self.n_c, self.n))

    def _one_each(self) -> tuple[Any, float, float]:
        return self._per_category(0), 1.0, 1.0

    def _only_present(self) -> tuple[Any, float, float]:
        """x_ce + x′_ce − y_e ≤ 0."""
        from scipy.sparse import csr_array

        pair = np.arange(self.n_x)
        blocks = [(pair, np.ones(self.n_x)), (self.n - self.n_e + pair % self.n_e, -np.ones(self.n_x))]
        if self.second:
            blocks.append((self.n_x + pair, np.ones(self.n_x)))
        columns, values = (np.concatenate(side) for side in zip(*blocks, strict=True))
        return csr_array((values, (np.tile(pair, len(blocks)), columns)), (self.n_x, self.n)), -np.inf, 0.0

    def _limit(self, budget: MappingBudget) -> None:
        limits: dict[Measure, float | None] = {
            "size": budget.size,
            "memory": budget.memory,
            "usd": budget.usd,
            "experts": budget.experts,
        }
        for name, limit in limits.items():
            if limit is not None:
                taken = np.nan_to_num(self.measure(name))
                scale = float(taken.max()) or 1.0
                self.rows.append((taken[None] / scale, -np.inf, limit / scale))

    def measure(self, name: Measure) -> Floats:
        """(n,) what each variable takes; what is unknown counts as the most that is known."""
        p = self.problem
        taken = np.zeros(self.n)
        if name == "usd":
            taken[: self.n_x] = (p.share[:, None] * _most_where_unknown(p.cost_usd)).ravel()
        else:
            each = {"size": p.size, "memory": p.memory, "experts": np.ones(self.n_e)}[name]
            taken[-self.n_e :] = _most_where_unknown(each)
        return taken

    def run(
        self, cost: Floats, *, at_least: tuple[Floats, float] | None = None, whole: bool = True
    ) -> Floats | None:
        """(n,) the variables at the least cost; None if there are none."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        rows = [LinearConstraint(matrix, low, high) for matrix, low, high in self.rows]
        if at_least is not None:
            rows.append(LinearConstraint(at_least[0][None], at_least[1], np.inf))
        scale = float(np.abs(cost).max()) or 1.0
        found = milp(
            cost / scale,
            integrality=np.full(self.n, int(whole)),
            bounds=Bounds(self.lower, self.upper),
            constraints=rows,
            options={"mip_rel_gap": 0.0},  # to the proven optimum: the default stops within 1e-4
        )
        if found.x is None:
            return None
        # the solver's integers are off by its tolerance
        solved: Floats = np.round(found.x) if whole else found.x
        return solved

    def read(self, solved: Floats) -> CategoryMapping:
        p = self.problem
        pairs = solved[: self.n_x].reshape(self.n_c, self.n_e)  # x_ce
        chosen = pairs.argmax(axis=1)
        spare: list[str | None] = [None] * self.n_c
        used = set(chosen.tolist())
        if self.second:
            others = solved[self.n_x : 2 * self.n_x].reshape(self.n_c, self.n_e)
            for c in np.flatnonzero(others.max(axis=1) > 0):
                spare[c] = p.experts[int(others[c].argmax())]
                used.add(int(others[c].argmax()))
        members = sorted(used)
        at = np.arange(self.n_c), chosen
        return CategoryMapping(
            categories=p.categories,
            first=tuple(p.experts[e] for e in chosen),
            second=tuple(spare),
            experts=tuple(p.experts[e] for e in members),
            quality=float(p.share @ p.score[at]),
            size=float(p.size[members].sum()),
            memory=float(p.memory[members].sum()),
            active_size=float(p.share @ p.size[chosen]),
            usd=float(p.share @ p.cost_usd[at]),
        )


def _most_where_unknown(values: Floats) -> Floats:
    most = float(np.nanmax(values)) if not np.isnan(values).all() else 1.0
    return np.where(np.isnan(values), most, values)


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
    found = _even_budgets(problem, top, limits, second, n_points) if along == "usd" else []
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


def _even_budgets(
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


_STRENGTH = 20.0
"""Outcomes an expert's overall mean counts for in a category."""
_UNCERTAIN = 0.05
"""Least share of the queries reckoned to be general: those too uncertain for any category."""
_MIN_COUNT = 5

Pair = tuple[str, str]


def build_mapping_problem(
    table: OutcomeTable,
    tags: Sequence[str],
    *,
    size: Mapping[str, float] | None = None,
    memory: Mapping[str, float] | None = None,
    pinned: Iterable[Pair] = (),
    forbidden: Iterable[Pair] = (),
) -> MappingProblem:
    """Categories are the tags that at least five queries bear, and `general`; means are shrunk.

    tags: one a query; size, memory: by expert, of those known

    Raises:
        DataError: no query bears a tag, or a pair or size names a category or expert that is not there.
    """
    if not any(tags):
        raise DataError("no query has a task: there are no categories to map")
    taxonomy = Taxonomy.of(tags, _MIN_COUNT)
    labels = taxonomy.labels(tags)

    def shrunk(values: Floats) -> Floats:
        return CategoryScores.of(values, labels, len(taxonomy), _STRENGTH).value

    share = np.bincount(labels[labels >= 0], minlength=len(taxonomy)).astype(np.float64)
    share /= share.sum()
    share[-1] = max(share[-1], _UNCERTAIN)  # the general category is the last
    return MappingProblem(
        categories=taxonomy.names,
        experts=table.experts,
        share=share / share.sum(),
        score=shrunk(table.score),
        cost_usd=shrunk(table.cost_usd),
        latency_s=shrunk(table.latency_s),
        size=_column(table.experts, size or {}, "size"),
        memory=_column(table.experts, memory or {}, "memory"),
        pinned=_pairs(pinned, taxonomy, table.experts),
        forbidden=_pairs(forbidden, taxonomy, table.experts),
    )


def _column(experts: Sequence[str], known: Mapping[str, float], what: str) -> Floats:
    _check_known(known, experts, f"{what}: no expert")
    return np.array([known.get(name, np.nan) for name in experts])


def _pairs(pairs: Iterable[Pair], taxonomy: Taxonomy, experts: Sequence[str]) -> frozenset[Pair]:
    found = frozenset(pairs)
    _check_known((category for category, _ in found), taxonomy.names, "no category")
    _check_known((expert for _, expert in found), experts, "no expert")
    return found


def _check_known(names: Iterable[str], there: Sequence[str], what: str) -> None:
    for name in names:
        if name not in there:
            raise DataError(f"{what} {name!r}; there are {', '.join(there)}")
