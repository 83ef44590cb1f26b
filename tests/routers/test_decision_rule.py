"""The decision rule: utility, ranking and pick by hand, and that a batch equals its single queries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers import Scale, compute_utility, pick, rank


def test_the_utility_is_quality_less_weighted_cost_and_latency() -> None:
    utility = compute_utility(
        np.array([[0.9, 0.5]]), np.array([4.0, 1.0]), Scale(4.0, 10.0), 0.2, np.array([10.0, 5.0]), 0.1
    )
    assert utility == pytest.approx(np.array([[0.9 - 0.2 - 0.1, 0.5 - 0.05 - 0.05]]))


def test_a_weight_of_zero_reads_no_cost_and_gives_a_new_array() -> None:
    quality = np.array([[0.9, 0.5]])
    utility = compute_utility(quality, np.array([np.nan, np.nan]), Scale(), 0.0)
    utility += 1
    assert quality.tolist() == [[0.9, 0.5]]


def test_an_unknown_cost_counts_as_the_dearest_of_its_query() -> None:
    cost = np.array([[np.nan, 2.0], [1.0, np.nan], [np.nan, np.nan]])
    utility = compute_utility(np.ones((3, 2)), cost, Scale(2.0), 1.0)
    assert utility.tolist() == [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]


def test_equals_go_to_the_cheaper_then_to_the_first() -> None:
    utility = np.array([[0.5, 0.5, 0.4], [0.5, 0.5, 0.4]])
    assert pick(utility, np.array([2.0, 1.0, 0.0])).tolist() == [1, 1]
    assert pick(utility, np.array([1.0, 1.0, 0.0])).tolist() == [0, 0]
    assert pick(utility, np.array([np.nan, 1.0, 0.0])).tolist() == [1, 1]
    assert pick(utility, np.array([np.nan, np.nan, 0.0])).tolist() == [0, 0]


def test_the_scale_is_the_dearest_and_the_slowest_that_is_known() -> None:
    assert Scale.of(np.array([0.1, np.nan, 0.3]), np.array([2.0, 1.0, np.nan])) == Scale(0.3, 2.0)
    assert Scale.of(np.array([0.0, np.nan])) == Scale(1.0, 1.0)


@given(st.integers(0, 10**6))
def test_pick_takes_the_first_that_rank_names_in_a_batch_and_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    utility = rng.integers(0, 3, (20, 4)) / 2  # many equals
    cost = np.where(rng.random((20, 4)) < 0.2, np.nan, rng.integers(0, 3, (20, 4)).astype(float))
    by_name = np.tile(np.arange(4), (20, 1))
    order = rank(utility, cost, by_name)
    assert pick(utility, cost).tolist() == order[:, 0].tolist()
    alone = [rank(*each).tolist() for each in zip(utility, cost, by_name, strict=True)]
    assert order.tolist() == alone
