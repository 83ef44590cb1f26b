"""Symbolic-MoE's arithmetic by cases small enough to be computed by hand."""

from math import exp
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.skills import Posteriors, code_probabilities, counts, lead, paper_probabilities
from routers.skills.profiles import competency, suitability

TAGS = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
SCORES = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
PROFILE = np.array([[2.0, 0.0], [0.0, 2.0]])


def test_a_profile_counts_right_answers_up_and_wrong_ones_down() -> None:
    np.testing.assert_array_equal(counts(TAGS, SCORES), PROFILE)


def test_half_right_counts_nothing_and_unmeasured_neither() -> None:
    np.testing.assert_array_equal(counts(TAGS, np.array([[0.5, np.nan]] * 3)), np.zeros((2, 2)))


def test_suitability_adds_up_the_querys_skills() -> None:
    asked = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(suitability(asked, PROFILE), [[2, 0], [2, 2], [0, 0]])


def test_competency_is_the_share_of_all_counts() -> None:
    np.testing.assert_array_equal(competency(np.array([[3.0, 1.0], [2.0, -1.0]])), [1.0, 0.0])
    np.testing.assert_array_equal(competency(np.array([[1.0, -1.0]])), [0.5, 0.5])


@pytest.mark.parametrize(
    ("profile", "asked", "first"),
    [
        (PROFILE, [1.0, 0.0], exp(2) / (exp(2) + 1)),  # γ = (½, ½), S = (2, 0), w = (1, 0)
        ([[3.0, -1.0]], [1.0], exp(9) / (exp(9) + exp(1))),  # γ = (1.5, −.5), S = (3, −1), w = (4.5, .5)
        (PROFILE, [0.0, 0.0], 0.5),
    ],
)
def test_the_papers_probabilities_are_a_softmax_at_temperature_a_half(
    profile: dict[str, Any], asked: Any, first: Any
) -> None:
    predicted = paper_probabilities(np.array([asked]), np.array(profile))
    np.testing.assert_allclose(predicted, [[first, 1 - first]])


@pytest.mark.parametrize(
    ("profile", "asked", "shares"),
    [
        (PROFILE, [1.0, 0.0], [1, 0]),  # S = (2, 0): an expert not above 0 is out
        ([[3.0, 1.0]], [1.0], [27 / 28, 1 / 28]),  # 3·3², 1·1²
        ([[-1.0, -3.0]], [1.0], [27 / 28, 1 / 28]),  # S shifted to (3, 1), totals to (3, 1)
        ([[2.0, 1.0], [0.0, -4.0]], [1.0, 0.0], [2 * 36 / 73, 1 / 73]),  # totals (2, −3) shifted to (6, 1)
    ],
)
def test_the_released_code_squares_the_totals_and_normalises_linearly(
    profile: dict[str, Any], asked: Any, shares: Any
) -> None:
    predicted = code_probabilities(np.array([asked]), np.array(profile))
    np.testing.assert_allclose(predicted, [shares])


def test_a_posterior_starts_at_the_experts_accuracy_on_everything() -> None:
    predicted = Posteriors.of(
        np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([[1.0], [1.0], [0.0], [0.0]]), 4.0
    )
    assert predicted.overall.tolist() == [0.5]
    assert (predicted.right.tolist(), predicted.wrong.tolist()) == ([[4.0]], [[2.0]])
    assert predicted.mean[0, 0] == pytest.approx(2 / 3)
    assert predicted.std[0, 0] == pytest.approx((4 * 2 / (36 * 7)) ** 0.5)


def test_an_expert_never_measured_is_expected_to_be_as_the_pool() -> None:
    predicted = Posteriors.of(np.ones((2, 1)), np.array([[1.0, np.nan], [0.0, np.nan]]), 4.0)
    assert predicted.mean[0].tolist() == [0.5, 0.5]


def test_draws_from_a_posterior_scatter_around_its_mean_as_widely_as_it_says() -> None:
    predicted = Posteriors.of(np.ones((20, 1)), np.r_[np.ones((15, 1)), np.zeros((5, 1))], 1.0)
    rng = np.random.default_rng(0)
    draw = np.array([predicted.draw(rng)[0, 0] for _ in range(4000)])
    assert draw.mean() == pytest.approx(predicted.mean[0, 0], abs=0.01)
    assert draw.std() == pytest.approx(predicted.std[0, 0], rel=0.05)


def test_the_lead_over_the_pool_weighs_rare_skills_most() -> None:
    accuracy = np.array([[0.8, 0.6], [0.2, 0.6]])
    tags, idf = np.array([[1.0, 1.0], [0.0, 0.5], [0.0, 0.0]]), np.array([3.0, 1.0])
    ahead = (3 * 0.1 + 1 * -0.2) / 4
    np.testing.assert_allclose(lead(tags, idf, accuracy), [[ahead, -ahead], [-0.2, 0.2], [0.0, 0.0]])


PROFILES = st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=1, max_size=4)


@given(PROFILES, st.data())
def test_whom_to_recruit_is_always_a_distribution(profile: dict[str, Any], data: st.DataObject) -> None:
    tags = np.array([[data.draw(st.sampled_from([0.0, 1.0])) for _ in profile]])
    for predicted in (paper_probabilities, code_probabilities):
        shares = predicted(tags, np.array(profile, np.float64))
        assert (shares >= 0).all()
        assert shares.sum() == pytest.approx(1)
