"""What workers and their parent say to each other, in one process: calls, limits, rows, cooldowns."""

import asyncio
import contextlib
import logging
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from gateway.app import Parts, build_services
from gateway.config import JournalConfig, parse_config
from gateway.endpoints.monitoring import CarriedCounters, read_samples
from gateway.errors import UpstreamError
from gateway.experts.deployments import ConcurrencyLimit, DeployedExpert
from gateway.experts.http_client import Transport
from gateway.fleet.health import PeerReport
from gateway.runners import RunnerBusy
from gateway.server import Generation
from gateway.services import Services
from gateway.storage.journal import JournalEntry, to_row
from gateway.workers.channel import Channel, ChannelClosedError, RemoteError
from gateway.workers.parent import Parent, WorkerProcess
from gateway.workers.remote import RemoteJournal, RemoteLimit, replace_limits, restore_error
from gateway.workers.shared import (
    SharedFleet,
    SharedJournal,
    WorkerLink,
    WorkerLinks,
    WorkerReport,
    merge_states,
)
from gateway.workers.worker import share_limits

CONFIG = """
experts:
  - {{name: a, model: openai/a, api_base: "http://127.0.0.1:9/v1", api_key: sk-x, max_parallel: 1}}
  - {{name: free, model: openai/b, api_base: "http://127.0.0.1:9/v1", api_key: sk-x}}
journal: {{path: "{folder}/journal.sqlite3"}}
routing: {{artifact: "{folder}/artifact"}}
embeddings: {{enabled: false}}
"""


class Pair:
    """A parent's side and a worker's side of one channel."""

    def __init__(self, services: Services, workers: WorkerLinks) -> None:
        self.services, self.workers = services, workers

    async def connect(self) -> None:
        ours, theirs = socket.socketpair()
        self.link = WorkerLink(self.workers, 1)
        self.workers.links[1] = self.link
        self.link.channel = await Channel.open(ours, self.link.handlers, self.link.close)
        self.worker = await Channel.open(theirs, {})

    @property
    def limit(self) -> ConcurrencyLimit:
        expert = self.services.experts["a"]
        assert isinstance(expert, DeployedExpert)
        return cast("ConcurrencyLimit", expert.deployments[0].slots)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    workers = WorkerLinks(2)

    def build_fleet(*arguments: Any, **named: Any) -> SharedFleet:
        fleet = SharedFleet(*arguments, **named)
        fleet.workers = workers
        return fleet

    parts = Parts(journal=SharedJournal.open, fleet=build_fleet)
    services = build_services(parse_config(CONFIG.format(folder=tmp_path), env={}), Transport(), parts=parts)
    workers.services = services
    workers.app = cast("Any", SimpleNamespace(current=Generation(cast("Any", None))))
    pair = Pair(services, workers)
    await pair.connect()
    yield pair
    pair.worker.close()
    assert pair.link.channel is not None
    pair.link.channel.close()
    await services.journal.close()
    services.store.close()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_frames_are_read_however_they_are_cut() -> None:
    heard: list[Any] = []
    channel = Channel({"hear": heard.append})
    frames = b""
    for value in ("one", b"\x00" * 70_000, {"two": [1, None]}):
        data = msgspec.msgpack.encode([1, 0, "hear", [value]])
        frames += len(data).to_bytes(4, "big") + data
    for n in (1, 3, 65_536):
        for start in range(0, len(frames), n):
            channel.data_received(frames[start : start + n])
    assert heard == ["one", b"\x00" * 70_000, {"two": [1, None]}] * 3


async def test_a_call_ends_with_the_other_process() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, {})
    call = asyncio.ensure_future(channel.call("never"))
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(ChannelClosedError):
        await call
    with pytest.raises(ChannelClosedError):
        await channel.call("again")


async def test_errors_come_back_as_what_they_were(pair: Pair) -> None:
    async def fail(kind: str) -> None:
        if kind == "limit":
            raise UpstreamError("busy", "has had its calls", status=429, retry_after_s=7.5)
        raise RunnerBusy("three wait", 3.0)

    assert pair.link.channel is not None
    pair.worker._handlers = {"fail": fail}
    with pytest.raises(RemoteError) as raised:
        await pair.link.channel.call("fail", "limit")
    error = restore_error(raised.value)
    assert isinstance(error, UpstreamError)
    assert (error.kind, error.status, error.retry_after_s) == ("busy", 429, 7.5)
    with pytest.raises(RemoteError) as raised:
        await pair.link.channel.call("fail", "runner")
    busy = restore_error(raised.value)
    assert isinstance(busy, RunnerBusy)
    assert busy.retry_after_s == 3.0


