import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from routers import DataError, OutcomeTable
from routers.categories import (
    CategoryMapping,
    MappingBudget,
    MappingProblem,
    budget_curve,
    build_mapping_problem,
    solve_mapping,
    upper_bound,
)

NAN = np.nan
SEEDS = range(6)


def problem(
    score: Any, size: Any = None, cost: Any = None, latency: Any = None, **rest: Any
) -> MappingProblem:
    s = np.asarray(score, float)
    n_c, n_e = s.shape
    unknown = np.full(s.shape, NAN)
    return MappingProblem(
        categories=tuple("abcdefgh"[:n_c]),
        experts=tuple("uvwxyz"[:n_e]),
        share=np.full(n_c, 1 / n_c),
        score=s,
        cost_usd=unknown if cost is None else np.asarray(cost, float),
        latency_s=unknown if latency is None else np.asarray(latency, float),
        size=np.full(n_e, NAN) if size is None else np.asarray(size, float),
        memory=np.full(n_e, NAN) if size is None else 2 * np.asarray(size, float),
        **rest,
    )


def draw_problem(seed: int, n_c: int = 4, n_e: int = 5) -> MappingProblem:
    rng = np.random.default_rng(seed)
    made = problem(rng.random((n_c, n_e)), rng.integers(1, 9, n_e), rng.random((n_c, n_e)))
    share = rng.random(n_c)
    return replace(made, share=share / share.sum())


def every_mapping(p: MappingProblem) -> Any:
    """(quality, size, usd) of each mapping there is."""
    rows = np.arange(len(p.categories))
    for choice in itertools.product(range(len(p.experts)), repeat=len(rows)):
        at = rows, np.array(choice)
        yield p.share @ p.score[at], p.size[list(set(choice))].sum(), p.share @ p.cost_usd[at]


def solve(p: MappingProblem, budget: MappingBudget | None = None, **how: Any) -> CategoryMapping:
    found = solve_mapping(p, budget, **how)
    assert found is not None
    return found


def test_without_a_budget_each_category_goes_to_its_best_expert() -> None:
    found = solve(problem([[0.9, 0.2], [0.1, 0.5]], [7, 70]))
    assert found.by_category() == {"a": ("u",), "b": ("v",)}
    assert (found.quality, found.size, found.active_size) == pytest.approx((0.7, 77, 38.5))


