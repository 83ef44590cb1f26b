"""Parameters that an expert does not take: translated, left out with a warning, or a reason to move on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from gateway.batches.calling import RetryingCaller
from gateway.config import ExpertConfig
from gateway.errors import UpstreamError
from gateway.experts.parameters import MAX_REMEMBERED, REMEMBERED_S, Parameters, parameter_table
from gateway.experts.types import Call
from tests.fakes.providers import OPENAI_LIKE, OpenAIRules, ProviderServer
from tests.fakes.providers.server import KEY
from tests.fakes.serving import LiveApp, gateway

SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
PLAIN = OpenAIRules()
"""An upstream of which no table says anything, and which takes everything."""
STRICT = replace(OPENAI_LIKE["openai/gpt-5-mini"])


@asynccontextmanager
async def serve(
    tmp_path: Path, *pool: tuple[str, OpenAIRules], **more: Any
) -> AsyncIterator[tuple[LiveApp, list[ProviderServer]]]:
    """A gateway whose experts `e0`, `e1`, … are these models at servers with these rules."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ProviderServer(rules)) for _, rules in pool]
        experts = [
            {
                "name": f"e{n}",
                "model": model,
                "api_base": server.address + rules.path.removesuffix("/chat/completions"),
                "api_key": KEY,
                **more,
            }
            for n, ((model, rules), server) in enumerate(zip(pool, servers, strict=True))
        ]
        names = [expert["name"] for expert in experts]
        live = await stack.enter_async_context(gateway({"experts": experts}, str(tmp_path / "j"), *names))
        yield live, servers


