import numpy as np
import pytest

from routers import GENERAL, Categorizer, Features, fit_predictor, make_predictor
from routers.categories.taxonomy import Kind
from routers.predictors.coe import CoE
from routers.protocols import CategoryExamples
from routers.types import Floats

NAN = np.nan


def cloud(n: int, seed: int, n_kinds: int = 2, spread: float = 0.25) -> tuple[Features, list[str]]:
    """Queries of kinds that lie in different directions, and their tags."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(n_kinds, size=n)
    dense = np.eye(6)[kind] + spread * rng.normal(size=(n, 6))
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    form = rng.random((n, 2))
    return Features("encoder", dense.astype(np.float32), np.zeros((n, 0), np.int64), form), [
        f"kind-{k}" for k in kind
    ]


def outcomes(tags: list[str], seed: int = 0) -> Floats:
    """The first expert is right on kind-0 four times in five, the second on all others."""
    first = np.array([tag == "kind-0" for tag in tags])
    rng = np.random.default_rng(seed)
    chance = np.column_stack((np.where(first, 0.8, 0.2), np.where(first, 0.2, 0.8)))
    return (rng.random(chance.shape) < chance).astype(np.float64)


def test_paper_answers_with_the_plain_means_of_the_category() -> None:
    x, tags = cloud(120, 0, spread=0.05)
    y = outcomes(tags)
    fitted = fit_predictor(make_predictor("coe", {"mode": "paper"}), x, y, tags)
    z, asked = cloud(20, 1, spread=0.05)
    expected = [y[[tag == kind for tag in tags]].mean(axis=0) for kind in asked]
    np.testing.assert_allclose(fitted.predict(z).mean, expected)


def test_paper_shares_a_tie_of_votes() -> None:
    dense = np.array([[1, 0], [0, 1]], np.float32)
    x = Features("encoder", dense, np.zeros((2, 0), np.int64), np.zeros((2, 1)))
    settings = {"mode": "paper", "classifier": "knn", "min_count": 1}
    fitted = fit_predictor(make_predictor("coe", settings), x, np.array([[1.0], [0.0]]), ["a", "b"])
    np.testing.assert_allclose(fitted.predict(x).mean, [[0.5], [0.5]])


def test_improved_shrinks_and_weighs_by_the_posterior() -> None:
    x, tags = cloud(120, 0, spread=0.05)
    y = np.column_stack(([float(tag == "kind-0") for tag in tags], np.zeros(120)))
    fitted = fit_predictor(make_predictor("coe", {"strength": 20.0}), x, y, tags)
    n = sum(tag == "kind-0" for tag in tags)
    ceiling = (n + 20 * n / 120) / (n + 20)
    mean = fitted.predict(x).mean[[tag == "kind-0" for tag in tags], 0]
    assert (mean < ceiling).all()
    assert mean.mean() == pytest.approx(ceiling, abs=0.1)


@pytest.mark.parametrize("mode", ["paper", "improved"])
def test_what_is_like_nothing_seen_gets_the_overall_means(mode: str) -> None:
    x, tags = cloud(600, 0, spread=0.1)
    y = outcomes(tags)
    fitted = fit_predictor(make_predictor("coe", {"mode": mode, "classifier": "knn"}), x, y, tags)
    dense = np.zeros((1, 6), np.float32)
    dense[0, :2] = np.sqrt(0.5) if mode == "paper" else -np.sqrt(0.5)  # torn; the other way
    strange = Features("encoder", dense, np.zeros((1, 0), np.int64), np.full((1, 2), 0.5))
    assert isinstance(fitted, Categorizer)
    assert fitted.categories(strange) == (GENERAL,)
    tolerance = 1e-9 if mode == "paper" else 0.1
    np.testing.assert_allclose(fitted.predict(strange).mean[0], y.mean(axis=0), atol=tolerance)


@pytest.mark.parametrize("classifier", ["knn", "logistic", "centroid"])
def test_categories_are_told_by_name(classifier: Kind) -> None:
    x, tags = cloud(400, 0, n_kinds=3)
    fitted = fit_predictor(make_predictor("coe", {"classifier": classifier}), x, outcomes(tags), tags)
    z, asked = cloud(200, 1, n_kinds=3)
    assert isinstance(fitted, Categorizer)
    names = fitted.categories(z)
    assert np.mean([one == other for one, other in zip(names, asked, strict=True)]) > 0.85
    assert names.count(GENERAL) < 30


def test_tags_of_some_queries_are_enough() -> None:
    x, tags = cloud(600, 0)
    few = [tag if n % 10 == 0 else "" for n, tag in enumerate(tags)]
    fitted = fit_predictor(make_predictor("coe"), x, outcomes(tags), few)
    z, asked = cloud(200, 1)
    best = np.array([int(tag != "kind-0") for tag in asked])
    assert (fitted.predict(z).mean.argmax(axis=1) == best).mean() > 0.95


def test_a_rare_tag_is_no_category() -> None:
    x, tags = cloud(100, 0)
    tags[:2] = ["rare", "rare"]
    fitted = fit_predictor(make_predictor("coe"), x, outcomes(tags), tags)
    assert isinstance(fitted, Categorizer)
    assert "rare" not in fitted.categories(x)


def test_tags_teach_and_are_not_asked_for_in_predicting() -> None:
    x, tags = cloud(300, 0)
    y = outcomes(tags)
    tagged = fit_predictor(make_predictor("coe"), x, y, tags).predict(x).mean
    without = fit_predictor(make_predictor("coe"), x, y).predict(x).mean
    assert tagged.shape == without.shape
    assert not np.allclose(tagged, without)
    np.testing.assert_array_equal(without, make_predictor("coe").fit(x, y).predict(x).mean)


@pytest.mark.parametrize("name", ["coe", "pilots", "factorization"])
@pytest.mark.parametrize("mode", ["paper", "improved"])
@pytest.mark.parametrize("n", [0, 60, 300])
def test_no_expert_is_no_prediction_and_no_error(name: str, mode: str, n: int) -> None:
    x, tags = cloud(n, 0)
    fitted = fit_predictor(make_predictor(name, {"mode": mode}), x, np.zeros((n, 0)), tags)
    assert fitted.predict(cloud(3, 1)[0]).mean.shape == (3, 0)


def test_the_promise_of_doubt_rests_on_queries_the_classifier_has_not_learned() -> None:
    """Tags are noise, and neighbours remember theirs: asked of those, they would seem sure of themselves."""
    rng = np.random.default_rng(0)

    def random_rows(n: int) -> Features:
        dense = rng.normal(size=(n, 48)).astype(np.float32)
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        return Features("static", dense, np.full((n, 1), -1), np.zeros((n, 2)))

    tags = ["abcd"[n] for n in rng.integers(4, size=600)]
    coe = CoE(classifier="knn", alpha=0.2).fit_tagged(random_rows(600), rng.random((600, 2)), tags)
    doubted = [name == GENERAL for name in coe.categories(random_rows(600))]
    assert np.mean(doubted) < 0.3


def test_alpha_holds_where_only_certain_labels_spread() -> None:
    """Between two kinds lie queries that no label reaches; they count among those that α is a share of."""
    x, tags = cloud(4000, 0, spread=0.45)
    known = [tag if n % 10 == 0 else "" for n, tag in enumerate(tags)]
    y = outcomes(tags)
    fitted = fit_predictor(make_predictor("coe", {"alpha": 0.1}), x, y, known)
    asked, _ = cloud(4000, 1, spread=0.45)
    assert isinstance(fitted, Categorizer)
    share = np.mean([name == GENERAL for name in fitted.categories(asked)])
    assert 0.06 < share < 0.14  # the threshold is set by 400 queries


def test_examples_teach_a_closed_list_of_categories() -> None:
    x, tags = cloud(600, 0)
    y = outcomes(tags)
    seeds, assigned = cloud(40, 1)
    examples = CategoryExamples(("kind-1", "kind-0"), seeds, assigned)
    fitted = fit_predictor(make_predictor("coe"), x, y, ["other"] * 600, examples)
    z, asked = cloud(300, 2)
    assert isinstance(fitted, Categorizer)
    said = fitted.categories(z)
    assert {*said} <= {"kind-0", "kind-1", GENERAL}
    right = [one == other for one, other in zip(said, asked, strict=True) if one != GENERAL]
    assert np.mean(right) > 0.95
    assert fitted.predict(z).mean[[tag == "kind-0" for tag in asked], 0].mean() > 0.7


def test_queries_without_outcomes_spread_labels_and_change_no_score() -> None:
    x, tags = cloud(400, 0)
    y = outcomes(tags)
    pool, _ = cloud(400, 1)
    few = [tag if n < 20 else "" for n, tag in enumerate(tags)]
    alone = CoE().fit_tagged(x, y, few)
    pooled = CoE().fit_examples(x, y, few, CategoryExamples((), pool, [""] * 400))
    z, asked = cloud(400, 2)
    for fitted in (alone, pooled):
        right = [a == b for a, b in zip(fitted.categories(z), asked, strict=True) if a != GENERAL]
        assert np.mean(right) > 0.9
    np.testing.assert_allclose(alone.value_[-1], pooled.value_[-1])  # over all outcomes: the same ones


def test_a_head_of_two_categories_keeps_its_categories_when_it_is_restored() -> None:
    x, tags = cloud(300, 0)
    seeds, assigned = cloud(20, 1)
    fitted = CoE().fit_examples(
        x, outcomes(tags), [""] * 300, CategoryExamples(("kind-0", "kind-1"), seeds, assigned)
    )
    again = CoE(**fitted.settings()).restore(fitted.arrays())
    z, _ = cloud(50, 2)
    assert again.categories(z) == fitted.categories(z)
