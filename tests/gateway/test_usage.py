"""What a call costs, from the provider's own counts."""

import pytest

from gateway.openai.usage import InputDetails, OutputDetails, Price, Usage, cost_usd

PRICE = Price(input_usd=1e-6, output_usd=4e-6)


def test_input_and_output_have_their_prices() -> None:
    assert cost_usd(Usage(100, 10), PRICE) == pytest.approx(140e-6)


def test_cached_input_has_its_own_price() -> None:
    usage = Usage(100, 10, prompt_tokens_details=InputDetails(60))
    assert cost_usd(usage, Price(1e-6, 4e-6, cached_input_usd=1e-7)) == pytest.approx(40e-6 + 6e-6 + 40e-6)
    assert cost_usd(usage, PRICE) == pytest.approx(140e-6)


def test_reasoning_has_its_own_price_and_is_part_of_the_output() -> None:
    usage = Usage(100, 10, 110, completion_tokens_details=OutputDetails(6))
    assert cost_usd(usage, Price(1e-6, 4e-6, reasoning_usd=1e-5)) == pytest.approx(100e-6 + 16e-6 + 60e-6)
    assert cost_usd(usage, PRICE) == pytest.approx(140e-6)


def test_reasoning_left_out_of_the_output_is_billed_all_the_same() -> None:
    usage = Usage(100, 10, 116, completion_tokens_details=OutputDetails(6))
    assert cost_usd(usage, PRICE) == pytest.approx(100e-6 + 64e-6)


def test_another_spelling_of_cached_input() -> None:
    usage = Usage(100, 0, prompt_cache_hit_tokens=100)
    assert cost_usd(usage, Price(1e-6, 4e-6, cached_input_usd=0.0)) == 0.0


@pytest.mark.parametrize(
    ("usage", "price"),
    [
        (None, PRICE),
        (Usage(), PRICE),
        (Usage(100, 10), Price()),
        (Usage(100, 10), Price(input_usd=1e-6)),
        (Usage(100, 10), Price(output_usd=1e-6)),
    ],
)
def test_what_is_not_known_is_unknown(usage: Usage | None, price: Price) -> None:
    assert cost_usd(usage, price) is None


def test_an_embedding_has_no_output_to_pay_for() -> None:
    assert cost_usd(Usage(100), Price(input_usd=1e-6)) == pytest.approx(100e-6)


def test_what_costs_nothing_costs_nothing() -> None:
    assert cost_usd(Usage(100, 10), Price(0.0, 0.0)) == 0.0
    assert cost_usd(None, Price(0.0, 0.0)) == 0.0
