import numpy as np
import pytest

from routers import Estimate
from routers.calibration import Calibration, calibration_error


def overconfident(n: int = 4000) -> tuple[Estimate, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.uniform(0.2, 0.8, (n, 2))
    outcomes = (rng.random((n, 2)) < true).astype(float)
    said = 0.5 + 1.8 * (true - 0.5)
    return Estimate(said, np.full((n, 2), 0.05)), outcomes, true


def test_calibrating_overconfident_scores_halves_their_error_at_least() -> None:
    said, outcomes, _ = overconfident()
    fitted = Calibration.fit(said, outcomes, np.arange(len(outcomes)) // 40)
    before = calibration_error(said.mean, outcomes)
    assert calibration_error(fitted.apply(said).mean, outcomes) < before / 2


def test_calibrated_scores_stay_in_range_and_in_order() -> None:
    said, outcomes, _ = overconfident()
    fitted = Calibration.fit(said, outcomes, np.arange(len(outcomes)) // 40)
    line = np.linspace(-3, 4, 50)[:, None].repeat(2, axis=1)
    mean = fitted.apply(Estimate(line.copy(), np.ones_like(line))).mean
    assert mean.min() == 0
    assert mean.max() == 1
    assert (np.diff(mean, axis=0) >= 0).all()


@pytest.mark.parametrize("error", [0.03, 0.1])
def test_deviations_are_scaled_to_the_errors_groups_show(error: float) -> None:
    rng = np.random.default_rng(1)
    groups = np.arange(80_000) // 400
    true = 0.5 + rng.normal(0, error, 200)[groups][:, None]
    outcomes = (rng.random(true.shape) < true).astype(float)
    said = Estimate(np.full_like(true, 0.5), np.full_like(true, 0.05))
    std = Calibration.fit(said, outcomes, groups).apply(said).std
    np.testing.assert_allclose(std, error, rtol=0.35)


def test_an_expert_nobody_measured_keeps_its_predictions() -> None:
    said, outcomes, _ = overconfident()
    outcomes[:, 1] = np.nan
    fitted = Calibration.fit(said, outcomes, np.arange(len(outcomes)) // 40)
    np.testing.assert_allclose(fitted.apply(said).mean[:, 1].mean(), said.mean[:, 1].mean(), atol=0.02)


def test_few_outcomes_take_the_slope_of_the_others() -> None:
    said, outcomes, _ = overconfident()
    outcomes[10:, 1] = np.nan
    fitted = Calibration.fit(said, outcomes, np.arange(len(outcomes)) // 40)
    assert fitted.slope[1] == pytest.approx(fitted.slope[0], abs=0.05)


def test_constant_predictions_are_moved_to_the_mean_outcome() -> None:
    outcomes = np.array([[1.0], [0.0], [1.0], [1.0]])
    said = Estimate(np.full((4, 1), 0.2), np.full((4, 1), 0.1))
    assert Calibration.fit(said, outcomes, np.zeros(4, np.int64)).apply(said).mean[0, 0] == pytest.approx(
        0.75
    )


def test_calibration_error_of_a_known_case() -> None:
    predicted = np.full((20, 1), 0.5)
    targets = np.array([1.0] * 15 + [0.0] * 5)[:, None]
    assert calibration_error(predicted, targets) == pytest.approx(0.25)
    assert calibration_error(predicted, np.full((20, 1), 0.5)) == 0
    assert calibration_error(predicted, np.full((20, 1), np.nan)) == 0
