"""Providers × features: each cell goes through the gateway to a server that obeys the provider's rules."""

import base64
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.experts.litellm import LiteLLMExpert
from gateway.experts.openai_compatible import OpenAIExpert
from tests.fakes.providers import ANTHROPIC, AZURE, BEDROCK, GEMINI, OPENAI_LIKE, VERTEX, ProviderServer
from tests.fakes.providers.bedrock import ACCESS_KEY
from tests.fakes.providers.server import ARGUMENTS, JSON_TEXT, KEY, Rules
from tests.fakes.providers.vertex import LOCATION, PROJECT, TOKEN, make_account
from tests.fakes.serving import HttpAnswer, LiveApp, gateway

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # LiteLLM and what it imports warn of much
]
WRONG_KEY = "sk-wrong-9876543210"
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
LOOK = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class ProviderRow:
    """A row of the matrix.

    settings: of the expert, beside its name and model; `{address}` is that of the server, `{account}` a
        service account that signs in there.
    key: where the server must have seen the key.
    counts: cached input tokens and reasoning tokens of an answer.
    """

    model: str
    rules: Rules
    settings: dict[str, Any]
    key: tuple[str, str]
    counts: tuple[int, int] = (0, 0)
    through_litellm: bool = False


BEARER = ("authorization", f"Bearer {KEY}")
COUNTS = {
    **dict.fromkeys(("openai/gpt-4o-mini", "openai/gpt-5-mini", "groq/llama-3.3-70b-versatile"), (64, 12)),
    **dict.fromkeys(("deepseek/deepseek-reasoner", "hosted_vllm/qwen3-8b"), (64, 12)),
    "openrouter/anthropic/claude-sonnet-4.5": (64, 12),
}
AWS = {
    "aws_access_key_id": ACCESS_KEY,
    "aws_secret_access_key": "of-the-provider",
    "aws_region_name": "us-east-1",
}
PROVIDERS: dict[str, ProviderRow] = {
    **{
        re.sub(r"\W", "-", model): ProviderRow(
            model,
            rules,
            {"api_base": "{address}" + rules.path.removesuffix("/chat/completions"), "api_key": KEY},
            BEARER,
            COUNTS.get(model, (0, 0)),
        )
        for model, rules in OPENAI_LIKE.items()
    },
    # Ollama's address is written in three ways; all of them reach its OpenAI-compatible API.
    **{
        f"ollama-{n}": ProviderRow(
            model, OPENAI_LIKE["ollama/llama3.2"], {"api_base": "{address}" + end, "api_key": KEY}, BEARER
        )
        for n, (model, end) in enumerate(
            [("ollama/llama3.2", ""), ("ollama_chat/llama3.2", "/"), ("ollama/llama3.2", "/api")]
        )
    },
    # Anthropic's too: its own library appends `/v1`, others want it in the address.
    **{
        name: ProviderRow(
            "anthropic/claude-sonnet-4-5",
            ANTHROPIC,
            {"api_base": "{address}" + end, "api_key": KEY},
            ("x-api-key", KEY),
            (64, 0),
            through_litellm=True,
        )
        for name, end in (("anthropic", ""), ("anthropic-v1", "/v1"), ("anthropic-slash", "/v1/"))
    },
    "gemini": ProviderRow(
        "gemini/gemini-2.5-flash",
        GEMINI,
        {"api_base": "{address}", "api_key": KEY},
        ("x-goog-api-key", KEY),
        (64, 12),
        through_litellm=True,
    ),
    "vertex": ProviderRow(
        "vertex_ai/gemini-2.5-flash",
        VERTEX,
        {
            "api_base": "{address}",
            "settings": {
                "vertex_project": PROJECT,
                "vertex_location": LOCATION,
                "vertex_credentials": "{account}",
            },
        },
        ("authorization", f"Bearer {TOKEN}"),
        (64, 12),
        through_litellm=True,
    ),
    "azure": ProviderRow(
        "azure/gpt-4o-mini",
        AZURE,
        {"api_base": "{address}", "api_key": KEY, "settings": {"api_version": "2024-10-21"}},
        ("api-key", KEY),
        (64, 12),
        through_litellm=True,
    ),
    "bedrock": ProviderRow(
        "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
        BEDROCK,
        {"settings": {**AWS, "aws_bedrock_runtime_endpoint": "{address}"}},
        ("authorization", f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/"),
        (64, 0),
        through_litellm=True,
    ),
}
NEED_A_KEY = [name for name, provider in PROVIDERS.items() if getattr(provider.rules, "needs_key", True)]


@dataclass(frozen=True)
class Place:
    """A gateway with one expert for each provider, and another of the same with a wrong key."""

    live: LiveApp
    servers: dict[str, ProviderServer]

    async def chat(self, name: str, text: Any = "Hello", **more: Any) -> HttpAnswer:
        return await self.live.chat(name, messages=[{"role": "user", "content": text}], **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(ProviderServer(provider.rules))
            for name, provider in PROVIDERS.items()
        }
        experts = []
        for name, provider in PROVIDERS.items():
            text = json.dumps(provider.settings).replace("{address}", servers[name].address)
            text = text.replace("{account}", json.dumps(make_account(servers[name].address))[1:-1])
            wrong = text.replace(KEY, WRONG_KEY).replace(ACCESS_KEY, "AKIAOFANOTHER00000001")
            experts.append({"name": name, "model": provider.model, **json.loads(text)})
            experts.append({"name": f"{name}.wrong", "model": provider.model, **json.loads(wrong)})
        journal = str(tmp_path_factory.mktemp("providers") / "j.sqlite3")
        timeouts = {"first_token_s": 30, "total_s": 60}
        config = {"experts": experts, "timeouts": timeouts}
        live = await stack.enter_async_context(gateway(config, journal, *PROVIDERS))
        yield Place(live, servers)


@pytest.fixture(params=PROVIDERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read_stream(answer: HttpAnswer) -> list[dict[str, Any]]:
    """The deltas of a stream's first choice; the stream must have ended well."""
    assert (answer.status, answer.events[-1]) == (200, b"[DONE]")
    chunks = [json.loads(event) for event in answer.events[:-1]]
    assert not [chunk for chunk in chunks if "error" in chunk]
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk.get("choices")]


@pytest.fixture(autouse=True)
def no_lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The hosts that were looked up: none but this machine's."""
    hosts: set[str] = set()
    find = socket.getaddrinfo

    def record(host: Any, *more: Any, **options: Any) -> Any:
        hosts.add(str(host))
        return find(host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    yield hosts
    assert hosts <= {"127.0.0.1", "localhost"}


async def test_plain(place: Place, name: str) -> None:
    provider = PROVIDERS[name]
    expert = place.live.services.experts[name]
    assert isinstance(expert, LiteLLMExpert if provider.through_litellm else OpenAIExpert)
    answer = await place.chat(name, max_tokens=50)
    assert (answer.status, answer.expert) == (200, name)
    choice = answer.json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello from afar.", "stop")
    header, value = provider.key
    assert place.servers[name].requests[-1].headers[header].startswith(value)
    assert "x-thalamus-warning" not in answer.headers


async def test_stream(place: Place, name: str) -> None:
    deltas = read_stream(await place.chat(name, stream=True))
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hello from afar."


async def test_tools(place: Place, name: str) -> None:
    answer = await place.chat(name, tools=[TOOL], tool_choice="auto")
    assert answer.status == 200
    choice = answer.json()["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS
    assert choice["finish_reason"] == "tool_calls"
    sent = json.dumps(place.servers[name].last)
    assert "The weather of a city." in sent
    assert '"city"' in sent


async def test_tools_streamed(place: Place, name: str) -> None:
    deltas = read_stream(await place.chat(name, tools=[TOOL], stream=True))
    calls = [call for delta in deltas for call in delta.get("tool_calls") or ()]
    assert {call["index"] for call in calls} == {0}
    assert [call["function"]["name"] for call in calls if call["function"].get("name")] == ["weather"]
    assert json.loads("".join(call["function"].get("arguments") or "" for call in calls)) == ARGUMENTS


async def test_the_result_of_a_tool_goes_back(place: Place, name: str) -> None:
    answer = (await place.chat(name, tools=[TOOL])).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "22 degrees"}
    turns = [{"role": "user", "content": "Weather?"}, answer, result]
    assert (await place.live.chat(name, messages=turns, tools=[TOOL])).status == 200
    assert "22 degrees" in json.dumps(place.servers[name].last)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_loop_of_tools_by_the_responses_api(place: Place, name: str, stream: bool) -> None:
    """With the fields that Codex sends: what a provider does not take is left out, and costs no answer."""
    request = {
        "model": name,
        "instructions": "Be brief.",
        "tools": [{"type": "function", **TOOL["function"]}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"verbosity": "low"},
        "prompt_cache_key": "session",
        "include": ["reasoning.encrypted_content"],
        "stream": stream,
    }
    answer = await place.live.post("responses", {**request, "input": "Weather?"})
    assert (answer.status, answer.expert) == (200, name), answer.body
    response = json.loads(answer.events[-1])["response"] if stream else answer.json()
    call = next(item for item in response["output"] if item["type"] == "function_call")
    assert (call["name"], json.loads(call["arguments"])) == ("weather", ARGUMENTS)
    assert response["usage"]["input_tokens"] == 100
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "22 degrees"}
    more = {"previous_response_id": response["id"], "input": [output]}
    assert (await place.live.post("responses", {**request, **more})).status == 200
    assert "22 degrees" in json.dumps(place.servers[name].last)


async def test_json_schema(place: Place, name: str) -> None:
    answer = await place.chat(name, "Answer in JSON.", response_format=JSON_SCHEMA)
    assert answer.status == 200
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == json.loads(JSON_TEXT)
    sent = json.dumps(place.servers[name].last).replace("\\", "")
    assert '"answer"' in sent


async def test_picture(place: Place, name: str) -> None:
    answer = await place.chat(name, LOOK)
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "I see a picture."
    assert PICTURE in json.dumps(place.servers[name].last)


@pytest.mark.parametrize("stream", [False, True])
async def test_usage(place: Place, name: str, stream: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if stream else {}
    answer = await place.chat(name, stream=stream, **more)
    usage = json.loads(answer.events[-2])["usage"] if stream else answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (100, 20)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoned = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    assert (cached, reasoned) == PROVIDERS[name].counts
    record = await place.live.read_record(answer)
    assert (record["input_tokens"], record["output_tokens"]) == (100, 20)


async def test_a_stream_is_counted_for_a_client_that_asks_for_no_counts(place: Place, name: str) -> None:
    answer = await place.chat(name, stream=True)
    read_stream(answer)
    chunks = [json.loads(event) for event in answer.events[:-1]]
    assert not [chunk for chunk in chunks if chunk.get("usage") and not chunk["choices"]]
    record = await place.live.read_record(answer)
    assert (record["input_tokens"], record["output_tokens"]) == (100, 20)
    assert record["attempts"][-1]["tokens_estimated"] is False


@pytest.mark.parametrize("name", NEED_A_KEY)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_key(place: Place, name: str, stream: bool) -> None:
    answer = await place.chat(f"{name}.wrong", stream=stream)
    assert answer.status == 502
    # Vertex AI's key buys a token from another server, which refuses it before the model is asked.
    refusal = r"could not sign in \(invalid_grant" if name == "vertex" else r"answered 40[013]"
    assert re.search(refusal, answer.error["message"])
    assert WRONG_KEY.encode() not in answer.body
    assert (await place.chat(f"{name}.wrong", router={"fallbacks": ["openai-gpt-4o-mini"]})).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_limit(place: Place, name: str, stream: bool) -> None:
    answer = await place.chat(name, "fail 429", stream=stream)
    assert answer.status == 429
    if name not in ("bedrock", "vertex"):  # AWS and Google's cloud name no wait
        assert answer.headers["retry-after"] == "7"
    place.live.close_circuits()


async def test_too_long(place: Place, name: str) -> None:
    before = place.live.services.fleet.state(name)["last_error"]
    answer = await place.chat(name, "fail too long")
    assert answer.status == 400
    answer = await place.chat(name, "fail too long", router={"fallbacks": ["openai-gpt-4o-mini"]})
    assert answer.status == 400  # the fallback is asked, and answers the same prompt in the same way
    record = await place.live.read_record(answer)
    asked = [attempt["expert"] for attempt in record["attempts"]]
    assert asked == list(dict.fromkeys([name, "openai-gpt-4o-mini"]))
    assert place.live.services.fleet.state(name)["last_error"] == before


async def test_a_failing_server(place: Place, name: str) -> None:
    answer = await place.chat(name, "fail 500")
    assert answer.status == 502
    assert "answered 500" in answer.error["message"]
    place.live.close_circuits()


async def test_an_unsupported_parameter(place: Place, name: str) -> None:
    """Temperature, length and penalties reach every model, in one form or another."""
    answer = await place.chat(name, max_tokens=60, temperature=0.5, top_p=1, presence_penalty=0)
    assert answer.status == 200
    sent = json.dumps(place.servers[name].last)
    assert re.search(r'"(max_tokens|max_completion_tokens|max_output_tokens|maxTokens)": 60', sent)
    warned = answer.headers.get("x-thalamus-warning", "")
    assert ('"temperature": 0.5' in sent) != ("temperature" in warned)


async def test_several_answers(place: Place, name: str) -> None:
    """As many as were asked for, or a refusal that names the field: never one in silence."""
    answer = await place.chat(name, n=2)
    if answer.status == 200:
        assert len(answer.json()["choices"]) == 2
    else:
        assert (answer.status, answer.error["param"]) == (400, "n")


async def test_a_refused_service_account_is_told_with_its_place(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    said = (await place.chat("vertex.wrong")).error["message"]
    where = place.servers["vertex"].address.removeprefix("http://")
    assert said == (
        f"expert 'vertex.wrong' ({where}) could not sign in (invalid_grant: Invalid JWT Signature): its key "
        "is refused; the operator must set a valid key in "
        "settings.vertex_credentials of expert 'vertex.wrong'"
    )
    assert "could not sign in" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("setting", "value", "status", "said"),
    [
        ("vertex_project", "of-others", 502, "answered 403"),
        ("vertex_location", "moon-1", 404, "was not found"),
        ("vertex_credentials", "/nowhere/account.json", 502, "could not sign in"),
        ("vertex_credentials", '{"type": "service_account"}', 502, "missing fields"),
    ],
)
async def test_what_vertex_refuses_is_told(
    place: Place, tmp_path: Path, setting: str, value: str, status: int, said: str
) -> None:
    address = place.servers["vertex"].address
    settings = {"vertex_project": PROJECT, "vertex_location": LOCATION}
    settings |= {"vertex_credentials": make_account(address), setting: value}
    expert = {"name": "v", "model": "vertex_ai/gemini-2.5-flash", "api_base": address, "settings": settings}
    async with gateway({"experts": [expert]}, str(tmp_path / "j"), "v") as live:
        answer = await live.chat("v")
    assert answer.status == status
    assert said in answer.error["message"]


async def test_a_service_account_is_read_from_a_file_and_names_its_project(
    place: Place, tmp_path: Path
) -> None:
    address = place.servers["vertex"].address
    (file := tmp_path / "account.json").write_text(make_account(address))
    settings = {"vertex_location": LOCATION, "vertex_credentials": str(file)}
    expert = {"name": "v", "model": "vertex_ai/gemini-2.5-flash", "api_base": address, "settings": settings}
    async with gateway({"experts": [expert]}, str(tmp_path / "j"), "v") as live:
        assert (await live.chat("v")).status == 200
    assert f"/projects/{PROJECT}/" in place.servers["vertex"].requests[-1].path


async def test_anthropics_overload_waits_like_a_limit(place: Place) -> None:
    answer = await place.chat("anthropic", "fail 529")
    assert answer.status == 503
    place.live.services.fleet.record_success("anthropic", 0.1)


async def test_thinking_is_passed_on(place: Place) -> None:
    message = (await place.chat("deepseek-deepseek-reasoner")).json()["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."
    answer = await place.chat("anthropic", reasoning_effort="low", max_tokens=4000, stream=True)
    deltas = read_stream(answer)
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Hm."
    assert place.servers["anthropic"].last["thinking"]["type"] == "enabled"


async def test_an_error_event_before_the_first_token_moves_on(place: Place) -> None:
    answer = await place.chat("anthropic", "fail in the stream", stream=True)
    assert answer.status == 502
    assert "Overloaded" in answer.error["message"]
    fallbacks = {"fallbacks": ["hosted_vllm-qwen3-8b"]}
    answer = await place.chat("anthropic", "fail in the stream", stream=True, router=fallbacks)
    assert answer.expert == "hosted_vllm-qwen3-8b"
    assert read_stream(answer)
    place.live.services.fleet.record_success("anthropic", 0.1)


async def test_a_temperature_above_the_scale_of_a_model_is_lowered(place: Place) -> None:
    answer = await place.chat("anthropic", temperature=1.4)
    assert (answer.status, place.servers["anthropic"].last["temperature"]) == (200, 1)
    said = "anthropic takes temperature up to 1, not 1.4: lowered"
    assert answer.headers["x-thalamus-warning"] == said


async def test_gemini_gets_as_many_stop_sequences_as_it_takes(place: Place) -> None:
    answer = await place.chat("gemini", stop=list("abcdefg"))
    assert (answer.status, answer.headers["x-thalamus-warning"]) == (
        200,
        "gemini takes 5 stop sequences: 2 left out",
    )
    assert place.servers["gemini"].last["generationConfig"]["stop_sequences"] == list("abcde")
