"""What a call costs, from the provider's own counts."""

import pytest

from gateway.openai.answers import InputDetails, OutputDetails, Price, Usage, cost_usd, set_usage, sum_usages

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


def test_reasoning_is_told_apart_without_a_count_of_the_input() -> None:
    usage = Usage(None, 10, 16, completion_tokens_details=OutputDetails(6))
    assert usage.output_tokens == 16


def test_free_input_does_not_make_the_output_free() -> None:
    assert cost_usd(Usage(100, 10), Price(0.0, 4e-6)) == pytest.approx(40e-6)
    assert cost_usd(Usage(100, 10), Price(1e-6, 0.0)) == pytest.approx(100e-6)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(5, 5),
        Usage(5, 5, prompt_tokens_details=InputDetails(), completion_tokens_details=OutputDetails()),
    ],
)
def test_a_count_that_is_missing_is_zero(usage: Usage) -> None:
    assert (usage.cached_tokens, usage.reasoning_tokens, usage.output_tokens) == (0, 0, 5)


def test_the_sum_of_calls_counts_each_once() -> None:
    assert sum_usages([Usage(0, 7), Usage(3)]) == Usage(3, 7, 10)
    assert sum_usages([Usage(3, 7), None]) is None
    assert sum_usages([Usage(3, 7), Usage(None, 7)]) is None
    assert sum_usages([]) is None


@pytest.mark.parametrize("body", [b"no json", b"[1]"])
def test_a_body_that_is_no_object_keeps_its_bytes(body: bytes) -> None:
    assert set_usage(body, Usage(1, 2, 3)) == body


def test_a_usage_replaces_the_one_of_the_body() -> None:
    body = set_usage(b'{"id":"c","usage":{"prompt_tokens":9}}', Usage(1, 2, 3))
    assert body == b'{"id":"c","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
