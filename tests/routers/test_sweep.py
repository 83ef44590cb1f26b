"""The λ table: what a weight on cost buys, by hand and as kept in an artifact."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers import Scale, compute_utility, pick, trace_choices
from routers.sweep import MAX_SAMPLE, WEIGHTS, Sample, Sweep, sweep

QUALITY = np.array([[0.9, 0.5], [0.6, 0.5], [0.3, 0.5]])
SCORE = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
COST = np.tile([0.010, 0.001], (3, 1))


def at(table: Sweep, weight: float) -> tuple[Any, Any]:
    n = int(np.searchsorted(table.weight, weight, side="right")) - 1
    return float(table.cost_usd[n]), float(table.quality[n])


def test_each_weight_costs_and_scores_what_its_choices_do() -> None:
    table = sweep(QUALITY, SCORE, COST, Scale(0.010))
    assert at(table, 0.0) == (pytest.approx(0.021 / 3), 1.0)
    assert at(table, 0.2) == (pytest.approx(0.012 / 3), 1.0)  # .6 − .2 < .5 − .02
    assert at(table, 1.0) == (pytest.approx(0.001), pytest.approx(2 / 3))


def test_a_limit_takes_the_smallest_weight_and_a_target_the_largest() -> None:
    table = sweep(QUALITY, SCORE, COST, Scale(0.010))
    weight = table.weight_for_cost(0.005)
    assert weight is not None
    assert (
        at(table, weight)[0] <= 0.005 < float(table.cost_usd[np.flatnonzero(table.weight == weight)[0] - 1])
    )
    assert table.weight_for_cost(1.0) == 0.0
    assert table.weight_for_cost(0.0009) is None
    dearest = table.weight_for_quality(1.0)
    assert dearest is not None
    assert at(table, dearest) == (pytest.approx(0.004), 1.0)
    assert table.weight_for_quality(0.5) == WEIGHTS[-1]
    assert table.weight_for_quality(1.01) is None


def test_equal_utility_goes_to_the_cheaper() -> None:
    table = sweep(
        np.full((4, 2), 0.5), np.tile([1.0, 0.0], (4, 1)), np.tile([0.01, 0.001], (4, 1)), Scale(0.01)
    )
    assert at(table, 0.0) == (pytest.approx(0.001), 0.0)


def test_where_nobody_measured_the_prediction_stands_in() -> None:
    table = sweep(QUALITY, np.full((3, 2), np.nan), COST, Scale(0.010))
    assert at(table, 0.0)[1] == pytest.approx((0.9 + 0.6 + 0.5) / 3)


def test_who_declined_is_never_taken_however_cheap() -> None:
    table = sweep(np.array([[0.9, -1.0]]), np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), Scale())
    assert set(table.cost_usd.tolist()) == {1.0}


def test_rows_are_told_where_something_changes() -> None:
    rows = sweep(QUALITY, SCORE, COST, Scale(0.010)).rows()
    assert [row["usd_per_1k"] for row in rows] == [7.0, 4.0, 1.0]
    assert rows[0] == {"cost": 0.0, "usd_per_1k": 7.0, "quality": 1.0}


def test_the_weight_in_use_has_its_own_row() -> None:
    """Between two steps of the table's weights a limit is met that the lower of them exceeds."""
    table = sweep(QUALITY, SCORE, COST, Scale(0.010))
    weight = table.weight_for_cost(0.004)
    assert weight is not None
    (row,) = [row for row in table.rows(weight) if row["cost"] == pytest.approx(weight, rel=1e-5)]
    assert row["usd_per_1k"] == 4.0
    assert all(row["usd_per_1k"] > 4.0 for row in table.rows(weight) if row["cost"] < 0.999 * weight)


@given(st.integers(0, 10**6))
def test_a_larger_weight_never_costs_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quality, cost = rng.random((30, 4)), rng.random((30, 4))
    table = sweep(quality, quality, cost, Scale.of(cost.mean(axis=0)))
    assert (np.diff(table.cost_usd) <= 1e-12).all()


def test_a_thinned_sample_is_kept_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    n = MAX_SAMPLE + 500
    score = rng.random((n, 2))
    score[::7] = np.nan
    sample = Sample(
        rng.random(n), score, {"encoder": rng.random((n, 2))}, {"encoder": np.full((n, 2), np.nan)}
    )
    thin = sample.thin()
    assert len(thin) == MAX_SAMPLE
    back = Sample.from_arrays(thin.arrays())
    assert back.score.tobytes() == thin.score.tobytes()
    assert back.quality["encoder"].tobytes() == thin.quality["encoder"].tobytes()
    assert list(back.quality) == list(back.output_tokens) == ["encoder"]


@given(st.integers(0, 10**6))
def test_the_path_of_choices_is_what_the_rule_chooses_at_every_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # In tenths, so that utilities and costs tie; one expert declines now and then.
    quality, cost = rng.integers(0, 10, (12, 4)) / 10, rng.integers(1, 4, (12, 4)) / 1000
    quality = np.where(rng.random((12, 4)) < 0.1, -np.inf, quality)
    path = trace_choices(quality, cost, Scale(0.003))
    usd = path.mean(cost)
    rows = np.arange(12)
    for weight, expected in zip(path.weight.tolist(), usd.tolist(), strict=True):
        picked = pick(compute_utility(quality, cost, Scale(0.003), weight), cost)
        assert cost[rows, picked].mean() == pytest.approx(expected)
    assert (
        usd[-1] == pytest.approx(np.where(np.isinf(quality), np.inf, cost).min(axis=1).mean())
        or np.isinf(quality).all(axis=1).any()
    )


def test_a_limit_between_two_steps_of_a_grid_is_met_exactly() -> None:
    """Differences of quality within a millionth: on a grid of weights all queries would move at once."""
    quality = np.stack([0.5 + 1e-6 * np.arange(1, 11) / 10, np.full(10, 0.4)], 1)
    cost = np.tile([0.010, 0.001], (10, 1))
    table = sweep(quality, quality, cost, Scale(0.010))
    for n_cheap in range(11):
        limit = (0.010 * (10 - n_cheap) + 0.001 * n_cheap) / 10
        weight = table.weight_for_cost(limit)
        assert weight is not None
        picked = pick(compute_utility(quality, cost, Scale(0.010), weight), cost)
        assert picked.sum() == n_cheap


@given(st.integers(0, 10**6))
def test_a_free_expert_meets_a_limit_of_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.random((30, 3)) * [1.0, 1.0, 0.0]
    table = sweep(rng.random((30, 3)), rng.random((30, 3)), cost, Scale.of(cost.mean(axis=0)))
    assert table.cost_usd[-1] == 0
    assert table.weight_for_cost(0.0) is not None


def test_values_that_nobody_measured_are_passed_over_along_the_path() -> None:
    path = trace_choices(QUALITY, COST, Scale(0.010))
    np.testing.assert_allclose(path.mean(SCORE), [1.0, 1.0, 2 / 3])
    holes = np.where([[True, False], [True, True], [True, True]], SCORE, np.nan)
    np.testing.assert_allclose(path.mean(holes), [1.0, 1.0, 1.0])
