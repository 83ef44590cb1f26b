"""Runners that share memory, on real processes: whose turn it is, who leaves, that nothing stays."""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.runners import (
    Lease,
    Patience,
    PoolRule,
    RunnerBusy,
    RunnerFailed,
    Runners,
    RunnerSettings,
    RunnerSettingsError,
    RunnerTooLarge,
    RunnerUnavailable,
)
from gateway.runners.checks import ask
from gateway.waiting import MAX_WAITING_PER_SLOT
from policies import ResidencyRule, TurnRule

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "fakes" / "tiny_engine.py"
MB = 1_000_000
QUICK = Patience(
    load_timeout_s=20,
    canary_timeout_s=2,
    probe_every_s=0.1,
    probe_timeout_s=2,
    silent_s=0.5,
    hung_s=30,
    grace_s=1,
    first_pause_s=0.01,
    max_pause_s=0.05,
    n_failed_starts=2,
    retry_failed_s=0.3,
)


def tiny(name: str, *options: str, **settings: object) -> RunnerSettings:
    line = (sys.executable, "-S", str(TINY), "--port", "${PORT}", *options)
    given = {"memory_bytes": 100 * MB, "n_parallel": 1, **settings}
    return RunnerSettings("command", name, command=line, **given)  # type: ignore[arg-type]


def state_of(runners: Runners, name: str) -> str:
    return runners[name].state


@contextlib.asynccontextmanager
async def pool_of(
    *experts: RunnerSettings, room: int = 100, rule: ResidencyRule | None = None, folder: Path | None = None
) -> AsyncIterator[Runners]:
    """Experts named after their models, `room` megabytes for all of them."""
    shared = PoolRule(each=room * MB, residency=rule or ResidencyRule(), log_folder=folder)
    runners = Runners({expert.model: expert for expert in experts}, QUICK, shared)
    await runners.start()
    try:
        async with asyncio.timeout(60):
            yield runners
    finally:
        await runners.stop()


async def chat(lease: Lease, prompt: str = "Hi") -> str:
    body = {"model": lease.alias, "messages": [{"role": "user", "content": prompt}]}
    root, _, _ = lease.url.rpartition("/v1")
    status, answer = await ask(root, "/v1/chat/completions", body, lease.headers)
    assert status == 200
    lease.note_output()
    return str(json.loads(answer)["choices"][0]["message"]["content"])