async def test_max_tokens_has_the_name_that_a_reasoning_model_takes(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/gpt-5-mini", STRICT)) as (live, (server,)):
        answer = await live.chat("auto", max_tokens=50)
        assert (answer.status, server.last["max_completion_tokens"]) == (200, 50)
        assert "max_tokens" not in server.last
        assert "x-thalamus-warning" not in answer.headers
        assert len(server.requests) == 1


async def test_a_temperature_is_left_out_with_a_warning(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/gpt-5-mini", STRICT)) as (live, (server,)):
        answer = await live.chat("e0", temperature=0.2)
        assert answer.status == 200
        assert "temperature" not in server.last
        assert answer.headers["x-thalamus-warning"] == "e0 does not take temperature 0.2: left out"


@pytest.mark.parametrize(
    "values", [{"temperature": 1, "top_p": 1.0, "n": 1}, {"logprobs": False, "stop": None}]
)
async def test_what_a_model_does_anyway_needs_no_warning(tmp_path: Path, values: dict[str, Any]) -> None:
    async with serve(tmp_path, ("openai/gpt-5-mini", STRICT)) as (live, _):
        answer = await live.chat("e0", **values)
        assert answer.status == 200
        assert "x-thalamus-warning" not in answer.headers


async def test_what_the_answer_depends_on_moves_to_an_expert_that_takes_it(tmp_path: Path) -> None:
    pool = (("openai/gpt-5-mini", STRICT), ("openai/other", PLAIN))
    async with serve(tmp_path, *pool) as (live, servers):
        answer = await live.chat("auto", logprobs=True)
        assert (answer.status, answer.expert) == (200, "e1")
        assert servers[0].requests == []
        assert live.services.fleet.state("e0")["n_failed"] == 0


async def test_where_no_expert_takes_it_the_client_is_told_which_field(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/gpt-5-mini", STRICT)) as (live, _):
        answer = await live.chat("e0", logprobs=True)
        assert (answer.status, answer.error["param"]) == (400, "logprobs")


async def test_an_operator_can_have_wishes_refused(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/gpt-5-mini", STRICT), unsupported_params="refuse") as (live, _):
        answer = await live.chat("e0", temperature=0.2)
        assert (answer.status, answer.error["param"]) == (400, "temperature")
        assert (await live.chat("e0", temperature=1, max_tokens=5)).status == 200


async def test_a_refused_parameter_that_no_table_knows_is_translated_and_remembered(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/deployed-here", STRICT)) as (live, (server,)):
        assert (await live.chat("e0", max_tokens=7)).status == 200
        assert server.last["max_completion_tokens"] == 7
        assert len(server.requests) == 2
        assert (await live.chat("e0", max_tokens=8)).status == 200
        assert len(server.requests) == 3


async def test_a_refused_wish_moves_on_to_an_expert_that_keeps_it(tmp_path: Path) -> None:
    pool = (("openai/deployed-here", STRICT), ("openai/other", PLAIN))
    async with serve(tmp_path, *pool) as (live, servers):
        answer = await live.chat("auto", temperature=0.3)
        assert (answer.status, answer.expert) == (200, "e1")
        assert servers[1].last["temperature"] == 0.3
        assert live.services.fleet.state("e0")["n_failed"] == 0
        again = await live.chat("auto", temperature=0.3)
        assert again.expert == "e0"
        assert again.headers["x-thalamus-warning"] == "e0 does not take temperature 0.3: left out"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_only_expert_is_asked_again_without_the_wishes_it_refused(
    tmp_path: Path, stream: bool
) -> None:
    async with serve(tmp_path, ("openai/deployed-here", STRICT)) as (live, (server,)):
        answer = await live.chat("e0", stream=stream, temperature=0.3, top_p=0.5, max_tokens=9)
        assert answer.status == 200
        assert "temperature" not in server.last
        assert "top_p" not in server.last
        assert answer.headers["x-thalamus-warning"].endswith("left out")


async def test_a_refused_request_of_a_named_expert_does_not_count_against_it(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/deployed-here", STRICT)) as (live, _):
        for _ in range(5):
            assert (await live.chat("e0", logprobs=True)).status == 400
        assert (await live.chat("auto")).status == 200


async def test_a_json_schema_is_put_into_the_prompt_where_only_json_is_taken(tmp_path: Path) -> None:
    model = "deepseek/deepseek-reasoner"
    async with serve(tmp_path, (model, OPENAI_LIKE[model])) as (live, (server,)):
        answer = await live.chat("e0", response_format=JSON_SCHEMA)
        assert answer.status == 200
        assert server.last["response_format"] == {"type": "json_object"}
        assert '"required":["answer"]' in server.last["messages"][0]["content"]
        assert [turn["role"] for turn in server.last["messages"]] == ["system", "user"]
        assert "JSON schema" in answer.headers["x-thalamus-warning"]


async def test_a_json_object_is_a_schema_where_only_schemas_are_taken(tmp_path: Path) -> None:
    model = "lm_studio/qwen3-8b"
    async with serve(tmp_path, (model, OPENAI_LIKE[model])) as (live, (server,)):
        answer = await live.chat("e0", response_format={"type": "json_object"})
        assert answer.status == 200
        assert server.last["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_a_format_that_an_unknown_server_refuses_moves_on(tmp_path: Path) -> None:
    pool = (("openai/x", OPENAI_LIKE["lm_studio/qwen3-8b"]), ("openai/y", PLAIN))
    async with serve(tmp_path, *pool) as (live, _):
        body: dict[str, Any] = {
            "response_format": {"type": "json_object"},
            "messages": [{"role": "user", "content": "json"}],
        }
        answer = await live.chat("auto", **body)
        assert (answer.status, answer.expert) == (200, "e1")


async def test_more_stop_sequences_than_are_taken_are_shortened(tmp_path: Path) -> None:
    model = "openai/gpt-4o-mini"
    async with serve(tmp_path, (model, OPENAI_LIKE[model])) as (live, (server,)):
        answer = await live.chat("e0", stop=["a", "b", "c", "d", "e", "f"])
        assert (answer.status, server.last["stop"]) == (200, ["a", "b", "c", "d"])
        assert answer.headers["x-thalamus-warning"] == "e0 takes 4 stop sequences: 2 left out"


async def test_several_choices_move_on_from_an_expert_that_gives_one(tmp_path: Path) -> None:
    model = "groq/llama-3.3-70b-versatile"
    async with serve(tmp_path, (model, OPENAI_LIKE[model]), ("openai/y", PLAIN)) as (live, _):
        answer = await live.chat("auto", n=2)
        assert (answer.expert, len(answer.json()["choices"])) == ("e1", 2)


async def test_fields_that_mistral_forbids_are_renamed_or_left_out(tmp_path: Path) -> None:
    model = "mistral/mistral-small-latest"
    async with serve(tmp_path, (model, OPENAI_LIKE[model])) as (live, (server,)):
        answer = await live.chat("e0", max_completion_tokens=5, seed=3, user="u")
        assert answer.status == 200
        assert (server.last["max_tokens"], server.last["random_seed"]) == (5, 3)
        # Unknown to the table, forbidden by name in a list of faults: asked again without it.
        answer = await live.chat("e0", reasoning_effort="low")
        assert answer.status == 200
        assert "reasoning_effort" not in server.last


# -- the memory of refusals


def learn(parameters: Parameters, name: str, message: str = "", code: str = "unsupported_parameter") -> Any:
    body = b'{"error":{"message":"%s","param":"%s","code":"%s"}}' % tuple(
        text.encode() for text in (message, name, code)
    )
    error = UpstreamError("unsupported", "answered 400", status=400, body=body)
    return parameters.learn(error, {name: Raw(b"0.5"), "messages": Raw(b"[]")})


def build(model: str = "openai/unknown") -> tuple[Parameters, list[float]]:
    now = [0.0]
    return Parameters(ExpertConfig(name="x", model=model), lambda: now[0]), now


def test_a_refusal_is_forgotten_after_an_hour() -> None:
    parameters, now = build()
    assert learn(parameters, "top_p") == "left_out"
    assert parameters.adapt({"top_p": Raw(b"0.5")})[0] == {}
    now[0] = REMEMBERED_S + 1
    assert parameters.adapt({"top_p": Raw(b"0.5")})[0] == {"top_p": Raw(b"0.5")}


def test_a_refused_value_says_nothing_of_others() -> None:
    parameters, _ = build()
    learn(parameters, "reasoning_effort", "does not support 0.5", "unsupported_value")
    assert parameters.adapt({"reasoning_effort": Raw(b"0.5")})[0] == {}
    assert parameters.adapt({"reasoning_effort": Raw(b"1")})[0] != {}


def test_only_the_default_means_every_other_value() -> None:
    parameters, _ = build()
    learn(parameters, "temperature", "Only the default (1) value is supported.", "unsupported_value")
    assert parameters.adapt({"temperature": Raw(b"0.9")})[0] == {}


def test_refusals_are_logged_once_and_do_not_fill_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    parameters, _ = build()
    for _ in range(3):
        learn(parameters, "top_p")
    assert caplog.text.count("top_p") == 1
    for n in range(10 * MAX_REMEMBERED):
        learn(parameters, f"made_up_{n}")
    assert len(parameters._refusals) <= MAX_REMEMBERED


def test_two_names_of_one_wish_do_not_go_round_in_circles() -> None:
    parameters, _ = build()
    assert learn(parameters, "max_tokens") == "renamed"
    assert learn(parameters, "max_completion_tokens") is None
    with pytest.raises(UpstreamError):
        parameters.adapt({"max_tokens": Raw(b"5")})


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            "max_tokens",
        ),
        ("Unrecognized request argument supplied: top_k", "top_k"),
        ("`stop` is not supported with this model", "stop"),
        ("property 'n' is unsupported", "n"),
        ("user: Extra inputs are not permitted", "user"),
        ("Please stop asking; the user must use tools", None),
    ],
)
def test_the_refused_field_is_found_in_the_words(message: str, name: str | None) -> None:
    parameters, _ = build()
    sent = {field: Raw(b"5") for field in ("messages", "max_tokens", "top_k", "stop", "n", "user")}
    parameters.learn(UpstreamError("unsupported", f"answered 400: {message}", status=400), sent)
    assert list(parameters._refusals) == ([] if name is None else [name])


def test_every_family_is_found_by_a_model_of_its_own() -> None:
    models = (
        "openai/gpt-5-chat-latest openai/gpt-5.1 azure/o3-mini openai/gpt-4o xai/grok-4 groq/x"
        " bedrock/eu.anthropic.claude-x gemini/gemini-2.5-pro mistral/x"
        " deepseek/deepseek-reasoner deepseek/deepseek-chat cerebras/x lm_studio/x ollama/x together_ai/x"
    )
    table = parameter_table()
    assert [table.family_of(model) for model in models.split()] == table.families
    assert table.family_of("openai/my-own-llama").models == ""
    assert table.family_of("xai/grok-4-fast-non-reasoning").models == ""


async def test_a_slot_of_a_cooling_expert_is_not_lost_by_asking_again(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/deployed-here", STRICT), max_parallel=1) as (live, _):
        answers = await asyncio.gather(*(live.chat("auto", temperature=n / 10) for n in range(4)))
        assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize(
    ("router", "named"),
    [
        ({"max_cost_usd": 0.001, "exclude": ["e0"]}, "max_cost_usd, exclude"),
        ({"weights": {"cost": 1}, "policy": "auto"}, "policy, weights and targets"),
        ({"min_quality": 0.5, "max_latency_ms": 9, "models": ["e1"]}, "max_latency_ms, min_quality, models"),
    ],
)
async def test_a_named_expert_says_which_options_do_not_apply(
    tmp_path: Path, router: dict[str, Any], named: str
) -> None:
    async with serve(tmp_path, ("openai/x", PLAIN)) as (live, _):
        answer = await live.chat("e0", router=router)
        said = "ignored for a model that is asked for by name; `auto` chooses by them"
        assert (answer.status, answer.headers["x-thalamus-warning"]) == (200, f"{named}: {said}")


async def test_what_applies_to_a_named_expert_needs_no_warning(tmp_path: Path) -> None:
    async with serve(tmp_path, ("openai/x", PLAIN)) as (live, _):
        answer = await live.chat("e0", router={"fallbacks": ["e0"], "session_id": "s", "explain": True})
        assert "x-thalamus-warning" not in answer.headers


async def test_a_line_of_a_batch_is_called_again_without_a_refused_wish(tmp_path: Path) -> None:
    async def pause(_seconds: float) -> None:
        raise AssertionError("nothing is waited for")

    turns = Raw(b'[{"role":"user","content":"Hi"}]')
    async with serve(tmp_path, ("openai/deployed-here", STRICT)) as (live, (server,)):
        caller = RetryingCaller(live.services.experts, live.services.fleet, 5.0, pause)
        call = Call("chat/completions", {"messages": turns, "temperature": Raw(b"0.3")})
        outcome = await caller.call("e0", call)
        assert outcome.failure is None
        assert len(server.requests) == 2


async def test_a_field_of_another_provider_is_left_out_where_none_takes_it(tmp_path: Path) -> None:
    model = "openai/gpt-4o-mini"
    async with serve(tmp_path, (model, OPENAI_LIKE[model])) as (live, (server,)):
        answer = await live.chat("auto", chat_template_kwargs={"enable_thinking": False}, top_k=5)
        assert answer.status == 200
        assert not {"chat_template_kwargs", "top_k"} & server.last.keys()
        assert answer.headers["x-thalamus-warning"] == "e0 does not take top_k 5: left out"


async def test_a_forced_tool_is_never_left_out(tmp_path: Path) -> None:
    refuses = replace(PLAIN, refused={"tool_choice": "Unsupported parameter: 'tool_choice'"})
    async with serve(tmp_path, ("openai/x", refuses), ("openai/y", PLAIN)) as (live, servers):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        for _ in range(2):
            answer = await live.chat("auto", tools=[tool], tool_choice="required")
            assert (answer.status, answer.expert) == (200, "e1")
        assert len(servers[0].requests) == 1  # remembered: it is not asked a second time
        answer = await live.chat("auto", tools=[tool], tool_choice="auto")
        assert answer.expert == "e0"
