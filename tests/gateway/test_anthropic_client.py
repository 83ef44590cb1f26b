"""The official Anthropic client against the real gateway, whose experts speak OpenAI's protocol."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic.types import MessageParam, TextBlock, ThinkingBlock, ToolUseBlock

from gateway.testing import WORDS, FakeUpstream
from tests.fakes.serving import KEY, LiveApp, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKED: list[MessageParam] = [{"role": "user", "content": "Hi"}]
NAMES = ["good", "tools", "thinking", "usage", "cut-2", "status-400", "status-500", "rated-7", "toolong"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    experts: list[dict[str, Any]] = [
        {"name": n, "model": f"openai/{n}", "api_base": upstream.base_url} for n in NAMES
    ]
    config = {"experts": experts, "server": {"master_key": KEY, "max_body_bytes": 100_000}}
    journal = str(tmp_path_factory.mktemp("anthropic") / "j.sqlite3")
    async with gateway(config, journal, "good") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(live: LiveApp) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=live.base.removesuffix("/v1"), api_key=KEY, max_retries=0
    ) as made:
        yield made


async def test_a_message(client: anthropic.AsyncAnthropic) -> None:
    answer = await client.messages.create(model="auto", max_tokens=64, messages=ASKED)
    assert answer.content == [TextBlock(type="text", text="".join(WORDS))]
    assert (answer.model, answer.stop_reason) == ("good", "end_turn")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (20, 5)
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


async def test_a_bearer_token_serves_as_the_key(live: LiveApp) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=live.base.removesuffix("/v1"), auth_token=KEY, max_retries=0
    ) as client:
        answer = await client.messages.create(model="good", max_tokens=64, messages=ASKED)
    assert answer.stop_reason == "end_turn"


async def test_a_streamed_message(client: anthropic.AsyncAnthropic) -> None:
    said: list[str] = []
    async with client.messages.stream(model="good", max_tokens=64, messages=ASKED) as stream:
        async for text in stream.text_stream:
            said.append(text)
        whole = await stream.get_final_message()
    assert tuple(said) == WORDS
    assert whole.content[0].type == "text"
    assert whole.content[0].text == "".join(WORDS)
    assert whole.stop_reason == "end_turn"


async def test_a_streamed_call_of_a_tool(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(
        model="tools",
        max_tokens=64,
        messages=ASKED,
        tools=[{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}],
    ) as stream:
        whole = await stream.get_final_message()
    (block,) = whole.content
    assert isinstance(block, ToolUseBlock)
    assert (block.id, block.name, block.input) == ("t", "f", {"a": 1})
    assert whole.stop_reason == "tool_use"


async def test_thinking_comes_where_it_was_asked_for(client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(
        model="thinking", max_tokens=64, messages=ASKED, thinking={"type": "adaptive"}
    ) as stream:
        thinking, text = (await stream.get_final_message()).content
    assert isinstance(thinking, ThinkingBlock)
    assert (thinking.thinking, thinking.signature) == ("Hm. ", "thalamus")
    assert text.type == "text"
    async with client.messages.stream(model="thinking", max_tokens=64, messages=ASKED) as stream:
        (text,) = (await stream.get_final_message()).content
    assert text.type == "text"
    assert text.text == "So."


async def test_cached_tokens_are_counted_apart(client: anthropic.AsyncAnthropic) -> None:
    answer = await client.messages.create(model="usage", max_tokens=64, messages=ASKED)
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (40, 60, 10)
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 4


async def test_a_cut_stream_is_an_error_and_no_silent_end(client: anthropic.AsyncAnthropic) -> None:
    said: list[str] = []

    async def read() -> None:
        async with client.messages.stream(model="cut-2", max_tokens=64, messages=ASKED) as stream:
            async for text in stream.text_stream:
                said.append(text)

    with pytest.raises(anthropic.APIStatusError, match="cut-2"):
        await read()
    assert tuple(said) == WORDS[:2]


@pytest.mark.parametrize(
    ("model", "kind", "word"),
    [
        ("none", anthropic.NotFoundError, "not_found_error"),
        ("status-400", anthropic.BadRequestError, "invalid_request_error"),
        ("status-500", anthropic.InternalServerError, "api_error"),
        ("rated-7", anthropic.RateLimitError, "rate_limit_error"),
    ],
)
async def test_errors_come_by_class(
    client: anthropic.AsyncAnthropic, model: str, kind: type[anthropic.APIStatusError], word: str
) -> None:
    with pytest.raises(kind) as caught:
        await client.messages.create(model=model, max_tokens=64, messages=ASKED)
    body = caught.value.body
    assert isinstance(body, dict)
    assert (body["type"], body["error"]["type"]) == ("error", word)
    assert body["request_id"] == caught.value.response.headers["request-id"]


async def test_a_prompt_that_is_too_long_is_told_in_anthropics_words(
    client: anthropic.AsyncAnthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        await client.messages.create(model="toolong", max_tokens=64, messages=ASKED)


async def test_errors_before_the_endpoint_have_the_envelope_too(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError) as refused:
        await client.with_options(api_key="wrong").messages.create(
            model="good", max_tokens=64, messages=ASKED
        )
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.RequestTooLargeError) as too_large:
        await client.messages.create(
            model="good", max_tokens=64, messages=[{"role": "user", "content": "x" * 200_000}]
        )
    assert isinstance(too_large.value.body, dict)
    assert too_large.value.body["error"]["type"] == "request_too_large"


IMAGE: Any = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}
CONVERSATION: list[MessageParam] = [
    {"role": "user", "content": [{"type": "text", "text": "Look"}, IMAGE]},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
            {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
            {"type": "text", "text": "And?"},
        ],
    },
]
AS_CHAT = [
    {"role": "system", "content": "Be brief.\n\nBe kind."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    },
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "t2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "t1", "content": "one"},
    {"role": "tool", "tool_call_id": "t2", "content": "Error: no"},
    {"role": "user", "content": "And?"},
]


async def test_what_chat_has_is_sent_as_chat(
    client: anthropic.AsyncAnthropic, upstream: FakeUpstream
) -> None:
    await client.messages.create(
        model="good",
        max_tokens=64,
        system=[{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        messages=CONVERSATION,
        tools=[{"name": "f", "description": "does", "input_schema": {"type": "object"}}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        stop_sequences=["END"],
        extra_body={"temperature": 0.5},  # the client has no argument for it any longer
        metadata={"user_id": "u1"},
    )
    function = {"name": "f", "description": "does", "parameters": {"type": "object"}}
    assert upstream.calls[-1] == {
        "model": "good",
        "messages": AS_CHAT,
        "max_tokens": 64,
        "stop": ["END"],
        "temperature": 0.5,
        "user": "u1",
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }


async def test_what_chat_cannot_carry_is_told(
    client: anthropic.AsyncAnthropic, upstream: FakeUpstream
) -> None:
    answer = await client.messages.with_raw_response.create(
        model="good",
        max_tokens=64,
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}],
            }
        ],
    )
    assert "cache_control" in answer.headers["x-thalamus-warning"]
    assert "cache_control" not in json.dumps(upstream.calls[-1])


async def test_a_tool_of_anthropics_servers_is_refused_where_no_expert_has_it(
    client: anthropic.AsyncAnthropic,
) -> None:
    for model in ("auto", "good"):
        with pytest.raises(anthropic.BadRequestError, match=r"tools\.0 \(web_search_20250305\)"):
            await client.messages.create(
                model=model,
                max_tokens=64,
                messages=ASKED,
                tools=[{"type": "web_search_20250305", "name": "web_search"}],
            )


async def test_tokens_are_counted_before_a_message_is_sent(client: anthropic.AsyncAnthropic) -> None:
    for model in ("auto", "good"):
        short = await client.messages.count_tokens(model=model, messages=ASKED)
        raw = await client.messages.with_raw_response.count_tokens(
            model=model, system="word " * 100, messages=ASKED
        )
        assert 0 < short.input_tokens < 20
        assert 100 < (await raw.parse()).input_tokens < 200
        assert "estimate" in raw.headers["x-thalamus-warning"]
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.count_tokens(model="none", messages=ASKED)


async def test_models_are_listed_in_anthropics_form(client: anthropic.AsyncAnthropic) -> None:
    models = [model async for model in client.models.list()]
    assert {"auto", "good"} <= {model.id for model in models}
    one = await client.models.retrieve("good")
    assert (one.type, one.display_name, one.lifecycle) == ("model", "good", "active")


async def test_the_refusal_of_a_claude_says_which_setting_maps_it(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="`aliases` in the configuration"):
        await client.messages.create(model="claude-next", max_tokens=64, messages=ASKED)
