"""Tryage: losses regressed by one head; its decision rule by hand; what moved a prediction."""

from typing import Any

import numpy as np
import pytest

from policies import Engine, Fleet, Objective, Policy, Scale
from routers import FORM_NAMES, ArtifactError, ExpertProfile, Features, Prediction, Query, make_predictor
from routers.predictors.trees import Trees
from routers.predictors.tryage import Tryage

HEADS = [("improved", head) for head in ("ridge", "kernel", "mlp", "trees")]
HEADS += [("paper", "ridge"), ("paper", "mlp")]


def features(n: int, seed: int = 0, dim: int = 16) -> Features:
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, dim)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    lexical = np.sort(rng.integers(0, 60, (n, 10)), axis=1)
    return Features("encoder", dense, lexical, rng.random((n, len(FORM_NAMES))))


def scores(x: Features, n_experts: int = 3) -> Any:
    noise = np.random.default_rng(9).normal(size=(len(x), n_experts))
    return 1 / (1 + np.exp(-4 * x.dense[:, :n_experts] - 0.3 * noise)).astype(np.float64)


@pytest.mark.parametrize(("mode", "head"), HEADS)
def test_every_head_learns_from_gaps_and_comes_back_to_the_bit(mode: Any, head: Any) -> None:
    x, z = features(400), features(150, seed=1)
    y = scores(x)
    y[np.random.default_rng(3).random(y.shape) < 0.2] = np.nan
    fitted = make_predictor("tryage", {"mode": mode, "head": head}).fit(x, y)
    estimate, truth = fitted.predict(z), scores(z)
    better = ((estimate.mean - truth) ** 2).mean() / ((truth.mean(axis=0) - truth) ** 2).mean()
    assert better < 0.75
    twin = make_predictor("tryage", fitted.settings()).restore(fitted.arrays())
    assert twin.predict(z).mean.tobytes() == estimate.mean.tobytes()


@pytest.mark.parametrize(("mode", "head"), HEADS)
def test_no_heads_batch_differs_from_its_singles_nor_its_order_matters(mode: Any, head: Any) -> None:
    x, z = features(150), features(8, seed=1)
    y = scores(x)
    rows, columns = np.random.default_rng(1).permutation(150), np.array([2, 0, 1])
    tryage = Tryage(mode, head)
    plain = tryage.fit(x, y).predict(z).mean
    singles = [tryage.predict(z.take(slice(n, n + 1))).mean[0] for n in range(8)]
    np.testing.assert_allclose(singles, plain, rtol=1e-4, atol=1e-5)
    shuffled = Tryage(mode, head).fit(x.take(rows), y[rows][:, columns]).predict(z).mean
    np.testing.assert_allclose(shuffled, plain[:, columns], rtol=1e-3, atol=1e-4)


def test_the_papers_ridge_is_least_squares_of_the_losses_on_the_embedding_alone() -> None:
    x, z = features(60), features(5, seed=1)
    y = scores(x)
    loss = 1 - y
    gram = x.dense.T @ x.dense + 5.0 * np.eye(x.dense.shape[1])
    weights = np.linalg.solve(gram, x.dense.T @ (loss - loss.mean(axis=0)))
    by_hand = 1 - (loss.mean(axis=0) + z.dense @ weights)
    ridge = Tryage("paper", "ridge").fit(x, y)
    np.testing.assert_allclose(ridge.predict(z).mean, by_hand, atol=1e-4)
    written = Features("encoder", z.dense, z.lexical + 1, 1 - z.form)
    assert ridge.predict(written).mean.tobytes() == ridge.predict(z).mean.tobytes()


def test_the_papers_rule_is_the_engines_utility() -> None:
    """argmin L̂ᵢ + λ·Cᵢ with C the size by rank, worked out by hand.

    L̂ = (.30, .35, .45), C = (1, .5, 0): λ = 0 → .30 .35 .45; λ = .05 → .35 .375 .45; λ = .2 → .50 .45 .45
    (the tie goes to the cheaper); λ = .3 → .60 .50 .45.
    """
    loss = np.array([[0.30, 0.35, 0.45]])
    pool = [ExpertProfile(f"m{n}", f"m{n}", parameters_b=size) for n, size in enumerate((70.0, 8.0, 1.0))]
    ones = np.ones((1, 3))
    names = tuple(profile.name for profile in pool)
    cost = np.array([[3.0, 2.0, 1.0]])
    prediction = Prediction(names, "static", 1 - loss, ones, ones, cost, ones, np.ones(3, bool))
    for weight, sums, chosen in (
        (0.0, (0.30, 0.35, 0.45), "m0"),
        (0.05, (0.35, 0.375, 0.45), "m0"),
        (0.2, (0.50, 0.45, 0.45), "m2"),
        (0.3, (0.60, 0.50, 0.45), "m2"),
    ):
        policy = Policy("p", Objective(goals=(("size", weight),)))
        (decision,) = Engine(pool, Scale()).decide(policy, [Query("x", 1)], prediction, Fleet.idle(3))
        np.testing.assert_allclose(1 - decision.utility, sums)
        assert decision.chosen == chosen


def test_what_moved_a_prediction_is_told_by_part_the_largest_first() -> None:
    x = features(500)
    asks = x.form[:, FORM_NAMES.index("questions")] > 0.5
    y = np.stack([asks, np.full(500, 0.5)], axis=1).astype(np.float64)
    tryage = Tryage("improved", "trees", {"n_trees": 30}).fit(x, y)
    effects = tryage.explain(x.take(np.flatnonzero(asks)[:1]))
    assert effects[0].part == "form.questions"
    assert effects[0].by[0] > 0.1
    assert abs(effects[0].by[1]) < 0.05
    assert {"content", "words"} <= {one.part for one in effects}
    assert len(effects) == 2 + len(FORM_NAMES)


def test_in_paper_mode_only_content_moves_anything() -> None:
    x = features(100)
    tryage = Tryage("paper", "ridge").fit(x, scores(x))
    restored = Tryage("paper", "ridge").restore(tryage.arrays())
    for one in restored.explain(x.take(slice(0, 1))):
        assert (np.abs(one.by).max() > 1e-6) == (one.part == "content")


@pytest.mark.parametrize("settings", [{"mode": "paper", "head": "trees"}, {"head": "forest"}, {"mode": "x"}])
def test_a_head_or_mode_that_is_not_there_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ArtifactError, match=r"no (head|mode)"):
        make_predictor("tryage", settings)


def test_a_setting_that_a_head_does_not_take_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match=r"kernel.*n_trees"):
        make_predictor("tryage", {"head": "kernel", "settings": {"n_trees": 3}}).fit(
            features(5), scores(features(5))
        )


def test_trees_walk_as_scikit_learn_walks_them() -> None:
    from sklearn.ensemble import ExtraTreesRegressor

    x = features(300)
    y = scores(x)
    ours = Trees(n_trees=7, min_leaf=5, prior=0.0, n_content=16, n_words=0).fit(x, y)
    order = np.lexsort(np.concatenate((x.form, x.dense), axis=1).T)
    columns = np.lexsort(y[order][::-1])
    rows = ours.inputs_.rows(x)
    forest = ExtraTreesRegressor(7, min_samples_leaf=5, max_features=1 / 3, random_state=0)
    residual = (y - y.mean(axis=0))[order][:, columns]
    forest.fit(rows[order], residual / np.abs(residual).max())
    theirs = forest.predict(rows)[:, np.argsort(columns)] * np.abs(residual).max() + y.mean(axis=0)
    np.testing.assert_allclose(ours.predict(x).mean, theirs, atol=1e-5)
