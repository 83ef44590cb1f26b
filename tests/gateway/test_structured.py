"""Structured output: what is only wrapped is unwrapped, what is something else goes to the next expert."""

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.execution.structured import check_format, read_wished_format, unwrap_json
from gateway.testing import FakeUpstream, build_completion
from tests.fakes.serving import HttpAnswer, LiveApp, gateway

over_http = pytest.mark.asyncio(loop_scope="module")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
GOOD = '{"city":"Bern","people":134000}'


def wish(schema: Any = None, kind: str = "json_schema") -> Any:
    value = {"type": kind, "json_schema": {"name": "a", "schema": schema}} if schema else {"type": kind}
    return read_wished_format({"response_format": msgspec.Raw(json.dumps(value).encode())})


def body(text: str, **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text, **more}}]}).encode()


def text_of(answer: bytes) -> Any:
    return json.loads(answer)["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here it is:\n\n```\n{GOOD}\n```\nAnything else?",
        f"Sure! {GOOD} I hope that helps.",
    ],
)
def test_json_that_is_only_wrapped_is_unwrapped(text: str) -> None:
    answer, problem = check_format(body(text), wish(SCHEMA))
    assert problem is None
    assert text_of(answer) == GOOD


def test_a_good_answer_stays_as_it_is_to_the_byte() -> None:
    sent = body(f" {GOOD}\n")
    answer, problem = check_format(sent, wish(SCHEMA))
    assert answer is sent
    assert problem is None


def test_a_list_in_a_sentence_is_found() -> None:
    assert unwrap_json("They are [1, 2, 3].") == ("[1, 2, 3]", [1, 2, 3])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Bern has 134,000 people.", "its text is not JSON"),
        ('{"city": "Bern"}', "it does not meet `required` of the schema"),
        ('{"city": "Bern", "people": "many"}', "`people` does not meet `type` of the schema"),
        ('{"city": "Bern", "people": 1, "x": 2}', "it does not meet `additionalProperties` of the schema"),
    ],
)
def test_what_is_wrong_is_named_without_the_answer(text: str, said: str) -> None:
    assert check_format(body(text), wish(SCHEMA))[1] == said


def test_any_object_will_do_where_no_schema_is_sent() -> None:
    assert check_format(body('{"a": 1}'), wish(kind="json_object"))[1] is None
    assert check_format(body("[1]"), wish(kind="json_object"))[1] == "it is no JSON object"


def test_calls_of_tools_and_refusals_are_answers() -> None:
    calls = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    for more in ({"tool_calls": calls}, {"refusal": "No."}):
        assert check_format(body("", **more), wish(SCHEMA))[1] is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "#/$defs/none"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}},
    ],
)
def test_a_schema_that_cannot_be_judged_by_blames_no_expert(schema: dict[str, Any]) -> None:
    assert check_format(body('{"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}'), wish(schema))[1] is None


@pytest.mark.parametrize("raw", [b"1", b'"json"', b'{"type":"text"}', b'{"type":"json_schema"}', b"{"])
def test_other_wishes_are_not_checked(raw: bytes) -> None:
    assert read_wished_format({"response_format": msgspec.Raw(raw)}) is None


# -- over HTTP


def says(text: str) -> str:
    return "openai/says-" + text.replace(" ", "_")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    place = {"api_base": upstream.base_url, "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    config = {
        "experts": [
            {"name": "talks", "model": says("Bern of course"), **place},
            {"name": "wraps", "model": says(f"So: {GOOD}"), **place},
            {"name": "fails", "model": "openai/status-500", **place},
            {
                "name": "hangs",
                "model": "openai/hang",
                "timeouts": {"first_token_s": 0.2, "total_s": 0.3},
                **place,
            },
        ]
    }
    journal = str(tmp_path_factory.mktemp("structured") / "journal.sqlite3")
    async with gateway(config, journal, "talks", "wraps") as running:
        yield running


async def ask(live: LiveApp, model: str, **more: Any) -> HttpAnswer:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    return await live.chat(model, response_format=form, **more)


@over_http
async def test_an_answer_in_another_form_goes_to_the_next_expert(live: LiveApp) -> None:
    answer = await ask(live, "auto")
    assert (answer.status, answer.expert) == (200, "wraps")
    assert text_of(answer.body) == GOOD
    record = await live.read_record(answer)
    verdicts = [(attempt["expert"], attempt["verdict"]) for attempt in record["attempts"]]
    assert verdicts == [("talks", "moved_on"), ("wraps", "answered")]
    # Both calls are paid.
    n_tokens = sum(live_usage["total_tokens"] for live_usage in [answer.json()["usage"]])
    assert record["cost_usd"] == pytest.approx(n_tokens * 1e-6)
    assert record["input_tokens"] == 2 * json.loads(build_completion("good"))["usage"]["prompt_tokens"]


@over_http
@pytest.mark.parametrize("fallbacks", [[], ["fails"], ["hangs"]])
async def test_where_none_answers_in_form_the_answer_comes_with_a_warning(
    live: LiveApp, fallbacks: list[str]
) -> None:
    answer = await ask(live, "talks", router={"fallbacks": fallbacks})
    assert (answer.status, answer.expert) == (200, "talks")
    assert text_of(answer.body) == "Bern of course"
    assert (
        "did not answer as `response_format` asks: its text is not JSON"
        in answer.headers["x-thalamus-warning"]
    )
    attempts = (await live.read_record(answer))["attempts"]
    assert [one["expert"] for one in attempts if one["verdict"] == "answered"] == ["talks"]
    live.close_circuits()


@over_http
async def test_the_form_of_an_answer_opens_no_circuit(live: LiveApp) -> None:
    for _ in range(8):
        await ask(live, "talks", router={"fallbacks": ["wraps"]})
    answer = await live.chat("talks")
    assert (answer.status, answer.expert) == (200, "talks")


@over_http
async def test_text_that_is_asked_for_is_not_touched(live: LiveApp) -> None:
    assert text_of((await live.chat("wraps")).body) == f"So: {GOOD}"
