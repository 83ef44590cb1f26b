"""Batches over local engines: two real ones, memory for one of them, each loaded once."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from gateway.app import build_accounting, build_services, open_services
from gateway.batches.calling import BatchThrottle
from gateway.batches.lines import read_file_mark
from gateway.batches.planning import LocalExpertQueue
from gateway.batches.service import BatchService
from gateway.batches.store import new_id
from gateway.batches.types import Batch
from gateway.config import Config
from gateway.experts import Call, Expert, Reply
from gateway.experts.build import read_parallel_limits
from gateway.experts.http_client import Transport
from gateway.runners import Runner
from tests.fakes.batches import jsonl, line, rows

N_LINES = 10


def configuration(tmp_path: Path) -> Config:
    experts = [
        {
            "name": name,
            "runner": {"model": "bundled/smollm2-135m", "context_tokens": tokens, "memory": "1GiB"},
        }
        for name, tokens in (("north", 256), ("south", 320))
    ]
    return msgspec.convert(
        {
            "experts": experts,
            "runners": {"memory": "1GiB", "logs": str(tmp_path / "logs")},
            "routing": {"artifact": str(tmp_path / "none")},
            "embeddings": {"enabled": False},
            "journal": {"path": str(tmp_path / "j.sqlite3")},
        },
        Config,
    )


class Watched:
    """An expert of which is known when it is asked, and who else is then."""

    def __init__(self, expert: Expert, asked: list[str], together: set[frozenset[str]]) -> None:
        self.name = expert.name
        self._expert = expert
        self._asked = asked
        self._together = together

    async def call(self, call: Call) -> Reply:
        self._asked.append(self.name)
        self._together.add(frozenset(self._asked))
        try:
            return await self._expert.call(call)
        finally:
            self._asked.remove(self.name)

    def share(self, n_replicas: int) -> None:
        self._expert.share(n_replicas)

    async def close(self) -> None:
        await self._expert.close()


def batch_of(tmp_path: Path, name: str, *experts: str) -> Batch:
    """A batch of lines for these experts in turn."""
    source = tmp_path / f"{name}.jsonl"
    lines = (line(str(n), experts[n % len(experts)], max_tokens=2) for n in range(N_LINES))
    source.write_bytes(jsonl(*lines))
    return Batch(
        id=new_id("batch"),
        input_path=str(source),
        input_mark=read_file_mark(source),
        out_path=str(tmp_path / f"{name}.out"),
        times={"created_at": int(time.time())},
    )


@pytest.mark.parametrize(
    "batches",
    [[("south", "north")], [("south", "north"), ("north", "south")]],
    ids=["lines are mixed", "batches are many"],
)
async def test_each_local_expert_is_loaded_once_however(
    tmp_path: Path, batches: list[tuple[str, ...]]
) -> None:
    config, transport = configuration(tmp_path), Transport()
    services = build_services(config, transport)
    asked: list[str] = []
    together: set[frozenset[str]] = set()
    watched = {name: Watched(expert, asked, together) for name, expert in services.experts.items()}
    services = replace(services, experts=watched)
    loaded: list[str] = []

    def record_state(runner: Runner) -> None:
        if runner.state == "ready" and loaded[-1:] != [runner.name]:
            loaded.append(runner.name)

    assert services.runners is not None
    for runner in services.runners.runners:
        runner.on_change.append(record_state)
    entered = [batch_of(tmp_path, str(n), *experts) for n, experts in enumerate(batches)]
    async with open_services(services, transport):
        jobs = BatchService(services, build_accounting(services), read_parallel_limits(config))
        for batch in entered:
            services.store.add_batch(batch)
        done = await asyncio.gather(*(jobs.run(batch.id) for batch in entered))
    assert [(one.status, one.n_completed) for one in done if one] == [("completed", N_LINES)] * len(batches)
    for batch, experts in zip(entered, batches, strict=True):
        output = rows(await asyncio.to_thread(Path(batch.out_path or "").read_bytes))
        assert [row["thalamus"]["expert"] for row in output] == [*experts] * (N_LINES // len(experts))
    assert sorted(loaded) == ["north", "south"], loaded
    assert together == {frozenset({"north"}), frozenset({"south"})}


async def test_local_experts_run_one_at_a_time_and_a_cancelled_waiter_does_not_block_the_others() -> None:
    lane, order, n_inside = LocalExpertQueue(None), [], 0

    async def turn(name: str) -> None:
        nonlocal n_inside
        async with lane.turn(name, frozenset()):
            n_inside += 1
            assert n_inside == 1
            order.append(name)
            await asyncio.sleep(0.01)
            n_inside -= 1
            if name == "b":
                raise ValueError(name)

    tasks = [asyncio.ensure_future(turn(name)) for name in "dcba"]
    await asyncio.sleep(0.005)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "b", "d"]
    assert [type(result) for result in results[1:3]] == [asyncio.CancelledError, ValueError]


def test_a_batch_takes_less_beside_live_requests_and_a_while_after() -> None:
    live, now = 1, 100.0
    throttle = BatchThrottle(lambda: live, lambda: now)
    assert (throttle.max_calls(16), throttle.max_calls(1)) == (4, 1)
    live, now = 0, 105.0
    assert throttle.max_calls(16) == 8
    now = 111.0
    assert throttle.max_calls(16) == 16
