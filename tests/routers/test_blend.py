"""What the default predictor is made of: a forest read in arrays, a stack on it, cells for many queries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routers import Features, make_predictor
from routers.predictors.blend import Forest, ForestSettings
from routers.predictors.linear import Lexicon
from routers.predictors.neighbours import Cells, find_near


def make_features(n: int, seed: int, dim: int = 24) -> Features:
    """Queries around twenty topics."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(99).normal(size=(20, dim))
    dense = (topics[rng.integers(20, size=n)] + rng.normal(size=(n, dim)) / 2).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    lexical = np.sort(rng.integers(0, 400, (n, 12)), axis=1)
    return Features("encoder", dense, lexical, rng.random((n, 5)))


def grow_forest(n: int = 600) -> tuple[Forest, np.ndarray, np.ndarray]:
    rows = np.random.default_rng(0).random((n, 4))
    residual = np.where((rows[:, 0] > 0.5) == (rows[:, 1] > 0.3), 0.5, -0.5)[:, None]
    return (
        Forest.grow(rows, residual, np.ones_like(residual, bool), ForestSettings(n_trees=60, rate=0.3)),
        rows,
        residual,
    )


def test_a_forest_learns_what_no_sum_of_columns_tells() -> None:
    forest, rows, residual = grow_forest()
    assert ((forest.read(rows) > 0) == (residual > 0)).mean() > 0.9


def test_what_members_remember_is_not_taken_for_knowledge() -> None:
    """Outcomes are noise: a constant's Brier score is .25, and that of members asked in fold .32 and more."""
    noise, unseen = np.random.default_rng(5).integers(0, 2, (2, 400, 2)).astype(float)
    blend = make_predictor("blend").fit(make_features(400, 3), noise)
    assert np.mean((blend.predict(make_features(400, 4)).mean - unseen) ** 2) < 0.28


def test_a_leaf_answers_the_shrunk_mean_of_what_fell_into_it() -> None:
    # One question, x > t with t in [0, 1): residuals 1 and 1 to the right, -1 to the left, prior 2.
    rows, residual = np.array([[0.0], [1.0], [1.0]]), np.array([[-1.0], [1.0], [1.0]])
    forest = Forest.grow(
        rows, residual, np.ones((3, 1), bool), ForestSettings(n_trees=1, depth=1, rate=1.0, prior=2.0)
    )
    np.testing.assert_allclose(forest.read(rows)[:, 0], [-1 / 3, 2 / 4, 2 / 4])


def test_outcomes_nobody_measured_count_for_nothing_in_a_leaf() -> None:
    rows, residual = np.array([[0.0], [1.0], [1.0]]), np.array([[-1.0], [1.0], [0.0]])
    known = np.array([[True], [True], [False]])
    forest = Forest.grow(rows, residual, known, ForestSettings(n_trees=1, depth=1, rate=1.0, prior=2.0))
    np.testing.assert_allclose(forest.read(rows)[:, 0], [-1 / 3, 1 / 3, 1 / 3])


def test_a_rescaled_forest_reads_columns_where_they_are_now() -> None:
    forest, rows, _ = grow_forest()
    column, centre, unit = (
        np.array([2, 0, 3, 1]),
        np.array([1.0, 0.0, -2.0, 5.0]),
        np.array([2.0, 1.0, 0.5, 4.0]),
    )
    moved = np.empty_like(rows)
    moved[:, column] = centre + unit * rows
    np.testing.assert_array_equal(forest.rescale(column, centre, unit).read(moved), forest.read(rows))


@pytest.mark.parametrize("name", ["blend", "knn", "clusters"])
def test_company_changes_nothing_but_the_last_digits(name: str) -> None:
    x, z = make_features(300, 0), make_features(40, 1)
    y = (x.dense[:, :3] > 0).astype(np.float64)
    fitted = make_predictor(name).fit(x, y)
    batch = fitted.predict(z)
    singles = [fitted.predict(z.take(slice(row, row + 1))) for row in range(len(z))]
    alone = np.concatenate([single.mean for single in singles])
    np.testing.assert_allclose(alone, batch.mean, rtol=0, atol=1e-12)


