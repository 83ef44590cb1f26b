"""Promises of the gateway that once had no test; each fails when its promise is broken."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app import build_application, build_services
from gateway.config import Config
from gateway.experts.http_client import Transport
from gateway.experts.types import UpstreamError
from gateway.fleet.circuit_breaker import CallSource, CircuitBreaker
from gateway.openai import events
from gateway.openai.answers import InputDetails, OutputDetails, Price, Usage, cost_usd
from gateway.requests.options import parse_routing_options
from gateway.testing import FakeUpstream
from policies import Objective
from tests.fakes.serving import LiveApp, live, secret

BROKEN = UpstreamError("status", "answered 500", status=500)


def cooldown_s(*errors: UpstreamError) -> float:
    """How long a deployment is left alone after these failures, all at second 100."""
    breaker = CircuitBreaker()
    for n, error in enumerate(errors):
        breaker.record_failure(error, 100.0, CallSource(None, {"prompt": b"%d" % n}))
    return breaker.wait_s(100.0)


@pytest.mark.parametrize(
    ("asked_s", "obeyed_s"),
    [(0, [1, 2, 4, 8]), (7, [7, 7, 7, 8]), (61, [60, 61, 61, 61]), (3599, [60, 300, 1200, 3599])]
    + [(asked_s, [60, 300, 1200, 3600]) for asked_s in (3601, 86400, 1e9)],
)
def test_retry_after_is_obeyed_for_at_most_an_hour_and_a_long_one_is_tested(
    asked_s: float, obeyed_s: list[float]
) -> None:
    limited = UpstreamError("status", "answered 429", status=429, retry_after_s=asked_s)
    assert cooldown_s(limited, limited) == obeyed_s[0]
    # Each further call that is refused again is a probe.
    assert [cooldown_s(*[limited] * n) for n in range(2, 6)] == obeyed_s
    assert cooldown_s(limited, limited, BROKEN, BROKEN) >= obeyed_s[0]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, None])
def test_a_cooldown_that_no_upstream_asked_for_lasts_at_most_a_minute(status: int | None) -> None:
    failures = [UpstreamError("status", "failed", status=status)] * 50
    pauses = [cooldown_s(*failures[:n]) for n in range(51)]
    assert max(pauses) <= 60
    assert pauses == sorted(pauses)
    if status not in (401, 403):
        assert pauses[-1] == 60


@contextlib.asynccontextmanager
async def routed(folder: Path, *experts: dict[str, Any]) -> AsyncIterator[LiveApp]:
    """The gateway with its own router, which knows nothing but the operator's guesses of quality."""
    config = {
        "experts": list(experts),
        "embeddings": {"enabled": False},
        "routing": {"artifact": str(folder / "none")},
        "journal": {"path": str(folder / "journal.sqlite3")},
    }
    transport = Transport()
    services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
    async with (
        live(build_application(services, transport)) as address,
        aiohttp.ClientSession() as http,
    ):
        yield LiveApp(f"{address}/v1", services, http)


