from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.skills import Aggregators, best, draw_with_replacement, enough, trim_rare

SHARES = np.array([[0.5, 0.3, 0.2]])


def test_draws_fall_on_experts_by_their_shares_and_may_fall_on_one_twice() -> None:
    drawn = draw_with_replacement(SHARES, np.array([[0.0, 0.49, 0.5, 0.79, 0.81, 0.999]]))
    assert drawn.tolist() == [[0, 0, 1, 1, 2, 2]]


def test_a_draw_beyond_shares_whose_sum_is_rounded_falls_on_the_last() -> None:
    assert draw_with_replacement(np.full((1, 10), 0.1), np.array([[np.nextafter(1.0, 0.0)]])).tolist() == [
        [9]
    ]


def test_who_is_recruited_for_too_few_queries_is_replaced_by_the_others() -> None:
    shares = np.repeat(SHARES, 40, axis=0)
    recruited = np.zeros((40, 3), np.int64)
    recruited[:20, 1] = 1
    recruited[0, 2] = 2
    kept = trim_rare(recruited, shares, np.full((40, 3), 0.7))
    assert kept[0].tolist() == [0, 1, 1]  # 0.7 of (0.5, 0.3) / 0.8
    np.testing.assert_array_equal(kept[1:], recruited[1:])


def test_an_expert_at_the_share_stays() -> None:
    recruited = np.zeros((20, 1), np.int64)
    recruited[0, 0] = 1
    assert trim_rare(recruited, np.full((20, 2), 0.5), np.zeros((20, 1))).tolist() == recruited.tolist()


@given(st.integers(0, 99), st.integers(1, 60), st.integers(1, 5))
def test_nobody_below_the_share_is_left(seed: int, n: int, n_experts: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(n_experts, 0.3), n)
    recruited = draw_with_replacement(shares, rng.random((n, 3)))
    kept = trim_rare(recruited, shares, rng.random((n, 3)))
    often = [(recruited == e).any(axis=1).mean() >= 0.05 for e in range(n_experts)]
    assert kept.min() >= 0
    assert kept.max() < n_experts
    assert all(often[e] for e in np.unique(kept)) or not any(often)


def test_the_best_are_recruited_once_each_the_first_of_equals_first() -> None:
    assert best(np.array([[0.2, 0.9, 0.2, 0.5]]), 3).tolist() == [[1, 3, 0]]


@pytest.mark.parametrize(
    ("mass", "k_max", "asked"),
    [(0.5, 3, [1, 0, 0]), (0.6, 3, [1, 1, 0]), (1.0, 3, [1, 1, 1]), (1.0, 2, [1, 1, 0]), (0.0, 3, [1, 0, 0])],
)
def test_as_many_are_asked_as_have_the_mass_between_them(mass: Any, k_max: int, asked: Any) -> None:
    assert enough(SHARES, mass, k_max).astype(int).tolist() == [asked]


def count(*cells: tuple[float, float]) -> Any:
    return np.array([cells], np.float64)


def aggregators(**counts: Any) -> Aggregators:
    """Of the experts a and b; the counts of everything are the sums of the others."""
    rows = np.concatenate(list(counts.values())) if counts else np.zeros((0, 2, 2))
    whole = np.concatenate((rows.sum(axis=0)[None], rows))
    return Aggregators.from_counts([*counts], ["a", "b"], whole, np.array([0.5, 0.5]))


def test_aggregators_are_chosen_by_category_and_tried_ones_elsewhere_count() -> None:
    table = aggregators(math=count((20, 0), (0, 20)), law=count((0, 20), (20, 0)))
    assert (table.best(["math"]), table.best(["law"]), table.best(["math"], among=["b"])) == ("a", "b", "b")
    assert table.mean_over(["math"])[0] == pytest.approx((20 + 10 * 0.5) / 30)
    assert table.mean_over(["cooking"]).tolist() == [0.5, 0.5]


def test_of_several_categories_the_mean_counts() -> None:
    table = aggregators(math=count((20, 0), (10, 10)), law=count((0, 20), (10, 10)))
    both = (table.mean_over(["math"]) + table.mean_over(["law"])) / 2
    assert table.mean_over(["math", "law"]).tolist() == pytest.approx(both.tolist())


def test_without_trials_the_most_accurate_expert_aggregates() -> None:
    counts = np.zeros((2, 2, 2))
    table = Aggregators.from_counts(["math"], ["a", "b"], counts, np.array([0.3, 0.7]))
    assert table.best(["math"]) == "b"


def test_an_aggregator_nobody_tried_in_a_category_is_not_left_out() -> None:
    assert aggregators(math=count((0, 5), (0, 0))).best(["math"]) == "b"


def test_no_aggregator_to_choose_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no aggregator"):
        aggregators().best(["math"], among=["z"])
