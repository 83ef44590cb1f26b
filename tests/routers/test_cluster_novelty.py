"""What is unlike anything learned from is answered with the experts' means."""

import numpy as np

from routers import Features, make_predictor
from routers.predictors.blend import ClusterNovelty, compute_fade


def around(topics: np.ndarray, spread: np.ndarray, n: int, seed: int) -> Features:
    """n queries near each topic (n_topics, dim), as far from it as its spread says."""
    rng = np.random.default_rng(seed)
    place = np.repeat(np.arange(len(topics)), n)
    dense = topics[place] + spread[place, None] * rng.normal(size=(len(place), topics.shape[1]))
    dense = (dense / np.linalg.norm(dense, axis=1, keepdims=True)).astype(np.float32)
    return Features("encoder", dense, np.zeros((len(place), 1), np.int64), rng.random((len(place), 3)) / 50)


TOPICS = np.eye(12)[:4]
SPREAD = np.array([0.05, 0.05, 0.2, 0.2])


def test_one_in_twenty_of_those_like_the_learned_queries_is_stranger_than_one() -> None:
    cluster_novelty = ClusterNovelty.of(around(TOPICS, SPREAD, 200, 0), 0)
    found = cluster_novelty.novelty(around(TOPICS, SPREAD, 200, 1))
    assert 0.92 < (found < 1.0).mean() < 0.98


def test_another_topic_is_strange() -> None:
    cluster_novelty = ClusterNovelty.of(around(TOPICS, SPREAD, 200, 0), 0)
    assert np.median(cluster_novelty.novelty(around(np.eye(12)[4:6], SPREAD[2:], 50, 1))) > 1.4


def test_the_same_distance_is_stranger_beside_queries_that_are_all_alike() -> None:
    cluster_novelty = ClusterNovelty.of(around(TOPICS, SPREAD, 200, 0), 0)
    tight, wide = (
        np.median(cluster_novelty.novelty(around(TOPICS[[k]], SPREAD[[2]], 50, 1))) for k in (0, 2)
    )
    assert tight > 1.5 * wide


def test_fading_is_one_before_nothing_behind_and_a_line_between() -> None:
    np.testing.assert_allclose(
        compute_fade(np.array([0.0, 1.0, 1.5, 2.0, 9.0], np.float32), 1.0, 2.0)[:, 0], [1, 1, 0.5, 0, 0]
    )


def test_a_strange_query_gets_the_means_and_a_familiar_one_does_not() -> None:
    x = around(TOPICS, SPREAD, 100, 0)
    y = np.repeat(np.array([[1, 0], [1, 0], [1, 0], [0, 1]]), 100, axis=0).astype(np.float64)
    blend = make_predictor("blend").fit(x, y)
    strange = blend.predict(around(-TOPICS, SPREAD, 5, 1)).mean
    np.testing.assert_allclose(strange, np.repeat([[0.75, 0.25]], len(strange), axis=0), atol=1e-6)
    known = blend.predict(around(TOPICS[3:], SPREAD[3:], 20, 1)).mean
    assert (known[:, 1] > known[:, 0]).mean() > 0.9
