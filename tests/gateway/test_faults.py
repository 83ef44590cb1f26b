"""Every fault of an upstream × (whole, stream) × (alone, with a fallback): what the client gets."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.testing import FakeUpstream, build_completion, build_stream
from tests.fakes.serving import LiveApp, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

BEFORE = {
    "status-500": (502, "upstream_status"),
    "status-503": (503, "upstream_status"),
    "status-401": (502, "upstream_status"),
    "status-403": (502, "upstream_status"),
    "status-408": (504, "upstream_status"),
    "status-429": (429, "upstream_status"),
    "status-302": (502, "upstream_status"),
    "garbage": (502, "upstream_garbage"),
    "reset": (502, "upstream_reset"),
    "hang": (504, "upstream_timeout"),
    "slow-900": (504, "upstream_timeout"),
}
ONLY_STREAMS = {
    "cut-0": (502, "upstream_cut"),
    "stall-0": (504, "upstream_timeout"),
    "badchunk-0": (502, "upstream_bad_chunk"),
    "errorevent-0": (502, "upstream_error_event"),
    "silent": (502, "upstream_empty"),
}
AFTER = {
    "cut-2": "stream_cut",
    "stall-2": "stream_stall",
    "badchunk-2": "stream_bad_chunk",
    "errorevent-2": "stream_error_event",
}
REFUSED = ["status-400", "status-413", "status-422"]
UNSUPPORTED = ["status-404", "status-405", "status-409", "status-424", "status-451"]
PATIENCE = {"connect_s": 0.5, "first_token_s": 0.4, "between_tokens_s": 0.3, "total_s": 0.6}


def experts(base: str) -> list[dict[str, object]]:
    names = [*BEFORE, *ONLY_STREAMS, *AFTER, *REFUSED, *UNSUPPORTED, "nodone", "toolong", "good"]
    there: list[dict[str, object]] = [
        {"name": name, "model": f"openai/{name}", "api_base": base} for name in names
    ]
    return [*there, {"name": "nowhere", "model": "openai/x", "api_base": "http://127.0.0.1:1/v1"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    journal = str(tmp_path_factory.mktemp("faults") / "journal.sqlite3")
    config = {"experts": experts(upstream.base_url), "timeouts": PATIENCE}
    async with gateway(config, journal, "good") as running:
        yield running


@pytest.fixture(autouse=True)
def close_circuits(live: LiveApp) -> None:
    live.close_circuits()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BEFORE)
async def test_a_fault_before_the_first_token_is_an_error_in_openais_envelope(
    live: LiveApp, fault: str, stream: bool
) -> None:
    answer = await live.chat(fault, stream=stream)
    status, code = BEFORE[fault]
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["type"] == "upstream_error"
    assert fault in answer.error["message"]
    assert "sk-secret" not in answer.error["message"] or fault not in ("status-401", "status-403")


@pytest.mark.parametrize("fault", ONLY_STREAMS)
async def test_a_stream_that_fails_before_its_first_token_is_an_error_with_a_status(
    live: LiveApp, fault: str
) -> None:
    answer = await live.chat(fault, stream=True)
    assert (answer.status, answer.error["code"]) == ONLY_STREAMS[fault]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [*BEFORE, "nowhere", "toolong"])
async def test_a_fault_before_the_first_token_moves_on_to_the_fallback(
    live: LiveApp, fault: str, stream: bool
) -> None:
    answer = await live.chat(fault, stream=stream, router={"fallbacks": ["good"]})
    assert (answer.status, answer.expert) == (200, "good")
    assert answer.headers["x-thalamus-reason"] == f"asked for by name; fallback: {fault} failed"
    assert answer.body == (b"".join(build_stream("good")) if stream else build_completion("good"))
    record = await live.read_record(answer)
    assert [attempt["verdict"] for attempt in record["attempts"]] == ["moved_on", "answered"]


@pytest.mark.parametrize("fault", ONLY_STREAMS)
async def test_a_stream_that_fails_before_its_first_token_falls_back(live: LiveApp, fault: str) -> None:
    answer = await live.chat(fault, stream=True, router={"fallbacks": ["good"]})
    assert (answer.status, answer.expert, answer.body) == (200, "good", b"".join(build_stream("good")))


@pytest.mark.parametrize("fallbacks", [[], ["good"]])
@pytest.mark.parametrize("fault", AFTER)
async def test_after_the_first_token_nothing_is_retried_and_the_stream_says_so(
    live: LiveApp, upstream: FakeUpstream, fault: str, fallbacks: list[str]
) -> None:
    n_good, n_fault = upstream.n_calls("good"), upstream.n_calls(fault)
    answer = await live.chat(fault, stream=True, router={"fallbacks": fallbacks})
    sent = [event for event in build_stream(fault) if b"[DONE]" not in event]
    kept = b"".join(sent[:2])
    assert answer.status == 200
    assert answer.body.startswith(kept)
    assert b"[DONE]" not in answer.body
    assert answer.body[len(kept) :].startswith(b'data: {"error":{')
    assert AFTER[fault].encode() in answer.body[len(kept) :]
    assert answer.body.endswith(b"\n\n")
    assert (upstream.n_calls("good"), upstream.n_calls(fault)) == (n_good, n_fault + 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", REFUSED)
async def test_other_refusals_go_back_as_they_are(live: LiveApp, fault: str, stream: bool) -> None:
    answer = await live.chat(fault, stream=stream, router={"fallbacks": ["good"]})
    assert answer.status == int(fault.removeprefix("status-"))
    assert answer.error["type"] == "mock_error"
    assert answer.expert is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", UNSUPPORTED)
async def test_what_one_expert_cannot_take_moves_on_and_goes_back_where_none_is_left(
    live: LiveApp, fault: str, stream: bool
) -> None:
    for _ in range(4):
        moved = await live.chat(fault, stream=stream, router={"fallbacks": ["good"]})
        assert (moved.status, moved.expert) == (200, "good")
    alone = await live.chat(fault, stream=stream)
    assert (alone.status, alone.error["type"]) == (int(fault.removeprefix("status-")), "mock_error")
    assert live.services.fleet.state(fault)["state"] == "closed"


async def test_b02_a_finish_reason_is_an_end_without_done(live: LiveApp, upstream: FakeUpstream) -> None:
    for _ in range(6):
        answer = await live.chat("nodone", stream=True)
        assert (answer.status, answer.body) == (200, b"".join(build_stream("nodone")) + b"data: [DONE]\n\n")
    assert upstream.n_calls("nodone") == 6
    state = live.services.fleet.state("nodone")
    assert (state["state"], state["n_failed"]) == ("closed", 0)


async def test_too_long_a_context_goes_back_as_it_is_when_nobody_is_left(live: LiveApp) -> None:
    answer = await live.chat("toolong")
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")


async def test_what_an_upstream_says_of_its_key_reaches_nobody(live: LiveApp) -> None:
    for fault in ("status-401", "status-403"):
        answer = await live.chat(fault)
        assert b"sk-secret" not in answer.body
        assert "sk-secret" not in str(await live.read_record(answer))
    assert "sk-secret" not in str([live.services.fleet.state(name) for name in ("status-401", "status-403")])


async def test_nobody_at_the_address_is_an_error(live: LiveApp) -> None:
    answer = await live.chat("nowhere")
    assert (answer.status, answer.error["code"]) == (502, "upstream_connect")