def is_gone(pid: int, within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def states(runners: Runners) -> dict[str, str]:
    return {name: runner.state for name, runner in runners.items()}


async def test_what_fits_is_loaded_at_the_start_pinned_ones_first() -> None:
    async with pool_of(tiny("a"), tiny("b"), tiny("c", pinned=True), room=200) as runners:
        await runners.wait_settled()
        assert states(runners) == {"a": "ready", "b": "stopped", "c": "ready"}
        assert runners["b"].n_loads == 0


async def test_an_expert_that_is_not_in_memory_is_loaded_in_place_of_another() -> None:
    async with pool_of(tiny("a"), tiny("b", "--say", "Berlin.")) as runners:
        await runners.wait_settled()
        pid = runners["a"].pid
        async with runners.lease("b", wait_s=20) as lease:
            assert await chat(lease) == "Berlin."
            assert states(runners) == {"a": "stopped", "b": "busy"}
        assert states(runners)["b"] == "ready"
        assert pid is not None
        assert is_gone(pid, 0.1)
        assert runners.n_evictions == 1


async def test_who_answers_is_never_unloaded() -> None:
    async with pool_of(tiny("a"), tiny("b")) as runners:
        lease = await runners.take("a", wait_s=20)
        asking = asyncio.ensure_future(runners.take("b", wait_s=20))
        await asyncio.sleep(0.8)
        assert states(runners) == {"a": "busy", "b": "stopped"}
        assert await chat(lease) == "Paris."
        lease.release()
        (await asking).release()
        assert states(runners) == {"a": "stopped", "b": "ready"}


async def test_pinned_ones_stay_and_what_does_not_fit_beside_them_is_refused() -> None:
    async with pool_of(tiny("a", pinned=True), tiny("b")) as runners:
        await runners.wait_settled()
        with pytest.raises(RunnerTooLarge, match="b needs 100000000 bytes"):
            await runners.take("b", wait_s=20)
        assert states(runners) == {"a": "ready", "b": "stopped"}


async def test_an_idle_expert_is_unloaded_after_its_ttl_and_loaded_again_when_asked_for() -> None:
    async with pool_of(tiny("a", ttl_s=0.5)) as runners:
        await runners.wait_settled()
        while runners["a"].state != "stopped":  # noqa: ASYNC110 (the test's own time-out bounds it)
            await asyncio.sleep(0.05)
        async with runners.lease("a", wait_s=20) as lease:
            assert await chat(lease) == "Paris."
            await asyncio.sleep(1)
            assert state_of(runners, "a") == "busy"


async def test_no_more_requests_than_slots_are_in_flight_and_turns_go_by_priority_then_order() -> None:
    async with pool_of(tiny("a", n_parallel=2)) as runners:
        held = [await runners.take("a", wait_s=20) for _ in range(2)]
        order: list[str] = []

        async def ask_as(name: str, priority: int) -> None:
            async with runners.lease("a", wait_s=20, priority=priority):
                order.append(name)
                await asyncio.sleep(0.05)

        waiting = [
            asyncio.create_task(ask_as(name, priority)) for name, priority in (("x", 0), ("y", 0), ("z", 1))
        ]
        await asyncio.sleep(0.1)
        assert order == []
        assert runners.snapshot()[0].n_waiting == 3
        for lease in held:
            lease.release()
        await asyncio.gather(*waiting)
        assert order == ["z", "x", "y"]


async def test_a_line_that_is_full_is_refused_with_the_seconds_to_wait() -> None:
    async with pool_of(tiny("a")) as runners:
        lease = await runners.take("a", wait_s=20)
        line = [asyncio.create_task(runners.take("a", wait_s=20)) for _ in range(MAX_WAITING_PER_SLOT)]
        await asyncio.sleep(0)
        with pytest.raises(RunnerBusy, match=r"a answers 1 at a time and 64 wait") as caught:
            await runners.take("a", wait_s=20)
        assert caught.value.retry_after_s >= 1
        for task in line:
            task.cancel()
        await asyncio.gather(*line, return_exceptions=True)
        lease.release()
        async with runners.lease("a", wait_s=5):
            pass


async def test_who_would_wait_longer_than_allowed_is_sent_away_at_once() -> None:
    async with pool_of(tiny("a", "--load-s", "1.5")) as runners:
        await runners.wait_settled()
        await runners.unload("a")
        with pytest.raises(RunnerBusy, match="s until its turn"):
            await runners.take("a", wait_s=0.5)
        assert state_of(runners, "a") == "stopped"


async def test_what_was_unloaded_by_hand_is_not_fetched_again_before_it_is_asked_for() -> None:
    async with pool_of(tiny("a"), tiny("b"), room=200) as runners:
        for _ in range(3):
            await runners.load("a", wait_s=20)
        await runners.unload("a")
        await runners.load("b", wait_s=20)
        await asyncio.sleep(0.3)
        assert states(runners) == {"a": "stopped", "b": "ready"}


async def test_waiting_for_memory_is_bounded_and_leaves_no_place_in_line() -> None:
    async with pool_of(tiny("a"), tiny("b")) as runners:
        async with runners.lease("a", wait_s=20):
            with pytest.raises(RunnerUnavailable, match=r"b was not loaded and free within 0\.\d+ s"):
                await runners.take("b", wait_s=0.3)
        async with runners.lease("a", wait_s=5):
            pass
        assert [status.n_in_flight for status in runners.snapshot()] == [0, 0]


async def test_an_engine_that_cannot_be_started_fails_those_who_wait_and_is_tried_again_later() -> None:
    broken = RunnerSettings("command", "a", command=(sys.executable, "-c", "0", "${PORT}"))
    async with pool_of(broken) as runners:
        with pytest.raises(RunnerFailed, match="gave up after 2 failed starts"):
            await runners.take("a", wait_s=20)
        with pytest.raises(RunnerFailed):
            await runners.take("a", wait_s=20)
        n_starts = runners["a"].status().n_restarts
        await asyncio.sleep(QUICK.retry_failed_s)
        with pytest.raises(RunnerFailed):
            await runners.take("a", wait_s=20)
        assert runners["a"].status().n_restarts == n_starts


async def test_one_that_keeps_dying_does_not_keep_the_memory_from_others() -> None:
    line = (sys.executable, "-c", "0", "${PORT}")
    dying = RunnerSettings("command", "a", command=line, memory_bytes=100 * MB)
    slow = replace(QUICK, first_pause_s=30, max_pause_s=30, n_failed_starts=9)
    runners = Runners({"a": dying, "b": tiny("b")}, slow, PoolRule(each=100 * MB))
    await runners.start()
    try:
        while not runners["a"].pausing:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.02)
        async with asyncio.timeout(10), runners.lease("b", wait_s=20) as lease:
            assert await chat(lease) == "Paris."
    finally:
        await runners.stop()