async def test_only_experts_with_a_limit_ask_the_parent(pair: Pair) -> None:
    experts = pair.services.experts
    replace_limits(experts.values(), pair.worker)
    kinds = {name: type(cast("Any", experts[name]).deployments[0].slots) for name in experts}
    assert kinds == {"a": RemoteLimit, "free": ConcurrencyLimit}


async def test_a_call_that_gives_up_in_line_leaves_its_place(pair: Pair) -> None:
    limit = RemoteLimit(pair.worker, "a", 0, pair.limit)
    await limit.acquire(5)
    waiting = asyncio.ensure_future(limit.acquire(5))
    await settle()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    limit.release()
    await asyncio.wait_for(limit.acquire(5), 5)
    assert pair.limit.in_use == 1
    limit.release()
    await settle()
    assert pair.limit.in_use == 0


async def test_a_slot_that_is_given_to_a_call_that_has_left_comes_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = RemoteLimit(pair.worker, "a", 0, pair.limit)
    monkeypatch.setattr(pair.worker, "_take", lambda *frame: None)  # the answer is under way
    call = asyncio.ensure_future(limit.acquire(5))
    while not pair.limit.in_use:  # noqa: ASYNC110  (it is given in this loop's turns)
        await asyncio.sleep(0)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    await settle()
    assert pair.limit.in_use == 0


def test_states_of_several_processes_are_summed_up_or_the_worst() -> None:
    quick = {"state": "closed", "cooldown_s": 0.0, "in_flight": 2, "latency_s": 1.0, "n_failed": 1}
    slow = {"state": "open", "cooldown_s": 4.0, "in_flight": 1, "latency_s": 3.0, "n_failed": 4}
    unused = {"state": "half-open", "cooldown_s": 0.0, "in_flight": 0, "latency_s": None, "n_failed": 0}
    merged = merge_states([{**quick, "last_error": None}, {**slow, "last_error": "no"}, unused])
    assert merged == {**slow, "in_flight": 3, "n_failed": 5, "last_error": "no"}


async def test_what_a_dead_worker_held_is_free_again(pair: Pair) -> None:
    limit = RemoteLimit(pair.worker, "a", 0, pair.limit)
    await limit.acquire(5)
    waiting = asyncio.ensure_future(limit.acquire(5))
    await settle()
    assert pair.limit.in_use == 1
    pair.worker.close()
    with pytest.raises(UpstreamError):
        await waiting
    await settle()
    assert pair.limit.in_use == 0
    assert pair.limit.load == 0
    assert not pair.workers.links


def build_entry(decision_id: str) -> JournalEntry:
    return JournalEntry(
        decision_id=decision_id,
        request_id="r",
        time=time.time(),
        policy="auto",
        expert_asked=None,
        expert_answered="a",
        plan="single",
        status=200,
    )


async def test_rows_are_on_disk_once_they_do_not_wait_any_more(pair: Pair, tmp_path: Path) -> None:
    config = JournalConfig(path=str(tmp_path / "journal.sqlite3"))
    journal = RemoteJournal.make_builder(pair.worker, asyncio.get_running_loop())(config)
    for n in range(3):
        journal.record(build_entry(f"dec_{n}"))
    await journal.flush()
    with contextlib.closing(sqlite3.connect(config.path)) as database:
        assert database.execute("SELECT count(*) FROM decisions").fetchone() == (3,)
    assert journal.n_waiting == 0
    await journal.close()


async def test_a_row_that_does_not_fit_is_fitted_on_its_way_to_the_parent(pair: Pair, tmp_path: Path) -> None:
    config = JournalConfig(path=str(tmp_path / "journal.sqlite3"))
    journal = RemoteJournal.make_builder(pair.worker, asyncio.get_running_loop())(config)
    for n, (session_id, n_tokens) in enumerate([("half \ud83d", 1), ("whole", 2**63), ("whole", 2**65)]):
        row = {"session_id": session_id, "input_tokens": n_tokens}
        journal.record(msgspec.structs.replace(build_entry(f"dec_{n}"), **row))
    await journal.flush()
    with contextlib.closing(sqlite3.connect(config.path)) as database:
        found = database.execute("SELECT session_id, input_tokens FROM decisions ORDER BY id").fetchall()
    assert found == [("half ?", 1), ("whole", None), ("whole", None)]
    await journal.close()


