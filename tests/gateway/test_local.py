"""An expert on an engine of our own: it waits for the process, and survives its death."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.config import ExpertConfig, TimeoutConfig
from gateway.experts.http_client import Transport
from gateway.experts.local import LocalExpert
from gateway.experts.types import Call, UpstreamError
from gateway.runners import Lease, RunnerBusy, RunnerUnavailable
from gateway.runners.checks import Pulse
from gateway.testing import FakeUpstream, build_completion

FIELDS = {"messages": msgspec.Raw(b'[{"role":"user","content":"x"}]')}
CALL = Call("chat/completions", FIELDS)


@dataclass
class Process:
    """A pool of one runner, whose process is wherever the test says."""

    base_url: str | None
    next_url: str | None = None
    alias: str = "good"
    headers: dict[str, str] = field(default_factory=lambda: {"authorization": "Bearer once"})
    pulse: Pulse = field(default_factory=Pulse)
    n_given_back: int = 0

    async def take(self, expert: str, *, wait_s: float, priority: int = 0, grace: int = 1) -> Lease:
        async with asyncio.timeout(wait_s):
            while self.base_url is None and self.next_url is not None:
                await asyncio.sleep(0.01)
                self.base_url = self.next_url
        if self.base_url is None:
            raise RunnerUnavailable("good is failed")
        self.pulse.begin()
        runner: Any = self
        return Lease(runner, self.base_url, 0.0, self.give_back)

    def give_back(self, lease: Lease) -> None:
        self.pulse.end()
        self.n_given_back += 1


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    opened = Transport()
    await opened.open()
    yield opened
    await opened.close()


def expert_on(process: Process, transport: Transport) -> LocalExpert:
    config = ExpertConfig(name="local", model="bundled/good")
    timeouts = TimeoutConfig(load_s=2, first_token_s=0.5, total_s=0.5)
    return LocalExpert(config, timeouts, transport, process)  # type: ignore[arg-type]


async def test_it_is_asked_under_the_runners_name_and_key(transport: Transport) -> None:
    async with FakeUpstream() as upstream:
        reply = await expert_on(Process(upstream.base_url), transport).call(CALL)
        assert reply.body == build_completion("good")
        assert upstream.calls[-1]["model"] == "good"
        assert upstream.headers[-1]["authorization"] == "Bearer once"


@pytest.mark.parametrize("stream", [False, True])
async def test_its_turn_is_given_back_when_the_answer_is_over(transport: Transport, stream: bool) -> None:
    async with FakeUpstream() as upstream:
        process = Process(upstream.base_url)
        fields = {**FIELDS, "stream": msgspec.Raw(b"true" if stream else b"false")}
        reply = await expert_on(process, transport).call(Call("chat/completions", fields, stream))
        if reply.events is not None:
            assert process.n_given_back == 0
            reply.events.close()
            reply.events.close()
        assert process.n_given_back == 1


async def test_an_answer_that_never_comes_makes_the_runner_suspect(transport: Transport) -> None:
    async with FakeUpstream() as upstream:
        process = Process(upstream.base_url, alias="hang")
        with pytest.raises(UpstreamError):
            await expert_on(process, transport).call(CALL)
        assert process.pulse.suspected
        assert process.n_given_back == 1


async def test_too_long_a_line_is_a_429_that_says_when_to_come_back(transport: Transport) -> None:
    class Full(Process):
        async def take(self, expert: str, *, wait_s: float, priority: int = 0, grace: int = 1) -> Lease:
            raise RunnerBusy("good is full", retry_after_s=7)

    with pytest.raises(UpstreamError) as caught:
        await expert_on(Full(None), transport).call(CALL)
    assert (caught.value.client_status, caught.value.retry_after_s) == (429, 7)
    assert not caught.value.faults_expert


async def test_a_call_waits_for_a_start_under_way(transport: Transport) -> None:
    async with FakeUpstream() as upstream:
        reply = await expert_on(Process(None, upstream.base_url), transport).call(CALL)
        assert reply.body == build_completion("good")


async def test_who_is_not_coming_back_moves_on(transport: Transport) -> None:
    with pytest.raises(UpstreamError) as caught:
        await expert_on(Process(None), transport).call(CALL)
    assert (caught.value.kind, caught.value.moves_on) == ("connect", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_death_before_the_first_token_is_survived(transport: Transport, stream: bool) -> None:
    async with FakeUpstream() as dying, FakeUpstream() as reborn:
        process = Process(dying.base_url, reborn.base_url, alias="hang")
        fields = {**FIELDS, "stream": msgspec.Raw(b"true" if stream else b"false")}
        call = Call("chat/completions", fields, stream)
        asking = asyncio.ensure_future(expert_on(process, transport).call(call))
        await wait_until_seen(dying)
        process.base_url, process.alias = None, "good"
        dying.drop_connections()
        reply = await asking
        assert len(reborn.calls) == 1
        if reply.events is not None:
            reply.events.close()


async def test_a_failure_of_a_living_process_is_not_asked_again(transport: Transport) -> None:
    async with FakeUpstream() as upstream:
        with pytest.raises(UpstreamError):
            await expert_on(Process(upstream.base_url, alias="reset"), transport).call(CALL)
        assert len(upstream.calls) == 1


async def wait_until_seen(upstream: FakeUpstream) -> None:
    async with asyncio.timeout(2):
        while not upstream.calls:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)


async def test_the_call_of_a_batch_is_cut_off_for_others_and_made_again_with_twice_the_time(
    transport: Transport,
) -> None:
    async with FakeUpstream() as upstream:
        process, leases = Process(upstream.base_url, alias="hang"), list[Lease]()
        take = process.take

        async def watch(expert: str, *, wait_s: float, priority: int = 0, grace: int = 1) -> Lease:
            lease = await take(expert, wait_s=wait_s, priority=priority, grace=grace)
            leases.append(lease)
            lease.grace = grace
            assert priority == -1
            return lease

        process.take = watch  # type: ignore[method-assign]
        asking = asyncio.ensure_future(expert_on(process, transport).call(replace(CALL, patient=True)))
        await wait_until_seen(upstream)
        process.alias = "good"
        leases[0].recalled.set()
        assert (await asking).body == build_completion("good")
        assert [lease.grace for lease in leases] == [1, 2]
        assert process.n_given_back == 2