async def test_a_pinned_one_that_failed_is_tried_again_though_nobody_asks(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    line = f"test -f {flag} && exec {sys.executable} -S {TINY} --port ${{PORT}}"
    pinned = RunnerSettings("command", "a", command=("sh", "-c", line), memory_bytes=1, pinned=True)
    async with pool_of(pinned) as runners:
        with pytest.raises(RunnerFailed):
            await runners.wait_settled()
        flag.touch()
        while runners["a"].state != "ready":  # noqa: ASYNC110 (the test's own time-out bounds it)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("said", ["", "!!!!!!", "\ufffd\ufffd?"])
async def test_an_engine_that_speaks_nonsense_gets_no_traffic(said: str) -> None:
    async with pool_of(tiny("a", "--say", said)) as runners:
        with pytest.raises(RunnerFailed, match="the canary's answer is garbage"):
            await runners.take("a", wait_s=20)


async def test_an_engine_that_is_healthy_but_generates_nothing_is_replaced() -> None:
    async with pool_of(tiny("a", n_parallel=2)) as runners:
        lease = await runners.take("a", wait_s=20)
        pid = runners["a"].pid
        with pytest.raises((OSError, AssertionError)):
            await chat(lease, "hang")
        lease.release()
        async with runners.lease("a", wait_s=20) as again:
            assert await chat(again) == "Paris."
        assert runners["a"].pid != pid
        assert "generates nothing" in (runners["a"].status().last_error or "")


async def test_a_long_answer_on_the_only_slot_is_not_taken_for_silence() -> None:
    async with pool_of(tiny("a")) as runners:
        async with runners.lease("a", wait_s=20) as lease:
            assert await chat(lease, "slow") == "Paris."
        assert runners["a"].status().n_restarts == 0


async def test_a_death_under_a_lease_is_noticed_and_the_next_turn_is_at_the_new_process() -> None:
    async with pool_of(tiny("a")) as runners:
        async with runners.lease("a", wait_s=20) as lease:
            with pytest.raises((OSError, AssertionError)):
                await chat(lease, "die")
            assert await lease.wait_lost(5)
        async with runners.lease("a", wait_s=20) as again:
            assert again.url != lease.url
            assert await chat(again) == "Paris."
        assert "exit status 3" in (runners["a"].status().last_error or "")


async def test_what_a_prompt_killed_quotes_it_in_its_log_alone() -> None:
    async with pool_of(tiny("a")) as runners:
        async with runners.lease("a", wait_s=20) as lease:
            with pytest.raises((OSError, AssertionError)):
                await chat(lease, "die of measles")
            assert await lease.wait_lost(5)
        assert "prompt: die of measles" in runners["a"].log_tail
        async with runners.lease("a", wait_s=20):
            assert runners["a"].status().last_error == "exit status 3; its log may say why"


async def test_unloading_by_hand_spares_who_answers() -> None:
    async with pool_of(tiny("a")) as runners:
        async with runners.lease("a", wait_s=20):
            with pytest.raises(RunnerUnavailable, match="a is busy"):
                await runners.unload("a")
        await runners.unload("a")
        assert state_of(runners, "a") == "stopped"
        await runners.load("a", wait_s=20)
        assert state_of(runners, "a") == "ready"


async def test_how_long_an_expert_is_away_is_learned_from_its_loads() -> None:
    async with pool_of(tiny("a"), tiny("b", "--load-s", "0.5")) as runners:
        await runners.load("b", wait_s=20)
        assert runners.loads_in_s("b") == 0
        await runners.load("a", wait_s=20)
        assert 0.5 < runners.loads_in_s("b") < 5
        assert runners.loads_in_s("remote") == 0


async def test_memory_is_measured_where_nobody_declares_it() -> None:
    async with pool_of(tiny("a", "--hold-mb", "150", memory_bytes=None), room=1000) as runners:
        await runners.wait_settled()
        assert 150 * MB < (runners.snapshot()[0].memory_bytes or 0) < 400 * MB


async def test_what_an_engine_writes_is_kept_and_shown(tmp_path: Path) -> None:
    async with pool_of(tiny("org/a:1"), folder=tmp_path) as runners:
        await runners.wait_settled()
        assert any("loading on" in line for line in runners["org/a:1"].log_tail)
        assert "loading on" in (tmp_path / "org_a_1.log").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RunnerSettings("command", "x"), r"experts\.x\.runner\.cmd: .*needs one"),
        (RunnerSettings("command", "x", command=("sleep", "9")), r"has no \$\{PORT\}"),
        (RunnerSettings("command", "x", command=("no-such", "${PORT}")), 'there is no program "no-such"'),
    ],
)
def test_a_command_that_cannot_work_is_one_line_naming_the_field(
    settings: RunnerSettings, message: str
) -> None:
    with pytest.raises(RunnerSettingsError, match=message):
        Runners({"x": settings}).check()


