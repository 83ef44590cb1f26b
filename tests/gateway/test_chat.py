"""Chat and completions through the whole gateway: who answers, what is sent, what comes back."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.testing import FakeUpstream, build_completion, build_stream
from tests.fakes.serving import KEY, LiveApp, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW = {"context_window": 1000, "abilities": []}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    journal = str(tmp_path_factory.mktemp("chat") / "j.sqlite3")
    async with gateway(config_of(upstream.base_url), journal, "good", "other") as running:
        yield running


def config_of(base: str) -> dict[str, object]:
    def expert(name: str, **more: object) -> dict[str, object]:
        return {
            "name": name,
            "model": f"openai/{name}",
            "api_base": base,
            "api_key": "sk-upstream",
            **WINDOW,
            **more,
        }

    experts = [
        expert("good", input_cost_per_token=1e-6, output_cost_per_token=2e-6),
        expert("other"),
        expert("rated-1", input_cost_per_token=0.0, output_cost_per_token=0.0),
        expert("usage", input_cost_per_token=1e-6, output_cost_per_token=2e-6),
        expert("crlf"),
        expert("unicode"),
        expert("tools"),
        expert("thinking"),
        expert(
            "regime",
            model="openai/other",
            system="Be brief.",
            examples=[{"user": "u", "assistant": "a"}],
            params={"temperature": 0, "max_tokens": 7},
            override_params={"seed": 3},
        ),
        {"name": "calc", "model": "calculator", "tool": "calculator"},
    ]
    return {"experts": experts, "policies": {"cheap": {}}}


async def test_a_whole_answer_passes_byte_for_byte(live: LiveApp) -> None:
    answer = await live.chat("good")
    assert (answer.status, answer.body) == (200, build_completion("good"))


@pytest.mark.parametrize("model", ["good", "crlf", "unicode", "tools", "thinking"])
async def test_a_stream_passes_byte_for_byte(live: LiveApp, model: str) -> None:
    answer = await live.chat(model, stream=True)
    assert (answer.status, answer.body) == (200, b"".join(build_stream(model)))
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("stream", [False, True])
async def test_plain_completions_pass_too(live: LiveApp, stream: bool) -> None:
    answer = await live.post("completions", {"model": "good", "prompt": "x", "stream": stream})
    assert answer.body == (
        b"".join(build_stream("good", chat=False)) if stream else build_completion("good", chat=False)
    )


@pytest.mark.parametrize("model", ["tools", "thinking", "good"])
async def test_every_delta_is_passed_on_as_it_comes(
    live: LiveApp, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setattr(upstream, "chunk_interval_s", 0.03)
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    async with live.http.post(f"{live.base}/chat/completions", json=body) as response:
        parts = [part async for part in response.content.iter_any()]
    assert len(parts) >= len(build_stream(model)) - 1
    assert b"".join(parts) == b"".join(build_stream(model))


async def test_unknown_fields_travel_unchanged_and_ours_stay_here(
    live: LiveApp, upstream: FakeUpstream
) -> None:
    messages = b'"messages": [{"role": "user", "content": "x"}]'
    body = b'{"model": "good", "x_new":  {"a": [1.50, "\\u00fc"]}, "router": {}, ' + messages + b"}"
    assert (await live.post("chat/completions", body)).status == 200
    sent = upstream.calls[-1]
    assert sent == {
        "model": "good",
        "x_new": {"a": [1.5, "ü"]},
        "messages": [{"role": "user", "content": "x"}],
    }
    assert upstream.headers[-1]["authorization"] == "Bearer sk-upstream"


async def test_auto_asks_whom_the_decision_names(live: LiveApp, upstream: FakeUpstream) -> None:
    answer = await live.chat("auto")
    assert (answer.expert, answer.headers["x-thalamus-policy"]) == ("good", "auto")
    assert answer.headers["x-thalamus-reason"] == "first in order"
    assert upstream.calls[-1]["model"] == "good"


async def test_auto_with_a_policy_decides_by_it(live: LiveApp) -> None:
    answer = await live.chat("auto:cheap")
    assert answer.headers["x-thalamus-policy"] == "cheap"
    assert (await live.chat("auto", router={"policy": "cheap"})).headers["x-thalamus-policy"] == "cheap"


async def test_an_expert_answers_to_its_provider_and_model_too(live: LiveApp) -> None:
    assert (await live.chat("openai/usage")).expert == "usage"


@pytest.mark.parametrize("model", ["gpt-99", "auto:none", "openai/gpt-99", "auto:"])
async def test_what_is_not_configured_is_refused_with_what_there_is(live: LiveApp, model: str) -> None:
    answer = await live.chat(model)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "auto:cheap" in answer.error["message"]
    assert "good" in answer.error["message"]


@pytest.mark.parametrize(
    ("model", "near"),
    [("ussage", "usage"), ("USAGE", "usage"), ("auto:chaep", "auto:cheap"), ("zzzzzz", None)],
)
async def test_an_unknown_model_is_told_with_the_nearest(live: LiveApp, model: str, near: str | None) -> None:
    message = (await live.chat(model)).error["message"]
    hint = f"did you mean '{near}'? " if near else ""
    assert message.startswith(f"there is no model '{model}'; {hint}there are: auto, ")


async def test_every_answer_says_who_why_and_what_it_cost(live: LiveApp) -> None:
    answer = await live.chat("good", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-thalamus-expert"] == "good"
    assert answer.headers["x-thalamus-plan"] == "single"
    assert answer.headers["x-thalamus-policy"] == "named"
    assert float(answer.headers["x-thalamus-cost-usd"]) == pytest.approx(20e-6 + 10e-6)
    assert float(answer.headers["x-thalamus-overhead-ms"]) > 0
    assert answer.headers["x-request-id"] == "mine-1"
    record = await live.read_record(answer)
    assert (record["request_id"], record["expert_answered"]) == ("mine-1", "good")


async def test_an_unknown_price_is_unknown_and_not_zero(live: LiveApp) -> None:
    answer = await live.chat("other")
    assert answer.headers["x-thalamus-cost-usd"] == "unknown"
    assert (await live.read_record(answer))["cost_usd"] is None


async def test_a_wild_request_id_is_replaced(live: LiveApp) -> None:
    answer = await live.chat("good", headers={"x-request-id": "a b<script>"})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_the_whole_decision_comes_when_asked_for(live: LiveApp) -> None:
    answer = await live.chat("auto", headers={"x-thalamus-debug": "true"})
    whole_decision = json.loads(answer.headers["x-thalamus-decision"])
    assert {candidate["expert"] for candidate in whole_decision["candidates"]} == {"good", "other"}
    assert whole_decision["id"] == answer.headers["x-thalamus-decision-id"]


async def test_a_stream_tells_the_facts_before_done_when_asked(live: LiveApp) -> None:
    answer = await live.chat("good", stream=True, router={"explain": True})
    assert answer.events[-1] == b"[DONE]"
    facts = json.loads(answer.events[-2])
    assert (facts["choices"], facts["thalamus"]["expert"]) == ([], "good")
    assert answer.body.startswith(b"".join(build_stream("good")[:-1]))


async def test_overhead_and_latency_count_neither_the_streaming_nor_the_wait_after_it(
    live: LiveApp, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "chunk_interval_s", 0.05)
    start = perf_counter()
    answer = await live.chat("good", stream=True, router={"explain": True})
    elapsed_s = perf_counter() - start
    streamed_s = 0.05 * (len(build_stream("good")) - 1)
    facts = json.loads(answer.events[-2])["thalamus"]
    assert float(facts["overhead_ms"]) / 1000 + streamed_s < elapsed_s
    async with asyncio.timeout(5):
        while not (record := await live.services.journal.get(facts["decision_id"])):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert streamed_s < record["latency_s"] < elapsed_s
    assert 0 < record["overhead_s"] < elapsed_s - streamed_s


async def test_a_regime_is_put_around_the_conversation(live: LiveApp, upstream: FakeUpstream) -> None:
    await live.chat("regime", temperature=1, max_completion_tokens=9, seed=1)
    sent = upstream.calls[-1]
    assert [turn["content"] for turn in sent["messages"]] == ["Be brief.", "u", "a", "Hi"]
    assert (sent["temperature"], sent["seed"], sent["max_completion_tokens"]) == (1, 3, 9)
    assert "max_tokens" not in sent
    await live.chat("regime")
    assert (upstream.calls[-1]["temperature"], upstream.calls[-1]["max_tokens"]) == (0, 7)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_answers_like_any_expert(live: LiveApp, stream: bool) -> None:
    asked = [{"role": "user", "content": "What is 4817*392?"}]
    answer = await live.chat("calc", stream=stream, messages=asked)
    assert (answer.status, answer.expert, b"1888264" in answer.body.replace(b",", b"")) == (200, "calc", True)
    assert stream == answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_tool_that_has_no_answer_lets_the_next_one_speak(live: LiveApp) -> None:
    alone = await live.chat("calc")
    assert (alone.status, alone.error["code"]) == (422, "upstream_declined")
    assert (await live.chat("calc", router={"fallbacks": ["good"]})).expert == "good"


async def test_an_upstreams_wish_to_be_left_alone_is_obeyed_by_the_next_request(
    live: LiveApp, upstream: FakeUpstream
) -> None:
    first = await live.chat("rated-1")
    assert (first.status, first.headers["retry-after"]) == (429, "1")
    assert live.services.fleet.state("rated-1")["n_held_off"] == 1
    second = await live.chat("rated-1")
    assert (second.status, second.headers["retry-after"]) == (503, "1")
    assert upstream.n_calls("rated-1") == 1
    assert (await live.chat("rated-1", router={"fallbacks": ["good"]})).expert == "good"
    # Whether the limit was about this request alone a second one shows.
    another = [{"role": "user", "content": "Another"}]
    assert (await live.chat("rated-1", messages=another)).status == 429
    assert live.services.fleet.state("rated-1")["state"] == "open"


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "extra_headers", "custom_llm_provider"])
async def test_a_client_never_says_where_its_request_goes(
    live: LiveApp, upstream: FakeUpstream, field: str
) -> None:
    n_calls = len(upstream.calls)
    answer = await live.chat("good", **dict[str, Any]({field: "http://127.0.0.1:1"}))
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "forbidden_field", field)
    assert len(upstream.calls) == n_calls


async def test_headers_of_ours_from_a_client_are_not_believed(live: LiveApp, upstream: FakeUpstream) -> None:
    answer = await live.chat("good", headers={"x-thalamus-expert": "other", "x-thalamus-cost-usd": "0"})
    assert answer.expert == "good"
    assert not any(name.startswith("x-thalamus") for name in upstream.headers[-1])


WRONG = [
    (b"", "invalid_json", None),
    (b"not json", "invalid_json", None),
    (b"[]", "invalid_json", None),
    (b'{"model": "good"', "invalid_json", None),
    (b"[" * 200_000, "invalid_json", None),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "\xff"}]}', "invalid_json", None),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "[Flag: \xff]"}]}', "invalid_json", None),
    (b'{"model": "good", "messages": [{"role": "user", "content": "\xc3"}]}', "invalid_json", None),
    (b'{"messages": []}', "invalid_value", "model"),
    (b'{"model": 3, "messages": []}', "invalid_value", "model"),
    (b'{"model": "", "messages": [{}]}', "invalid_value", "model"),
    (b'{"model": "good"}', "invalid_value", "messages"),
    (b'{"model": "good", "messages": []}', "invalid_value", "messages"),
    (b'{"model": "good", "messages": [ ]}', "invalid_value", "messages"),
    (b'{"model": "good", "messages": "x"}', "invalid_value", "messages"),
    (b'{"model": "good", "messages": [{}], "stream": "yes"}', "invalid_value", "stream"),
    (b'{"model": "good", "messages": [{}], "stream": 1}', "invalid_value", "stream"),
]


@pytest.mark.parametrize(("body", "code", "param"), WRONG, ids=range(len(WRONG)))
async def test_a_wrong_body_is_a_400_that_names_the_field(
    live: LiveApp, body: bytes, code: str, param: str | None
) -> None:
    answer = await live.post("chat/completions", body)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)


async def test_too_large_a_body_is_a_413(upstream: FakeUpstream, tmp_path: Path) -> None:
    config = {**config_of(upstream.base_url), "server": {"max_body_bytes": 1000}}
    async with gateway(config, str(tmp_path / "j.sqlite3"), "good") as live:
        answer = await live.chat("good", more="x" * 1000)
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert (await live.chat("good")).status == 200


@pytest.mark.parametrize("path", ["route", "chat/completions"])
async def test_a_fault_of_ours_is_a_500_in_the_envelope_and_in_the_log(
    live: LiveApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async def break_stream(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(live.services.router, "decide", break_stream)
    answer = await live.post(path, {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]})
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/json"
    assert "a bug" not in answer.error["message"]
    assert caplog.text.count("RuntimeError: a bug") == 1


async def test_an_unknown_address_is_a_404_in_the_envelope(live: LiveApp) -> None:
    answer = await live.post("assistants", {})
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("path", ["chat/completions", "embeddings", "completions", "responses"])
async def test_a_wrong_method_is_a_405_in_the_envelope(live: LiveApp, path: str) -> None:
    async with live.http.get(f"{live.base}/{path}") as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
        assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_a_key_is_asked_for_where_one_is_set(upstream: FakeUpstream, tmp_path: Path) -> None:
    config = {**config_of(upstream.base_url), "server": {"master_key": KEY}}
    async with gateway(config, str(tmp_path / "j.sqlite3"), "good") as live:
        n_calls = len(upstream.calls)
        refused = await live.chat("good", headers={"authorization": "Bearer wrong"})
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert len(upstream.calls) == n_calls
        assert (await live.chat("good", headers={"authorization": f"Bearer {KEY}"})).status == 200
        assert KEY not in str(upstream.headers)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["model", "messages", "stream", "prompt", "input", "router", "tools", "max_tokens", "api_key"]
)
bodies = st.binary(max_size=60) | st.dictionaries(names, json_values, max_size=5).map(
    lambda body: msgspec.json.encode(
        {"model": "auto", "messages": [{"role": "user", "content": "x"}], **body}
    )
)


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
async def test_junk_is_never_a_500(live: LiveApp, path: str) -> None:
    examples: list[bytes] = []

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bodies)
    def collect(body: bytes) -> None:
        examples.append(body)

    collect()
    for body in examples:
        answer = await live.post(path, body)
        assert answer.status in (200, 400, 404), (body, answer.body)
        if answer.status != 200:
            assert answer.error["message"]
