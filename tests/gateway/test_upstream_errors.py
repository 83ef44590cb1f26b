"""What an expert says went wrong is read, also inside a 200: whose fault it is decides what follows."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.testing import build_chunk, build_completion
from tests.fakes.odd_upstream import OddUpstream, Script, events, good_stream, json_answer
from tests.fakes.serving import LiveApp, gateway

TOO_LONG = "This model's maximum context length is 2048 tokens. However, you requested 9000 tokens."
BAD = "the value of 'stop' must be a string"


def openai(message: str, **more: object) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **more}}


REFUSED = {
    "number": openai(BAD, code=400),
    "number as text": openai(BAD, code="400"),
    "type": openai(BAD, type="invalid_request_error"),
    "class name": openai(BAD, type="BadRequestError"),
    "code word": openai(BAD, code="invalid_value", type="invalid_request_error"),
    "old vLLM": {"object": "error", "message": BAD, "type": "BadRequestError", "param": None, "code": 40302},
    "Anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": BAD}},
    "Google": [{"error": {"code": 400, "message": BAD, "status": "INVALID_ARGUMENT"}}],
    "status beside": {"error": BAD, "status": 400},
    "text with a code": {"error": f"Error code: 400 - {BAD}"},
    "bare text": f"400 Bad Request: {BAD}",
    "FastAPI": {"detail": [{"loc": ["body", "stop"], "msg": BAD, "type": "string_type"}]},
    "AWS": {"__type": "ValidationException", "message": BAD},
    "choice": {"choices": [{"index": 0, "error": {"code": 400, "message": BAD}, "finish_reason": "error"}]},
}
LONG = {
    "number": openai(TOO_LONG, code=400, type="BadRequestError"),
    "code word": openai("too much", code="context_length_exceeded", type="invalid_request_error"),
    "old vLLM": {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "code": 40303},
    "Anthropic": {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "prompt is too long: 9"},
    },
    "too large": {"type": "error", "error": {"type": "request_too_large", "message": "over the limit"}},
    "bare text": f"Error: {TOO_LONG}",
    "detail": {"detail": TOO_LONG},
    "server": openai(
        "the request exceeds the available context size", code=500, type="exceed_context_size_error"
    ),
    "larger than the quota of a minute": openai("Request too large for model x", code="rate_limit_exceeded"),
}
WAITS = {
    "number": (openai("slow down", code=429), 429),
    "code word": (openai("Limit reached", type="requests", code="rate_limit_exceeded"), 429),
    "Google": ([{"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}], 429),
    "AWS": ({"__type": "ThrottlingException", "message": "Too many requests"}, 429),
    "Anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 503),
    "529": (openai("Overloaded", code=529), 503),
    "503": (openai("loading", code=503), 503),
    "detail": ({"detail": "Too Many Requests"}, 429),
    "Alibaba": ({"code": "Throttling.RateQuota", "message": "no", "request_id": "r"}, 429),
    "message": ({"error_code": 336501, "error_msg": "rpm limit reached"}, 429),
    "list": ({"error": [{"message": "slow down", "code": 429}]}, 429),
    "bare text": ("rate limit reached", 429),
    "quota": (
        openai("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota"),
        429,
    ),
}
OURS = {
    "key": openai(
        "Incorrect API key provided: sk-secret123456", type="invalid_request_error", code="invalid_api_key"
    ),
    "Google's key": [
        {
            "error": {
                "code": 400,
                "message": "API key not valid. sk-secret123456",
                "status": "INVALID_ARGUMENT",
                "details": [{"@type": "x/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
            }
        }
    ],
    "credit": {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"},
    },
    "server": openai("it broke", code=502, type="rate_limit"),
    "no code": openai("over"),
}


def scripts() -> dict[str, Script]:
    """Each error, whole and as the only event of a stream."""
    said = {
        **{f"refused {name}": body for name, body in REFUSED.items()},
        **{f"long {name}": body for name, body in LONG.items()},
        **{f"waits {name}": body for name, (body, _) in WAITS.items()},
        **{f"ours {name}": body for name, body in OURS.items()},
    }
    both: dict[str, Script] = {}
    for name, body in said.items():
        slug = name.replace(" ", "-").replace("'", "")
        both[f"{slug}.whole"] = json_answer(body)
        both[f"{slug}.stream"] = events(body)
    both["large"] = json_answer(build_completion("large"))
    both["large-stream"] = Script(good_stream("from ", "afar"))
    return both


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[OddUpstream]:
    async with OddUpstream(scripts()).serve() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: OddUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    journal = str(tmp_path_factory.mktemp("errors") / "journal.sqlite3")
    async with gateway({"experts": upstream.experts()}, journal, "large") as running:
        yield running


def build_name(group: str, name: str, stream: bool) -> str:
    slug = f"{group} {name}".replace(" ", "-").replace("'", "")
    return f"{slug}.{'stream' if stream else 'whole'}"


def state(live: LiveApp, name: str) -> dict[str, object]:
    return live.services.fleet.state(name)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", REFUSED)
async def test_b04_a_bad_request_inside_a_200_goes_back_with_the_experts_text_and_cools_none(
    live: LiveApp, upstream: OddUpstream, form: str, stream: bool
) -> None:
    name = build_name("refused", form, stream)
    n_large = upstream.n_calls["large"]
    for _ in range(4):
        answer = await live.chat(name, stream=stream, router={"fallbacks": ["large"]})
        assert answer.status == (422 if form == "FastAPI" else 400)
        assert BAD in answer.error["message"]
        assert "json" in answer.headers["content-type"]
    assert (upstream.n_calls[name], upstream.n_calls["large"]) == (4, n_large)
    assert (state(live, name)["state"], state(live, name)["n_failed"]) == ("closed", 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", LONG)
async def test_b04_a_prompt_that_is_too_long_moves_on_to_the_next_expert(
    live: LiveApp, form: str, stream: bool
) -> None:
    name = build_name("long", form, stream)
    larger = "large-stream" if stream else "large"
    for _ in range(4):
        answer = await live.chat(name, stream=stream, router={"fallbacks": [larger]})
        assert (answer.status, answer.expert) == (200, larger)
    alone = await live.chat(name, stream=stream)
    assert alone.status == 400
    assert alone.error["message"]
    assert (state(live, name)["state"], state(live, name)["n_failed"]) == ("closed", 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", WAITS)
async def test_b05_a_limit_inside_a_200_cools_the_expert_and_is_told_as_what_it_is(
    live: LiveApp, form: str, stream: bool
) -> None:
    name = build_name("waits", form, stream)
    answer = await live.chat(name, stream=stream)
    assert (answer.status, answer.error["type"]) == (WAITS[form][1], "upstream_error")
    another = [{"role": "user", "content": "Another"}]
    assert (await live.chat(name, stream=stream, messages=another)).status == WAITS[form][1]
    if form != "503":  # that alone may pass at once, as a status 503 without a wait
        assert state(live, name)["state"] == "open"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", OURS)
async def test_b05_what_is_wrong_between_gateway_and_expert_is_no_400(
    live: LiveApp, form: str, stream: bool
) -> None:
    name = build_name("ours", form, stream)
    answer = await live.chat(name, stream=stream)
    assert answer.status == (429 if form == "credit" else 502)
    assert answer.error["code"] != "upstream_garbage"
    assert "sk-secret" not in str(answer.body) + str(state(live, name)["last_error"])
    assert state(live, name)["n_failed"] == 1
    passed = await live.chat(
        name, stream=stream, router={"fallbacks": ["large-stream" if stream else "large"]}
    )
    assert passed.status == 200


async def test_b06_a_refused_client_takes_the_expert_from_none(live: LiveApp) -> None:
    name = build_name("refused", "number", True)
    for _ in range(5):
        assert (await live.chat(name, stream=True)).status == 400
    assert live.services.fleet.admit(name)
    live.services.fleet.release(name)


async def test_an_error_after_the_first_token_ends_the_stream_with_its_text(tmp_path: Path) -> None:
    chunk = build_chunk("m", {"content": "x"})
    broken = Script([chunk, b'data: {"error": {"message": "fell over", "code": 502}}\n\n'])
    refused = Script([chunk, b'event: error\ndata: {"message": "no such tool", "code": 400}\n\n'])
    async with (
        OddUpstream({"broken": broken, "refused": refused}).serve() as odd,
        gateway({"experts": odd.experts()}, str(tmp_path / "j"), "broken") as live,
    ):
        for name, text, n_failed in (("broken", "fell over", 1), ("refused", "no such tool", 0)):
            answer = await live.chat(name, stream=True)
            last = answer.events[-1]
            assert answer.status == 200
            assert text.encode() in last and b"stream_error_event" in last  # noqa: PT018
            assert live.services.fleet.state(name)["n_failed"] == n_failed
