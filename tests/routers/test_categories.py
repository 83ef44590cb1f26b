from typing import Any

import numpy as np
import pytest

from routers.categories import GENERAL, Taxonomy
from routers.categories.taxonomy import (
    UNKNOWN,
    CategoryScores,
    Kind,
    Neighbours,
    Propagation,
    correct_prior,
    make_classifier,
)
from routers.predictors.coe import (
    NeighbourNovelty,
    Ranks,
    Uncertainty,
    closeness,
    conformal_threshold,
    entropy,
)
from routers.types import Floats32, Ints

NAN = np.nan


def blobs(n: int, seed: int, spread: float = 0.3, k: int = 3) -> tuple[Floats32, Ints]:
    """Unit rows around k of eight axes, and which."""
    rng = np.random.default_rng(seed)
    label = rng.integers(k, size=n)
    rows = np.eye(8)[label] + spread * rng.normal(size=(n, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), label


def test_rare_tags_are_general_and_no_tag_is_unknown() -> None:
    tags = ["b", "b", "a", "a", "rare", "", GENERAL]
    taxonomy = Taxonomy.of(tags, min_count=2)
    assert taxonomy.names == ("a", "b", GENERAL)
    assert taxonomy.labels(tags).tolist() == [1, 1, 0, 0, 2, UNKNOWN, 2]


def test_plain_neighbours_vote_alike() -> None:
    rows = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    voters = Neighbours(k=3, plain=True).fit(rows, np.array([0, 1, 1, 0]), 2)
    asked = np.array([[0.8, 0.6, 0.0, 0.0]], np.float32)  # nearest: the first three
    np.testing.assert_allclose(voters.posterior(asked), [[1 / 3, 2 / 3]])


def test_other_neighbours_weigh_by_their_lead_over_the_kth_beside_the_shares() -> None:
    rows = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
    voters = Neighbours(k=3).fit(rows, np.array([0, 1, 1]), 2)
    # Cosines 1, .6, 0: weights 1, .6, 0; shares ⅓, ⅔ with the weight of one.
    np.testing.assert_allclose(
        voters.posterior(np.array([[1.0, 0.0]], np.float32)),
        [[(1 + 1 / 3) / 2.6, (0.6 + 2 / 3) / 2.6]],
        rtol=1e-6,
    )


@pytest.mark.parametrize("kind", ["knn", "logistic", "centroid"])
def test_every_classifier_tells_clouds_apart_with_posteriors_that_sum_to_one(kind: Kind) -> None:
    rows, label = blobs(300, 0)
    asked, truth = blobs(200, 1)
    posterior = make_classifier(kind).fit(rows, label, 4).posterior(asked)
    np.testing.assert_allclose(posterior.sum(axis=1), 1.0)
    assert (posterior.argmax(axis=1) == truth).mean() > 0.9
    assert (posterior[:, 3] < 0.2).all()


def test_labels_spread_from_a_few_queries_to_their_neighbours() -> None:
    rows, truth = blobs(400, 2)
    labels = np.where(np.arange(400) % 20 == 0, truth, UNKNOWN)
    spread = Propagation(k=5, confidence=0.7).spread(rows, labels, 4)
    found = spread != UNKNOWN
    assert found.mean() > 0.9
    assert (spread[found] == truth[found]).mean() > 0.95
    assert (spread[labels != UNKNOWN] == truth[labels != UNKNOWN]).all()


def test_more_rounds_reach_further_and_confidence_holds_back() -> None:
    angle = np.linspace(0, np.pi / 2, 40)
    rows = np.column_stack((np.cos(angle), np.sin(angle))).astype(np.float32)
    labels = np.full(40, UNKNOWN)
    labels[:3], labels[-3:] = 0, 1
    one, three = (Propagation(rounds=r, k=6, confidence=0.82).spread(rows, labels, 3) for r in (1, 3))
    assert (one != UNKNOWN).sum() < (three != UNKNOWN).sum()
    assert (Propagation(confidence=1.01).spread(rows, labels, 3) == labels).all()


def test_temperature_sharpens_and_flattens() -> None:
    p = np.array([[0.8, 0.2]])
    np.testing.assert_allclose(Propagation(temperature=0.5).sharpen(p), [[0.64 / 0.68, 0.04 / 0.68]])
    np.testing.assert_allclose(Propagation(temperature=1e9).sharpen(p), [[0.5, 0.5]])


def test_the_pools_shares_replace_those_of_training() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.9  # nine in ten are of the second class; trained where half were
    x = rng.normal(size=4000) + np.where(truth, 1, -1)
    second = 1 / (1 + np.exp(-2 * x))
    adjusted = correct_prior(np.column_stack((1 - second, second)), np.array([0.5, 0.5]))
    assert adjusted[:, 1].mean() == pytest.approx(0.9, abs=0.02)
    assert abs(second.mean() - 0.9) > 0.05


def test_entropy_and_closeness_go_from_sure_to_torn() -> None:
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(entropy(p), [0, np.log(2) / np.log(3), 1])
    np.testing.assert_allclose(closeness(p), [0, 1, 1])
    assert entropy(np.ones((1, 1))) == closeness(np.ones((1, 1))) == 0


def test_ranks_grow_without_a_jump_and_without_end() -> None:
    ranks = Ranks.of(np.array([1.0, 2.0, 2.0, 4.0]))
    np.testing.assert_allclose(
        ranks(np.array([1.0, 2.0, 3.0, 4.0, 8.0, 1e9])), [0.2, 0.6, 0.7, 0.8, 0.9, 1.0], atol=1e-6
    )


def test_novelty_is_the_distance_to_the_kth_reference() -> None:
    novelty = NeighbourNovelty(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32), k=2)
    asked = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    np.testing.assert_allclose(novelty.distance(asked), [0.4, 1.6], atol=1e-6)
    assert len(NeighbourNovelty.of(np.ones((5000, 2), np.float32), 5).references) <= 2048


