"""Whose turn it is: bounded, and no key waits for all the requests of another."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.asgi import admission as module
from gateway.asgi.admission import N_PER_TURN, Admission
from gateway.config import LimitsConfig
from gateway.errors import ServerBusy
from gateway.testing import FakeUpstream
from tests.fakes.serving import gateway


def build(**limits: Any) -> Admission:
    return Admission(replace(LimitsConfig(), **limits))


async def turn_loop(n: int = 4) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def ask(admission: Admission, key: str, n: int = 1) -> list[asyncio.Task[None]]:
    return [asyncio.ensure_future(admission.admit(key)) for _ in range(n)]


def are_in(tasks: list[asyncio.Task[None]]) -> int:
    return sum(task.done() and task.exception() is None for task in tasks)


async def cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_next_waits_until_one_ends() -> None:
    admission = build(max_running=2)
    tasks = ask(admission, "a", 3)
    await turn_loop()
    assert (are_in(tasks), admission.n_running, admission.n_waiting) == (2, 2, 1)
    admission.leave("a")
    await turn_loop()
    assert (are_in(tasks), admission.n_running, admission.n_waiting) == (3, 2, 0)


async def test_few_begin_in_one_turn_of_the_loop() -> None:
    admission = build()
    tasks = ask(admission, "a", 5 * N_PER_TURN)
    await asyncio.sleep(0)
    assert admission.n_running == N_PER_TURN
    await turn_loop(8)
    assert are_in(tasks) == 5 * N_PER_TURN


async def test_a_key_with_few_requests_goes_before_one_with_hundreds() -> None:
    admission = build(max_running=4)
    many = ask(admission, "a", 500)
    await turn_loop()
    few = ask(admission, "b", 3)
    await turn_loop()
    for _ in range(2):
        admission.leave("a")
        await turn_loop()
    assert (are_in(few), are_in(many)) == (2, 4)
    await cancel(*many, *few)


async def test_equal_keys_take_turns() -> None:
    admission = build(max_running=1)
    order: list[str] = []

    async def work(key: str) -> None:
        await admission.admit(key)
        order.append(key)
        await asyncio.sleep(0)
        admission.leave(key)

    await asyncio.gather(*[work(key) for key in "aaabbbccc"])
    assert sorted(order[:4]) == ["a", "a", "b", "c"]
    assert order[4:7] in (list("bca"), list("abc"), list("cab"), list("bac"))


async def test_a_full_line_refuses_at_once_and_says_when_to_come_again() -> None:
    admission = build(max_running=1, max_waiting=2)
    tasks = ask(admission, "a", 3)
    await turn_loop()
    with pytest.raises(ServerBusy) as refusal:
        await admission.admit("a")
    assert (refusal.value.status, refusal.value.reason) == (503, "max_waiting")
    assert dict(refusal.value.headers())[b"retry-after"] == b"1"
    await cancel(*tasks)


async def test_the_longest_line_gives_up_its_last_place_to_another_key() -> None:
    admission = build(max_running=1, max_waiting=4)
    many = ask(admission, "a", 5)
    await turn_loop()
    (other,) = ask(admission, "b")
    await turn_loop()
    refusal = many[-1].exception()
    assert isinstance(refusal, ServerBusy)
    assert (admission.n_waiting, refusal.reason) == (4, "max_waiting")
    for _ in range(2):
        admission.leave("a")
        await turn_loop()
    assert other.done()
    await cancel(*many)


async def test_who_waits_too_long_is_refused() -> None:
    admission = build(max_running=1, max_wait_s=0.05)
    await admission.admit("a")
    with pytest.raises(ServerBusy) as refusal:
        await admission.admit("a")
    assert refusal.value.reason == "max_wait_s"
    assert (admission.n_running, admission.n_waiting) == (1, 0)


async def test_who_would_wait_too_long_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: now_s)
    admission = build(max_running=1, max_wait_s=10.0)
    tasks = ask(admission, "a", 30)
    await turn_loop()
    for _ in range(4):  # two a second
        now_s += 0.5
        admission.leave("a")
        await turn_loop()
    with pytest.raises(ServerBusy) as refusal:  # 25 wait already
        await admission.admit("a")
    assert refusal.value.retry_after_s == pytest.approx(12.5, abs=1)
    (other,) = ask(admission, "b")  # the first of its key
    await turn_loop()
    assert not other.done()
    await cancel(*tasks, other)


async def test_a_quiet_time_says_nothing_of_how_fast_a_line_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: now_s)
    admission = build(max_running=1, max_wait_s=0.5)
    for _ in range(3):
        await admission.admit("a")
        now_s += 100.0
        admission.leave("a")
    tasks = ask(admission, "a", 3)
    await turn_loop()
    assert (are_in(tasks), admission.n_waiting) == (1, 2)
    await cancel(*tasks)


@pytest.mark.parametrize("has_turn", [False, True])
async def test_who_gives_up_leaves_nothing_behind(has_turn: bool) -> None:
    admission = build(max_running=1)
    await admission.admit("a")
    waiting, after = ask(admission, "a", 2)
    await turn_loop()
    if has_turn:
        admission.leave("a")  # it has its turn, and is cancelled before it knows
    await cancel(waiting)
    if not has_turn:
        admission.leave("a")
    await turn_loop()
    assert after.done()
    admission.leave("a")
    await turn_loop()
    assert (admission.n_running, admission.n_waiting, admission._running) == (0, 0, {})


async def test_an_overloaded_gateway_refuses_and_its_health_answers(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream, contextlib.AsyncExitStack() as stack:
        models = ("hang", "good")
        experts = [{"name": m, "model": f"openai/{m}", "api_base": upstream.base_url} for m in models]
        config = {"experts": experts, "server": {"limits": {"max_running": 1, "max_waiting": 1}}}
        live = await stack.enter_async_context(gateway(config, str(tmp_path / "j.sqlite3")))
        hanging = asyncio.ensure_future(live.chat("hang"))
        await until(lambda: len(upstream.calls) == 1)
        waiting = asyncio.ensure_future(live.chat("good"))
        await until(lambda: live.connections.admission.n_waiting == 1)
        refused = await live.chat("good")
        assert (refused.status, refused.error["code"]) == (503, "server_busy")
        assert refused.headers["retry-after"] == "1"
        for path in ("health", "health/ready", "metrics"):
            async with live.http.get(live.base.replace("/v1", f"/{path}")) as response:
                assert response.status == 200, path
        assert len(upstream.calls) == 1
        hanging.cancel()
        assert (await waiting).status == 200
        await until(lambda: live.connections.admission.n_running == 0)


async def test_a_refused_connection_rests_before_it_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.asgi.protocol.PAUSE_S", 0.05)
    async with FakeUpstream() as upstream:
        expert = {"name": "hang", "model": "openai/hang", "api_base": upstream.base_url}
        config = {"experts": [expert], "server": {"limits": {"max_running": 1, "max_wait_s": 0.01}}}
        async with gateway(config, str(tmp_path / "j.sqlite3")) as live:
            hanging = asyncio.ensure_future(live.chat("hang"))
            await until(lambda: len(upstream.calls) == 1)
            assert (await live.chat("hang")).status == 503
            assert [c for c in live.connections.all if not c.is_reading]
            assert (await live.chat("hang")).status == 503  # it is read again
            hanging.cancel()


async def test_a_client_that_does_not_read_its_stream_holds_no_upstream_call(tmp_path: Path) -> None:
    async with FakeUpstream(words=("x" * 500_000,) * 2_000, chunk_interval_s=0.005) as upstream:
        expert = {"name": "good", "model": "openai/good", "api_base": upstream.base_url}
        config = {"experts": [expert], "server": {"limits": {"write_s": 0.2}}}
        async with gateway(config, str(tmp_path / "j.sqlite3")) as live:
            body = {"model": "good", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            async with live.http.post(f"{live.base}/chat/completions", json=body) as response:
                decision = response.headers["x-thalamus-decision-id"]
                await until(lambda: upstream.aborted == ["good"])
            entry = await live.services.journal.get(decision)
            assert entry is not None
            assert entry["status"] == 499
            assert live.connections.refused["slow_reader"] == 1
            assert live.services.fleet.state("good")["in_flight"] == 0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.005)
