"""What one call may say of itself: its time, its names, the shape of its answer; files and batches."""

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from gateway import AsyncClient, BatchJob, Client, InvalidAnswer, NotFound, TimedOut, Usage
from gateway.client import schemas
from gateway.testing import FakeUpstream
from tests.fakes.batches import line
from tests.fakes.scripted_gateway import Scripted, ScriptedGateway, delta, events, json_answer
from tests.fakes.serving import KEY, gateway

from .conftest import Connect, Flavour

PRICED = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}


class City(pydantic.BaseModel):
    name: str
    people: int
    rivers: list[str] = []


SCHEMA = {
    "title": "a city!",
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}},
}


def answer(text: str, finish_reason: str = "stop") -> Scripted:
    message = {"role": "assistant", "content": text}
    return json_answer(
        {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]},
        x_thalamus_decision_id="dec-1",
        x_thalamus_expert="house",
    )


def test_one_call_may_wait_shorter_than_the_others(server: ScriptedGateway, connect: Connect) -> None:
    flavour = connect(timeout=30, max_retries=0)
    server.will([Scripted(status=0, ending="hold"), answer("after all")])
    with pytest.raises(TimedOut):
        flavour.ask("chat", "hi", timeout=0.1)
    assert flavour.ask("chat", "hi").text == "after all"


@pytest.mark.parametrize("method", ["models", "health"])
def test_every_call_has_a_timeout(server: ScriptedGateway, connect: Connect, method: str) -> None:
    server.will(Scripted(status=0, ending="hold"))
    with pytest.raises(TimedOut):
        connect(max_retries=0).ask(method, timeout=0.1)


def test_a_timeout_of_nothing_is_refused(flavour: Flavour) -> None:
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds, not 0"):
        flavour.ask("chat", "hi", timeout=0)


