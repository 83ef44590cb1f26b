"""The official OpenAI client's Responses API against the real gateway."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.responses import FunctionToolParam, ResponseInputItemParam
from pydantic import BaseModel

from gateway.testing import WORDS, FakeUpstream
from tests.fakes.serving import KEY, LiveApp, gateway
from tests.fakes.strict_chat import ChatTurn, StrictChat
from tests.gateway.test_disconnect import SEEN_WITHIN_S, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
TEXT = "".join(WORDS)
OTHER_KEY = "sk-test-0a9c11f5be2a94c6688bb"
NAMES = [
    "good",
    "usage",
    "thinking",
    "tools",
    "cut-2",
    "hang",
    "stall-2",
    "status-400",
    "status-500",
    "toolong",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    names = [*NAMES, 'says-{"city":_"Rome",_"degrees":_21}']
    experts = [{"name": n, "model": f"openai/{n}", "api_base": upstream.base_url} for n in names]
    experts[-1]["name"] = "json"
    config = {"experts": experts, "server": {"master_key": KEY, "keys": {"other": [OTHER_KEY]}}}
    journal = str(tmp_path_factory.mktemp("responses") / "j.sqlite3")
    async with gateway(config, journal, "good", "status-500") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(live: LiveApp) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=live.base, api_key=KEY, max_retries=0) as made:
        yield made


async def test_a_response(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    response = await client.responses.create(model="auto", input="Hi", instructions="Be kind.")
    assert (response.output_text, response.model, response.status) == (TEXT, "good", "completed")
    assert response.id.startswith("resp_")
    assert response.usage is not None
    assert response.usage.total_tokens == 25
    assert upstream.calls[-1]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
    ]


async def test_counts_of_cached_and_reasoning_tokens(client: openai.AsyncOpenAI) -> None:
    usage = (await client.responses.create(model="usage", input="Hi")).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (100, 10)
    assert usage.input_tokens_details.cached_tokens == 60
    assert usage.output_tokens_details.reasoning_tokens == 4


async def test_a_stream(client: openai.AsyncOpenAI) -> None:
    said, kinds = [], []
    async with client.responses.stream(model="auto", input="Hi") as stream:
        async for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                said.append(event.delta)
        final = await stream.get_final_response()
    assert said == list(WORDS)
    assert final.output_text == TEXT
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_reasoning_in_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="thinking", input="Hi", stream=True)
    events = [event async for event in stream]
    assert [event.delta for event in events if event.type == "response.reasoning_text.delta"] == ["Hm. "]
    last = events[-1]
    assert last.type == "response.completed"
    assert [item.type for item in last.response.output] == ["reasoning", "message"]


async def test_reasoning_goes_back_within_its_turn(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    first = await client.responses.create(model="thinking", input="Hi", stream=True)
    events = [event async for event in first]
    assert events[-1].type == "response.completed"
    (reasoning, _) = events[-1].response.output
    items: list[Any] = [
        {"role": "user", "content": "Hi [Flag: Smallest model]"},
        reasoning.to_dict(),
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
    ]
    for model, text in (("good", "Hi [Flag: Smallest model]"), ("auto", "Hi")):
        await client.responses.create(model=model, input=items)
        user, answer, _ = upstream.calls[-1]["messages"]
        assert (user["content"], answer["reasoning_content"]) == (text, "Hm. ")


async def test_an_expert_that_refuses_reasoning_is_asked_without_it(tmp_path: Path) -> None:
    async with StrictChat(lambda body: ChatTurn("Fine.")) as strict:
        experts = [{"name": "strict", "model": "openai/strict", "api_base": strict.base_url}]
        async with gateway({"experts": experts}, str(tmp_path / "j.sqlite3"), "strict") as live:
            items: list[Any] = [
                {"role": "user", "content": "Hi"},
                {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
            ]
            for model, stream in (("strict", False), ("auto", True), ("auto", False)):
                answer = await live.post("responses", {"model": model, "input": items, "stream": stream})
                assert answer.status == 200
                assert b"Fine." in answer.body
                # Its tokens are counted as before.
                assert b'"total_tokens":49' in answer.body
    assert strict.refused == ["Unknown parameter: 'messages[1].reasoning_content'"]


class Weather(BaseModel):
    city: str
    degrees: int


async def test_an_answer_in_the_form_of_a_class(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    response = await client.responses.parse(model="json", input="Weather?", text_format=Weather)
    assert response.output_parsed == Weather(city="Rome", degrees=21)
    form = upstream.calls[-1]["response_format"]
    assert (form["type"], form["json_schema"]["name"]) == ("json_schema", "Weather")
    async with client.responses.stream(model="json", input="Weather?", text_format=Weather) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == Weather(city="Rome", degrees=21)


TOOL: FunctionToolParam = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}


async def test_a_loop_of_tools(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    async with client.responses.stream(model="tools", input="Add.", tools=[TOOL]) as stream:
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert (call.name, call.call_id, call.arguments) == ("f", "t", '{"a":1}')
    items: list[ResponseInputItemParam] = [
        {"role": "user", "content": "Add."},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "2"},
    ]
    answer = await client.responses.create(model="good", input=items, tools=[TOOL])
    assert answer.output_text == TEXT
    assert [message["role"] for message in upstream.calls[-1]["messages"]] == ["user", "assistant", "tool"]
    # The same where the gateway keeps the conversation.
    output: list[ResponseInputItemParam] = [items[-1]]
    again = await client.responses.create(model="good", input=output, previous_response_id=final.id)
    assert again.previous_response_id == final.id
    messages = upstream.calls[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}


async def test_a_conversation_goes_on_from_a_response(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    first = await client.responses.create(model="good", input="One.", instructions="Only once.")
    stream = await client.responses.create(
        model="good", input="Two.", previous_response_id=first.id, stream=True
    )
    last = [event async for event in stream][-1]
    assert last.type == "response.completed"
    await client.responses.create(model="auto", input="Three.", previous_response_id=last.response.id)
    assert upstream.calls[-1]["messages"] == [
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "Two."},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "Three."},
    ]


async def test_an_item_is_named_by_its_id(client: openai.AsyncOpenAI, upstream: FakeUpstream) -> None:
    first = await client.responses.create(model="good", input="One.")
    ident = first.output[0].id
    assert ident is not None
    items: list[ResponseInputItemParam] = [
        {"role": "user", "content": "One."},
        {"type": "item_reference", "id": ident},
        {"role": "user", "content": "Two."},
    ]
    second = await client.responses.create(model="good", input=items)
    assert upstream.calls[-1]["messages"][1] == {"role": "assistant", "content": TEXT}
    # It stands in the input as what it is.
    listed = await client.responses.input_items.list(second.id, order="asc")
    assert [item.id for item in listed.data][1] == ident


async def test_a_response_is_kept_listed_and_deleted(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(
        model="good",
        input=[{"role": "user", "content": text} for text in ("a", "b", "c")],
        metadata={"topic": "x"},
    )
    found = await client.responses.retrieve(made.id)
    assert found.model_dump() == made.model_dump()
    assert found.metadata == {"topic": "x"}
    page = await client.responses.input_items.list(made.id, limit=2)
    said = [item.to_dict() for item in page.data]
    assert [item["content"] for item in said] == [
        [{"type": "input_text", "text": text}] for text in ("c", "b")
    ]
    assert page.has_more
    rest = await client.responses.input_items.list(made.id, after=str(said[-1]["id"]))
    assert [item.to_dict()["content"] for item in rest.data] == [[{"type": "input_text", "text": "a"}]]
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match=f"Response with id '{made.id}' not found"):
        await client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(made.id)


async def test_a_response_belongs_to_its_key(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="good", input="Hi")
    other = client.with_options(api_key=OTHER_KEY)
    with pytest.raises(openai.NotFoundError):
        await other.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await other.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as refused:
        await other.responses.create(model="good", input="Hi", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"
    assert made.output[0].id is not None
    with pytest.raises(openai.BadRequestError, match="not found"):
        await other.responses.create(
            model="good", input=[{"type": "item_reference", "id": made.output[0].id}]
        )


async def test_what_is_not_to_be_stored_is_not(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="good", input="Hi", store=False)
    assert made.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_errors_come_by_class(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'none'"):
        await client.responses.create(model="none", input="Hi")
    with pytest.raises(openai.InternalServerError):
        await client.responses.create(model="status-500", input="Hi")
    with pytest.raises(openai.BadRequestError, match="mock 400"):
        await client.responses.create(model="status-400", input="Hi")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="auto", input="Hi", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0]"
    assert "web_search" in str(refused.value)
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").responses.create(model="auto", input="Hi")
    with pytest.raises(openai.BadRequestError, match="stream"):
        await client.responses.retrieve("resp_1", stream=True)


async def test_a_cut_stream_is_a_response_that_failed(client: openai.AsyncOpenAI) -> None:
    stream = await client.responses.create(model="cut-2", input="Hi", stream=True)
    events = [event async for event in stream]
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == list(WORDS[:2])
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "cut-2" in last.response.error.message


@pytest.mark.parametrize(("model", "stream"), [("hang", False), ("hang", True), ("stall-2", True)])
async def test_a_client_that_goes_away_is_seen_upstream(
    live: LiveApp, upstream: FakeUpstream, model: str, stream: bool
) -> None:
    n_calls, n_aborted = len(upstream.calls), len(upstream.aborted)
    body = {"model": model, "input": "Hi", "stream": stream}
    headers = {"authorization": f"Bearer {KEY}"}

    async def ask() -> None:
        async with live.http.post(f"{live.base}/responses", json=body, headers=headers) as response:
            await response.read()

    asking = asyncio.ensure_future(ask())
    await until(lambda: len(upstream.calls) > n_calls)
    await asyncio.sleep(0.1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    left_at = asyncio.get_running_loop().time()
    await until(lambda: len(upstream.aborted) > n_aborted, SEEN_WITHIN_S)
    assert asyncio.get_running_loop().time() - left_at < 0.2


async def test_what_is_left_out_is_told(live: LiveApp) -> None:
    body = {
        "model": "good",
        "input": "Hi",
        "truncation": "auto",
        "tools": [{"type": "web_search", "external_web_access": True}],
    }
    authorization = f"Bearer {KEY}"
    answer = await live.post("responses", body, authorization=authorization, originator="codex_exec")
    assert answer.status == 200
    assert "web_search" in answer.body.decode()
    refused = await live.post("responses", body, authorization=authorization)
    assert (refused.status, refused.error["param"]) == (400, "tools[0]")
    async with live.http.post(
        f"{live.base}/responses",
        json=body,
        headers={"authorization": authorization, "user-agent": "codex_cli_rs/0.171.0"},
    ) as response:
        warnings = response.headers.getall("x-thalamus-warning")
        ids = response.headers.getall("x-request-id")
    assert [warning.partition(":")[0] for warning in warnings] == ["tool web_search", "truncation auto"]
    assert len(ids) == 1


async def test_the_same_text_is_routed_as_of_the_equivalent_chat(
    live: LiveApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Prove that there are infinitely many primes."},
        {"role": "assistant", "content": "Suppose there were not."},
        {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
    ]
    items = [{**message, "type": "message"} for message in messages[1:]]
    items[-1]["content"] = [{"type": "input_text", "text": "Go on."}]
    tool = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    chat = {
        "messages": messages,
        "tools": [{"type": "function", "function": tool}],
        "max_completion_tokens": 50,
    }
    request = {
        "model": "auto",
        "instructions": "Be brief.",
        "input": items,
        "tools": [{"type": "function", **tool}],
        "max_output_tokens": 50,
    }
    headers = {"authorization": f"Bearer {KEY}"}
    dry = await live.post("route", chat, **headers)
    queries = []
    decide = live.services.router.decide

    async def note(parsed: Any, fleet: Any) -> Any:
        queries.append(parsed.query)
        return await decide(parsed, fleet)

    monkeypatch.setattr(live.services.router, "decide", note)
    assert (await live.post("responses", request, **headers)).status == 200
    assert (await live.post("chat/completions", {"model": "auto", **chat}, **headers)).status == 200
    assert queries[0] == queries[1]
    assert dry.json()["query"]["text"] == queries[0].text


async def test_responses_are_not_kept_where_the_operator_wants_none(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    experts = [{"name": "good", "model": "openai/good", "api_base": upstream.base_url}]
    config = {"experts": experts, "responses": {"enabled": False}}
    async with gateway(config, str(tmp_path / "j.sqlite3"), "good") as live:
        answer = await live.post("responses", {"model": "auto", "input": "Hi", "store": True})
        assert answer.json()["store"] is False
        assert "responses.enabled" in answer.headers["x-thalamus-warning"]
        refused = await live.post(
            "responses", {"model": "auto", "input": "Hi", "previous_response_id": "resp_1"}
        )
        assert (refused.status, refused.error["param"]) == (400, "previous_response_id")
        async with live.http.get(f"{live.base}/responses/{answer.json()['id']}") as found:
            assert found.status == 404
    assert not (tmp_path / "responses.sqlite3").exists()


async def test_a_store_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = [{"name": "good", "model": "openai/good", "api_base": upstream.base_url}]
    async with gateway({"experts": experts}, str(tmp_path / "j.sqlite3"), "good") as live:
        store = live.services.responses
        assert store is not None
        made = await live.post("responses", {"model": "auto", "input": "Hi"})

        def fail(_: object) -> bool:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(store, "add", fail)
        for stream in (False, True):
            answer = await live.post("responses", {"model": "auto", "input": "Hi", "stream": stream})
            assert answer.status == 200
            last = json.loads(answer.events[-1])["response"] if stream else answer.json()
            assert (last["status"], last["store"]) == ("completed", False)
        # What is there can still be read.
        again = await live.post(
            "responses", {"model": "auto", "input": "Hi", "previous_response_id": made.json()["id"]}
        )
        assert again.status == 200
