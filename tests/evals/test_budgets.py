import numpy as np
import pytest

from evals.measures.bootstrap import interval, interval_of_difference
from evals.measures.budgets import Split, evaluate_split, pick_values, pool, route, summary
from routers import OutcomeTable


def table(score: list[list[float]], cost: tuple[float, float] | None = (1.0, 4.0)) -> OutcomeTable:
    held = np.array(score)
    measures = {"score": held}
    if cost is not None:
        measures["cost_usd"] = np.tile(cost, (len(held), 1))
    return OutcomeTable.build([str(n) for n in range(len(held))], ["cheap", "dear"], measures)


HALF = [[1.0, 1.0], [0.0, 1.0]] * 10


def test_lambda_zero_takes_the_best_and_a_large_one_the_cheapest() -> None:
    quality = np.array([[0.4, 0.5], [0.6, 0.5]])
    assert route(quality, np.array([1.0, 4.0]), 0.0).tolist() == [1, 0]
    assert route(quality, np.array([1.0, 4.0]), 10.0).tolist() == [0, 0]
    assert pick_values(quality, np.array([1, 0])).tolist() == [0.5, 0.6]


def test_an_oracle_router_saves_what_the_dear_expert_need_not_do() -> None:
    """Half the queries go to the cheap expert at no loss: cost (1 + 4) / 2 against 4."""
    held = table(HALF)
    printed = summary(evaluate_split(Split(held, held, held.score - [0.0, 1e-3], held.score - [0.0, 1e-3])))
    assert printed["accuracy"] == 1
    assert printed["gain"] == 0
    assert printed["cost_saved"] == pytest.approx(1 - 2.5 / 4)
    assert printed["cost_saved_score"] == 0


def test_area_is_the_mean_over_budgets_from_the_cheapest_to_the_best_single() -> None:
    """A constant router takes the cheap expert (score .5) until the dear one (1.0) is affordable."""
    held = table(HALF)
    constant = np.tile([0.5, 1.0], (len(held), 1))
    printed = summary(evaluate_split(Split(held, held, constant, constant)))
    assert printed["area"] == pytest.approx((49 * 0.5 + 1.0) / 50)
    assert printed["area_usd"] == pytest.approx((49 * 1 + 4) / 50)


def test_the_weights_of_area_are_chosen_on_the_training_part() -> None:
    """The weight that moves training queries to the cheap expert is too small to move test queries."""
    held = table(HALF)
    training, testing = (np.tile([low, 1.0], (len(held), 1)) for low in (0.5, 0.0))
    printed = summary(evaluate_split(Split(held, held, training, testing)))
    assert (printed["area"], printed["area_usd"]) == (1, 4)


def test_area_does_not_depend_on_the_scale_of_predicted_differences() -> None:
    """A router that trusts itself a millionth orders queries alike; a grid of λ would move all at once."""
    held = table(HALF)
    gain = np.arange(len(held)) / len(held)
    printed = [
        summary(evaluate_split(Split(held, held, quality, quality)))
        for quality in (np.stack([0.5 - by * gain, 0.5 + by * gain], axis=1) for by in (0.5, 1e-6))
    ]
    assert printed[0] == pytest.approx(printed[1])


def test_without_costs_there_is_accuracy_and_no_area() -> None:
    held = table(HALF, cost=None)
    printed = summary(evaluate_split(Split(held, held, held.score, held.score)))
    assert printed["accuracy"] == 1
    assert np.isnan([printed["area"], printed["cost_saved"]]).all()


def test_the_best_single_is_the_training_parts() -> None:
    train, test = table([[0.0, 1.0]] * 4), table([[1.0, 0.0]] * 4)
    result = evaluate_split(Split(train, test, train.score, test.score))
    assert result.single.tolist() == [0.0] * 4


def test_pooling_keeps_every_query() -> None:
    held = table(HALF)
    result = evaluate_split(Split(held, held, held.score, held.score))
    assert len(pool([result, result]).score) == 2 * len(held)


def test_a_paired_interval_is_narrow_where_the_difference_is_steady() -> None:
    rng = np.random.default_rng(0)
    noise = rng.random(500)
    steady = interval_of_difference(noise + 0.1, noise)
    assert (steady.low, steady.high) == pytest.approx((0.1, 0.1))
    wide = interval(noise)
    assert wide.low < wide.value < wide.high
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * noise.std() / np.sqrt(500), rel=0.15)
    assert np.isnan(interval(np.array([])).value)