def test_a_ridge_learned_in_another_order_differs_in_the_last_digits_only() -> None:
    # A tree asks whether a value is above an edge: what moves in the seventh digit falls to another side.
    x, z = make_features(300, 0, dim=96), make_features(40, 1, dim=96)
    y = (x.dense[:, :3] > 0).astype(np.float64)
    how, order = {"lexical": 0.0, "form": 1.0}, np.random.default_rng(0).permutation(300)
    plain = make_predictor("linear", how).fit(x, y).predict(z)
    shuffled = make_predictor("linear", how).fit(x.take(order), y[order]).predict(z)
    np.testing.assert_allclose(shuffled.mean, plain.mean, rtol=0, atol=1e-9)


def test_the_forest_says_whom_to_believe() -> None:
    # Words tell the truth where the first form feature is high, and lie elsewhere: no mean of members knows.
    x = make_features(1500, 0)
    is_marked, honest = x.lexical[:, 0] % 2 == 0, x.form[:, 0] > 0.5
    lexical = np.where(is_marked, 1, 2)[:, None]
    x = Features("encoder", x.dense, lexical.astype(np.int64), x.form)
    y = np.stack([is_marked == honest, is_marked != honest], axis=1).astype(np.float64)
    seen, asked = np.arange(1000), np.arange(1000, 1500)
    right = {}
    for n_trees in (0, 100):
        mean = (
            make_predictor("blend", {"n_trees": n_trees})
            .fit(x.take(seen), y[seen])
            .predict(x.take(asked))
            .mean
        )
        right[n_trees] = (mean.argmax(axis=1) == y[asked].argmax(axis=1)).mean()
    assert right[100] > right[0] + 0.1


def test_cells_hold_every_row_once_and_find_the_nearest_ones() -> None:
    x = make_features(3000, 0)
    cells, order = Cells.of(x.dense)
    np.testing.assert_array_equal(np.sort(order), np.arange(3000))
    np.testing.assert_array_equal(cells.rows, x.dense[order])
    found = []
    for row in make_features(50, 1).dense:
        similarity, places = cells.near(row)
        np.testing.assert_allclose(similarity, cells.rows[places] @ row, atol=1e-6)
        best = set(np.argsort(-(cells.rows @ row))[:20].tolist())
        found.append(len(best & set(places.tolist())) / 20)
    assert np.mean(found) > 0.95


def test_a_search_looks_at_as_many_rows_as_it_must_and_at_few_more() -> None:
    x = make_features(3000, 0)
    cells, _ = Cells.of(x.dense)
    row = make_features(1, 1).dense[0]
    assert len(cells.near(row)[0]) < 0.3 * 3000
    assert len(cells.near(row, 2000)[0]) >= 2000
    assert len(np.unique(cells.near(row, 4000)[1])) == 3000


def test_neighbours_all_alike_weigh_alike_however_many_they_are() -> None:
    x = make_features(40, 0).take(np.zeros(40, np.int64))
    y = np.linspace(0, 1, 40)[:, None]
    mean = make_predictor("knn", {"k": 5, "prior": 0.001}).fit(x, y).predict(x.take(slice(0, 1))).mean
    np.testing.assert_allclose(mean, 0.5, atol=1e-3)


def test_clusters_predict_numbers_however_sharp_they_are() -> None:
    x = make_features(200, 0)
    y = x.dense[:, :2].astype(np.float64)
    mean = make_predictor("clusters", {"sharpness": 1e9}).fit(x, y).predict(make_features(20, 1)).mean
    assert np.isfinite(mean).all()


def test_near_cells_decide_as_all_queries_do() -> None:
    x, z = make_features(4000, 0), make_features(400, 1)
    y = (x.dense[:, :4] + 0.3 * np.random.default_rng(0).normal(size=(4000, 4)) > 0).astype(np.float64)
    exact, near = (
        make_predictor(
            "blend", {"members": [("knn", {"k": 50, "exact": most}), ("clusters", {})], "n_trees": 0}
        )
        .fit(x, y)
        .predict(z)
        .mean
        for most in (4000, 100)
    )
    assert (exact.argmax(axis=1) == near.argmax(axis=1)).mean() >= 0.95
    assert exact.tobytes() != near.tobytes()


