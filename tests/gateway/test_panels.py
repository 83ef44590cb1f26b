"""Panels live: members at once, a vote or an aggregator, and what the client gets when some of them fail."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.app import build_application, build_services
from gateway.config import Config, ConfigError, load_config
from gateway.endpoints.feedback import find_members
from gateway.execution import panel as panels
from gateway.execution.panel import build_aggregation_call, wait_for_members
from gateway.experts.http_client import Transport
from gateway.experts.types import Call, UpstreamError
from gateway.openai.answers import Usage, set_usage, sum_usages
from gateway.openai.conversion import convert_to_events
from gateway.openai.events import add_usage_to_events
from gateway.storage.feedback import FeedbackRecord, rate_experts
from gateway.testing import FakeUpstream
from policies import PanelRule
from tests.fakes.serving import LiveApp, secret
from tests.fakes.serving import live as serving

PRICE = 1e-3
QUESTION = "How many legs has a spider?"


@contextlib.asynccontextmanager
async def panel(
    tmp_path: Any, models: str, *, aggregator: str = "auto", free: str = "", **more: Any
) -> AsyncIterator[tuple[LiveApp, FakeUpstream]]:
    """A gateway whose `auto` is a panel of the first three of these models, the first expected to be best."""
    async with FakeUpstream() as upstream:
        experts = [
            {
                "name": name,
                "model": f"openai/{model}",
                "api_base": upstream.base_url,
                "quality": 0.8 - 0.01 * n,
                "input_cost_per_token": 0.0 if name in free else PRICE,
                "output_cost_per_token": 0.0 if name in free else PRICE,
            }
            for n, (name, model) in enumerate(zip("abcdef", models.split(), strict=False))
        ]
        config = {
            "experts": experts,
            "policies": {"auto": {"plan": {"panel": {"k": 3, "aggregator": aggregator, **more}}}},
            "routing": {"artifact": str(tmp_path / "none")},
            "journal": {"path": str(tmp_path / "j.sqlite3")},
        }
        transport = Transport()
        services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
        async with serving(build_application(services, transport)) as base, aiohttp.ClientSession() as http:
            yield LiveApp(f"{base}/v1", services, http), upstream


async def ask(live: LiveApp, *, stream: bool = False, question: str = QUESTION, **more: Any) -> Any:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    return await live.chat("auto", stream=stream, messages=messages, **more)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not holds():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


def text_of(answer: Any, stream: bool) -> str:
    if not stream:
        return str(answer.json()["choices"][0]["message"]["content"])
    chunks = [json.loads(event) for event in answer.events if event != b"[DONE]"]
    assert answer.events[-1] == b"[DONE]"
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_of_most_members_is_given(tmp_path: Any, stream: bool) -> None:
    async with panel(tmp_path, "says-6 says-8 says-It_has_8_legs. good") as (live, upstream):
        answer = await ask(live, stream=stream)
        assert (answer.status, text_of(answer, stream)) == (200, "8")
        assert (answer.headers["x-thalamus-plan"], answer.expert) == ("panel", "b")
        record = await live.read_record(answer)
        assert [(a["expert"], a["verdict"], a["role"]) for a in sorted(record["attempts"], key=str)] == [
            (name, "answered", "member") for name in "abc"
        ]
        assert (record["input_tokens"], record["output_tokens"]) == (60, 15)
        assert record["cost_usd"] == pytest.approx(75 * PRICE)
        assert record["decision"]["plan"]["members"] == ["a", "b", "c"]
        assert not any(call.get("stream") for call in upstream.calls)


async def test_a_whole_answer_tells_what_the_panel_used_in_all(tmp_path: Any) -> None:
    async with panel(tmp_path, "says-8 says-8 says-8") as (live, _):
        answer = await ask(live)
        assert answer.json()["usage"]["total_tokens"] == 75
        assert float(answer.headers["x-thalamus-cost-usd"]) == pytest.approx(75 * PRICE)


@pytest.mark.parametrize("stream", [False, True])
async def test_members_who_do_not_agree_are_made_one_by_the_aggregator(tmp_path: Any, stream: bool) -> None:
    async with panel(tmp_path, "says-6 says-7 says-8") as (live, upstream):
        answer = await ask(live, stream=stream)
        assert (answer.status, answer.expert, text_of(answer, stream)) == (200, "a", "6")
        record = await live.read_record(answer)
        assert [a["role"] for a in record["attempts"]][-1] == "aggregator"
        # The upstream counts no stream: the aggregator's tokens are estimated.
        assert record["attempts"][-1]["tokens_estimated"] is stream
        assert stream or record["cost_usd"] == pytest.approx(100 * PRICE)
        assert stream or answer.json()["usage"]["total_tokens"] == 100
    asked = upstream.calls[-1]
    assert (asked["model"], asked.get("stream", False)) == ("says-6", stream)
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked["messages"][1]["content"].startswith(QUESTION)
    assert all(f"[{n}] {said}" in asked["messages"][1]["content"] for n, said in ((1, 6), (2, 7), (3, 8)))


async def test_one_failing_member_is_left_out(tmp_path: Any) -> None:
    async with panel(tmp_path, "status-500 says-8 says-8") as (live, _):
        answer = await ask(live)
        assert (answer.status, answer.expert, text_of(answer, False)) == (200, "b", "8")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("faults", ["status-500 reset", "garbage status-429", "status-401 toolong"])
async def test_the_one_member_that_did_not_fail_answers(tmp_path: Any, faults: str, stream: bool) -> None:
    async with panel(tmp_path, f"{faults} says-8") as (live, _):
        answer = await ask(live, stream=stream)
        assert (answer.status, answer.expert, text_of(answer, stream)) == (200, "c", "8")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["status-500", "reset", "cut-0"])
async def test_the_vote_counts_where_the_aggregator_fails(tmp_path: Any, fault: str, stream: bool) -> None:
    models = f"says-6 says-8 says-8 {fault}"
    async with panel(tmp_path, models, aggregator="d") as (live, _):
        answer = await ask(live, stream=stream)
        if fault == "cut-0" and not stream:
            assert answer.expert == "d"
            return
        assert (answer.status, answer.expert, text_of(answer, stream)) == (200, "b", "8")
        record = await live.read_record(answer)
        assert [(a["verdict"], a["role"]) for a in record["attempts"]][-1] == ("moved_on", "aggregator")


async def test_an_aggregator_cut_off_in_its_words_says_so(tmp_path: Any) -> None:
    async with panel(tmp_path, "says-6 says-8 says-8 cut-2", aggregator="d") as (live, _):
        answer = await ask(live, stream=True)
        assert b'"error"' in answer.body
        assert (await live.read_record(answer))["attempts"][-1]["role"] == "aggregator"


async def test_fallbacks_answer_where_every_member_failed(tmp_path: Any) -> None:
    async with panel(tmp_path, "status-500 reset garbage says-8") as (live, _):
        answer = await ask(live)
        assert (answer.status, answer.expert) == (200, "d")


async def test_the_client_is_told_when_nobody_could_answer(tmp_path: Any) -> None:
    async with panel(tmp_path, "status-500 reset garbage") as (live, _):
        answer = await ask(live)
        assert answer.status == 502
        assert all(name in answer.error["message"] for name in "abc")


@pytest.mark.parametrize("members", ["status-400 status-400 status-400", "status-500 reset status-400"])
async def test_a_request_at_fault_goes_back_as_the_upstream_said_it(tmp_path: Any, members: str) -> None:
    async with panel(tmp_path, f"{members} says-8") as (live, upstream):
        answer = await ask(live)
        assert answer.status == 400
        assert upstream.n_calls("says-8") == 0


@pytest.mark.parametrize("models", ["hang hang hang", "says-6 says-7 hang", "says-6 says-7 says-8 hang"])
async def test_a_client_that_goes_away_stops_every_call(tmp_path: Any, models: str) -> None:
    aggregator = "d" if models.count("s") > 3 and models.endswith("8 hang") else "vote"
    async with panel(tmp_path, models, aggregator=aggregator) as (live, upstream):
        asking = asyncio.ensure_future(ask(live))
        await until(lambda: len(upstream.calls) == len(models.split()))
        await asyncio.sleep(0.06)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: len(upstream.aborted) == models.count("hang"))
        assert all(live.services.fleet.state(name)["in_flight"] == 0 for name in live.services.experts)


async def test_a_member_that_lags_far_behind_is_not_waited_for(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "PATIENCE_S", 0.2)
    async with panel(tmp_path, "says-8 says-8 hang") as (live, upstream):
        answer = await ask(live)
        assert (answer.status, text_of(answer, False)) == (200, "8")
        record = await live.read_record(answer)
        assert [a["verdict"] for a in record["attempts"] if a["expert"] == "c"] == ["abandoned"]
        await until(lambda: upstream.aborted == ["hang"])


@pytest.mark.parametrize("free", ["", "c"])
async def test_what_a_stopped_member_used_is_unknown_unless_it_is_free(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, free: str
) -> None:
    monkeypatch.setattr(panels, "PATIENCE_S", 0.2)
    async with panel(tmp_path, "says-8 says-8 hang", free=free) as (live, _):
        answer = await ask(live)
        record = await live.read_record(answer)
        if free:
            assert float(answer.headers["x-thalamus-cost-usd"]) == pytest.approx(50 * PRICE)
            assert record["cost_usd"] == pytest.approx(50 * PRICE)
        else:
            assert (answer.headers["x-thalamus-cost-usd"], record["cost_usd"]) == ("unknown", None)
        assert record["input_tokens"] is None


async def test_a_panel_over_its_cap_asks_whom_it_can_pay(tmp_path: Any) -> None:
    async with panel(tmp_path, "says-6 says-7 says-8", max_cost_usd=0.6, aggregator="c") as (
        live,
        upstream,
    ):
        answer = await ask(live, question="How many legs has a spider?", max_tokens=200)
        assert (answer.status, answer.expert) == (200, "a")
        assert {call["model"] for call in upstream.calls} <= {"says-6", "says-7"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cap_that_nobody_fits_under_is_refused_with_everybodys_price(
    tmp_path: Any, stream: bool
) -> None:
    async with panel(tmp_path, "says-6 says-7 says-8", max_cost_usd=1e-9) as (live, upstream):
        answer = await ask(live, stream=stream)
        assert (answer.status, upstream.calls) == (400, [])
        assert answer.error["message"].count("over the panel's cap of $0.000000") == 3


async def test_members_are_voted_on_where_a_request_cannot_show_their_answers(tmp_path: Any) -> None:
    async with panel(tmp_path, "says-6 says-8 says-8 good", aggregator="d") as (live, upstream):
        answer = await live.post("completions", {"model": "auto", "prompt": [1, 2, 3]})
        assert (answer.status, upstream.n_calls("good")) == (200, 0)
        assert live.services.fleet.state("d")["in_flight"] == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("models", ["says-6 says-8 says-8", "says-6 says-7 says-8"])
async def test_a_response_is_that_of_a_panel_too(tmp_path: Any, models: str, stream: bool) -> None:
    # A vote where members agree; else what the aggregator says, which counts what members used.
    async with panel(tmp_path, models) as (live, upstream):
        body = {"model": "auto", "instructions": "Be brief.", "input": QUESTION, "stream": stream}
        answer = await live.post("responses", body)
        assert answer.headers["x-thalamus-plan"] == "panel"
        response = json.loads(answer.events[-1])["response"] if stream else answer.json()
        (message,) = response["output"]
        assert message["content"][0]["text"] in ("6", "8")
        n_calls = len(upstream.calls)
        assert n_calls == (4 if "7" in models else 3)
        # The fake upstream counts nothing in streams.
        n_tokens = None if stream and n_calls == 4 else 25 * n_calls
        assert (response["usage"] or {}).get("total_tokens") == n_tokens


async def test_plain_completions_are_panelled_too(tmp_path: Any) -> None:
    async with panel(tmp_path, "says-6 says-8 says-8 says-9", aggregator="d") as (live, upstream):
        answer = await live.post("completions", {"model": "auto", "prompt": QUESTION})
        assert answer.json()["choices"][0]["text"] == "9"
        assert upstream.calls[-1]["prompt"].startswith(QUESTION)


def call_of(**fields: Any) -> Call:
    return Call("chat/completions", {name: msgspec.Raw(json.dumps(v).encode()) for name, v in fields.items()})


def test_answers_go_under_a_question_of_several_parts() -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    asked = build_aggregation_call(call_of(messages=[{"role": "user", "content": parts}]), {"a": "A cat."})
    content = json.loads(bytes(asked.fields["messages"]))[0]["content"]
    assert content[:2] == parts
    assert "[1] A cat." in content[2]["text"]


def test_answers_follow_a_conversation_that_does_not_end_with_the_user() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well,"}]
    asked = json.loads(
        bytes(build_aggregation_call(call_of(messages=messages), {"a": "x"}).fields["messages"])
    )
    assert asked[:2] == messages
    assert asked[2]["role"] == "user"


@pytest.mark.parametrize("messages", [None, "x", [1], [{"role": "user", "content": 7}]])
def test_a_request_that_answers_cannot_be_put_under_is_declined(messages: Any) -> None:
    with pytest.raises(UpstreamError, match="cannot be shown"):
        build_aggregation_call(call_of(messages=messages), {"a": "x"})


def test_what_one_call_does_not_say_is_unknown_of_all() -> None:
    assert sum_usages([Usage(1, 2, 3), Usage(10, 20, 30)]) == Usage(11, 22, 33)
    assert sum_usages([Usage(1, 2, 3), None]) is None
    assert set_usage(b'{"a":1}', None) == b'{"a":1}'


def test_only_the_chunk_that_tells_the_usage_is_changed() -> None:
    first = b'data: {"choices":[],"usage":null}\n\n'
    last = b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
    changed = add_usage_to_events(first + last, [Usage(5, 5, 10)])
    assert changed.startswith(first)
    assert json.loads(changed.split(b"data: ")[2])["usage"]["total_tokens"] == 12


def test_what_is_no_answer_cannot_be_streamed() -> None:
    with pytest.raises(UpstreamError, match="cannot be streamed"):
        convert_to_events(b'{"x": 1}', "chat/completions", {})


def test_usage_is_streamed_where_it_was_asked_for() -> None:
    choice = b'{"message":{"content":"x"},"finish_reason":"stop"}'
    body = b'{"id":"i","choices":[' + choice + b'],"usage":{"total_tokens":3}}'
    fields = {"stream_options": msgspec.Raw(b'{"include_usage":true}')}
    assert convert_to_events(body, "chat/completions", fields).count(b"data: ") == 3
    assert convert_to_events(body, "chat/completions", {}).count(b"data: ") == 2


async def test_those_who_lag_are_stopped_only_when_somebody_answered() -> None:
    async def fail() -> UpstreamError:
        return UpstreamError("reset", "failed")

    async def slow() -> str:
        await asyncio.sleep(0.05)
        return "late"

    tasks: list[asyncio.Task[object]] = [asyncio.ensure_future(work) for work in (fail(), fail(), slow())]
    await wait_for_members(tasks)
    assert tasks[2].result() == "late"


def make_config(tmp_path: Any, aggregator: str, k: int = 3) -> Config:
    path = tmp_path / "thalamus.yaml"
    panel = f"{{k: {k}, aggregator: {aggregator}, max_cost_usd: 0.5}}"
    path.write_text(
        "experts:\n- {name: a, model: openai/a, api_key: x}\n- {name: sums, tool: calculator}\n"
        f"policies: {{many: {{plan: {{panel: {panel}}}}}}}\n"
    )
    return load_config(path)


@pytest.mark.parametrize("aggregator", ["auto", "vote", "a"])
def test_a_policy_can_ask_for_a_panel(tmp_path: Any, aggregator: str) -> None:
    policy = make_config(tmp_path, aggregator).policies_by_name()["many"]
    assert policy.panel == PanelRule(3, aggregator, 0.5)


@pytest.mark.parametrize(("aggregator", "said"), [("b", "there is no expert 'b'"), ("sums", "is a tool")])
def test_an_aggregator_must_be_able_to_weigh_answers(tmp_path: Any, aggregator: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"aggregator.*{said}"):
        make_config(tmp_path, aggregator)


def test_a_panel_of_one_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="k"):
        make_config(tmp_path, "auto", k=1)


async def test_the_best_member_of_a_panel_can_be_named_in_feedback(tmp_path: Any) -> None:
    async with panel(tmp_path, "says-6 says-8 says-8 good") as (live, _):
        decision_id = (await ask(live)).headers["x-thalamus-decision-id"]
        refused = await live.post("feedback", {"decision_id": decision_id, "chosen": "d"})
        assert (refused.status, refused.error["param"]) == (400, "chosen")
        assert "these did: " in refused.error["message"]
        assert (await live.post("feedback", {"decision_id": decision_id, "chosen": "b"})).status == 200
        entry = await live.services.journal.get(decision_id)
        assert entry is not None
        said = [FeedbackRecord(decision_id=decision_id, time=0.0, chosen=entry["feedback"][0]["chosen"])]
        assert rate_experts(entry["expert_answered"], find_members(entry), said) == {"a": 0, "b": 1, "c": 0}
