"""An expert on an engine of our own: it waits for the process, and survives its death."""

import asyncio
from dataclasses import dataclass, field

import msgspec
import pytest

from gateway.config import ExpertConfig, TimeoutConfig
from gateway.experts.local import LocalExpert
from gateway.experts.types import Call, UpstreamError
from gateway.runners import RunnerUnavailable
from gateway.transport import Transport
from tests.fakes.upstream import Upstream, running_upstream, whole

FIELDS = {"messages": msgspec.Raw(b'[{"role":"user","content":"x"}]')}
CALL = Call("chat/completions", FIELDS)


@dataclass
class Process:
    """A runner whose process is wherever the test says."""

    base_url: str | None
    next_url: str | None = None
    alias: str = "good"
    headers: dict[str, str] = field(default_factory=lambda: {"authorization": "Bearer once"})

    async def wait_ready(self, timeout_s: float) -> str:
        async with asyncio.timeout(timeout_s):
            while self.base_url is None and self.next_url is not None:
                await asyncio.sleep(0.01)
                self.base_url = self.next_url
        if self.base_url is None:
            raise RunnerUnavailable("good is failed")
        return self.base_url


@pytest.fixture
async def transport():
    opened = Transport()
    await opened.open()
    yield opened
    await opened.close()


def expert_on(process: Process, transport: Transport) -> LocalExpert:
    config = ExpertConfig(name="local", model="bundled/good")
    return LocalExpert(config, TimeoutConfig(first_token_s=2, total_s=2), transport, process)  # type: ignore[arg-type]


async def test_it_is_asked_under_the_runners_name_and_key(transport: Transport) -> None:
    async with running_upstream() as upstream:
        reply = await expert_on(Process(upstream.base), transport).call(CALL)
        assert reply.body == whole("good")
        assert upstream.calls[-1]["model"] == "good"
        assert upstream.heads[-1]["authorization"] == "Bearer once"


async def test_a_call_waits_for_a_start_under_way(transport: Transport) -> None:
    async with running_upstream() as upstream:
        reply = await expert_on(Process(None, upstream.base), transport).call(CALL)
        assert reply.body == whole("good")


async def test_who_is_not_coming_back_moves_on(transport: Transport) -> None:
    with pytest.raises(UpstreamError) as caught:
        await expert_on(Process(None), transport).call(CALL)
    assert (caught.value.kind, caught.value.moves_on) == ("connect", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_death_before_the_first_token_is_survived(transport: Transport, stream: bool) -> None:
    async with running_upstream() as dying, running_upstream() as reborn:
        process = Process(dying.base, reborn.base, alias="hang")
        fields = {**FIELDS, "stream": msgspec.Raw(b"true" if stream else b"false")}
        call = Call("chat/completions", fields, stream)
        asking = asyncio.ensure_future(expert_on(process, transport).call(call))
        await seen(dying)
        process.base_url, process.alias = None, "good"
        dying.hang_up()
        reply = await asking
        assert len(reborn.calls) == 1
        if reply.events is not None:
            reply.events.close()


async def test_a_failure_of_a_living_process_is_not_asked_again(transport: Transport) -> None:
    async with running_upstream() as upstream:
        with pytest.raises(UpstreamError):
            await expert_on(Process(upstream.base, alias="reset"), transport).call(CALL)
        assert len(upstream.calls) == 1


async def seen(upstream: Upstream) -> None:
    async with asyncio.timeout(2):
        while not upstream.calls:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)
