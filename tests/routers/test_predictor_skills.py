import numpy as np

from routers import Features, make_predictor
from routers.predictors.skills import Skills
from routers.skills import Posteriors, counts, paper_probabilities

CATALOGUE = [["a", [[1, 2], [3]]], ["b", [[4]]]]
SLOTS = np.array([[1, 2, 9], [3, 4, -1], [1, 4, -1], [1, 9, -1]])
MENTIONED = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
SCORES = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])


def features() -> Features:
    return Features("static", np.eye(4, dtype=np.float32), SLOTS, np.zeros((4, 2)))


def fit_skills(mode: str) -> Skills:
    model = make_predictor("skills", {"mode": mode, "catalogue": CATALOGUE}).fit(features(), SCORES)
    assert isinstance(model, Skills)
    return model


def test_a_skill_is_mentioned_where_one_of_its_phrases_stands_whole() -> None:
    tags = fit_skills("paper").tags(features())
    np.testing.assert_array_equal(tags[:3], MENTIONED[:3])
    assert tags[3].sum() == 1  # mentions none: the nearest


def test_paper_mode_recruits_by_the_papers_arithmetic() -> None:
    model = fit_skills("paper")
    np.testing.assert_array_equal(model.profile_, counts(MENTIONED, SCORES))
    predicted = model.predict(features()).mean[:3]
    np.testing.assert_allclose(predicted, paper_probabilities(MENTIONED[:3], counts(MENTIONED, SCORES)))


def test_improved_profiles_are_the_means_of_beta_posteriors() -> None:
    model = fit_skills("improved")
    np.testing.assert_allclose(
        model.mean_ + model.profile_, Posteriors.of(MENTIONED, SCORES, model.prior).mean
    )


def test_a_query_of_one_skill_gets_the_posteriors_of_that_skill() -> None:
    model = fit_skills("improved")
    predicted = model.predict(features()).mean
    np.testing.assert_allclose(predicted[[0, 2]], model.mean_ + model.profile_, atol=0.005)


def test_a_query_far_from_every_skill_gets_the_accuracy_on_everything() -> None:
    model = fit_skills("improved")
    far = Features("static", np.full((1, 4), -0.5, np.float32), np.array([[7]]), np.zeros((1, 2)))
    np.testing.assert_allclose(model.predict(far).mean[0], SCORES.mean(axis=0))


def test_without_a_catalogue_skills_are_the_ngrams_that_tell_experts_apart() -> None:
    rng = np.random.default_rng(0)
    slots = np.sort(rng.integers(10, 30, (200, 4)), axis=1)
    slots[:100, 0] = 1
    scores = np.stack([np.arange(200) < 100, np.arange(200) >= 100], axis=1).astype(np.float64)
    dense = rng.normal(size=(200, 8)).astype(np.float32)
    x = Features("static", dense / np.linalg.norm(dense, axis=1, keepdims=True), slots, np.zeros((200, 2)))
    model = make_predictor("skills", {"n_skills": 3}).fit(x, scores)
    assert isinstance(model, Skills)
    assert 1 in model.phrases_[:, 0]
