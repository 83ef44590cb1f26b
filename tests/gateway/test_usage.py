"""What a call costs, from the provider's own counts."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from gateway.experts.types import Call, ask_for_usage, estimate_usage
from gateway.openai.answers import InputDetails, OutputDetails, Price, Usage, cost_usd, set_usage, sum_usages
from gateway.openai.events import EventSplitter
from gateway.telemetry.logs import AccessFacts, AnswerFacts, access_line
from tests.fakes.providers import OpenAIRules, ProviderServer
from tests.fakes.serving import gateway

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


CHUNKS = (
    {"choices": [{"index": 0, "delta": {"role": "assistant"}}], "usage": None},
    {"choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": {"prompt_tokens": 3}},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [{"index": 0, "delta": {}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
)
EVENTS = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in CHUNKS]


@pytest.mark.parametrize("hides", [False, True])
def test_counts_that_only_the_gateway_asked_for_are_read_and_not_given(hides: bool) -> None:
    whole = b"".join(EVENTS) + b"data: [DONE]\n\n"
    given = b"".join(EVENTS[:3] if hides else EVENTS)
    for cut in range(len(whole)):
        splitter = EventSplitter(hides_usage=hides)
        assert splitter.feed(whole[:cut]) + splitter.feed(whole[cut:]) == given
        assert splitter.usage == Usage(9, 2)
        assert splitter.done


def read_sent(options: Any) -> tuple[bool, Any]:
    """Whether the counts are hidden, and the options that are sent, of a stream asked for with these."""
    fields = {} if options is None else {"stream_options": Raw(json.dumps(options).encode())}
    call, sent = ask_for_usage(Call("chat/completions", fields, stream=True), fields)
    return call.hides_usage, json.loads(bytes(sent["stream_options"]))


@pytest.mark.parametrize(
    ("options", "hidden", "sent"),
    [
        (None, True, {"include_usage": True}),
        ({}, True, {"include_usage": True}),
        ({"include_usage": False, "x": 1}, True, {"include_usage": True, "x": 1}),
        ({"include_usage": True}, False, {"include_usage": True}),
        ("no object", False, "no object"),
        ([1], False, [1]),
    ],
)
def test_a_stream_is_asked_to_be_counted(options: Any, hidden: bool, sent: Any) -> None:
    assert read_sent(options) == (hidden, sent)


def test_a_whole_answer_is_asked_for_as_it_came() -> None:
    call = Call("chat/completions", {})
    assert ask_for_usage(call, call.fields) == (call, {})


@pytest.mark.parametrize("said", ["Unknown parameter: 'stream_options'.", "Extra inputs are not permitted"])
async def test_an_upstream_that_refuses_to_count_answers_all_the_same_and_is_asked_once(
    tmp_path: Path, said: str
) -> None:
    async with ProviderServer(OpenAIRules(needs_key=False, refused={"stream_options": said})) as server:
        expert = {"name": "x", "model": "openai/x", "api_base": f"{server.address}/v1"}
        async with gateway({"experts": [expert]}, str(tmp_path / "j"), "x") as live:
            for _ in range(2):
                answer = await live.chat("x", stream=True)
                assert (answer.status, answer.events[-1]) == (200, b"[DONE]")
                assert "x-thalamus-warning" not in answer.headers
            assert ["stream_options" in request.body for request in server.requests] == [True, False, False]
            record = await live.read_record(answer)
    assert record["input_tokens"] > 0
    assert record["output_tokens"] > 0
    assert record["attempts"][-1]["tokens_estimated"] is True


async def test_a_client_that_asks_for_counts_itself_hears_of_the_refusal(tmp_path: Path) -> None:
    rules = OpenAIRules(needs_key=False, refused={"stream_options": "Unknown parameter: 'stream_options'."})
    async with ProviderServer(rules) as server:
        expert = {"name": "x", "model": "openai/x", "api_base": f"{server.address}/v1"}
        async with gateway({"experts": [expert]}, str(tmp_path / "j"), "x") as live:
            asked = await live.chat("x", stream=True, stream_options={"include_usage": True})
    assert "stream_options: left out" in asked.headers["x-thalamus-warning"]


def test_an_estimate_leaves_pictures_out() -> None:
    picture = "iVBORw0KGgo" * 1000
    fields = {"messages": Raw(json.dumps([{"role": "user", "content": ["Hi", picture]}]).encode())}
    usage = estimate_usage(Call("chat/completions", fields, stream=True), 7)
    assert (usage.output_tokens, usage.prompt_tokens) == (7, 10)


def test_an_estimate_is_marked_in_the_log() -> None:
    facts = AccessFacts("r", "POST", "/v1/x", 200, 1.0, "x", AnswerFacts(200, "x", 8, 6, is_estimated=True))
    assert "tokens=~8+6" in access_line(facts, str)
