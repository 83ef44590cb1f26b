"""The circuit seen from outside: what clients get while experts fail, and whom a bad request harms."""

import asyncio
import contextlib
import errno
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from gateway.execution.executor import ExecutionRequest, ExecutionTrace, PlanExecutor
from gateway.experts.deployments import find_shortage, transport_failure
from gateway.experts.http_client import ConnectError
from gateway.experts.types import Call, Reply, UpstreamError
from gateway.fleet.circuit_breaker import N_IN_A_ROW
from gateway.fleet.health import FleetState
from gateway.testing import FakeUpstream
from policies import Single
from tests.fakes.serving import LiveApp, gateway

BROKEN = UpstreamError("status", "answered 500", status=500)
_numbers = itertools.count()


def say(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def new() -> dict[str, Any]:
    """A request that was not made before."""
    return say(f"number {next(_numbers)}")


class ManualClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class ScriptedExpert:
    """Fails with what it is told for prompts that hold a word, and answers all else."""

    def __init__(self, name: str, **failures: UpstreamError) -> None:
        self.name = name
        self.failures = failures
        self.n_calls = 0

    async def call(self, call: Call) -> Reply:
        self.n_calls += 1
        prompt = bytes(call.fields["messages"]).decode()
        for word, error in self.failures.items():
            if word in prompt:
                raise error
        return Reply(b'{"choices": [{"message": {"content": "ok"}}]}')

    def share(self, n_replicas: int) -> None:
        """There are no limits."""

    async def close(self) -> None:
        """Nothing is held."""


@contextlib.asynccontextmanager
async def serve(folder: Path, *names: str, **config: Any) -> AsyncIterator[tuple[LiveApp, FakeUpstream]]:
    """A gateway whose `auto` asks these models of a fake upstream, in this order."""
    async with FakeUpstream() as upstream:
        experts = [
            {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url}
            for name in dict.fromkeys((*names, "good"))
        ]
        async with gateway({"experts": experts, **config}, str(folder / "j.sqlite3"), *names) as live:
            yield live, upstream


@contextlib.asynccontextmanager
async def serve_script(
    folder: Path, **failures: UpstreamError
) -> AsyncIterator[tuple[LiveApp, ScriptedExpert]]:
    """A gateway whose `auto` asks an expert that fails on some words, and then one that is good."""
    async with serve(folder, "shared", "good") as (live, _):
        expert = ScriptedExpert("shared", **failures)
        live.services.experts["shared"] = expert  # type: ignore[index]
        yield live, expert


# -- poison


POISON = {
    "moderation": UpstreamError("status", "answered 403", status=403),
    "forwarded key": UpstreamError("status", "answered 401", status=401),
    "oversized": UpstreamError("status", "answered 429", status=429, retry_after_s=86400),
    "oversized without a wait": UpstreamError("status", "answered 429", status=429),
    "death": UpstreamError("status", "answered 500", status=500),
    "reset": UpstreamError("reset", "closed the connection without an answer"),
    "silence": UpstreamError("timeout", "took longer than its time-out allows"),
    "overload": UpstreamError("status", "answered 503", status=503, retry_after_s=3600),
    "model": UpstreamError("status", "answered 404", status=404),
    "redirect": UpstreamError("status", "answered 308", status=308),
    "credit": UpstreamError("quota", "answered 402", status=402),
}
NO_FAULT = {
    "parameters": UpstreamError("unsupported", "was not called: LiteLLM could not translate", status=400),
    "files": UpstreamError(
        "unsent", "was not called: the gateway is out of free file descriptors", status=503
    ),
}


@pytest.mark.parametrize("kind", [*POISON, *NO_FAULT])
@pytest.mark.parametrize("through", ["shared", "auto"])
async def test_a_bad_request_that_is_repeated_takes_the_expert_from_none(
    tmp_path: Path, kind: str, through: str
) -> None:
    async with serve_script(tmp_path, bad={**POISON, **NO_FAULT}[kind]) as (live, _):
        for _ in range(40):
            await live.chat(through, **say("bad"))
        answer = await live.chat("auto", **say("fine"))
        assert (answer.status, answer.expert) == (200, "shared")
        assert live.services.fleet.state("shared")["state"] == "closed"


@pytest.mark.parametrize("kind", [*POISON, *NO_FAULT])
async def test_different_bad_requests_among_good_ones_take_it_from_none(tmp_path: Path, kind: str) -> None:
    async with serve_script(tmp_path, bad={**POISON, **NO_FAULT}[kind]) as (live, _):
        for n in range(30):
            await live.chat("shared", **say(f"bad {n}"))
            answer = await live.chat("auto", **say(f"fine {n}"))
            assert (answer.status, answer.expert) == (200, "shared")


@pytest.mark.parametrize("kind", NO_FAULT)
async def test_what_is_no_fault_of_the_expert_never_opens_its_circuit(tmp_path: Path, kind: str) -> None:
    async with serve_script(tmp_path, bad=NO_FAULT[kind]) as (live, expert):
        for n in range(60):
            await live.chat("shared", **say(f"bad {n}"))
        assert expert.n_calls == 60
        assert (await live.chat("auto", **say("fine"))).expert == "shared"


# -- a dead expert


async def test_a_named_call_of_a_dead_expert_fails_fast_with_the_wait(tmp_path: Path) -> None:
    async with serve(tmp_path, "status-500", "good") as (live, upstream):
        answers = [await live.chat("status-500", **new()) for _ in range(40)]
        assert [answer.status for answer in answers] == [502] * N_IN_A_ROW + [503] * (40 - N_IN_A_ROW)
        assert answers[-1].error["code"] == "experts_unavailable"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 5
        assert upstream.n_calls("status-500") == N_IN_A_ROW
        assert (await live.chat("status-500", **new(), router={"fallbacks": ["good"]})).expert == "good"
        assert upstream.n_calls("status-500") == N_IN_A_ROW


async def test_the_state_of_a_circuit_is_seen_in_models_and_metrics(tmp_path: Path) -> None:
    async with serve(tmp_path, "status-500", "good") as (live, _):
        for _ in range(N_IN_A_ROW):
            await live.chat("auto", **new())
        async with live.http.get(f"{live.base}/models/status-500") as response:
            facts = (await response.json())["thalamus"]
        assert (facts["state"], facts["failure_rate"], facts["n_opened"]) == ("open", 1.0, 1)
        assert 0 < facts["cooldown_s"] <= 5
        async with live.http.get(live.base.removesuffix("/v1") + "/metrics") as response:
            lines = (await response.text()).splitlines()
        for line in (
            'thalamus_circuit_open{expert="status-500"} 1.0',
            'thalamus_circuit_open{expert="good"} 0.0',
            'thalamus_circuit_opened_total{expert="status-500"} 1.0',
            'thalamus_circuit_held_off{expert="status-500"} 0.0',
            'thalamus_failure_rate{expert="status-500"} 1.0',
            'thalamus_further_attempts_total{result="made"} 8.0',
            'thalamus_further_attempts_total{result="spared"} 0.0',
        ):
            assert line in lines


async def test_a_stream_that_goes_on_does_not_hold_the_circuit_half_open(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serve(tmp_path, "stall-3", "good") as (live, upstream):
        fleet = live.services.fleet
        fleet._clock = clock
        for _ in range(N_IN_A_ROW):
            fleet.admit("stall-3", None, fields := {"prompt": b"%d" % next(_numbers)})
            fleet.record_failure("stall-3", BROKEN, 0.0, None, fields)
        clock.now += 5
        assert fleet.state("stall-3")["state"] == "half-open"
        body = {"model": "stall-3", "stream": True, **new()}
        async with live.http.post(f"{live.base}/chat/completions", json=body) as response:
            await response.content.readany()  # the first token is there, the stream goes on
            assert fleet.state("stall-3")["state"] == "closed"
            assert fleet.state("stall-3")["in_flight"] == 1
            assert upstream.n_calls("stall-3") == 1


# -- how often, how long


async def test_in_an_outage_of_all_experts_few_further_calls_are_made(tmp_path: Path) -> None:
    names = ("status-500", "status-502", "reset")
    async with serve(tmp_path, *names) as (live, upstream):
        n_clients = 100
        for _ in range(n_clients):
            assert (await live.chat("auto", **new())).status in (502, 503)
        n_calls = sum(upstream.n_calls(name) for name in names)
        assert n_calls == 3 * N_IN_A_ROW
        assert n_calls <= 1.3 * n_clients


async def test_without_a_token_an_expert_that_failed_last_is_passed_over() -> None:
    fleet = FleetState(["a", "b", "c"], {}, ManualClock())
    experts = {
        "a": ScriptedExpert("a", x=BROKEN),
        "b": ScriptedExpert("b", x=BROKEN),
        "c": ScriptedExpert("c"),
    }
    executor = PlanExecutor(experts, fleet)
    made = []
    for n in range(5):
        call = Call("chat/completions", {"messages": Raw(b"x %d" % n)})
        trace = ExecutionTrace("", fields=call.fields)
        await executor.execute(ExecutionRequest(call, Single(("a", "b", "c")), "auto", ""), trace)
        assert trace.answered == "c"
        made.append(experts["b"].n_calls)
    assert made == [1, 2, 3, 3, 3]
    assert [attempt.verdict for attempt in trace.attempts] == ["moved_on", "skipped", "answered"]
    assert "too many further attempts fail" in (trace.attempts[1].error or "")
    # An answer of its own brings it back.
    fleet.admit("b")
    fleet.record_success("b", 0.0)
    await executor.execute(ExecutionRequest(call, Single(("a", "b", "c")), "auto", ""), trace)
    assert experts["b"].n_calls == 4


async def test_a_fallback_that_answers_is_never_refused(tmp_path: Path) -> None:
    async with serve(tmp_path, "status-500", "flaky-20", "good") as (live, _):
        fleet = live.services.fleet
        while fleet.retries.has_token(None):
            fleet.retries.charge(None)
        for _ in range(200):
            live.close_circuits()  # so that each request fails first
            assert (await live.chat("auto", **new())).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_one_deadline_holds_over_all_attempts(tmp_path: Path, stream: bool) -> None:
    timeouts = {"total_s": 0.6, "first_token_s": 0.4, "between_tokens_s": 0.4}
    async with serve(tmp_path, "hang-1", "hang-2", "hang-3", timeouts=timeouts) as (live, upstream):
        loop = asyncio.get_running_loop()
        start = loop.time()
        answer = await live.chat("auto", stream=stream, **new())
        took_s = loop.time() - start
        assert answer.status == 504
        assert took_s >= 0.55
        # Three attempts of their own would have taken at least 1.2 s, and stopped none.
        record = await live.read_record(answer)
        assert [attempt["expert"] for attempt in record["attempts"]] == ["hang-1", "hang-2"]
        assert "left for all attempts" in record["attempts"][-1]["error"]
        assert live.services.fleet.state("hang-2")["n_failed"] == 0
        assert upstream.n_calls("hang-3") == 0


async def test_the_deadline_cuts_the_stream_of_a_further_attempt(tmp_path: Path) -> None:
    timeouts = {"total_s": 0.6, "first_token_s": 0.3, "between_tokens_s": 60}
    async with serve(tmp_path, "hang", "stall-3", timeouts=timeouts) as (live, _):
        answer = await live.chat("auto", stream=True, **new())
        assert (answer.status, answer.expert) == (200, "stall-3")
        assert b"longer in all than its time-out allows" in answer.events[-1]


async def test_a_silent_plain_call_falls_back_after_the_time_of_a_first_token(tmp_path: Path) -> None:
    timeouts = {"total_s": 60, "first_token_s": 0.2, "between_tokens_s": 60}
    async with serve(tmp_path, "hang", "good", timeouts=timeouts) as (live, upstream):
        async with asyncio.timeout(20):
            answer = await live.chat("auto", **new())
            assert (answer.status, answer.expert) == (200, "good")
            named = await live.chat("hang", **new(), router={"fallbacks": ["good"]})
            assert (named.status, named.expert) == (200, "good")
            while upstream.aborted != ["hang", "hang"]:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)


async def test_a_silent_plain_call_that_no_other_can_answer_is_waited_for(tmp_path: Path) -> None:
    timeouts = {"total_s": 60, "first_token_s": 0.1, "between_tokens_s": 60}
    async with serve(tmp_path, "slow-300", "status-500", timeouts=timeouts) as (live, _):
        assert (await live.chat("slow-300", **new())).status == 200
        for _ in range(N_IN_A_ROW):
            await live.chat("status-500", **new())
        # Its circuit is open: there is an expert to fall back on, and it would not answer.
        live.services.experts["slow-300"].deployments[0]._longest_s = 0.0  # type: ignore[attr-defined]
        answer = await live.chat("auto", **new())
        assert (answer.status, answer.expert) == (200, "slow-300")


async def test_a_plain_call_may_take_twice_as_long_as_the_longest_answer_of_late(tmp_path: Path) -> None:
    timeouts = {"total_s": 60, "first_token_s": 0.05, "between_tokens_s": 60}
    async with serve(tmp_path, "slow-300", "good", timeouts=timeouts) as (live, _):
        assert (await live.chat("auto", **new())).expert == "good"
        assert (await live.chat("slow-300", **new())).expert == "slow-300"
        assert (await live.chat("auto", **new())).expert == "slow-300"


# -- what the gateway itself lacks


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_what_the_gateway_lacks_is_told_as_that(number: int) -> None:
    lack = OSError(number, "lack")
    unconnected = ConnectError()
    unconnected.__cause__ = lack
    for error in (lack, unconnected):
        failure = transport_failure(error)
        assert (failure.kind, failure.faults_expert, failure.client_status) == ("unsent", False, 503)
        assert "the gateway is out of" in failure.message
    assert transport_failure(MemoryError()).kind == "unsent"
    assert transport_failure(ConnectionResetError()).kind == "reset"
    assert find_shortage([ConnectionRefusedError(errno.ECONNREFUSED, "x")]) is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [402, 404, 405, 409, 424, 451])
async def test_these_statuses_move_on_and_keep_the_expert_for_others(
    tmp_path: Path, status: int, stream: bool
) -> None:
    async with serve(tmp_path, f"status-{status}", "good") as (live, _):
        for _ in range(3):
            answer = await live.chat("auto", stream=stream, **new())
            assert (answer.status, answer.expert) == (200, "good")
        assert live.services.fleet.state(f"status-{status}")["state"] == "closed"
