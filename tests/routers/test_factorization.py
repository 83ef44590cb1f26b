import numpy as np
import pytest

from routers import Features, make_predictor
from routers.logistic import fit_sigmoids, fit_softmax, sigmoid, softmax
from routers.predictors.factorization import Factorization
from routers.types import Floats


def queries(n: int, seed: int, dim: int = 6) -> Features:
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, dim))
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    return Features("encoder", dense.astype(np.float32), np.zeros((n, 0), np.int64), rng.random((n, 2)))


def world(x: Features, n_experts: int = 5) -> Floats:
    """σ(a·θ_e − b): two demands, a difficulty, and experts of different ability in each."""
    demand = 5 * x.dense[:, :2].astype(np.float64)
    ability = np.random.default_rng(9).normal(size=(2, n_experts))
    return sigmoid(demand @ ability - 4 * x.dense[:, 2:3])


def test_weights_meet_the_conditions_of_a_minimum() -> None:
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(50, 3)), rng.random((50, 2)), rng.random((50, 2))
    offset, penalty = rng.normal(size=(50, 2)), np.array([1.0, 0.5, 0.1])
    w = fit_sigmoids(x, y, weight, offset, penalty)
    gradient = x.T @ (weight * (sigmoid(x @ w + offset) - y)) + penalty[:, None] * w
    np.testing.assert_allclose(gradient, 0.0, atol=1e-4)
    labels = np.eye(4)[rng.integers(4, size=50)]
    w = fit_softmax(x, labels, penalty)
    np.testing.assert_allclose(x.T @ (softmax(x @ w) - labels) + penalty[:, None] * w, 0.0, atol=1e-4)


def test_the_formula_is_that_of_item_response_theory() -> None:
    x = queries(200, 0)
    fitted = Factorization(mode="paper", n_factors=2, n_dims=None).fit(x, world(x))
    wide = np.column_stack((x.dense.astype(np.float64), np.zeros((200, 2)), np.ones(200)))
    difficulty = wide @ fitted.difficulty_
    demand = np.column_stack((wide[:, :-1] @ fitted.demand_, difficulty, np.ones(200)))
    low, span = fitted.range_
    by_hand = low + span / (1 + np.exp(-(demand @ fitted.ability_) + difficulty[:, None]))
    np.testing.assert_allclose(fitted.predict(x).mean, by_hand, rtol=1e-5)
    np.testing.assert_allclose((demand[:, :2] ** 2).mean(axis=0), 1.0)


def test_outcomes_of_few_demands_are_found_again() -> None:
    x, z = queries(3000, 0), queries(200, 1)
    p = world(x)
    y = (np.random.default_rng(2).random(p.shape) < p).astype(np.float64)
    y[np.random.default_rng(3).random(y.shape) < 0.3] = np.nan
    found = make_predictor("factorization", {"n_factors": 2, "mode": "paper", "penalty": 0.1}).fit(x, y)
    assert np.abs(found.predict(z).mean - world(z)).mean() < 0.05


@pytest.mark.parametrize("n_factors", [1, 50])
def test_any_number_of_factors_will_do(n_factors: int) -> None:
    x = queries(80, 0)
    fitted = make_predictor("factorization", {"n_factors": n_factors}).fit(x, world(x))
    assert np.isfinite(fitted.predict(x).mean).all()
