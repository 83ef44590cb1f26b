"""Several deployments of one expert: shared by load and health, each with its own bound."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from gateway.config.providers import api_base_of
from gateway.experts.deployments import ConcurrencyLimit
from gateway.experts.openai_compatible import OpenAIExpert
from gateway.experts.types import UpstreamError
from gateway.fleet.circuit_breaker import N_IN_A_ROW, N_REFUSED_IN_A_ROW
from gateway.testing import WORDS, FakeUpstream
from gateway.waiting import MAX_WAITING_PER_SLOT
from tests.fakes.serving import LiveApp, gateway


@contextlib.asynccontextmanager
async def spread(
    journal: object, *models: str, server: Mapping[str, object] | None = None, **more: object
) -> AsyncIterator[tuple[LiveApp, list[FakeUpstream]]]:
    """An expert with one deployment, on an upstream of its own, for each of the models."""
    async with contextlib.AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(FakeUpstream()) for _ in models]
        places = [
            {"api_base": upstream.base_url, "model": model, **more}
            for upstream, model in zip(upstreams, models, strict=True)
        ]
        experts = [{"name": "x", "model": "openai/x", "deployments": places}]
        config = {"experts": experts, "server": server or {}}
        live = await stack.enter_async_context(gateway(config, str(journal), "x"))
        yield live, upstreams


async def test_deployments_take_turns(tmp_path: Path) -> None:
    async with spread(tmp_path / "j", "good", "good", "good") as (live, upstreams):
        for _ in range(9):
            assert (await live.chat("x")).status == 200
        assert [len(upstream.calls) for upstream in upstreams] == [3, 3, 3]


async def test_the_less_loaded_deployment_is_asked(tmp_path: Path) -> None:
    async with spread(tmp_path / "j", "slow-400", "good") as (live, upstreams):
        first = [asyncio.ensure_future(live.chat("x")) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert [len(upstream.calls) for upstream in upstreams] == [1, 1]
        for _ in range(4):
            await live.chat("x")
        assert [len(upstream.calls) for upstream in upstreams] == [1, 5]
        assert {answer.status for answer in await asyncio.gather(*first)} == {200}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bad", ["status-500", "reset", "status-401", "garbage"])
async def test_where_one_deployment_fails_the_other_answers(tmp_path: Path, bad: str, stream: bool) -> None:
    async with spread(tmp_path / "j", bad, "good") as (live, upstreams):
        answers = [await live.chat("x", stream=stream) for _ in range(60)]
        assert {answer.status for answer in answers} == {200}
        assert len(upstreams[1].calls) == 60
        # Every second call goes there first, until its circuit opens.
        n_needed = N_REFUSED_IN_A_ROW if bad == "status-401" else N_IN_A_ROW
        assert len(upstreams[0].calls) == n_needed
        assert live.services.fleet.state("x")["n_failed"] == 0


async def test_failures_of_one_client_open_no_deployment_for_others(tmp_path: Path) -> None:
    keys = {name: [f"sk-{name}-40d7c9b1e6f2a835"] for name in ("noisy", "other", "third")}

    async def ask(live: LiveApp, name: str) -> None:
        """Four times as many different requests as one client needs to be held off."""
        for number in range(4 * N_IN_A_ROW):
            body = {"model": "x", "messages": [{"role": "user", "content": f"{name} {number}"}]}
            answer = await live.post("chat/completions", body, authorization=f"Bearer {keys[name][0]}")
            assert answer.status == 200

    async with spread(tmp_path / "j", "status-500", "good", server={"keys": keys}) as (live, upstreams):
        for name, n_failed in (("noisy", N_IN_A_ROW), ("other", 2 * N_IN_A_ROW), ("third", 2 * N_IN_A_ROW)):
            # The first client is held off alone; two have seen it fail, and it is left alone by all.
            await ask(live, name)
            assert len(upstreams[0].calls) == n_failed


async def test_a_refused_request_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async with spread(tmp_path / "j", "status-400", "status-400") as (live, upstreams):
        assert (await live.chat("x")).status == 400
        assert sum(len(upstream.calls) for upstream in upstreams) == 1


async def test_the_expert_fails_when_all_its_deployments_do(tmp_path: Path) -> None:
    async with spread(tmp_path / "j", "status-500", "reset") as (live, upstreams):
        assert (await live.chat("x")).status == 502
        assert [len(upstream.calls) for upstream in upstreams] == [1, 1]


async def test_no_more_calls_run_at_a_time_than_allowed(tmp_path: Path) -> None:
    async with spread(tmp_path / "j", "slow-60", max_parallel=2) as (live, upstreams):
        asking = [asyncio.ensure_future(live.chat("x", stream=n % 2 == 0)) for n in range(6)]
        answers, most = asyncio.gather(*asking), 0
        while not answers.done():
            most = max(most, len(upstreams[0].calls) - upstreams[0].completed["slow-60"])
            await asyncio.sleep(0.001)
        assert most == 2
        assert {answer.status for answer in answers.result()} == {200}
        expert = live.services.experts["x"]
        assert isinstance(expert, OpenAIExpert)
        assert expert.deployments[0].slots.in_use == 0


async def test_slots_go_to_those_who_wait_in_order() -> None:
    slots, order = ConcurrencyLimit(1), []
    await slots.acquire(1)

    async def work(n: int) -> None:
        await slots.acquire(5)
        order.append(n)
        slots.release()

    tasks = [asyncio.ensure_future(work(n)) for n in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    slots.release()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (order, slots.in_use) == ([0, 2, 3], 0)


async def test_nobody_waits_for_a_slot_for_ever() -> None:
    slots = ConcurrencyLimit(1)
    await slots.acquire(1)
    with pytest.raises(UpstreamError) as caught:
        await slots.acquire(0.01)
    assert caught.value.kind == "busy"
    slots.release()
    assert slots.in_use == 0


async def test_a_queue_has_an_end() -> None:
    slots = ConcurrencyLimit(1)
    await slots.acquire(1)
    waiting = [asyncio.ensure_future(slots.acquire(5)) for _ in range(MAX_WAITING_PER_SLOT)]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamError):
        await slots.acquire(5)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("provider", ["ollama", "ollama_chat"])
@pytest.mark.parametrize(
    ("base", "called"),
    [
        (None, "http://127.0.0.1:11434/v1"),
        *(
            (f"http://box:11434{end}", "http://box:11434/v1")
            for end in ("", "/", "/v1", "/v1/", "/api", "/api/")
        ),
        ("https://house.example/ollama", "https://house.example/ollama/v1"),
    ],
)
def test_ollama_is_reached_by_its_address_however_it_is_written(
    provider: str, base: str | None, called: str
) -> None:
    assert api_base_of(provider, base) == called


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_beyond_the_rate_of_one_deployment_go_to_the_other(tmp_path: Path, stream: bool) -> None:
    async with spread(tmp_path / "j", "good", "good", rpm=2) as (live, upstreams):
        answers = [await live.chat("x", stream=stream) for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 4 + [429] * 2
        assert [len(upstream.calls) for upstream in upstreams] == [2, 2]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert live.services.fleet.state("x")["n_failed"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_of_answers_count_against_the_rate(tmp_path: Path, stream: bool) -> None:
    # A streamed answer of this upstream counts nothing: its chunks and the size of the prompt are counted.
    async with spread(tmp_path / "j", "good", tpm=len(WORDS) + 1) as (live, upstreams):
        prompt = [{"role": "user", "content": "Hi " * 10}]
        answers = [await live.chat("x", stream=stream, messages=prompt) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 429, 429]
        assert len(upstreams[0].calls) == 1


async def test_where_the_rate_is_used_up_another_expert_answers(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        experts = [
            {"name": "few", "model": "openai/good", "api_base": upstream.base_url, "rpm": 1},
            {"name": "many", "model": "openai/good", "api_base": upstream.base_url},
        ]
        async with gateway({"experts": experts}, str(tmp_path / "j"), "few", "many") as live:
            assert [(await live.chat("auto")).expert for _ in range(3)] == ["few", "many", "many"]
