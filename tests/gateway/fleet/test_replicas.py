"""Several gateways in front of the same upstreams, and what they tell each other through a real Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, RedisConfig, Secret, parse_config
from gateway.experts.deployments import ConcurrencyLimit
from gateway.experts.types import UpstreamError
from gateway.fleet.circuit_breaker import N_IN_A_ROW
from gateway.fleet.health import FleetState, PeerReport
from gateway.fleet.replicas import Replicas, merge_reports
from gateway.testing import FakeUpstream
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.serving import LiveApp, gateway

BROKEN = UpstreamError("status", "answered 500", status=500)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        yield upstream


def config_of(upstream: FakeUpstream, redis: RedisServer, **fields: Any) -> dict[str, Any]:
    place = {"api_base": upstream.base_url, "api_key": "sk-upstream", **fields}
    experts = [{"name": name, "model": f"openai/{name}", **place} for name in ("rated-30", "good", "hang")]
    return {"experts": experts, "redis": {"url": redis.url}}


@contextlib.asynccontextmanager
async def two(config: dict[str, Any], folder: Path) -> AsyncIterator[tuple[LiveApp, LiveApp]]:
    async with (
        gateway(config, str(folder / "1.sqlite3"), "rated-30", "good") as first,
        gateway(config, str(folder / "2.sqlite3"), "rated-30", "good") as second,
    ):
        await until(lambda: replicas(first) == replicas(second) == 2)
        yield first, second


async def meet_limit(gateway: LiveApp) -> None:
    """Two requests: a limit that only one meets may be about that one."""
    for prompt in ("one", "two"):
        messages = [{"role": "user", "content": prompt}]
        assert (await gateway.chat("rated-30", messages=messages)).status == 429


def replicas(gateway: LiveApp) -> int:
    assert gateway.services.replicas is not None
    return gateway.services.replicas.n_replicas


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what changes has no event to wait for
            await asyncio.sleep(0.02)


async def test_a_wait_that_one_replica_was_told_is_kept_by_the_other(
    upstream: FakeUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    async with two(config_of(upstream, redis), tmp_path) as (first, second):
        await meet_limit(first)
        await until(lambda: not second.services.fleet.snapshot().available[0])
        n_calls = len(upstream.calls)
        answer = await second.chat("auto")
        assert (answer.status, answer.expert) == (200, "good")
        refused = await second.chat("rated-30")
        assert refused.status == 503
        assert 20 < int(refused.headers["retry-after"]) <= 30
        assert [call["model"] for call in upstream.calls[n_calls:]] == ["good"]
        assert "another replica" in second.services.fleet.snapshot().unavailable["rated-30"]


async def test_calls_under_way_at_one_replica_are_load_at_the_other(
    upstream: FakeUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    async with two(config_of(upstream, redis), tmp_path) as (first, second):
        call = asyncio.ensure_future(first.chat("hang"))
        await until(
            lambda: second.services.fleet.export("hang").in_flight == 0 and read_peer(second, "hang") == 1
        )
        call.cancel()
        await until(lambda: read_peer(second, "hang") == 0)


def read_peer(gateway: LiveApp, expert: str) -> object:
    return gateway.services.fleet.state(expert)["in_flight_elsewhere"]


async def test_limits_are_shared_evenly_and_given_back_when_a_replica_leaves(
    upstream: FakeUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    config = config_of(upstream, redis, max_parallel=5)
    async with gateway(config, str(tmp_path / "0.sqlite3"), "good") as stays:
        async with gateway(config, str(tmp_path / "1.sqlite3"), "good") as leaves:
            await until(lambda: replicas(stays) == replicas(leaves) == 2)
            assert limit(stays) == limit(leaves) == 2
        await until(lambda: limit(stays) == 5)


def limit(gateway: LiveApp) -> int:
    return gateway.services.experts["good"].deployments[0].slots.limit  # type: ignore[attr-defined, no-any-return]


async def test_without_redis_answers_go_on_limits_stay_shared_and_readiness_says_so(
    upstream: FakeUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    async with two(config_of(upstream, redis, max_parallel=4), tmp_path) as (first, second):
        await meet_limit(first)
        await until(lambda: not second.services.fleet.snapshot().available[0])
        redis.stop()
        await until(lambda: second.services.replicas.degraded is not None)  # type: ignore[union-attr]
        assert second.services.fleet.snapshot().available[0]
        assert limit(second) == 2
        assert (await second.chat("good")).status == 200
        async with second.http.get(second.base.removesuffix("/v1") + "/health/ready") as answer:
            export = await answer.json()
        assert (answer.status, export["status"]) == (200, "degraded")
        assert any(line.startswith("redis: ") for line in export["degraded"])
        redis.start()
        await until(lambda: second.services.replicas.degraded is None)  # type: ignore[union-attr]


async def test_a_gateway_starts_without_its_redis(
    upstream: FakeUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    redis.stop()
    async with gateway(config_of(upstream, redis), str(tmp_path / "j.sqlite3"), "good") as alone:
        assert (await alone.chat("auto")).status == 200


def test_trouble_elsewhere_is_a_suspicion_that_one_failure_confirms() -> None:
    fleet = FleetState(["a"], {"a": None})
    fleet.merge_peers({"a": PeerReport(failing=True)})
    assert fleet.snapshot().available[0]
    fleet.admit("a")
    fleet.record_failure("a", BROKEN)
    assert not fleet.snapshot().available[0]


def test_what_is_told_is_what_the_own_calls_showed() -> None:
    fleet = FleetState(["a"], {"a": None})
    fleet.merge_peers({"a": PeerReport(in_flight=3, wait_s=9.0, failing=True)})
    assert fleet.export("a") == PeerReport()
    for n in range(N_IN_A_ROW):
        fleet.merge_peers({})
        fields = {"prompt": b"%d" % n}
        fleet.admit("a", None, fields)
        fleet.record_failure("a", BROKEN, 0.0, None, fields)
    assert fleet.export("a").failing


def test_calls_elsewhere_count_against_the_limit() -> None:
    fleet = FleetState(["a"], {"a": 2})
    fleet.admit("a")
    fleet.record_success("a", 4.0)
    assert fleet.snapshot().wait_s[0] == 0.0
    fleet.merge_peers({"a": PeerReport(in_flight=3)})
    assert fleet.snapshot().wait_s[0] == 4.0


def test_several_replicas_are_heard_as_one() -> None:
    lines = [{"a": PeerReport(1, 3.0)}, {"a": PeerReport(2, 5.0, failing=True), "b": PeerReport(1)}]
    assert merge_reports(lines) == {"a": PeerReport(3, 5.0, failing=True), "b": PeerReport(1)}


async def test_a_smaller_share_takes_nothing_back_and_a_larger_one_lets_waiting_calls_go() -> None:
    slots = ConcurrencyLimit(4)
    for _ in range(4):
        await slots.acquire(1)
    slots.share(4)
    waiting = asyncio.ensure_future(slots.acquire(5))
    await asyncio.sleep(0)
    slots.release()
    await asyncio.sleep(0)
    assert (slots.in_use, waiting.done()) == (3, False)
    slots.share(1)
    await waiting
    assert slots.in_use == 4


@pytest.mark.parametrize("url", ["redis://:hunter2@cache:port", "redis://:hunter2@cache/0?db=x"])
def test_an_address_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\.url") as refusal:
        Replicas(RedisConfig(Secret(url)), FleetState([], {}), (), lambda n: None)
    assert "hunter2" not in str(refusal.value)


def test_an_address_that_is_no_redis_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match=r"redis\.url") as refusal:
        parse_config("redis: {url: 'http://:hunter2@cache'}", env={})
    assert "hunter2" not in str(refusal.value)
