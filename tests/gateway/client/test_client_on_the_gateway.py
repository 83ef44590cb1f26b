"""The SDK and the gateway, met: what one sends the other understands."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway import (
    AsyncClient,
    AuthenticationError,
    BadRequest,
    Hints,
    NotFound,
    RateLimited,
    ServerError,
    StreamError,
)
from gateway.testing import WORDS, FakeUpstream
from tests.fakes.serving import KEY, LiveApp, gateway

NAMES = ("good", "other", "cut-2", "status-500", "status-429", "hang", "usage")


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture
async def live(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[LiveApp]:
    experts = [{"name": name, "model": f"openai/{name}", "api_base": upstream.base_url} for name in NAMES]
    config = {"experts": experts, "server": {"master_key": KEY}}
    async with gateway(config, str(tmp_path / "journal.sqlite3"), "good", "other") as running:
        yield running


@pytest_asyncio.fixture
async def client(live: LiveApp) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(live.base, KEY, max_retries=0, timeout=20) as client:
        yield client


async def test_auto_answers_and_says_who(client: AsyncClient) -> None:
    chat = await client.chat("Hi")
    assert (chat.text, chat.expert, chat.policy, chat.model) == ("".join(WORDS), "good", "auto", "good")
    assert (chat.routed.plan, chat.routed.reason, chat.finish_reason) == ("single", "first in order", "stop")
    assert chat.decision_id
    assert chat.routed.request_id
    assert chat.routed.overhead_ms is not None


async def test_a_streamed_answer_is_the_same_text(client: AsyncClient) -> None:
    async with await client.chat("Hi", stream=True) as stream:
        assert "".join([chunk.text async for chunk in stream]) == "".join(WORDS)
        assert stream.expert == "good"


async def test_a_cut_upstream_raises_after_the_text_that_came(client: AsyncClient) -> None:
    async with await client.chat("Hi", "cut-2", stream=True) as stream:
        assert [(await anext(stream)).text for _ in range(2)] == list(WORDS[:2])
        with pytest.raises(StreamError) as caught:
            await anext(stream)
    assert caught.value.code == "stream_cut"


async def test_leaving_a_stream_reaches_the_upstream(client: AsyncClient, upstream: FakeUpstream) -> None:
    upstream.chunk_interval_s = 0.05
    async with await client.chat("Hi", "good", stream=True) as stream:
        await anext(stream)
    for _ in range(500):
        if not upstream.aborted:
            await asyncio.sleep(0.01)
    assert upstream.aborted == ["good"]


async def test_refusals_come_by_class_with_the_field_at_fault(live: LiveApp, client: AsyncClient) -> None:
    with pytest.raises(NotFound) as unknown:
        await client.chat("Hi", "missing")
    assert unknown.value.param == "model"
    with pytest.raises(BadRequest) as wrong:
        await client.chat("Hi", router={"min_quality": 2})
    assert wrong.value.param == "router.min_quality"
    with pytest.raises(ServerError):
        await client.chat("Hi", "status-500")
    with pytest.raises(RateLimited):
        await client.chat("Hi", "status-429")
    async with AsyncClient(live.base, "sk-wrong", max_retries=0) as stranger:
        with pytest.raises(AuthenticationError) as stopped:
            await stranger.chat("Hi")
    assert "sk-wrong" not in str(stopped.value)


async def test_every_hint_is_understood(live: LiveApp, client: AsyncClient) -> None:
    await client.chat(
        "Hi",
        router=Hints(
            policy="auto",
            weights={"cost": 0.2},
            max_cost_usd=1.0,
            max_latency_ms=5000,
            min_quality=0.25,
            models=["good", "other"],
            exclude=["hang"],
            fallbacks=["other"],
            session_id="s-1",
        ),
    )
    hints = live.services.router.asked[-1].hints  # type: ignore[attr-defined]
    assert hints is not None
    assert hints.objective is not None
    assert (hints.objective.cost, hints.require.max_cost_usd, hints.require.max_latency_s) == (0.2, 1.0, 5.0)
    assert (hints.require.min_quality, hints.require.models) == (0.25, frozenset({"good", "other"}))
    assert hints.require.exclude == frozenset({"hang"})


async def test_route_names_every_candidate_and_calls_nobody(
    client: AsyncClient, upstream: FakeUpstream
) -> None:
    decision = await client.route("Hi")
    assert (decision.expert, decision.plan.experts, decision.margin) == ("good", ("good", "other"), None)
    assert [candidate.expert for candidate in decision.candidates] == ["good", "other"]
    assert upstream.calls == []


async def test_a_decision_is_found_again_by_its_id(client: AsyncClient) -> None:
    chat = await client.chat("Hi")
    assert chat.decision_id
    decision = await client.decision(chat.decision_id)
    assert (decision.id, decision.expert, decision.policy) == (chat.decision_id, "good", "auto")
    assert decision.raw["expert_answered"] == "good"
    with pytest.raises(NotFound, match="there is no decision 'nope'"):
        await client.decision("nope")


async def test_models_are_listed_by_the_names_that_may_be_asked_for(client: AsyncClient) -> None:
    assert {"auto", *NAMES} <= {model.id for model in await client.models()}
