from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.calibration import Advantage
from routers.types import Floats, Ints

BOTH = np.array([True, True])


def outcomes(n: int, skill: float, seed: int = 0) -> tuple[Floats, Floats, Ints]:
    """Predictions for two experts, and outcomes whose difference follows the predicted one by `skill`."""
    rng = np.random.default_rng(seed)
    difference = rng.normal(0, 0.2, n)
    predicted = np.stack([0.6 + difference / 2, 0.5 - difference / 2], 1)
    chance = np.stack([0.6 + skill * difference / 2, 0.5 - skill * difference / 2], 1)
    return predicted, (rng.random((n, 2)) < chance).astype(float), np.arange(n) % 50


def test_differences_that_come_true_are_trusted() -> None:
    predicted, true, clusters = outcomes(4000, skill=1.0)
    assert Advantage.fit(predicted, true, clusters, BOTH).reliability > 0.8


def test_differences_that_do_not_come_true_leave_the_best_on_average_first() -> None:
    predicted, true, clusters = outcomes(4000, skill=0.0)
    advantage = Advantage.fit(predicted, true, clusters, BOTH)
    assert advantage.reliability < 0.1
    routed = advantage.apply(predicted).argmax(axis=1)
    assert (routed == 0).mean() > 0.99 > (predicted.argmax(axis=1) == 0).mean()


def test_the_reliability_is_the_slope_less_one_standard_error() -> None:
    """Advantages .1, −.1, .2, −.2 come true by half, give or take: Σxy / Σx² = .5, error √.00001 / .2."""
    predicted = np.array([[0.6, 0.4], [0.4, 0.6], [0.7, 0.3], [0.3, 0.7]])
    true = np.array([[0.54, 0.46], [0.44, 0.56], [0.6, 0.4], [0.4, 0.6]])
    advantage = Advantage.fit(predicted, true, np.arange(4), BOTH)
    assert advantage.reliability == pytest.approx(0.5 - 1e-5**0.5 / 0.2)


def test_few_like_queries_are_trusted_less_than_many() -> None:
    drawn = (outcomes(n, skill=0.7, seed=3) for n in (200, 8000))
    few, many = (Advantage.fit(*each, judged=BOTH).reliability for each in drawn)
    assert few < many


def test_easy_and_hard_queries_stay_easy_and_hard() -> None:
    predicted = np.array([[0.9, 0.9], [0.1, 0.1]])
    shrunk = Advantage(np.array([0.5, 0.5]), BOTH, 0.0).apply(predicted)
    assert shrunk == pytest.approx(predicted)


def test_a_tool_that_declines_is_left_as_it_is() -> None:
    predicted = np.array([[0.9, 0.2, 1.0], [0.1, 0.8, 1.0]])
    shrunk = Advantage(np.array([0.5, 0.5, 1.0]), np.array([True, True, False]), 0.0).apply(predicted)
    assert shrunk[:, 2].tolist() == [1.0, 1.0]
    assert shrunk[:, 0] == pytest.approx(shrunk[:, 1])


def test_who_was_added_later_is_left_as_it_is_and_changes_nobody() -> None:
    old, new = Advantage(np.array([0.6, 0.4]), BOTH, 0.1), Advantage(np.array([0.9]), BOTH[:1], 1.0)
    quality = np.array([[0.9, 0.2, 0.8], [0.1, 0.8, 0.3]])
    together = old.concat(new).apply(quality)
    np.testing.assert_array_equal(together[:, 2], quality[:, 2])
    np.testing.assert_array_equal(together[:, :2], old.apply(quality[:, :2]))


def test_a_table_with_gaps_is_learned_from() -> None:
    predicted, true, clusters = outcomes(4000, skill=1.0)
    true[::3, 0] = np.nan
    assert Advantage.fit(predicted, true, clusters, BOTH).reliability > 0.5


def test_a_single_expert_has_nothing_to_be_compared_with() -> None:
    one = np.array([[0.5], [0.7]])
    advantage = Advantage.fit(one, one, np.array([0, 1]), np.array([True]))
    assert advantage.apply(one) is one