async def test_the_whole_family_of_a_command_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    async with pool_of(tiny("a", "--child", str(note), "--path", "/up", health_path="/up")) as r:
        await r.wait_settled()
        pid = int(note.read_text())
        assert not is_gone(pid, 0.05)
        await r.unload("a")
        assert is_gone(pid, 1)


PARENT = """
import asyncio, sys
from gateway.runners import Runners, RunnerSettings

async def main():
    line = (sys.executable, "-S", sys.argv[1], "--port", "${PORT}", "--child", sys.argv[2])
    runners = Runners({"a": RunnerSettings("command", "a", command=line)})
    await runners.start()
    await runners.wait_settled()
    print(runners["a"].pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_gateway_that_is_killed_leaves_no_orphan_of_a_command(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(TINY), str(note)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()), int(note.read_text())]
        parent.send_signal(signal.SIGKILL)
        parent.wait(20)
        assert all(is_gone(pid) for pid in pids)


async def test_random_traffic_never_locks_up_and_respects_the_room() -> None:
    draw = random.Random(7)
    names = ["a", "b", "c", "d"]
    experts = [tiny(name, "--answer-s", "0.01", n_parallel=2) for name in names]
    rule = ResidencyRule(turns=TurnRule(tau_s=0.5, max_wait_s=2))
    async with pool_of(*experts, room=200, rule=rule) as runners:
        most = 0

        async def one(name: str) -> str:
            nonlocal most
            async with runners.lease(name, wait_s=40) as lease:
                up = [state for state in states(runners).values() if state in ("ready", "busy", "starting")]
                most = max(most, len(up))
                return await chat(lease)

        async def client() -> list[str]:
            answers = []
            for _ in range(10):
                answers.append(await one(draw.choices(names, (8, 4, 2, 1))[0]))
                await asyncio.sleep(draw.random() * 0.02)
            return answers

        answers = await asyncio.gather(*(client() for _ in range(6)))
        assert {text for texts in answers for text in texts} == {"Paris."}
        assert most == 2
        assert [status.n_in_flight for status in runners.snapshot()] == [0] * 4


async def keep_asking(runners: Runners, name: str, calls: list[str]) -> None:
    """A call of a batch after the other."""
    while True:
        async with runners.lease(name, wait_s=60, priority=-1) as lease:
            await chat(lease)
            calls.append(name)


async def test_a_request_displaces_a_batch_as_soon_as_its_calls_in_flight_end() -> None:
    """Hundreds of calls a second to `a` would make a forecast that protects it for a minute."""
    async with pool_of(tiny("a"), tiny("b")) as runners:
        await runners.wait_settled()
        calls: list[str] = []
        batch = asyncio.create_task(keep_asking(runners, "a", calls))
        while len(calls) < 20:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.01)
        now = runners.look()
        assert (now.rate_per_s, now.next_use_s) == ({}, {})
        async with asyncio.timeout(20), runners.lease("b", wait_s=60) as lease:
            await chat(lease)
        assert runners.n_evictions == 1
        # The batch goes on once `b` has been unused for as long as a swap takes.
        n_before = len(calls)
        async with asyncio.timeout(30):
            while len(calls) <= n_before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)


async def test_a_load_for_a_batch_is_broken_off_for_a_request() -> None:
    async with pool_of(tiny("b"), tiny("a", "--load-s", "60")) as runners:
        await runners.wait_settled()
        batch = asyncio.create_task(runners.take("a", wait_s=60, priority=-1))
        while runners["a"].pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with runners.lease("b", wait_s=30) as lease:
            await chat(lease)
        assert not batch.done()
        batch.cancel()
        await asyncio.gather(batch, return_exceptions=True)
