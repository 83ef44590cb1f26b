"""The mapping problem as an integer program in HiGHS's form."""

from typing import Any

import numpy as np

from ..types import Floats
from .budget import CategoryMapping, MappingBudget, MappingProblem, Measure

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
        closed = np.isnan(p.score)
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
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        solved: Floats = np.round(found.x) if whole else found.x
        return solved

    def read(self, solved: Floats) -> CategoryMapping:
        p = self.problem
        pairs = solved[: self.n_x].reshape(self.n_c, self.n_e)
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
