"""What the log says: a line for each request and each failure, never a secret or a prompt."""

import asyncio
import contextlib
import io
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.config import Secret
from gateway.telemetry.logs import (
    ACCESS,
    SERVED_REQUEST,
    AccessFacts,
    AccessRecord,
    Lines,
    QueuedHandler,
    Redactor,
    ServerLog,
    join_lines,
)
from gateway.testing import FakeUpstream
from tests.fakes.odd_upstream import OddUpstream, json_answer
from tests.fakes.serving import LiveApp, gateway

PROMPT = "my grandmother's maiden name is Ludmilla"
KEY = "correct-horse-battery-staple"
PASSWORD = "hunter2hunter2"
QUERY = "abcd1234efgh"
PATIENCE = {"connect_s": 0.5, "first_token_s": 0.4, "between_tokens_s": 0.3, "total_s": 0.6}


class LogReader:
    """The log of a gateway in this process."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    async def lines(self, pattern: str, n: int = 1) -> list[str]:
        """The lines that match, once there are `n`."""
        deadline = time.monotonic() + 10
        while (
            len(found := [line for line in self.stream.getvalue().splitlines() if re.search(pattern, line)])
            < n
        ):
            assert time.monotonic() < deadline, self.stream.getvalue()
            await asyncio.sleep(0.01)
        return found

    async def facts(self, event: str, n: int = 1) -> list[dict[str, Any]]:
        """The JSON lines of an event."""
        return [json.loads(line) for line in await self.lines(f'"event":"{event}"', n)]


@contextlib.asynccontextmanager
async def logged(
    folder: Path, experts: list[dict[str, Any]], *pool: str, **server: str
) -> AsyncIterator[tuple[LiveApp, LogReader]]:
    """A gateway that writes its log into a text."""
    config = {"experts": experts, "timeouts": PATIENCE, "server": server}
    reader = LogReader()
    async with gateway(config, str(folder / "journal.sqlite3"), *pool) as live:
        with ServerLog(live.services.config, reader.stream):
            yield live, reader


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


def expert(name: str, base: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "model": f"openai/{name}", "api_base": base, **more}


async def test_a_request_is_one_line_with_all_its_facts(tmp_path: Path, upstream: FakeUpstream) -> None:
    priced = expert("good", upstream.base_url, input_cost_per_token=1e-6, output_cost_per_token=1e-5)
    async with logged(tmp_path, [priced], "good") as (live, log):
        await live.chat("auto", headers={"x_request_id": "mine-7"})
        (line,) = await log.lines("POST")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    mine-7 POST /v1/chat/completions 200 model=auto"
        r" expert=good tokens=20\+5 cost_usd=7e-05 \d+\.\d ms",
        line,
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_json_lines_have_the_same_facts(tmp_path: Path, upstream: FakeUpstream, stream: bool) -> None:
    async with logged(tmp_path, [expert("usage", upstream.base_url)], "usage", log_format="json") as (
        live,
        log,
    ):
        answer = await live.chat("usage", stream=stream)
        (facts,) = await log.facts("request")
    assert facts["request_id"] == answer.headers["x-request-id"]
    assert [facts[name] for name in ("level", "method", "path", "model", "expert", "status")] == [
        "info", "POST", "/v1/chat/completions", "usage", "usage", 200
    ]  # fmt: skip
    # This upstream counts no stream, though it was asked to.
    assert (facts["input_tokens"], facts["output_tokens"]) == ((8, 6) if stream else (100, 10))
    assert facts.get("tokens_estimated", False) is stream
    assert facts["ms"] > 0


async def test_a_refused_request_and_a_get_have_lines_too(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with logged(tmp_path, [expert("good", upstream.base_url)]) as (live, log):
        await live.chat("nothing-of-this-name")
        await live.http.get(f"{live.base}/models?key={KEY}")
        await live.http.get(f"{live.base}/nowhere")
        lines = await log.lines("/v1/", 3)
    assert [re.sub(r"^\S+ \S+ +\S+ (.*) \d\S+ ms", r"\1", line) for line in lines] == [
        "POST /v1/chat/completions 404 model=nothing-of-this-name",
        "GET /v1/models 200",
        "GET /v1/nowhere 404",
    ]


async def test_a_client_that_leaves_is_a_499(tmp_path: Path, upstream: FakeUpstream) -> None:
    slow = expert("hang", upstream.base_url, timeouts={"total_s": 30, "first_token_s": 30})
    async with logged(tmp_path, [slow]) as (live, log):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await live.chat("hang")
        (line,) = await log.lines("POST")
    assert " 499 model=hang " in line


async def test_a_stream_that_breaks_off_has_the_status_of_its_failure(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    async with logged(tmp_path, [expert("cut-2", upstream.base_url)], log_format="json") as (live, log):
        answer = await live.chat("cut-2", stream=True)
        (failure,) = await log.facts("upstream_failure")
        (request,) = await log.facts("request")
    assert (answer.status, request["status"], failure["kind"]) == (200, 502, "cut")
    assert failure["request_id"] == request["request_id"]
    assert f"expert 'cut-2' ({upstream.base_url[7:-3]}) closed".encode() in answer.body


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_health_checks_are_logged_at_debug_alone(
    tmp_path: Path, upstream: FakeUpstream, level: str
) -> None:
    async with logged(tmp_path, [expert("good", upstream.base_url)], log_level=level) as (live, log):
        await live.http.get(f"{live.base.removesuffix('/v1')}/health/live")
        await live.http.get(f"{live.base}/models")
        await log.lines("/v1/models")
    assert ("/health/live" in log.stream.getvalue()) == (level == "debug")


async def test_level_warning_leaves_failures_only(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with logged(tmp_path, [expert("status-500", upstream.base_url)], log_level="warning") as (
        live,
        log,
    ):
        await live.chat("status-500")
        await log.lines("expert status-500")
    assert "POST" not in log.stream.getvalue()


FAILURES = {
    "status-401": (401, "answered 401: its key is refused", "set a valid key in HOUSE_KEY"),
    "status-403": (
        403,
        "answered 403: its key is refused or may not use the model",
        "set a key in HOUSE_KEY that may use status-403",
    ),
    "status-402": (402, "answered 402: its account may not be charged for more", "add credit to its account"),
    "status-500": (500, "answered 500", "see the log of the server at {base}"),
    "status-429": (429, "answered 429", "wait, or give the expert fallbacks"),
    "status-302": (
        302,
        "answered 302, a redirect",
        "correct model (status-302) or api_base of expert 'status-302'",
    ),
    "reset": (None, "closed the connection without an answer", "see the log of the server at {base}"),
    "hang": (None, "took longer than its time-out allows", "raise the timeouts of expert 'hang'"),
    "garbage": (None, "answered 200 with what is no answer", "see the log of the server at {base}"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_says_expert_address_cause_and_fix(
    tmp_path: Path, upstream: FakeUpstream, name: str
) -> None:
    status, cause, fix = FAILURES[name]
    secret = expert(name, upstream.base_url, api_key=Secret(KEY, variables=("HOUSE_KEY",)))
    async with logged(tmp_path, [secret], log_format="json") as (live, log):
        answer = await live.chat(name)
        (facts,) = await log.facts("upstream_failure")
    assert (facts["expert"], facts["address"], facts["status"]) == (name, upstream.base_url, status)
    assert (facts["cause"], facts["fix"][: len(fix.format(base=upstream.base_url))]) == (
        cause,
        fix.format(base=upstream.base_url),
    )
    assert facts["request_id"] == answer.headers["x-request-id"]
    assert facts["level"] == ("warning" if status == 429 else "error")


async def test_a_dead_port_says_what_to_start(tmp_path: Path) -> None:
    dead = expert("dead", "http://127.0.0.1:1/v1")
    async with logged(tmp_path, [dead]) as (live, log):
        answer = await live.chat("dead")
        (line,) = await log.lines("expert dead")
    assert line.endswith(
        "expert dead (http://127.0.0.1:1/v1) cannot be connected to; fix: start the server at"
        " http://127.0.0.1:1/v1, or correct api_base of expert 'dead'"
    )
    assert answer.error["message"] == (
        "expert 'dead' (127.0.0.1:1) cannot be connected to; the operator must start the server at"
        " 127.0.0.1:1, or correct api_base of expert 'dead'"
    )


async def test_a_deployment_that_fails_is_logged_though_another_answers(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    places = [{"api_base": "http://127.0.0.1:1/v1"}, {"api_base": upstream.base_url}]
    async with logged(tmp_path, [expert("good", "", deployments=places)], log_format="json") as (live, log):
        answers = [await live.chat("good") for _ in range(2)]
        (failure, *_) = await log.facts("upstream_failure")
        requests = await log.facts("request", 2)
    assert [answer.status for answer in answers] == [200, 200]
    assert failure["address"] == "http://127.0.0.1:1/v1"
    assert failure["request_id"] in {request["request_id"] for request in requests}


async def test_a_bad_request_is_no_failure_of_its_expert(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with logged(tmp_path, [expert("status-400", upstream.base_url)], log_format="json") as (live, log):
        await live.chat("status-400")
        (facts,) = await log.facts("upstream_failure")
    assert (facts["level"], facts["cause"], facts["fix"]) == ("info", "answered 400", None)


@pytest.mark.parametrize(
    ("secret", "fix"),
    [
        (Secret(KEY, variables=("OPENAI_API_KEY",)), "its key is refused|a valid key in OPENAI_API_KEY"),
        (Secret(KEY, literal=True), "its key is refused|a valid key in api_key of expert 'status-401'"),
        (None, "it asks for a key and none is set|api_key of expert 'status-401'"),
    ],
)
async def test_a_client_learns_expert_status_and_fix_of_a_refused_key(
    tmp_path: Path, upstream: FakeUpstream, secret: Secret | None, fix: str
) -> None:
    own = {} if secret is None else {"api_key": secret}
    async with logged(tmp_path, [expert("status-401", upstream.base_url, **own)]) as (live, _):
        answer = await live.chat("status-401")
    host = upstream.base_url.removeprefix("http://").removesuffix("/v1")
    assert answer.status == 502
    described = fix.replace("|", "; the operator must set ")
    assert answer.error["message"] == f"expert 'status-401' ({host}) answered 401: {described}"


@pytest.mark.parametrize("name", ["status-429", "status-503", "rated-7"])
async def test_limits_and_overload_say_when_to_come_back(
    tmp_path: Path, upstream: FakeUpstream, name: str
) -> None:
    async with logged(tmp_path, [expert(name, upstream.base_url)]) as (live, _):
        answer = await live.chat(name)
    assert answer.status in (429, 503)
    assert int(answer.headers["retry-after"]) == (7 if name == "rated-7" else 5)


QUOTES = {
    "quotes-key": json_answer({"error": {"message": f"key {KEY} of {PASSWORD}", "code": KEY}}, 500),
    "quotes-in-401": json_answer({"error": {"message": KEY, "type": KEY}}, 401),
    "quotes-prompt": json_answer({"error": {"message": f"cannot read: {PROMPT}", "code": PROMPT}}, 500),
    "quotes-in-400": json_answer({"error": {"message": f"{PROMPT} {KEY}", "type": "Ludmilla"}}, 400),
    "bare": json_answer({"error": "Ludmilla"}, 500),
    "page": json_answer(f"<html><title>{PROMPT} {KEY}</title>".encode()),
    "text": json_answer(f"{PROMPT} {KEY}".encode()),
    "redirect": json_answer(b"", 302, location=f"http://u:{PASSWORD}@elsewhere.example/x?key={QUERY}"),
    "forbidden": json_answer({"error": {"message": f"{KEY} {PROMPT}"}}, 403),
}  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True])
async def test_no_line_holds_a_secret_or_a_prompt(
    tmp_path: Path, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with OddUpstream(QUOTES).serve() as odd:
        address = odd.base_url.replace("http://", f"http://user:{PASSWORD}@") + f"?key={QUERY}"
        experts = odd.experts(api_key=Secret(KEY), headers={"x-auth": Secret("header-" + KEY)})
        experts += [
            {**experts[0], "name": "dead", "api_base": f"http://u:{PASSWORD}@127.0.0.1:1/v1?key={QUERY}"}
        ]
        experts += [{**experts[0], "name": "odd-address", "api_base": address}]
        form = "json" if as_json else "text"
        async with logged(tmp_path, experts, log_level="debug", log_format=form) as (live, log):
            for one in experts:
                for stream in (False, True):
                    asked = [{"role": "user", "content": PROMPT}]
                    answer = await live.chat(one["name"], stream=stream, messages=asked)
                    # A client may read its own prompt, never the operator's key.
                    assert not [secret for secret in (KEY, PASSWORD, QUERY) if secret.encode() in answer.body]

            async def fail(*_: object) -> None:
                raise ValueError(f"could not read {PROMPT} with {KEY}")

            monkeypatch.setattr(live.services.router, "decide", fail)
            await live.chat("auto", messages=[{"role": "user", "content": PROMPT}])
            await live.http.get(f"{live.base}/models/sk-abcdefgh12345678?key={QUERY}")
            logging.getLogger("thalamus").error("it said %s at http://u:%s@h/", KEY, PASSWORD)
            logging.getLogger("httpx").info("GET http://x/?key=%s", QUERY)
            await log.lines("it said")
            await log.lines("failed")
    text = log.stream.getvalue()
    for secret in (KEY, PASSWORD, QUERY, "Ludmilla", "sk-abcdefgh", "grandmother"):
        assert secret not in text
    assert "ValueError" in text
    assert "in fail" in text  # frames stay: they are the program's


async def test_every_line_of_a_request_has_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with logged(tmp_path, [expert("dead", "http://127.0.0.1:1/v1")], log_format="json") as (live, log):

        async def fail(*_: object) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(live.services.router, "decide", fail)
        for name in ("dead", "auto"):
            await live.chat(name, headers={"x_request_id": f"mine-{name}"})
        await log.facts("request", 2)
    ids = [json.loads(line).get("request_id") for line in log.stream.getvalue().splitlines()]
    assert ids == ["mine-dead"] * 2 + ["mine-auto"] * 2


async def test_a_client_cannot_forge_a_line(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with logged(tmp_path, [expert("good", upstream.base_url)]) as (live, log):
        await live.chat("x\n2026-01-01T00:00:00.000Z ERROR forged")
        await live.http.get(f"{live.base}/a%0Aforged%1b")
        await log.lines("GET")
    assert [line[:2] for line in log.stream.getvalue().splitlines()] == ["20", "20"]
    assert "\x1b" not in log.stream.getvalue()


class StuckStream(io.StringIO):
    """A pipe that is not read until `open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def write(self, text: str) -> int:
        self.open.wait(10)
        return super().write(text)


@pytest.fixture
def stuck() -> Iterator[StuckStream]:
    stream = StuckStream()
    yield stream
    stream.open.set()


def test_a_log_that_is_not_read_holds_no_request_up_and_says_what_it_lost(
    stuck: StuckStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.telemetry.logs.MAX_WAITING", 500)
    handler = QueuedHandler(stuck, Lines(Redactor(()), as_json=False))
    start = time.monotonic()
    for n in range(2000):
        handler.handle(AccessRecord(logging.INFO, AccessFacts(f"r{n}", "GET", "/", 200, 1.0)))
    assert time.monotonic() - start < 5
    stuck.open.set()
    handler.close()
    lines = stuck.getvalue().splitlines()
    lost = sum(int(found[1]) for line in lines if (found := re.search(r"(\d+) lines were not written", line)))
    assert lost >= 1000
    assert len([line for line in lines if " GET / " in line]) + lost == 2000


def test_all_lines_are_written_before_the_log_ends() -> None:
    stream = io.StringIO()
    handler = QueuedHandler(stream, Lines(Redactor(()), as_json=False))
    for n in range(1000):
        handler.handle(AccessRecord(logging.INFO, AccessFacts(f"r{n}", "GET", "/", 200, 1.0)))
    handler.close()
    assert len(stream.getvalue().splitlines()) == 1000


def test_another_servers_logging_reads_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "thalamus.access"):
        ACCESS.handle(AccessRecord(logging.INFO, AccessFacts("r1", "GET", "/v1/models", 200, 1.25, "auto")))
    assert "GET /v1/models 200 model=auto 1.2 ms" in caplog.text
    assert not SERVED_REQUEST.get()


def test_lines_are_written_in_pieces_that_a_pipe_takes_whole() -> None:
    lines = ["ä" * 100 + "\n"] * 90 + ["x" * 9000 + "\n", "short\n"]
    pieces = list(join_lines(lines))
    assert "".join(pieces) == "".join(lines)
    assert all(piece.endswith("\n") for piece in pieces)
    assert sorted(len(piece.encode()) for piece in pieces)[-2] <= 4096 < len(pieces[-2])
    assert list(join_lines([])) == []
