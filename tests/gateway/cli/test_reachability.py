"""`thalamus doctor` asks each upstream its cheapest question: refused keys, dead ports, missing models."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import doctor, main
from gateway.cli.doctor import Finding
from gateway.cli.reachability import UpstreamReply, build_question, judge, read_models
from gateway.config import parse_config
from gateway.testing import FakeUpstream

GOOGLE = "https://generativelanguage.googleapis.com"
AZURE = "https://x.openai.azure.com"
KEY = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("THALAMUS_CONFIG", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "_check_embedders", lambda *_: iter([Finding("encoder", "ok", "fine")]))
    return tmp_path


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream().in_thread() as running:
        yield running


def run_doctor(here: Path, experts: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and the findings about upstreams."""
    (here / "thalamus.yaml").write_text(f"experts: [{experts}]\nserver: {{port: 0}}\n")
    result = CliRunner().invoke(main, ["doctor", "--json", *options])
    assert KEY not in result.output
    findings = json.loads(result.output)["findings"]
    return result.exit_code, [finding for finding in findings if finding["check"] == "upstreams"]


def expert(name: str, base: str, more: str = "") -> str:
    return f"{{name: {name}, model: openai/{name}, api_base: '{base}'{more}}}"


def test_an_upstream_that_answers_and_has_the_model_is_fine(here: Path, upstream: FakeUpstream) -> None:
    upstream.api_key = KEY
    code, (finding,) = run_doctor(here, expert("good", upstream.base_url, f", api_key: {KEY}"))
    assert (code, finding["outcome"], finding["cause"]) == (0, "ok", "answers, and has good")
    # With the key, and without, which is refused: the list shows that the key is taken.
    assert [path for path, _ in upstream.gets] == ["/v1/models"] * 2
    assert upstream.calls == []


OPEN = ", api_key: os.environ/HOUSE_KEY"


@pytest.mark.parametrize(
    ("key", "outcome", "cause"),
    [(KEY, "ok", "answers, and has good"), ("another", "failure", "answered 401: its key is refused")],
)
def test_a_key_is_checked_behind_a_list_that_is_open_to_all(
    here: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, key: str, outcome: str, cause: str
) -> None:
    upstream.api_key, upstream.lists_openly = key, True
    monkeypatch.setenv("HOUSE_KEY", KEY)
    code, (finding,) = run_doctor(here, expert("good", upstream.base_url, OPEN))
    assert (code, finding["outcome"], finding["cause"]) == (int(outcome == "failure"), outcome, cause)
    assert finding["fix"] == ("set a valid key in HOUSE_KEY" if outcome == "failure" else "")
    assert upstream.calls == []  # what it was sent is no call: it named no model