@pytest.mark.parametrize(
    ("method", "argument", "message"),
    [
        ("chat", {"temprature": 0.1}, "has no argument 'temprature'; did you mean 'temperature'"),
        ("chat", {"max_token": 9}, "did you mean 'max_tokens'"),
        ("chat", {"zzz": 9}, r"chat\(\) has no argument 'zzz'; fields of one provider go into extra_body="),
        ("route", {"tool": []}, "did you mean 'tools'"),
        (
            "embeddings",
            {"dimension": 9},
            r"embeddings\(\) has no argument 'dimension'; did you mean 'dimensions'",
        ),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest_name(
    server: ScriptedGateway, flavour: Flavour, method: str, argument: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        flavour.ask(method, "hi", **argument)
    assert server.received == []


def test_a_stream_tells_its_totals_at_the_end(server: ScriptedGateway) -> None:
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    facts = {"choices": [], "thalamus": {"cost_usd": 0.25}}
    sent = events(delta("Pa"), delta("ris"), last, usage, facts)
    server.will(Scripted(200, {"content-type": "text/event-stream"}, (sent,)))
    with Client(server.url) as client, client.chat("hi", stream=True) as stream:
        assert (stream.usage, stream.cost_usd, stream.text) == (None, None, "")
        for _ in stream:
            pass
        assert (stream.text, stream.usage, stream.cost_usd) == ("Paris", Usage(3, 2), 0.25)
        assert stream.finish_reason == "stop"
    assert server.received[0].body["stream_options"] == {"include_usage": True}
    assert server.received[0].body["router"] == {"explain": True}


def test_what_the_caller_says_of_totals_stands(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(Scripted(200, {"content-type": "text/event-stream"}, (events(delta("a")),)))
    flavour.stream(
        "hi", stream_options={"include_usage": False}, router={"explain": False, "min_quality": 0.5}
    )
    body = server.received[0].body
    assert body["stream_options"] == {"include_usage": False}
    assert body["router"] == {"explain": False, "min_quality": 0.5}


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "\n```\n{}\n```  "])
def test_an_answer_becomes_a_value_of_a_pydantic_class(
    server: ScriptedGateway, flavour: Flavour, fence: str
) -> None:
    server.will(answer(fence.replace("{}", '{"name": "Lima", "people": 10, "rivers": ["Rímac"]}')))
    found = flavour.ask("parse", "Describe Lima.", City, temperature=0)
    assert found.value == City(name="Lima", people=10, rivers=["Rímac"])
    assert (found.expert, found.decision_id, found.chat.model) == ("house", "dec-1", "m")
    wanted = server.received[0].body["response_format"]
    assert (wanted["type"], wanted["json_schema"]["name"], wanted["json_schema"]["strict"]) == (
        "json_schema",
        "City",
        True,
    )
    assert wanted["json_schema"]["schema"]["additionalProperties"] is False
    assert wanted["json_schema"]["schema"]["required"] == ["name", "people", "rivers"]
    assert "required" not in City.model_json_schema()["properties"]["rivers"]


@pytest.mark.parametrize("installed", [True, False])
def test_an_answer_of_a_json_schema_is_checked(
    server: ScriptedGateway, flavour: Flavour, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setattr(schemas, "find_spec", lambda name: None)
    server.will([answer('{"name": "Lima"}'), answer('{"people": 3}'), answer("[1]")])
    assert flavour.ask("parse", "hi", SCHEMA).value == {"name": "Lima"}
    assert server.received[0].body["response_format"]["json_schema"]["name"] == "a_city_"
    for _ in range(2):
        with pytest.raises(InvalidAnswer, match="the answer is not of the shape asked for: "):
            flavour.ask("parse", "hi", SCHEMA)


@pytest.mark.parametrize("text", ["Lima is a city.", '{"name": "Lima"', '{"name": 7}', ""])
def test_another_shape_is_an_error_that_holds_the_answer(
    server: ScriptedGateway, flavour: Flavour, text: str
) -> None:
    server.will(answer(text, "length"))
    with pytest.raises(InvalidAnswer, match="it was cut off at max_tokens") as caught:
        flavour.ask("parse", "hi", City)
    assert caught.value.chat.text == text


def test_a_schema_is_a_class_or_a_schema(flavour: Flavour) -> None:
    with pytest.raises(TypeError, match="schema must be a pydantic model class or a JSON schema, not 7"):
        flavour.ask("parse", "hi", 7)


async def test_a_batch_goes_through_the_gateway(tmp_path: Path) -> None:
    lines = [line("1", "says-a"), line("2", "says-b"), line("3", "status-400")]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in lines))
    async with FakeUpstream() as upstream:
        experts = [
            {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url, **PRICED}
            for name in ("says-a", "says-b", "status-400")
        ]
        config = {"experts": experts, "server": {"master_key": KEY}}
        async with (
            gateway(config, str(tmp_path / "j.sqlite3")) as live,
            AsyncClient(live.base, KEY) as client,
        ):
            file = await client.files.create(path)
            assert (file.filename, file.n_bytes) == ("in.jsonl", path.stat().st_size)
            assert await client.files.content(file.id) == path.read_bytes()
            job = await client.batches.create(file, max_usd=2, metadata={"project": "x"})
            assert job.raw["metadata"] == {"project": "x", "max_usd": "2"}
            done = await client.batches.wait(job, poll_s=0.02)
            assert (done.status, done.n_total, done.n_completed, done.n_failed) == ("completed", 3, 2, 1)
            rows = await client.batches.results(done)
            assert [row["custom_id"] for row in rows] == ["1", "2", "3"]
            assert [one.id for one in await client.batches.list()] == [job.id]
            assert file.id in [one.id for one in await client.files.list()]
            assert (await client.files.retrieve(file.id)).id == file.id
            second = await client.batches.create((await client.files.create(lines)).id)
            assert (await client.batches.cancel(second)).id == second.id
            assert await client.files.delete(file.id) is True
            with pytest.raises(NotFound):
                await client.files.retrieve(file.id)


def test_a_batch_of_the_other_client(server: ScriptedGateway) -> None:
    file = {"id": "file-1", "filename": "input.jsonl", "bytes": 3}
    job = {
        "id": "batch-1",
        "status": "in_progress",
        "request_counts": {"total": 2, "completed": 0, "failed": 0},
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
    }
    ended = {**job, "status": "completed", "output_file_id": "file-2", "thalamus": {"cost_usd": 0.5}}
    output = Scripted(200, {"content-type": "application/octet-stream"}, (b'{"custom_id": "1"}\n',))
    server.will([*map(json_answer, (file, job, job, ended)), output, json_answer({"deleted": True})])
    with Client(server.url) as client:
        made = client.batches.create(client.files.create([{"custom_id": "1"}]))
        done = client.batches.wait(made, poll_s=0.001)
        assert isinstance(done, BatchJob)
        assert (done.has_ended, done.cost_usd, made.has_ended) == (True, 0.5, False)
        assert client.batches.results(done) == [{"custom_id": "1"}]
        assert client.files.delete("file-1") is True
    assert server.received[1].body == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    assert [one.path for one in server.received[-3:]] == [
        "/v1/batches/batch-1",
        "/v1/files/file-2/content",
        "/v1/files/file-1",
    ]