def test_a_budget_takes_the_expert_that_is_worth_most_per_query_it_answers() -> None:
    p = replace(problem([[0.9, 0.6, 0.2], [0.1, 0.5, 0.6]], [40, 30, 40]), share=np.array([0.75, 0.25]))
    assert solve(p, MappingBudget(size=40)).experts == ("u",)
    assert solve(p, MappingBudget(size=39)).experts == ("v",)
    assert solve(p, MappingBudget(size=70)).by_category() == {"a": ("u",), "b": ("v",)}
    assert solve_mapping(p, MappingBudget(size=29)) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_no_mapping_within_the_budgets_is_better(seed: int) -> None:
    p = draw_problem(seed)
    budget = MappingBudget(size=float(p.size.sum() / 2), usd=0.45)
    best = max(q for q, size, usd in every_mapping(p) if size <= budget.size and usd <= budget.usd)
    assert solve(p, budget).quality == pytest.approx(best)


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_is_never_above_and_the_relaxation_never_below(seed: int) -> None:
    p = draw_problem(seed, n_c=8, n_e=6)
    limit = float(p.size.sum() * 0.4)
    chosen: list[int] = []
    while True:
        fits = [e for e in range(6) if e not in chosen and p.size[[*chosen, e]].sum() <= limit]
        gains = {e: p.share @ p.score[:, [*chosen, e]].max(axis=1) for e in fits}
        if not gains:
            break
        chosen.append(max(gains, key=lambda e: gains[e]))
    greedy = p.share @ p.score[:, chosen].max(axis=1)
    exact = solve(p, MappingBudget(size=limit)).quality
    assert greedy <= exact + 1e-9 <= upper_bound(p, MappingBudget(size=limit)) + 2e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_the_curve_holds_every_mapping_that_is_best_for_some_budget(seed: int) -> None:
    p = draw_problem(seed)
    expected: list[tuple[float, float]] = []
    for quality, size, _ in sorted(every_mapping(p), key=lambda one: (one[1], -one[0])):
        if not expected or quality > expected[-1][1] + 1e-9:
            expected = [*(point for point in expected if point[0] < size), (size, quality)]
    found = [(point.size, point.quality) for point in budget_curve(p)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("along", ["size", "memory", "usd", "experts"])
def test_more_budget_is_never_worse(along: Any) -> None:
    points = budget_curve(draw_problem(3), along, n_points=12)
    quality = [point.quality for point in points]
    assert len(points) > 1
    assert quality == sorted(quality)


def test_a_tighter_budget_never_costs_more() -> None:
    p = draw_problem(1)
    for limit in (0.3, 0.4, 0.5):
        assert solve(p, MappingBudget(usd=limit)).usd <= limit + 1e-6


def test_memory_latency_and_the_number_of_experts_are_kept() -> None:
    p = problem([[0.9, 0.8], [0.1, 0.5]], [7, 30], latency=[[3.0, 1.0], [3.0, NAN]])
    assert solve(p, MappingBudget(memory=59)).experts == ("u",)
    assert solve(p, MappingBudget(latency_s=2.0)).first == ("v", "v")
    assert solve(p, MappingBudget(experts=1)).experts == ("v",)


def test_what_is_unknown_fails_a_budget_on_it_and_no_other() -> None:
    p = problem([[0.9, 0.2]], [NAN, 7], cost=[[NAN, 0.1]])
    assert solve(p).first == ("u",)
    assert solve(p, MappingBudget(size=100)).first == ("v",)
    assert solve(p, MappingBudget(usd=1.0)).first == ("v",)
    assert solve(p, MappingBudget(experts=1)).first == ("u",)


def test_pairs_are_pinned_and_forbidden() -> None:
    p = problem([[0.9, 0.2], [0.9, 0.5]], [7, 7])
    assert solve(replace(p, pinned=frozenset({("a", "v")}))).first == ("v", "u")
    assert solve(replace(p, forbidden=frozenset({("b", "u")}))).first == ("u", "v")
    both = frozenset({("a", "u")})
    assert solve_mapping(replace(p, pinned=both, forbidden=both)) is None


def test_an_expert_nobody_measured_is_never_mapped() -> None:
    assert solve(problem([[NAN, 0.2]])).first == ("v",)


def test_the_second_is_another_expert_and_only_where_there_is_room() -> None:
    p = problem([[0.9, 0.6, 0.1], [0.2, 0.3, 0.8]], [7, 7, 7])
    assert solve(p, second=True).by_category() == {"a": ("u", "v"), "b": ("w", "v")}
    assert solve(p, MappingBudget(experts=1), second=True).second == (None, None)
    two = solve(p, MappingBudget(size=14), second=True)
    assert two.by_category() == {"a": ("u", "w"), "b": ("w", "u")}


def test_of_equally_good_mappings_the_smallest_is_taken() -> None:
    assert solve(problem([[0.5, 0.5, 0.5]], [9, 3, 6])).experts == ("v",)


TABLE = OutcomeTable.build(
    [f"{task} {n}" for task in ("sum", "poem") for n in range(10)],
    ["a", "b"],
    {
        "score": np.repeat([[1.0, 0.0], [0.0, 1.0]], 10, axis=0),
        "cost_usd": np.tile([1.0, NAN], (20, 1)),
    },
    tasks=["sum"] * 10 + ["poem"] * 10,
)


def test_a_tables_tasks_are_categories_with_shrunk_scores() -> None:
    p = build_mapping_problem(TABLE, TABLE.tasks, size={"a": 7.0})
    assert p.categories == ("poem", "sum", "general")
    # (10·s̄ + 20·½) / 30; no expert has a general query: the overall mean. Of 1.05, 0.05 is general.
    np.testing.assert_allclose(p.score, [[1 / 3, 2 / 3], [2 / 3, 1 / 3], [0.5, 0.5]])
    np.testing.assert_allclose(p.share, np.array([0.5, 0.5, 0.05]) / 1.05)
    np.testing.assert_array_equal(p.size, [7.0, NAN])
    np.testing.assert_allclose(p.cost_usd[:, 0], 1.0)
    assert np.isnan(p.cost_usd[:, 1]).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"tags": [""] * 20}, "no query has a task"),
        ({"pinned": [("prose", "a")]}, "no category 'prose'; there are poem, sum, general"),
        ({"forbidden": [("sum", "c")]}, "no expert 'c'; there are a, b"),
        ({"size": {"c": 7.0}}, "size: no expert 'c'"),
    ],
)
def test_a_problem_that_names_what_is_not_there_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_mapping_problem(TABLE, **{"tags": TABLE.tasks, **how})