async def test_a_request_gets_503_where_time_helps_and_400_where_it_does_not(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        good = {"name": "good", "model": "openai/good", "api_base": upstream.base_url, "quality": 0.5}
        out = {"name": "out", "model": "openai/rated-30", "api_base": upstream.base_url, "quality": 0.9}
        async with routed(tmp_path, good, out) as gateway:
            for prompt in ("one", "two"):  # and it is to be left alone for 30 s
                messages = [{"role": "user", "content": prompt}]
                assert (await gateway.chat("out", messages=messages)).status == 429
            never = await gateway.chat("auto", router={"min_quality": 0.95})
            assert (never.status, never.error["type"]) == (400, "invalid_request_error")
            assert "retry-after" not in never.headers
            later = await gateway.chat("auto", router={"min_quality": 0.8})
            assert (later.status, later.headers["retry-after"]) == (503, "5")
            strict = await gateway.chat("auto", router={"models": ["out"], "min_quality": 0.95})
            assert strict.status == 400
            assert (await gateway.chat("auto", router={"min_quality": 0.4})).expert == "good"


async def test_an_expert_answers_to_its_model_the_first_of_those_that_share_one(tmp_path: Path) -> None:
    async with FakeUpstream() as upstream:
        experts = [
            {"name": name, "model": "openai/good", "api_base": upstream.base_url} for name in ("one", "two")
        ]
        async with routed(tmp_path, *experts) as gateway:
            assert (await gateway.chat("openai/good")).expert == "one"
            assert (await gateway.chat("two")).expert == "two"


ASKED: list[tuple[str, Any, str, str, Any]] = [
    ("policy", "a", "policy", "b", "a"),
    ("weights", {"cost": 0.3}, "weights", "cost=0.7", Objective(cost=0.3)),
    ("cost_quality_tradeoff", 3, "weights", "cost=0.7", Objective(cost=0.3)),
    ("weights", {"cost": 0.3}, "cost-quality-tradeoff", "7", Objective(cost=0.3)),
    ("max_usd_per_1k", 0.3, "max-usd-per-1k", "0.7", Objective(max_usd_per_1k=0.3)),
    ("target_quality", 0.3, "target-quality", "0.7", Objective(target_quality=0.3)),
    ("session_id", "a", "session-id", "b", "a"),
    ("flags", ["CHEAP"], "flags", "FAST", ("cheap",)),
]


@pytest.mark.parametrize(("field", "value", "header", "text", "expected"), ASKED)
def test_the_body_wins_over_headers(field: str, value: Any, header: str, text: str, expected: Any) -> None:
    fields = {"router": msgspec.Raw(msgspec.json.encode({field: value}))}
    headers = {f"x-thalamus-{header}".encode(): text.encode()}
    options = parse_routing_options(fields, headers)
    objective = options.hints.objective if options.hints else None
    found = {
        "policy": options.policy,
        "session_id": options.session_id,
        "flags": tuple(flag.name for flag in options.flags),
    }.get(field, objective)
    assert found == expected


COUNTS = st.none() | st.integers(0, 1000)


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.none() | st.floats(0, 1), st.none() | st.floats(0, 1))
def test_cached_tokens_never_make_a_cost_negative(
    n_input: int | None,
    n_output: int | None,
    n_cached: int | None,
    n_hit: int | None,
    n_reasoning: int | None,
    cached_usd: float | None,
    reasoning_usd: float | None,
) -> None:
    usage = Usage(
        n_input,
        n_output,
        None,
        InputDetails(n_cached),
        OutputDetails(n_reasoning),
        prompt_cache_hit_tokens=n_hit,
    )
    cost = cost_usd(usage, Price(0.5, 0.5, cached_usd, reasoning_usd))
    assert cost is None or cost >= 0
    assert cost_usd(Usage(10, 0, prompt_tokens_details=InputDetails(1000)), Price(1.0, 1.0, 0.0)) == 0
    thought = Usage(0, 10, completion_tokens_details=OutputDetails(1000))
    assert cost_usd(thought, Price(1.0, 1.0, reasoning_usd=0.0)) == 0


class CountingPattern:
    """A compiled pattern that counts the bytes it is given to search."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern, self.n_bytes = pattern, 0

    def search(self, data: bytes, start: int = 0) -> re.Match[bytes] | None:
        self.n_bytes += len(data) - start
        return self.pattern.search(data, start)

    def finditer(self, data: bytes, start: int = 0) -> Any:
        self.n_bytes += len(data) - start
        return self.pattern.finditer(data, start)


@pytest.mark.parametrize("n_read", [64, 1000])
def test_a_huge_event_in_small_reads_is_scanned_once(monkeypatch: pytest.MonkeyPatch, n_read: int) -> None:
    counting = CountingPattern(events.EVENT_END)
    monkeypatch.setattr(events, "EVENT_END", counting)
    content = b"x" * 200_000
    huge = b'data: {"choices": [{"delta": {"content": "' + content + b'"}}]}\n\n'
    splitter = events.EventSplitter()
    out = [splitter.feed(huge[start : start + n_read]) for start in range(0, len(huge), n_read)]
    assert b"".join(out) == huge
    # Each read is looked at with the few bytes before it that may begin an end of an event.
    assert counting.n_bytes < 1.1 * len(huge)