async def test_rows_that_the_parent_cannot_write_are_lost_aloud_with_the_worker(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("gateway.workers.shared.insert_rows", full)
    config = JournalConfig(path=str(tmp_path / "journal.sqlite3"))
    journal = RemoteJournal.make_builder(pair.worker, asyncio.get_running_loop())(config)
    journal.record(build_entry("dec_1"))
    await journal.flush()
    await journal.close()
    said = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == "thalamus"]
    reason = "the journal cannot be written: database or disk is full"
    lost = f"1 entries of the journal are lost: it could not be written ({reason})"
    assert said == [("WARNING", f"the journal waits for its disk: {reason}"), ("ERROR", lost)]
    assert journal.dropped == 1


async def test_rows_of_a_worker_that_died_while_they_are_written_disturb_no_others(pair: Pair) -> None:
    journal = pair.services.journal
    assert isinstance(journal, SharedJournal)

    def insert(prefix: str) -> None:
        rows = [msgspec.msgpack.encode(to_row(build_entry(f"{prefix}_{n}"), False)) for n in range(50)]
        for row in rows:
            journal.insert([row])

    await asyncio.gather(*(asyncio.to_thread(insert, f"worker_{n}") for n in range(4)))
    with contextlib.closing(sqlite3.connect(pair.services.config.journal.path)) as database:
        assert database.execute("SELECT count(*) FROM decisions").fetchone() == (200,)


async def test_a_cooldown_outlives_the_worker_that_knew_of_it(pair: Pair) -> None:
    pair.link.report = WorkerReport(peers={"free": PeerReport(wait_s=30.0, failing=True)})
    pair.workers.drop(pair.link)
    pair.workers.tell_peers()
    assert pair.services.fleet.cooldown_s("free") > 25
    assert not pair.services.fleet.admit("free")


async def test_counters_of_an_ended_worker_count_on_and_gauges_do_not(pair: Pair) -> None:
    fleet = pair.services.fleet
    assert fleet.admit("free")
    fleet.record_success("free", 2.0)
    samples = read_samples(pair.services, CarriedCounters())
    answered = ("thalamus_calls_answered_total", (("expert", "free"),))
    assert samples[answered] == 1
    pair.link.report = WorkerReport(samples=samples)
    pair.workers.drop(pair.link)
    (kept,) = pair.workers.read_samples()
    assert kept[answered] == 1
    assert not [name for name, _ in kept if not name.endswith("_total")]


def test_a_crash_loop_is_told_in_one_line_and_pauses_grow(caplog: pytest.LogCaptureFixture) -> None:
    parent = SimpleNamespace(workers=SimpleNamespace(troubles={}))
    worker = WorkerProcess(cast("Parent", parent), 2)
    pauses = []
    with caplog.at_level(logging.WARNING):
        for n in range(1, 12):
            worker.n_deaths = n
            pauses.append(worker._choose_pause())
            worker._tell("was killed by SIGKILL", pauses[-1])
    assert pauses[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert max(pauses) == pauses[-1] == 30.0
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "ERROR"]
    assert "worker 2 was killed by SIGKILL and keeps ending" in caplog.text
    assert parent.workers.troubles == {2: "was killed by SIGKILL; it is started again in 30 s"}


@pytest.mark.parametrize("n", [1, 2, 3, 256])
def test_workers_take_even_parts_of_what_clients_may_take(n: int) -> None:
    text = f"{{server: {{workers: {n}, max_body_bytes: 1000000, limits: {{max_held_bytes: 6000000}}}}}}"
    config = parse_config(text, env={})
    whole, part = config.server.limits, share_limits(config).server.limits
    for name in ("max_connections", "max_running", "max_waiting"):
        assert 0 <= getattr(part, name) * n - getattr(whole, name) < n
    # Room for one body of the largest size, as it came and inflated.
    assert part.max_held_bytes == max(6_000_000 // n, 2_000_000)
    assert (part.head_s, part.max_connections_per_address) == (whole.head_s, None)
