"""Anthropic's own experts asked in Anthropic's own form: bytes in, bytes out, counted on the way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import msgspec
import pytest
import pytest_asyncio

from gateway.testing import FakeUpstream
from tests.fakes.providers import ANTHROPIC, ProviderServer
from tests.fakes.providers.server import KEY as PROVIDER_KEY
from tests.fakes.providers.server import Request
from tests.fakes.serving import KEY, LiveApp, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
MAX_S = 5.0
ASKED: dict[str, Any] = {
    "max_tokens": 64,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[ProviderServer]:
    async with ProviderServer(ANTHROPIC) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(
    provider: ProviderServer, other: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LiveApp]:
    at = {"api_base": provider.address, "api_key": PROVIDER_KEY}
    prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    experts: list[dict[str, Any]] = [
        {"name": "claude", "model": "anthropic/claude-x", **at, **prices},
        {"name": "preset", "model": "anthropic/claude-x", "system": "Be brief.", **at},
        {"name": "hang", "model": "anthropic/hang", "api_base": other.base_url},
        {"name": "good", "model": "openai/good", "api_base": other.base_url},
    ]
    config = {"experts": experts, "server": {"master_key": KEY}, "journal": {"content": True}}
    journal = str(tmp_path_factory.mktemp("pass") / "j.sqlite3")
    async with gateway(config, journal, "claude", "good") as running:
        yield running


async def ask(live: LiveApp, change: dict[str, Any] | None = None, **headers: str) -> Any:
    body = b'{ "model" : "claude",' + msgspec.json.encode({**ASKED, **(change or {})})[1:]
    answer = await live.post("messages", body, x_api_key=KEY, anthropic_version="2023-06-01", **headers)
    live.close_circuits()
    return answer


def expected(request: Request) -> bytes:
    return b"".join(ANTHROPIC.answer(request).parts)


@pytest.mark.parametrize("stream", [False, True])
async def test_bytes_pass_both_ways(live: LiveApp, provider: ProviderServer, stream: bool) -> None:
    answer = await ask(live, {"stream": stream, "router": {}})
    assert answer.status == 200, answer.body
    sent = provider.requests[-1]
    assert sent.data == b'{"model":"claude-x",' + msgspec.json.encode({**ASKED, "stream": stream})[1:]
    assert answer.body == expected(sent)
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert "x-thalamus-warning" not in answer.headers
    record = await live.read_record(answer)
    assert (record["input_tokens"], record["output_tokens"]) == (100, 20)
    # 64 of the tokens were read from the cache, which has no price of its own here.
    assert record["cost_usd"] == pytest.approx(100e-6 + 40e-6)
    assert record["answer"] == "Hello from afar."


async def test_the_form_is_told_in_the_clients_headers_and_the_key_is_the_operators(
    live: LiveApp, provider: ProviderServer
) -> None:
    await ask(live, anthropic_beta="fine-grained-2025", x_other="secret")
    sent = provider.requests[-1].headers
    assert (sent["anthropic-beta"], sent["anthropic-version"]) == ("fine-grained-2025", "2023-06-01")
    assert sent["x-api-key"] == PROVIDER_KEY
    assert KEY not in str(sent)
    assert "x-other" not in sent


async def test_what_only_anthropics_servers_do_reaches_them(live: LiveApp, provider: ProviderServer) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    answer = await ask(live, {"tools": tools})
    assert (answer.status, provider.last["tools"]) == (200, tools)
    body = {**ASKED, "model": "good", "tools": tools}
    refused = await live.post("messages", body, x_api_key=KEY)
    assert (refused.status, refused.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_refusal_says_what_anthropic_said(live: LiveApp, provider: ProviderServer) -> None:
    answer = await ask(live, {"temperature": 2})
    said = msgspec.json.decode(expected(provider.requests[-1]))
    assert (answer.status, answer.json()) == (400, {**said, "request_id": answer.headers["request-id"]})


@pytest.mark.parametrize("command", ["fail 529", "fail 429", "fail in the stream"])
async def test_another_expert_answers_where_it_fails(live: LiveApp, command: str) -> None:
    change = {
        "messages": [{"role": "user", "content": command}],
        "stream": True,
        "router": {"fallbacks": ["good"]},
    }
    answer = await ask(live, change)
    assert (answer.status, answer.expert) == (200, "good")
    assert answer.body.startswith(b"event: message_start\n")
    assert answer.body.endswith(b'data: {"type":"message_stop"}\n\n')


async def test_thinking_of_other_models_is_not_shown_to_anthropic(
    live: LiveApp, provider: ProviderServer
) -> None:
    own = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    foreign = {"type": "thinking", "thinking": "Oh.", "signature": "thalamus"}
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [own, foreign, {"type": "text", "text": "Hello."}]},
        {"role": "assistant", "content": [foreign]},
        {"role": "user", "content": "And?"},
    ]
    assert (await ask(live, {"messages": turns})).status == 200
    kept = {"role": "assistant", "content": [own, {"type": "text", "text": "Hello."}]}
    assert provider.last["messages"] == [turns[0], kept, turns[3]]


async def test_tokens_are_counted_by_anthropic_itself(live: LiveApp, provider: ProviderServer) -> None:
    body = {"model": "claude", "messages": ASKED["messages"]}
    answer = await live.post("messages/count_tokens", body, x_api_key=KEY)
    assert (answer.status, answer.json()) == (200, {"input_tokens": 2095})
    assert "x-thalamus-warning" not in answer.headers
    assert provider.last == {**body, "model": "claude-x"}


async def test_the_facts_of_the_gateway_are_an_event_of_their_own(live: LiveApp) -> None:
    answer = await ask(live, {"stream": True, "router": {"explain": True}})
    names = [line[7:] for line in answer.body.decode().splitlines() if line.startswith("event: ")]
    assert names[-3:] == ["message_delta", "thalamus", "message_stop"]


@pytest.mark.filterwarnings("ignore")  # LiteLLM and what it imports warn of much
async def test_a_prompt_preset_is_put_under_a_translated_request(
    live: LiveApp, provider: ProviderServer
) -> None:
    answer = await live.post("messages", {**ASKED, "model": "preset"}, x_api_key=KEY)
    assert answer.status == 200, answer.body
    assert "Be brief." in str(provider.last["system"])
    assert answer.json()["content"] == [{"type": "text", "text": "Hello from afar."}]
    assert "cache_control" in answer.headers["x-thalamus-warning"]


async def test_a_client_that_goes_away_is_seen_by_anthropic(live: LiveApp, other: FakeUpstream) -> None:
    base_url = live.base.removesuffix("/v1")
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key=KEY, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Hi"}]
        asking = asyncio.ensure_future(client.messages.create(model="hang", max_tokens=9, messages=messages))
        async with asyncio.timeout(MAX_S):
            await until(lambda: other.n_calls("hang") == 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await until(lambda: other.aborted == ["hang"])


async def until(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110 (what a server has seen is no event of ours)
        await asyncio.sleep(0.005)
