"""Lines whose expert fails: what is called again, how often, and how long a line may take."""

import asyncio
import contextlib
import errno
import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from gateway.batches import calling, execution, service
from gateway.batches import results as results_module
from gateway.batches.calling import RetryingCaller
from gateway.batches.store import BatchStore
from gateway.batches.types import Batch
from gateway.cli.batch import status
from gateway.config import parse_config
from gateway.experts.types import Call, Reply, UpstreamError
from gateway.fleet.health import FleetState
from gateway.testing import FakeUpstream, build_completion
from tests.fakes.batches import BatchTestGateway, line, open_batch_gateway
from tests.fakes.odd_upstream import OddUpstream, json_answer
from tests.fakes.serving import KEY, gateway

SAID = {
    "code": {"error": {"message": "bad stop", "code": 400}},
    "type": {"type": "error", "error": {"type": "invalid_request_error", "message": "bad stop"}},
    "detail": {"detail": [{"loc": ["body", "stop"], "msg": "bad stop"}]},
    "too long": {"object": "error", "message": "maximum context length is 9 tokens", "code": 40303},
    "parameter": {"error": {"message": "Unsupported parameter: 'stop'", "code": "unsupported_parameter"}},
    "key": {"error": {"message": "no", "code": "invalid_api_key"}},
    "account": {"error": {"message": "no", "code": "insufficient_quota"}},
}


@contextlib.asynccontextmanager
async def odd_batches(folder: Path, upstream: OddUpstream) -> AsyncIterator[BatchTestGateway]:
    config = {"experts": upstream.experts(), "server": {"master_key": KEY}}
    async with (
        gateway(config, str(folder / "j.sqlite3")) as live,
        openai.AsyncOpenAI(base_url=live.base, api_key=KEY, max_retries=0) as ai,
    ):
        yield BatchTestGateway(ai, live, FakeUpstream())


async def test_d08_an_error_inside_a_200_that_stays_is_not_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "RETRY_S", 60.0)
    upstream = OddUpstream({name.replace(" ", "-"): json_answer(body) for name, body in SAID.items()})
    async with upstream.serve(), odd_batches(tmp_path, upstream) as at:
        start = time.monotonic()
        batch, output, errors = await at.run(*(line(name, name) for name in upstream.scripts))
        assert (batch.status, output) == ("completed", [])
        statuses = {row["custom_id"]: row["response"]["status_code"] for row in errors}
        refused = {"code": 400, "type": 400, "detail": 422, "too-long": 400, "parameter": 400}
        assert statuses == {**refused, "key": 502, "account": 429}
        assert upstream.n_calls == dict.fromkeys(upstream.scripts, 1)
        assert time.monotonic() - start < 30


@pytest.mark.parametrize("body", [b'{"error": {"message": "it broke"}}', b"<html>", b"{}"])
@pytest.mark.parametrize("status", [500, 200])
async def test_d08_lines_of_an_expert_that_answers_with_errors_end_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes
) -> None:
    monkeypatch.setattr(calling, "RETRY_S", 1.0)
    upstream = OddUpstream({"bad": json_answer(body, status), "good": json_answer(build_completion("good"))})
    async with upstream.serve(), odd_batches(tmp_path, upstream) as at:
        start = time.monotonic()
        lines = [line(str(n), "bad", router={"fallbacks": ["good"]} if n % 2 else {}) for n in range(8)]
        batch, output, errors = await at.run(*lines)
        assert batch.status == "completed"
        assert [row["custom_id"] for row in output] == ["1", "3", "5", "7"]
        assert [row["response"]["status_code"] for row in errors] == [502] * 4
        assert time.monotonic() - start < 5
        assert upstream.n_calls["bad"] <= 8 * calling.MAX_TRIES


