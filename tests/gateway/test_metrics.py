"""What `/metrics` tells, read as Prometheus reads it."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.testing import FakeUpstream
from tests.fakes.serving import LiveApp, gateway

Told = dict[tuple[str, str], float]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[LiveApp]:
    async with FakeUpstream() as upstream:
        place = {"api_base": upstream.base_url, "api_key": "sk-upstream"}
        experts = [{"name": name, "model": f"openai/{name}", **place} for name in ("good", "status-500")]
        runner = {
            "name": "own",
            "runner": {"engine": "command", "model": "x", "cmd": "false ${PORT}", "health_path": "/health"},
        }
        config = {"experts": [*experts, runner], "runners": {"memory": "1GiB"}}
        async with gateway(config, str(tmp_path / "j.sqlite3"), "good") as site:
            yield site


async def read(site: LiveApp) -> Told:
    async with site.http.get(site.base.removesuffix("/v1") + "/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        text = await answer.text()
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_calls_are_counted_by_expert(site: LiveApp) -> None:
    for model in ("good", "good", "status-500"):
        await site.chat(model)
    record = await read(site)
    assert record["thalamus_calls_answered_total", "good"] == 2
    assert record["thalamus_calls_failed_total", "status-500"] == 1
    assert record["thalamus_calls_in_flight", "good"] == 0
    assert record["thalamus_latency_seconds", "good"] > 0


async def test_refused_requests_are_counted_by_reason(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        expert = {"name": "hang", "model": "openai/hang", "api_base": upstream.base_url}
        limits = {"max_running": 1, "max_wait_s": 0.01, "max_held_bytes": 1 << 20, "max_headers": 16}
        async with gateway({"experts": [expert], "server": {"limits": limits}}, f"{tmp_path}/j") as site:
            hanging = asyncio.ensure_future(site.chat("hang"))
            async with asyncio.timeout(10):
                while not upstream.calls:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0.005)
            many = {f"x-{n}": "1" for n in range(20)}
            statuses = [(await site.chat("hang")).status, (await site.chat("hang", headers=many)).status]
            body = io.BytesIO(b"x" * (2 << 20))
            async with site.http.post(f"{site.base}/chat/completions", data=body) as answer:
                statuses.append(answer.status)
            hanging.cancel()
            record = await read(site)
    assert statuses == [503, 431, 503]
    counts = {reason: value for (name, reason), value in record.items() if name == "thalamus_refused_total"}
    assert counts == {"max_wait_s": 1, "head_too_large": 1, "max_held_bytes": 1}


async def test_decisions_without_a_part_that_failed_are_counted(site: LiveApp) -> None:
    site.services.router.n_degraded["predictor"] += 2
    assert (await read(site))["thalamus_decisions_degraded_total", "predictor"] == 2


async def test_a_name_that_nobody_has_is_no_series(site: LiveApp) -> None:
    await site.chat("good")
    before = (await read(site)).keys()
    for n in range(3):
        assert (await site.chat(f"junk-{n}")).status == 404
    assert (await read(site)).keys() == before


async def test_runners_are_told_with_their_state_and_the_memory_they_share(site: LiveApp) -> None:
    record = await read(site)
    states = {label: value for (name, label), value in record.items() if name == "thalamus_runner_state"}
    assert sum(states.values()) == 1
    assert all(label.startswith("own/") for label in states)
    assert record["thalamus_device_capacity_bytes", "cpu"] == 1 << 30


async def test_only_who_has_a_key_reads_them(tmp_path: Path) -> None:
    config = {"server": {"master_key": "sk-4f9a1c77be02d6e8a5"}}
    async with (
        gateway(config, str(tmp_path / "j.sqlite3")) as site,
        site.http.get(site.base.removesuffix("/v1") + "/metrics") as answer,
    ):
        assert answer.status == 401
