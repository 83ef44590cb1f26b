"""The official OpenAI client against the real gateway."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from gateway.testing import WORDS, FakeUpstream
from tests.fakes.serving import KEY, LiveApp, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    names = ["good", "cut-2", "status-500", "status-400", "embedder"]
    async with FakeUpstream() as upstream:
        experts: list[dict[str, Any]] = [
            {"name": n, "model": f"openai/{n}", "api_base": upstream.base_url} for n in names
        ]
        experts[-1]["embeds"] = True
        config = {"experts": experts, "server": {"master_key": KEY}}
        journal = str(tmp_path_factory.mktemp("openai") / "j.sqlite3")
        async with gateway(config, journal, "good", *names[1:4]) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(live: LiveApp) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=live.base, api_key=KEY, max_retries=0) as made:
        yield made


async def test_a_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="auto", messages=ASKED)
    assert answer.choices[0].message.content == "".join(WORDS)
    assert answer.model == "good"


async def test_a_streamed_chat(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="good", messages=ASKED, stream=True)
    said = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(said) == "".join(WORDS)


async def test_a_streamed_chat_with_the_facts_at_its_end(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="good", messages=ASKED, stream=True, extra_body={"router": {"explain": True}}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["thalamus"]["expert"] == "good"


async def test_a_cut_stream_is_an_error_and_no_silent_end(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="cut-2", messages=ASKED, stream=True)
    said: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            said.append(chunk.choices[0].delta.content or "")

    with pytest.raises(openai.APIError, match="cut-2"):
        await read()
    assert said == list(WORDS[:2])


async def test_errors_come_by_class(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="none", messages=ASKED)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="status-500", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="mock 400"):
        await client.chat.completions.create(model="status-400", messages=ASKED)
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()


async def test_a_plain_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="good", prompt="x")
    assert answer.choices[0].text == "".join(WORDS)


async def test_embeddings_of_an_expert(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="embedder", input=["a", "b"], encoding_format="float")
    assert [item.embedding for item in answer.data] == [[0.5, 0.25]] * 2


async def test_the_list_of_models(client: openai.AsyncOpenAI) -> None:
    names = {model.id for model in (await client.models.list()).data}
    assert {"auto", "good"} <= names
    assert "embedder" not in names
    every = await client.models.list(extra_query={"type": "all"})
    assert {"auto", "good", "embedder"} <= {model.id for model in every.data}