def make_static(n: int, n_topics: int, seed: int) -> tuple[Features, np.ndarray]:
    """Queries around topics, each with one expert of two that is good at it; nothing but nearness tells."""
    rng = np.random.default_rng(seed)
    topics, best = np.random.default_rng(7).normal(size=(n_topics, 24)), np.arange(n_topics) % 2
    topic = rng.integers(n_topics, size=n)
    dense = (topics[topic] + rng.normal(size=(n, 24)) / 8).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    features = Features("static", dense, np.full((n, 4), -1), np.zeros((n, 5)))
    return features, np.stack([best[topic] == 0, best[topic] == 1], axis=1).astype(np.float64)


@pytest.mark.parametrize(("n_topics", "kept"), [(8, False), (400, True)])
def test_slow_neighbours_are_left_out_where_the_others_choose_as_well(n_topics: int, kept: bool) -> None:
    """Eight topics are told by clusters as well; four hundred only by looking at the nearest queries."""
    settings = {"members": [["knn", {"k": 8}], ["clusters", {"n_clusters": 16}]], "n_trees": 5, "lean": True}
    blend = make_predictor("blend", settings).fit(*make_static(2400, n_topics, 0))
    assert [name for name, _ in blend.settings()["members"]] == [*(["knn"] if kept else []), "clusters"]
    asked, right = make_static(300, n_topics, 1)
    assert (blend.predict(asked).mean.argmax(axis=1) == right.argmax(axis=1)).mean() > 0.95
    twin = make_predictor("blend", blend.settings()).restore(blend.arrays())
    assert twin.predict(asked).mean.tobytes() == blend.predict(asked).mean.tobytes()


def test_no_member_is_left_out_of_a_blend_that_is_not_lean_or_looks_twice() -> None:
    members = [["knn", {}], ["clusters", {}]]
    features, right = make_static(600, 8, 0)
    slow = Features("encoder", features.dense, features.lexical, features.form)
    fat = make_predictor("blend", {"members": members, "n_trees": 2}).fit(features, right)
    closer = make_predictor("blend", {"members": members, "lean": True, "n_trees": 2}).fit(slow, right)
    assert fat.settings()["members"] == closer.settings()["members"] == members


def test_too_few_queries_leave_no_member_out() -> None:
    members = [["knn", {"k": 5}], ["clusters", {}]]
    rng = np.random.default_rng(3)
    features, _ = make_static(120, 8, 0)
    noise = rng.integers(0, 2, (120, 2)).astype(np.float64)
    blend = make_predictor("blend", {"members": members, "lean": True, "n_trees": 2}).fit(features, noise)
    assert blend.settings()["members"] == members


def test_words_weigh_what_their_tf_idf_row_times_the_weights_gives() -> None:
    """Padding, a query of unknown words alone and one without any word at all count for nothing."""
    taught = np.array([[3, 7, 9], [3, 7, -1], [3, 9, -1], [7, 9, -1]])
    lexicon = Lexicon.of(taught, 1)
    weights = np.random.default_rng(0).normal(size=(len(lexicon.ids) + 1, 2))
    asked = np.array([[3, 9, -1], [7, -1, -1], [1, 2, 50], [-1, -1, -1]])
    expected = np.zeros((4, 2))
    for row, ids in zip(expected, asked, strict=True):
        known = [n for n, term in enumerate(lexicon.ids) if term in ids]
        if known:
            idf = lexicon.idf[known].astype(float)
            row += (idf / np.sqrt((idf**2).sum())) @ weights[known]
    np.testing.assert_allclose(lexicon.weigh(asked, weights), expected, atol=1e-9)
    assert lexicon.weigh(asked[:, :0], weights).tolist() == [[0.0, 0.0]] * 4
    assert lexicon.weigh(asked[:0], weights).shape == (0, 2)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 300), st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_the_nearest_are_found_with_all_that_are_as_near(n: int, k: int, n_values: int, seed: int) -> None:
    similarity = np.random.default_rng(seed).integers(n_values, size=n).astype(np.float32)
    found = find_near(similarity, k)
    kth = np.sort(similarity)[max(n - k, 0)]
    assert set(np.flatnonzero(similarity >= kth)) <= set(found.tolist())
    assert (np.diff(found) > 0).all()


def test_few_of_many_are_looked_at_closely() -> None:
    similarity = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    assert len(find_near(similarity, 200)) < 400