class Failing:
    """An expert that fails a number of times, each time in the same way, and then answers."""

    name = "x"

    def __init__(self, error: UpstreamError, n_failures: int) -> None:
        self.error = error
        self.n_left = n_failures
        self.n_calls = 0

    async def call(self, call: Call) -> Reply:
        self.n_calls += 1
        if self.n_left:
            self.n_left -= 1
            raise self.error
        return Reply(body=build_completion("x"))

    def share(self, n_replicas: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class PauseClock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "n_failures", "answered", "n_calls", "at_most_s"),
    [
        (UpstreamError("status", "answered 500", status=500), 99, False, 4, 6.5),
        (UpstreamError("status", "answered 500", status=500), 3, True, 4, 6.5),
        (UpstreamError("garbage", "answered 200 with a page"), 99, False, 4, 6.5),
        (UpstreamError("connect", "cannot be connected to"), 3, True, 4, 7.0),
        (UpstreamError("status", "answered 503", status=503, retry_after_s=40), 1, True, 2, 41.0),
        (UpstreamError("refused", "reported error 400", status=400), 99, False, 1, 0.0),
        (UpstreamError("unsupported", "answered 404", status=404), 99, False, 1, 0.0),
        (UpstreamError("quota", "answered 402", status=402), 99, False, 1, 0.0),
    ],
)
async def test_d08_how_often_and_how_long_a_line_calls_one_expert(
    monkeypatch: pytest.MonkeyPatch,
    error: UpstreamError,
    n_failures: int,
    answered: bool,
    n_calls: int,
    at_most_s: float,
) -> None:
    clock, expert = PauseClock(), Failing(error, n_failures)
    monkeypatch.setattr(calling, "time", SimpleNamespace(monotonic=clock))
    caller = RetryingCaller({"x": expert}, FleetState(["x"], {}, clock), 300.0, clock.pause)
    outcome = await caller.call("x", Call("chat/completions", {}))
    assert (outcome.body is not None, expert.n_calls) == (answered, n_calls)
    assert clock.now - 1000.0 <= at_most_s


async def test_d08_each_line_of_three_experts_that_answer_500_ends_within_20_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = PauseClock()
    monkeypatch.setattr(calling, "time", SimpleNamespace(monotonic=clock))
    experts = {name: Failing(UpstreamError("status", "answered 500", status=500), 999) for name in "abc"}
    caller = RetryingCaller(experts, FleetState([*experts], {}, clock), 300.0, clock.pause)
    for _ in range(6):  # the circuits open for longer with each line
        start = clock.now
        for name in experts:
            outcome = await caller.call(name, Call("chat/completions", {}))
            assert outcome.failure is not None
            assert outcome.failure.status == 500
        assert clock.now - start <= 20


