"""Lines whose expert fails: what is called again, how often, and how long a line may take."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from gateway.batches import calling
from gateway.batches.calling import RetryingCaller
from gateway.experts.types import Call, Reply, UpstreamError
from gateway.fleet.health import FleetState
from gateway.testing import FakeUpstream, build_completion
from tests.fakes.batches import BatchTestGateway, line
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
