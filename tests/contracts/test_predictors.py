"""What every registered predictor must do, independent of what it has learned."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routers import PREDICTORS, ArtifactError, Features, make_predictor

NAMES = sorted(PREDICTORS)
RELAXED = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def features(n: int, seed: int = 0, dim: int = 24) -> Features:
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n, dim)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    lexical = np.sort(rng.integers(0, 60, (n, 12)), axis=1)
    lexical[rng.random((n, 12)) < 0.3] = -1
    return Features("encoder", dense, lexical, rng.random((n, 5)))


def targets(x: Features, n_experts: int = 3, seed: int = 1, gaps: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    y = 1 / (1 + np.exp(-3 * x.dense[:, :n_experts] - rng.normal(size=(len(x), n_experts))))
    y[rng.random(y.shape) < gaps] = np.nan
    return y.astype(np.float64)


@pytest.mark.parametrize("name", NAMES)
@RELAXED
@given(n=st.integers(1, 150), m=st.integers(1, 20), gaps=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 99))
def test_a_batch_equals_its_singles(name: str, n: int, m: int, gaps: float, seed: int) -> None:
    x, z = features(n, seed), features(m, seed + 1)
    predictor = make_predictor(name).fit(x, targets(x, gaps=gaps))
    batch = predictor.predict(z)
    for row in range(m):
        single = predictor.predict(z.take(slice(row, row + 1)))
        np.testing.assert_allclose(single.mean[0], batch.mean[row], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(single.std[0], batch.std[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@RELAXED
@given(seed=st.integers(0, 99), gaps=st.sampled_from([0.0, 0.4]))
def test_order_of_queries_and_of_experts_does_not_matter(name: str, seed: int, gaps: float) -> None:
    x, z = features(120, seed), features(7, seed + 1)
    y = targets(x, gaps=gaps)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(x)), rng.permutation(y.shape[1])
    plain = make_predictor(name).fit(x, y).predict(z)
    shuffled = (
        make_predictor(name).fit(x.take(rows), y[rows][:, columns]).predict(z.take(slice(None, None, -1)))
    )
    np.testing.assert_allclose(shuffled.mean[::-1], plain.mean[:, columns], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(shuffled.std[::-1], plain.std[:, columns], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_restoring_what_was_saved_gives_the_same_bits(name: str) -> None:
    x, z = features(90), features(9, seed=5)
    fitted = make_predictor(name).fit(x, targets(x, gaps=0.2))
    arrays = fitted.arrays()
    assert all(values.dtype != object for values in arrays.values())
    twin = make_predictor(name, fitted.settings()).restore(arrays)
    assert twin.predict(z).mean.tobytes() == fitted.predict(z).mean.tobytes()
    assert twin.predict(z).std.tobytes() == fitted.predict(z).std.tobytes()
    assert twin.settings() == fitted.settings()


@pytest.mark.parametrize("name", NAMES)
def test_fitting_twice_gives_the_same_bits(name: str) -> None:
    x, z = features(90), features(9, seed=5)
    first, second = (make_predictor(name).fit(x, targets(x)).predict(z).mean for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_no_query_gives_no_prediction(name: str) -> None:
    x = features(30)
    estimate = make_predictor(name).fit(x, targets(x)).predict(features(0))
    assert estimate.mean.shape == estimate.std.shape == (0, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 2, 5, 40])
def test_any_number_of_training_queries_and_any_gaps_give_finite_predictions(name: str, n: int) -> None:
    x = features(n)
    y = targets(x, n_experts=3)
    y[:, 1] = np.nan
    y[: n // 2] = np.nan
    estimate = make_predictor(name).fit(x, y).predict(features(4, seed=9))
    assert np.isfinite(estimate.mean).all()
    assert np.isfinite(estimate.std).all()
    assert (estimate.std >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_expert_is_enough(name: str) -> None:
    x = features(50)
    assert make_predictor(name).fit(x, targets(x, n_experts=1)).predict(features(6)).mean.shape == (6, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_constant_targets_are_predicted_as_they_are(name: str, value: float) -> None:
    x = features(60)
    estimate = make_predictor(name).fit(x, np.full((60, 2), value)).predict(features(5, seed=3))
    np.testing.assert_allclose(estimate.mean, value, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_targets_is_kept(name: str) -> None:
    x, z = features(80), features(6, seed=2)
    y = targets(x)
    plain = make_predictor(name).fit(x, y).predict(z).mean
    scaled = make_predictor(name).fit(x, 100 * y + 7).predict(z).mean
    np.testing.assert_allclose(scaled, 100 * plain + 7, rtol=1e-3, atol=1e-3)


def two_kinds(n: int, seed: int) -> tuple[Features, Any]:
    """Queries of two kinds that differ in words and content, and which kind each is."""
    x, kind = features(n, seed), np.random.default_rng(seed).random(n) < 0.5
    dense = x.dense * np.float32(0.5)
    dense[:, 0] += np.where(kind, 1, -1)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    lexical = np.where((x.lexical >= 0) & kind[:, None], x.lexical + 60, x.lexical)
    return Features("encoder", dense, lexical, x.form), kind


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"constant"}))
@pytest.mark.parametrize("gaps", [0.0, 0.5])
def test_the_better_expert_is_told_for_each_kind_of_query(name: str, gaps: float) -> None:
    x, kind = two_kinds(300, seed=0)
    y = np.stack([kind, ~kind], axis=1).astype(np.float64)
    y[np.random.default_rng(2).random(y.shape) < gaps] = np.nan
    z, asked = two_kinds(100, seed=1)
    mean = make_predictor(name).fit(x, y).predict(z).mean
    assert ((mean[:, 0] > mean[:, 1]) == asked).mean() > 0.95


def test_an_unknown_predictor_or_setting_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match=r"no predictor 'nosuch'; there are blend, clusters"):
        make_predictor("nosuch")
    with pytest.raises(ArtifactError, match=r"predictor 'knn'.*'q'"):
        make_predictor("knn", {"q": 1})
