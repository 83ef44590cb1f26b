"""Threads and tasks beside the requests: one that dies is started again with its work, and that is told."""

import asyncio
import io
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.batches.service import BatchService
from gateway.config import Config, JournalConfig
from gateway.fleet.replicas import Replicas
from gateway.runners import Runners
from gateway.storage.journal import Journal, JournalEntry
from gateway.telemetry.background import DEATHS, STEADY_S, DeathRecord, start_task, start_thread
from gateway.telemetry.logs import QueuedHandler, ServerLog
from tests.fakes.odd_upstream import OddUpstream, json_answer
from tests.fakes.serving import gateway


@pytest.fixture(autouse=True)
def no_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = DeathRecord()
    for name in vars(fresh):
        monkeypatch.setattr(DEATHS, name, getattr(fresh, name))


def entry(name: str, **more: Any) -> JournalEntry:
    return JournalEntry(
        decision_id=name,
        request_id="r",
        time=time.time(),
        policy="auto",
        expert_asked=None,
        expert_answered="x",
        plan="single",
        status=200,
        **more,
    )


def test_a_thread_that_dies_is_started_again() -> None:
    done, n_runs, stopping = threading.Event(), [0], threading.Event()

    def run() -> None:
        n_runs[0] += 1
        if n_runs[0] < 3:
            raise SystemExit("as bad as it gets")
        done.set()

    start_thread("test", run, stopping)
    assert done.wait(10)
    assert (n_runs[0], DEATHS.n_restarts["test"]) == (3, 2)
    assert [line.partition(":")[0] for line in DEATHS.list_degraded()] == ["test"]


async def test_a_task_that_dies_is_started_again() -> None:
    n_runs = 0

    async def run() -> None:
        nonlocal n_runs
        n_runs += 1
        if n_runs < 3:
            raise RuntimeError("a prompt might stand here")

    await start_task("test", run)
    assert (n_runs, DEATHS.n_restarts["test"]) == (3, 2)


async def test_a_task_that_is_cancelled_stays_so() -> None:
    task = start_task("test", lambda: asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert (task.cancelled(), DEATHS.n_restarts["test"]) == (True, 0)


def test_pauses_grow_and_end(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    deaths = DeathRecord(lambda: now[0])
    pauses = [deaths.note("x", ValueError("the prompt")) for _ in range(12)]
    assert (pauses[:3], pauses[-1]) == ([0.05, 0.1, 0.2], 5.0)
    assert "the prompt" not in caplog.text
    now[0] = STEADY_S
    assert list(deaths.list_degraded()) == []
    assert deaths.note("x", ValueError()) == 0.05


@pytest.mark.parametrize(
    "poison",
    [{"input_tokens": 2**63}, {"cost_usd": object()}, {"session_id": "\ud83d"}, {"latency_s": {"a": 1}}],
)
async def test_no_row_keeps_others_from_the_disk(tmp_path: Path, poison: dict[str, Any]) -> None:
    journal = Journal.open(JournalConfig(path=str(tmp_path / "j")))
    for n in range(300):
        journal.record(entry(f"before{n}"))
    journal.record(entry("poison", **poison))
    journal.record(entry("after"))
    await journal.close()
    assert journal.n_waiting == 0
    for name in ("before0", "before299", "after"):
        assert journal._read(name)[0] is not None
    kept = journal._read("poison")[0] is not None
    assert (kept, journal.dropped) in ((True, 0), (False, 1))


async def test_the_journal_is_written_by_a_new_thread_where_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, n_calls = Journal._store, 0

    def die_twice(self: Journal, rows: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls <= 2:
            raise MemoryError
        store(self, rows)

    monkeypatch.setattr(Journal, "_store", die_twice)
    journal = Journal.open(JournalConfig(path=str(tmp_path / "j")))
    for n in range(301):
        journal.record(entry(f"d{n}"))
    while journal.n_waiting:  # noqa: ASYNC110  (a thread empties it)
        await asyncio.sleep(0.02)
    await journal.close()
    assert (DEATHS.n_restarts["journal"], journal.dropped) == (2, 0)
    assert [n for n in range(301) if journal._read(f"d{n}")[0] is None] == []


def test_the_log_is_written_by_a_new_thread_where_one_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    written, n_calls = io.StringIO(), 0
    write = QueuedHandler._write

    def die_once(self: QueuedHandler, records: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            raise MemoryError
        write(self, records)

    monkeypatch.setattr(QueuedHandler, "_write", die_once)
    with ServerLog(Config(), written):
        logging.getLogger("thalamus").info("what was in hand")
    assert "what was in hand" in written.getvalue()
    assert DEATHS.n_restarts["log"] == 1


async def test_the_pool_decides_on_where_its_scheduler_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, n_runs, again = Runners({}), 0, asyncio.Event()

    async def run(self: Runners) -> None:
        nonlocal n_runs
        n_runs += 1
        if n_runs == 1:
            raise RuntimeError
        again.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(Runners, "_run", run)
    await pool.start()
    async with asyncio.timeout(10):
        await again.wait()
    assert DEATHS.n_restarts["runner pool"] == 1
    await pool.stop()


async def test_readiness_and_metrics_tell_of_deaths(tmp_path: Path) -> None:
    async with (
        OddUpstream({"x": json_answer({"choices": []})}).serve() as upstream,
        gateway({"experts": upstream.experts()}, str(tmp_path / "j"), "x") as live,
    ):
        DEATHS.note("journal", OverflowError())
        root = live.base.removesuffix("/v1")
        async with live.http.get(f"{root}/health/ready") as response:
            ready = await response.json()
            assert (response.status, ready["status"]) == (200, "degraded")
            assert any(line.startswith("journal: died of OverflowError") for line in ready["degraded"])
        async with live.http.get(f"{root}/metrics") as response:
            assert 'thalamus_background_restarts_total{name="journal"} 1.0' in await response.text()


@pytest.mark.parametrize(
    ("owner", "name"), [(BatchService, "_work_until_ended"), (Replicas, "_exchange_forever")]
)
def test_all_of_them_are_started_in_one_way(owner: type, name: str) -> None:
    source = Path(str(__import__(owner.__module__, fromlist=["x"]).__file__)).read_text()
    assert "start_task(" in source
    assert f"ensure_future(self.{name}" not in source
