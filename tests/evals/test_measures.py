from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evals.measures import (
    MEASURES,
    EvalContext,
    Run,
    average_by_weight,
    interval_of,
    reliability,
    resample_weights,
)
from routers import Floats, OutcomeTable

ONES = np.ones((1, 4))


def run(score: list[float], **others: Any) -> Run:
    held = np.array([score], np.float64)
    none = np.full_like(held, np.nan)
    cost = ("cost_usd", "at_budget_usd", "saving_usd", "single_usd")
    arrays: dict[str, Any] = dict.fromkeys((*cost, "at_budget", "saving", "single"), none)
    made = Run(
        name="r",
        kind="router",
        score=held,
        share=np.zeros((held.size, 2)),
        saving_share=np.zeros((held.size, 2)),
        best=none,
        best_alone=none,
        picks=np.zeros(held.shape, np.int64),
        quality=None,
        frontier=np.zeros((0, 3)),
        rate=np.zeros(0),
        **arrays,
    )
    return replace(made, **dict[str, Any]({key: np.array(value) for key, value in others.items()}))


def context(score: list[list[float]], strong: int = -1, **domains: tuple[str, ...]) -> EvalContext:
    held = OutcomeTable.build(
        [str(n) for n in range(len(score))],
        ["weak", "strong"],
        {"score": np.array(score)},
        tasks=["a", "b"] * 2,
    )
    return EvalContext(held, domains, np.array([strong]))


HALF = context([[1, 1], [0, 1], [0, 0], [1, 0]])


def value(name: str, of: Run, on: EvalContext = HALF, weights: Floats = ONES) -> float:
    return float(MEASURES[name].of(of, on, weights)[0])


def test_accuracy_is_the_mean_and_gain_is_against_the_best_single() -> None:
    mine = run([1, 1, 0, 0.5], single=[[1, 0, 0, 0.25]])
    assert value("accuracy", mine) == pytest.approx(0.625)
    assert value("gain", mine) == pytest.approx(1.0)


def test_the_macro_average_counts_tasks_alike_and_is_null_without_domains() -> None:
    mine = run([1, 0, 1, 0])
    on = context([[0, 0]] * 4, in_domain=("a", "b"))
    assert value("accuracy_in_domain", mine, on, np.array([[1.0, 9.0, 1.0, 9.0]])) == 0.5
    assert np.isnan(value("accuracy_in_domain", mine))


def test_cost_saved_is_a_ratio_of_sums_beside_its_difference_in_score() -> None:
    mine = run(
        [0] * 4,
        saving=[[1, 0, 1, 1]],
        single=[[1, 1, 1, 1]],
        saving_usd=[[1, 1, 1, 1]],
        single_usd=[[1, 3, 2, 2]],
    )
    assert value("cost_saved", mine) == pytest.approx(0.5)
    assert value("cost_saved_score", mine) == pytest.approx(-0.25)


def test_router_arena_of_a_worked_case() -> None:
    """Half right at the cheapest: C = 1, S = 1.1·.5·1/(.05 + 1); at the dearest C = 0."""
    cheap = run([1, 0, 1, 0], cost_usd=[[0.0044 / 1000] * 4])
    assert value("router_arena", cheap) == pytest.approx(1.1 * 0.5 / 1.05)
    assert value("router_arena", run([1] * 4, cost_usd=[[0.2] * 4])) == 0
    assert value("router_arena", run([1] * 4, cost_usd=[[0.0] * 4])) == 1
    assert np.isnan(value("router_arena", run([1] * 4)))


def test_regret_is_what_the_oracle_has_more() -> None:
    assert value("regret", run([0, 1, 0, 0])) == pytest.approx(0.5)


def test_apgr_of_perfect_reversed_and_random_order() -> None:
    """Of four queries the strong expert gains on one and loses on none: found first, or last."""
    on = context([[1, 1], [0, 1], [0, 0], [1, 1]], strong=1)
    first = np.array([[[0, 0.1], [0, 0.9], [0, 0.2], [0, 0.0]]])
    perfect = run([0] * 4, quality=first)
    worst = run([0] * 4, quality=-first)
    assert value("apgr", perfect, on) == pytest.approx(7 / 8)
    assert value("apgr", worst, on) == pytest.approx(1 / 8)
    assert value("apgr_10", perfect, on) == pytest.approx((0.4 + 0.8 + 8) / 10)
    assert np.isnan(value("apgr", perfect, replace(on, strong=np.array([-1]))))


def test_apgr_of_no_idea_is_one_half() -> None:
    rng = np.random.default_rng(1)
    held = OutcomeTable.build(
        [str(n) for n in range(20000)],
        ["weak", "strong"],
        {"score": rng.integers(0, 2, (20000, 2)) * [0.5, 1.0]},
    )
    blind = run([0] * 20000, quality=np.zeros((1, 20000, 2)))
    on = EvalContext(held, {}, np.array([1]))
    assert float(MEASURES["apgr"].of(blind, on, np.ones((1, 20000)))[0]) == pytest.approx(0.5, abs=0.02)


def test_apgr_of_ties_does_not_hang_on_the_order_of_the_table() -> None:
    """Gains stand first in the table: taken in its order, a router with no idea would look good."""
    held = OutcomeTable.build(
        [str(n) for n in range(2000)],
        ["weak", "strong"],
        {"score": np.array([[0, 1], [0, 0]]).repeat(1000, 0)},
    )
    on = EvalContext(held, {}, np.array([1]))
    blind = run([0] * 2000, quality=np.zeros((1, 2000, 2)))
    assert float(MEASURES["apgr"].of(blind, on, np.ones((1, 2000)))[0]) == pytest.approx(0.5, abs=0.03)


def test_a_resampled_measure_is_the_measure_of_the_resampled_table() -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, 2, (4, 2)).astype(float)
    quality = rng.random((1, 4, 2))
    on = context(score.tolist(), strong=1)
    drawn = np.array([0, 1, 1, 3])
    pick_values = replace(on, table=on.table.take(np.array([0, 1, 3])))
    mine = run([0] * 4, quality=quality)
    part = run([0] * 3, quality=quality[:, [0, 1, 3]])
    counts = np.bincount(drawn, minlength=4)[None].astype(float)
    whole = value("brier", mine, on, counts)
    assert whole == pytest.approx(value("brier", part, pick_values, np.array([[1.0, 2.0, 1.0]])))


def test_reliability_bins_hold_every_outcome() -> None:
    quality = np.array([[[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]]])
    mine = run([0] * 4, quality=quality)
    bins = reliability(mine, HALF)
    assert sum(n for _, _, n in bins) == 8
    assert value("calibration_error", mine) == pytest.approx(
        sum(abs(said - came) * n for said, came, n in bins) / 8
    )
    assert np.isnan(value("brier", run([0] * 4)))


def test_gaps_are_passed_over_and_reported() -> None:
    mine = run([1, np.nan, 0, np.nan])
    assert value("accuracy", mine) == 0.5
    assert value("measured", mine) == 0.5
    assert np.isnan(average_by_weight(np.full((1, 4), np.nan), ONES)[0])


def test_intervals_hold_the_value_and_are_as_wide_as_chance() -> None:
    values = np.random.default_rng(0).random((1, 500))
    found = interval_of(average_by_weight(values, resample_weights(500, 2000)))
    assert found is not None
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(500), rel=0.15)
    assert interval_of(np.full(10, np.nan)) is None