def test_a_small_advantage_is_not_followed_where_a_query_is_novel_and_a_large_one_is() -> None:
    advantage = Advantage(np.array([0.6, 0.4]), BOTH, 1.0, lead=0.1)
    quality = np.array([[0.5, 0.55], [0.5, 0.7], [0.5, 0.2]])
    familiar, novel = np.full(3, 0.6), np.full(3, 1.0)
    np.testing.assert_array_equal(advantage.apply(quality, familiar), quality)
    np.testing.assert_array_equal(advantage.apply(quality), quality)
    # .05 ahead of the best by less than its lead: half of what lacks, below it; .2 is twice the lead
    assert advantage.apply(quality, novel) == pytest.approx(np.array([[0.5, 0.475], [0.5, 0.7], [0.5, 0.2]]))
    # the lead grows from .7 on: at .85 it is half, and .05 is what is needed
    assert advantage.apply(quality[:1], np.array([0.85])) == pytest.approx(np.array([[0.5, 0.5]]))


def test_the_lead_is_over_the_judged_and_keeps_the_order_of_the_others() -> None:
    advantage = Advantage(np.array([0.3, 0.6, 0.4, 0.9]), np.array([True, True, True, False]), 1.0, lead=0.2)
    quality = np.array([[0.61, 0.5, 0.6, 0.55], [0.3, 0.5, 0.4, 1.0]])
    given_lead = advantage.apply(quality, np.full(2, 2.0))
    assert given_lead[:, [1, 3]].tolist() == quality[:, [1, 3]].tolist()
    assert given_lead[0, :3].argmax() == 1
    for before, after in zip(quality[:, :3], given_lead[:, :3], strict=True):
        assert (np.delete(before, 1).argsort() == np.delete(after, 1).argsort()).all()


def test_the_lead_gives_up_three_tenths_of_the_predicted_gain() -> None:
    """The second expert is ahead by .01, .02, .03 and .04: the first two are 30 % of the gain."""
    ahead = np.array([0.04, 0.01, 0.03, 0.02, -0.5])
    predicted = np.stack([np.full(5, 0.5), 0.5 + ahead], 1)
    learned = Advantage.fit(predicted, predicted, np.arange(5), BOTH, np.zeros(5))
    assert learned.reliability == 1.0
    assert learned.lead == pytest.approx(0.02)
    assert Advantage.fit(predicted, predicted, np.arange(5), BOTH).lead == 0.0
    unknown = np.array([0.5, np.nan, 0.5, 0.5, 0.5])
    assert Advantage.fit(predicted, predicted, np.arange(5), BOTH, unknown).lead == 0.0
    # All are novel to each other: novelty does not tell another task.
    assert Advantage.fit(predicted, predicted, np.arange(5), BOTH, np.full(5, 1.1)).lead == 0.0


def test_a_lead_is_kept_in_files_and_older_files_have_none() -> None:
    kept = Advantage(np.array([0.6, 0.4]), BOTH, 0.5, lead=0.1)
    assert Advantage.from_arrays(kept.arrays()).lead == 0.1
    older = {name: values for name, values in kept.arrays().items() if name != "lead"}
    assert Advantage.from_arrays(older).lead == 0.0
    assert kept.take(np.array([1, 0])).lead == kept.concat(kept).lead == 0.1


@given(
    st.floats(0, 1),
    st.floats(0, 0.3),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2)), min_size=1, max_size=6),
)
def test_a_batch_equals_its_singles_and_stays_in_range(reliability: Any, lead: Any, rows: Any) -> None:
    advantage = Advantage(np.array([0.6, 0.4]), BOTH, reliability, lead)
    quality, novelty = np.array(rows)[:, :2], np.array(rows)[:, 2]
    together = advantage.apply(quality, novelty)
    for n in range(len(rows)):
        one = slice(n, n + 1)
        assert together[n].tolist() == advantage.apply(quality[one], novelty[one])[0].tolist()
    assert ((together >= 0) & (together <= 1)).all()