def test_the_threshold_is_the_order_statistic_that_the_promise_asks_for() -> None:
    scores = np.arange(1, 20) / 20
    assert conformal_threshold(scores, 0.1) == 18 / 20  # ⌈20 · 0.9⌉ = 18th of 19
    assert conformal_threshold(scores, 0.05) == 19 / 20
    assert conformal_threshold(scores, 0.04) == np.inf
    assert conformal_threshold(np.zeros(0), 0.5) == np.inf


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_no_more_than_alpha_of_queries_like_those_of_training_go_to_general(
    alpha: float, alone: bool
) -> None:
    shares = []
    for seed in range(40):
        rows, label = blobs(400, seed, spread=0.5)
        classifier = make_classifier("knn").fit(rows[:100], label[:100], 4)
        rest = rows[100:300]
        doubt = Uncertainty.fit(
            NeighbourNovelty.of(rows[:100], 5),
            classifier.posterior(rest),
            rest,
            alpha,
            100,
            entropy_alone=alone,
        )
        asked = rows[300:]
        shares.append(doubt.is_too_uncertain(classifier.posterior(asked), asked).mean())
    assert np.mean(shares) < alpha + 0.02
    if not alone:
        assert np.mean(shares) > alpha / 3


def test_a_query_unlike_any_is_too_uncertain() -> None:
    rows, label = blobs(400, 0, spread=0.1)
    classifier = make_classifier("logistic").fit(rows[:200], label[:200], 4)
    doubt = Uncertainty.fit(
        NeighbourNovelty.of(rows[:200], 5), classifier.posterior(rows[200:]), rows[200:], 0.05, 100
    )
    strange = np.eye(8, dtype=np.float32)[[6, 7]]
    assert doubt.is_too_uncertain(classifier.posterior(strange), strange).all()
    assert (doubt.excess(classifier.posterior(strange), strange) > 0.5).all()
    assert doubt.is_too_uncertain(classifier.posterior(rows), rows).mean() < 0.1


def test_scores_of_a_category_are_pulled_to_the_experts_mean_by_so_many_outcomes() -> None:
    targets = np.array([[1.0, 0.0], [1.0, NAN], [0.0, NAN], [0.0, NAN]])
    scores = CategoryScores.of(targets, np.array([0, 0, 1, 1]), 3, strength=2.0)
    # Overall ½ and 0. Category 0: (2·1 + 2·½) / 4; category 1: (0 + 2·½) / 4; the third was never seen.
    np.testing.assert_allclose(scores.value, [[0.75, 0.0], [0.25, 0.0], [0.5, 0.0]])
    np.testing.assert_array_equal(scores.count, [[2, 1], [2, 0], [0, 0]])


def test_without_strength_scores_are_plain_means() -> None:
    targets: Any = np.array([[1.0, NAN], [0.0, NAN]])
    scores = CategoryScores.of(targets, np.array([0, 1]), 2, strength=0.0)
    np.testing.assert_array_equal(scores.value, [[1.0, NAN], [0.0, NAN]])


def test_a_graph_carries_three_labels_along_a_crescent() -> None:
    """Two half rings in each other: the nearest label is often wrong, a chain of neighbours is not."""
    angle = np.linspace(0, np.pi, 150)
    upper = np.column_stack((np.cos(angle), np.sin(angle), np.full(150, 1.5)))
    lower = np.column_stack((1 - np.cos(angle), 0.4 - np.sin(angle), np.full(150, 1.5)))
    rows = np.concatenate((upper, lower)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    truth = np.repeat([0, 1], 150)
    labels = np.full(300, UNKNOWN)
    labels[[5, 145, 155, 295]] = truth[[5, 145, 155, 295]]
    found = Propagation(confidence=0.0).spread_over_graph(rows, labels, 3)
    assert (found[[5, 145, 155, 295]] == labels[[5, 145, 155, 295]]).all()
    assert (found == truth).mean() > 0.85
    assert (Propagation(confidence=1.01).spread_over_graph(rows, labels, 3) == labels).all()


def test_a_graph_leaves_alone_what_is_labelled_and_what_no_label_can_teach() -> None:
    rows = np.eye(4, dtype=np.float32)
    for labels in (np.array([0, 1, 0, 1]), np.full(4, UNKNOWN)):
        assert (Propagation().spread_over_graph(rows, labels, 2) == labels).all()