class ResultDisk:
    """A disk that takes no results while it has an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        append = results_module._append
        monkeypatch.setattr(results_module, "REWRITE_S", 0.02)

        def refuse(file: int, at: int, data: bytes) -> None:
            append(file, at, data[: len(data) // 2])  # a part may be written
            if self.error is not None:
                raise self.error
            append(file, at, data)

        monkeypatch.setattr(results_module, "_append", refuse)


async def wait_for_reason(at: BatchTestGateway, batch: Any) -> str:
    """What a batch says that it waits for, once no call is made any more."""
    async with asyncio.timeout(10):
        while True:
            found: Any = await at.ai.batches.retrieve(batch.id)
            reason = found.model_extra["thalamus"]["waiting_for"]
            n_calls = len(at.upstream.calls)
            await asyncio.sleep(0.1)
            if reason is not None and n_calls == len(at.upstream.calls):
                return str(reason)


def disk_errors() -> list[tuple[Exception, str]]:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return [
        (OSError(errno.ENOSPC, "No space left on device"), "its disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "its disk cannot be written"),
        (full, "its disk is full"),
        (busy, "another process writes to its store"),
    ]


@pytest.mark.parametrize(("error", "reason"), disk_errors())
async def test_a_full_disk_pauses_a_batch_and_no_line_is_paid_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    disk = ResultDisk(monkeypatch)
    prices = {"max_parallel": 2, "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    async with open_batch_gateway(tmp_path, ["says-a"], experts=prices) as at:
        disk.error = error
        batch = await at.begin(*(line(str(n), "says-a", f"question {n}") for n in range(300)))
        assert await wait_for_reason(at, batch) == reason
        n_calls = len(at.upstream.calls)
        assert n_calls < 300
        (listed,) = (await at.ai.batches.list()).data
        assert (listed.model_extra or {})["thalamus"]["waiting_for"] == reason
        disk.error = None
        batch = await at.wait_for_end(batch)
        output, errors = await at.results(batch)
        assert (batch.status, len(output), errors) == ("completed", 300, [])
        assert len({row["custom_id"] for row in output}) == 300
        assert set(Counter(str(call["messages"]) for call in at.upstream.calls).values()) == {1}
        assert batch.model_extra["thalamus"]["cost_usd"] == pytest.approx(300 * 25e-6)
        assert batch.model_extra["thalamus"]["waiting_for"] is None


async def test_a_line_is_recorded_once_however_often_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = ResultDisk(monkeypatch)
    async with open_batch_gateway(tmp_path, ["says-a"]) as at:
        disk.error = OSError(errno.ENOSPC, "No space left on device")
        batch = await at.begin(line("1", "says-a"))
        await wait_for_reason(at, batch)
        disk.error = None
        await at.wait_for_end(batch)
    with contextlib.closing(sqlite3.connect(tmp_path / "j.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM decisions").fetchone() == (1,)


async def test_answers_that_the_end_of_the_process_loses_are_counted_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = ResultDisk(monkeypatch)
    monkeypatch.setattr(service, "GRACE_S", 0.1)
    monkeypatch.setattr(service, "RETRY_S", 0.1)
    monkeypatch.setattr(execution, "GRACE_S", 0.1)
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    async with open_batch_gateway(tmp_path, ["says-a"], experts={"max_parallel": 2}) as at:
        batch = await at.begin(*(line(str(n), "says-a") for n in range(3)))
        await wait_for_reason(at, batch)
        n_calls = len(at.upstream.calls)
        store = at.live.services.store
    assert store.n_lost_answers == n_calls > 0
    assert f"{n_calls} answers could not be written; their lines are called and paid again" in caplog.text
    disk.error = None
    async with open_batch_gateway(tmp_path, ["says-a"]) as at:
        batch = await at.wait_for_end(batch)
        assert (batch.status, batch.request_counts.completed) == ("completed", 3)


async def test_a_batch_that_cannot_be_published_says_why_and_calls_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "RETRY_S", 0.02)
    publish = results_module.publish

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(service, "publish", refuse)
    async with open_batch_gateway(tmp_path, ["says-a"]) as at:
        batch = await at.begin(line("1", "says-a"))
        assert await wait_for_reason(at, batch) == "its disk is full"
        await asyncio.sleep(0.1)
        assert caplog.text.count("waits: its disk is full") == 1
        assert "Traceback" not in caplog.text
        monkeypatch.setattr(service, "publish", publish)
        assert (await at.wait_for_end(batch)).status == "completed"
        assert len(at.upstream.calls) == 1


def test_the_command_line_sees_a_full_disk_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("experts: []\n")
    store = BatchStore.open(parse_config("experts: []\n").batches_path)
    store.add_batch(Batch(id="batch_1", input_path="in", out_path=str(tmp_path / "out"), window_s=60))
    store.add_batch(Batch(id="batch_2", input_path="in", out_path=str(tmp_path / "out"), status="completed"))
    store.close()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("gateway.batches.results.shutil.disk_usage", lambda _: usage)
    said = CliRunner().invoke(status, ["--config", "c.yaml"], catch_exceptions=False).output
    assert said.count("waits: its disk is full") == 1
    shown = CliRunner().invoke(status, ["batch_1", "--config", "c.yaml", "--json"]).output
    assert json.loads(shown)["thalamus"]["waiting_for"] == "its disk is full"
