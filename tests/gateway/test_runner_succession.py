"""Pools of two configurations, as at a reload: what both want runs on, what only one wants ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.runners import PoolRule, Runners, RunnerSettings, RunnerSettingsError, RunnerUnavailable
from gateway.runners.pool import ServingPool
from tests.gateway.test_runner_pool import MB, QUICK, chat, is_gone, tiny


class PoolSeries:
    """A process that reads its configuration again."""

    def __init__(self) -> None:
        self.serving = ServingPool()
        self.pools: list[Runners] = []

    async def start(self, room: int = 300, folder: Path | None = None, **experts: RunnerSettings) -> Runners:
        """The pool of another configuration, beside the former ones."""
        rule = PoolRule(each=room * MB, log_folder=folder)
        pool = Runners(experts, QUICK, rule, serving=self.serving)
        self.pools.append(pool)
        await pool.start()
        return pool


@pytest.fixture
async def site() -> AsyncIterator[PoolSeries]:
    site = PoolSeries()
    try:
        async with asyncio.timeout(60):
            yield site
    finally:
        for pool in reversed(site.pools):
            await pool.stop()


def get_pid(pool: Runners, expert: str) -> int:
    pid = pool[expert].pid
    assert pid is not None
    return pid


async def ask(pool: Runners, expert: str) -> str:
    async with pool.lease(expert, wait_s=20) as lease:
        return await chat(lease)


async def test_what_stays_the_same_runs_on_and_only_the_others_end(site: PoolSeries) -> None:
    old = await site.start(kept=tiny("a"), changed=tiny("b"), removed=tiny("c"))
    await old.wait_settled()
    pids = {name: get_pid(old, name) for name in old}
    new = await site.start(kept=tiny("a"), changed=tiny("b", "--say", "Bonn."), room=600)
    await new.wait_settled()
    await old.stop()
    assert get_pid(new, "kept") == pids["kept"]
    assert (await ask(new, "kept"), await ask(new, "changed")) == ("Paris.", "Bonn.")
    assert is_gone(pids["changed"], 0.1)
    assert is_gone(pids["removed"], 0.1)
    assert (new["kept"].n_loads, new["kept"].status().n_restarts) == (1, 0)


async def test_another_ttl_holds_for_the_process_that_runs(site: PoolSeries) -> None:
    settings = tiny("a")
    old = await site.start(a=settings)
    await old.wait_settled()
    pid = get_pid(old, "a")
    new = await site.start(a=replace(settings, ttl_s=0.2, pinned=True))
    assert (get_pid(new, "a"), new["a"].settings.ttl_s) == (pid, 0.2)
    await new.stop()  # the reload has failed
    assert (get_pid(old, "a"), old["a"].settings) == (pid, settings)
    new = await site.start(a=replace(settings, ttl_s=0.2))
    await old.stop()
    async with asyncio.timeout(10):
        while new["a"].state != "stopped":  # noqa: ASYNC110  (a process that ends tells no one here)
            await asyncio.sleep(0.05)
    assert is_gone(pid, 0.1)


async def test_of_two_that_differ_in_their_ttl_each_keeps_its_process(site: PoolSeries) -> None:
    short, long = replace(tiny("a"), ttl_s=500), replace(tiny("a"), ttl_s=600)
    old = await site.start(short=short, long=long)
    await old.wait_settled()
    pids = {name: get_pid(old, name) for name in old}
    new = await site.start(long=replace(long, ttl_s=700), short=short)
    assert {name: get_pid(new, name) for name in new} == pids


async def test_one_that_was_unloaded_by_hand_stays_unloaded(site: PoolSeries) -> None:
    old = await site.start(a=tiny("a"), b=tiny("b"))
    await old.wait_settled()
    await old.unload("b")
    new = await site.start(a=tiny("a"), b=tiny("b"))
    await asyncio.sleep(0.4)
    assert {name: runner.state for name, runner in new.items()} == {"a": "ready", "b": "stopped"}


async def test_requests_of_the_former_pool_end_there_and_count_for_the_next(site: PoolSeries) -> None:
    old = await site.start(a=tiny("a", "--answer-s", "0.2"))
    await old.wait_settled()
    lease = await old.take("a", wait_s=20)
    waiting = asyncio.create_task(ask(old, "a"))
    await asyncio.sleep(0)
    new = await site.start(a=tiny("a", "--answer-s", "0.2"))
    late = asyncio.create_task(ask(old, "a"))
    assert new["a"].status().n_in_flight == 1
    assert await chat(lease) == "Paris."
    lease.release()
    assert (await waiting, await late) == ("Paris.", "Paris.")
    await old.stop()
    assert new["a"].state == "ready"


async def test_a_load_under_way_ends_in_the_next_pool(site: PoolSeries) -> None:
    old = await site.start(a=tiny("a", "--load-s", "0.5"))
    new = await site.start(a=tiny("a", "--load-s", "0.5"))
    await old.stop()
    await new.wait_settled()
    assert (await ask(new, "a"), new["a"].n_loads) == ("Paris.", 1)


async def test_what_runs_counts_before_more_is_loaded(site: PoolSeries) -> None:
    old = await site.start(room=100, a=tiny("a"))
    await old.wait_settled()
    new = await site.start(room=100, b=tiny("b"), a=tiny("a"))
    await old.stop()
    assert {name: runner.state for name, runner in new.items()} == {"b": "stopped", "a": "ready"}
    await ask(new, "b")
    assert {name: runner.state for name, runner in new.items()} == {"b": "ready", "a": "stopped"}


async def test_a_next_pool_that_stops_first_gives_all_back(site: PoolSeries) -> None:
    old = await site.start(a=tiny("a"), b=tiny("b"))
    await old.wait_settled()
    pid = get_pid(old, "a")
    new = await site.start(x=tiny("a"), a=tiny("a"))
    assert new["x"].experts == ("x", "a")
    await new.stop()
    assert old["a"].experts == ("a",)
    assert get_pid(old, "a") == pid
    assert await ask(old, "a") == "Paris."
    assert [status.alias for status in old.snapshot()] == ["a", "b"]
    third = await site.start(a=tiny("a"))
    assert get_pid(third, "a") == pid


async def test_a_pool_that_cannot_start_takes_nothing(site: PoolSeries) -> None:
    old = await site.start(a=tiny("a"))
    await old.wait_settled()
    with pytest.raises(RunnerSettingsError):
        await site.start(a=tiny("a"), bad=RunnerSettings("command", "bad"))
    assert await ask(old, "a") == "Paris."
    assert site.serving.pool is old


async def test_several_reloads_in_a_row_keep_the_process(site: PoolSeries) -> None:
    old = await site.start(a=tiny("a"))
    await old.wait_settled()
    pid, lease = get_pid(old, "a"), await old.take("a", wait_s=20)
    for _ in range(3):
        await site.start(a=tiny("a"))
    for pool in site.pools[1:-1]:
        await pool.stop()
    asking = asyncio.create_task(ask(old, "a"))
    lease.release()
    assert await asking == "Paris."
    await old.stop()
    last = site.pools[-1]
    assert get_pid(last, "a") == pid
    await last.stop()
    assert is_gone(pid, 0.1)
    for pool in site.pools:
        with pytest.raises(RunnerUnavailable, match="stopped"):
            await pool.take("a", wait_s=1)


async def test_the_end_of_the_process_ends_what_was_taken_over(site: PoolSeries) -> None:
    old = await site.start(a=tiny("a"))
    await old.wait_settled()
    pid = get_pid(old, "a")
    new = await site.start(a=tiny("a"))
    await asyncio.gather(old.stop(), new.stop())
    assert is_gone(pid, 0.1)


async def test_one_that_gave_up_is_tried_again(site: PoolSeries, tmp_path: Path) -> None:
    broken = tiny("a", "--child", str(tmp_path / "none" / "pid"))
    old = await site.start(a=broken)
    with contextlib.suppress(Exception):
        await old.wait_settled()
    assert old["a"].state == "failed"
    (tmp_path / "none").mkdir()
    new = await site.start(a=broken)
    await new.wait_settled()
    assert new["a"].state == "ready"


async def test_a_process_goes_on_under_its_name_and_writes_to_the_new_folder(
    site: PoolSeries, tmp_path: Path
) -> None:
    old = await site.start(a=tiny("w"), folder=tmp_path / "one")
    await old.wait_settled()
    pid = get_pid(old, "a")
    new = await site.start(a=tiny("w"), b=tiny("w"), folder=tmp_path / "two")
    assert (get_pid(new, "b"), new["b"].name) == (pid, "a")
    # An expert of another runner has the name now, so the process cannot keep it.
    third = await site.start(a=tiny("other"), b=tiny("w"), folder=tmp_path / "two")
    await third.wait_settled()
    assert get_pid(third, "b") != pid
    assert [status.alias for status in third.snapshot()] == ["a", "b"]


async def test_groups_of_the_same_weights_have_names_of_their_own(site: PoolSeries) -> None:
    one, two = tiny("w"), tiny("w", n_parallel=2)
    pool = await site.start(a=one, b=one, c=two, d=two, room=600)
    assert [status.alias for status in pool.snapshot()] == ["w", "c"]