def test_a_server_that_takes_any_key_says_so(
    here: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUSE_KEY", KEY)
    _, (finding,) = run_doctor(here, expert("good", upstream.base_url, OPEN))
    assert finding["cause"] == "answers, and has good; it asks for no key"


def test_an_open_provider_that_refuses_no_empty_call_is_left_to_paid() -> None:
    (one,) = parse_config(f"experts: [{{name: e, model: nvidia_nim/m, api_key: {KEY}}}]").experts
    place = one.effective_deployments()[0]
    question = build_question(one, place)
    verdict = judge(one, place, question, UpstreamReply(("m",), checks_key=False))
    assert verdict.cause == "answers, and has m; only --paid tells whether it takes the key"


def test_a_refused_key_is_a_failure_that_names_the_variable(
    here: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.api_key = "another"
    monkeypatch.setenv("HOUSE_KEY", KEY)
    code, (finding,) = run_doctor(here, expert("gpt", upstream.base_url, ", api_key: os.environ/HOUSE_KEY"))
    assert (code, finding["outcome"], finding["expert"]) == (1, "failure", "gpt")
    assert (finding["address"], finding["cause"]) == (
        upstream.base_url,
        "answered 401: its key is refused",
    )
    assert finding["fix"] == "set a valid key in HOUSE_KEY"


def test_a_dead_port_is_a_failure_that_says_what_to_start(here: Path) -> None:
    code, (finding,) = run_doctor(here, expert("dead", "http://127.0.0.1:1/v1"))
    assert (code, finding["outcome"], finding["cause"]) == (1, "failure", "cannot be connected to")
    assert finding["address"] == "http://127.0.0.1:1/v1"
    assert finding["fix"].startswith("start the server at http://127.0.0.1:1/v1, or correct api_base")


def test_no_key_at_all_is_a_failure_that_names_the_variable(here: Path) -> None:
    (one,) = parse_config("experts: [{name: gpt, model: openai/gpt-5-mini}]").experts
    verdict = judge(one, one.effective_deployments()[0], None, None)
    assert (verdict.outcome, verdict.cause, verdict.fix) == (
        "failure",
        "no key is set",
        "set OPENAI_API_KEY",
    )


def test_offline_asks_nothing(here: Path, upstream: FakeUpstream) -> None:
    upstream.api_key = "another"
    assert run_doctor(here, expert("good", upstream.base_url), "--offline") == (0, [])
    assert upstream.gets == []
    result = CliRunner().invoke(main, ["doctor", "--offline", "--paid"])
    assert (result.exit_code, "give one of them" in result.output) == (2, True)


def test_a_model_that_is_not_listed_is_a_warning_with_the_nearest(here: Path, upstream: FakeUpstream) -> None:
    upstream.models = ["gpt-5-mini", "gpt-5", "whisper"]
    code, (finding,) = run_doctor(here, expert("gpt-5-mni", upstream.base_url))
    assert (code, finding["outcome"]) == (0, "warning")
    assert finding["cause"].startswith("does not list gpt-5-mni; it lists gpt-5-mini")


def test_a_model_that_ollama_has_not_is_a_failure_with_the_command(
    here: Path, upstream: FakeUpstream
) -> None:
    upstream.models = ["llama3:latest"]
    entry = "{{name: {}, model: ollama/{}, api_base: '{}'}}".format
    both = ", ".join(entry(name, name, upstream.base_url) for name in ("llama3", "qwen3"))
    code, (there, missing) = run_doctor(here, both)
    assert (code, there["outcome"], missing["outcome"]) == (1, "ok", "failure")
    assert missing["fix"] == "ollama pull qwen3"


def test_many_experts_of_one_provider_are_one_question_and_all_deployments_are_asked(
    here: Path, upstream: FakeUpstream
) -> None:
    upstream.models = ["a", "b", "c"]
    places = f"deployments: [{{api_base: '{upstream.base_url}'}}, {{api_base: 'http://127.0.0.1:1/v1'}}]"
    several = ", ".join(expert(name, upstream.base_url) for name in ("a", "b"))
    code, findings = run_doctor(here, f"{several}, {{name: c, model: openai/c, {places}}}")
    assert (code, len(upstream.gets)) == (1, 1)
    assert [(f["expert"], f["outcome"]) for f in findings] == [
        ("a", "ok"), ("b", "ok"), ("c", "ok"), ("c", "failure")
    ]  # fmt: skip


def test_silent_upstreams_are_asked_at_once_and_not_for_long(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it accepts, and never answers
        base = f"http://127.0.0.1:{listener.getsockname()[1]}/{{}}/v1"
        start = time.monotonic()
        experts = ", ".join(expert(f"e{n}", base.format(n)) for n in range(8))
        code, findings = run_doctor(here, experts)
    assert time.monotonic() - start < 20
    assert code == 1
    assert {f["cause"] for f in findings} == {"took longer than its time-out allows"}


def test_paid_asks_for_one_token_where_no_question_is_free(
    here: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUSE_KEY", KEY)
    code, (paid,) = run_doctor(here, expert("good", upstream.base_url, OPEN), "--paid")
    assert (code, paid["outcome"], paid["cause"]) == (0, "ok", "answered a call of one token")
    assert [call["max_tokens"] for call in upstream.calls] == [1]


@pytest.mark.parametrize(
    ("model", "more", "url", "header"),
    [
        ("anthropic/c", {}, "https://api.anthropic.com/v1/models?limit=1000", "x-api-key"),
        ("anthropic/c", {"api_base": "http://h/v1/messages"}, "http://h/v1/models?limit=1000", "x-api-key"),
        ("gemini/g", {}, f"{GOOGLE}/v1beta/models?pageSize=1000", "x-goog-api-key"),
        ("cohere_chat/r", {}, "https://api.cohere.com/v1/models?page_size=1000", "authorization"),
        ("azure/d", {"api_base": AZURE}, f"{AZURE}/openai/models?api-version=2024-10-21", "api-key"),
        ("groq/m", {}, "https://api.groq.com/openai/v1/models", "authorization"),
        ("openrouter/a/b", {}, "https://openrouter.ai/api/v1/key", "authorization"),
    ],
)  # fmt: skip
def test_the_cheapest_question_of_each_provider(
    model: str, more: dict[str, str], url: str, header: str
) -> None:
    settings = "".join(f", {name}: '{value}'" for name, value in more.items())
    config = parse_config(f"experts: [{{name: e, model: {model}, api_key: {KEY}{settings}}}]")
    (one,) = config.experts
    question = build_question(one, one.effective_deployments()[0])
    assert question is not None
    assert (question.url, KEY in dict(question.headers)[header]) == (url, True)
    assert KEY not in question.url


def test_a_provider_without_a_free_question_is_not_asked(here: Path) -> None:
    code, (finding,) = run_doctor(here, "{name: b, model: bedrock/anthropic.claude-v2}")
    assert (code, finding["outcome"], "--paid" in finding["cause"]) == (0, "ok", True)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"data": [{"id": "a"}, {"id": 1}]}', ("a",)),
        (b'{"models": [{"name": "models/g"}]}', ("models/g",)),
        (b'[{"id": "together"}]', ("together",)),
        (b"<html>", None),
        (b'{"ok": true}', None),
        (b"", None),
    ],
)
def test_lists_of_models_are_read_in_every_form(body: bytes, names: tuple[str, ...] | None) -> None:
    assert read_models(body) == names
