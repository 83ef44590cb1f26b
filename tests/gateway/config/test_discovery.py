"""`thalamus init`: what it finds becomes a configuration that works."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from evals.probes.files import load_bundled_outcomes
from gateway.cli import main
from gateway.config import discovery, parse_config
from gateway.config.discovery import (
    PROVIDERS,
    Discovery,
    LocalServer,
    build_first_config,
    find_local_servers,
    find_providers,
)
from gateway.experts.profiles import facts_of

PRICED = [model for provider in PROVIDERS if provider.name != "OpenRouter" for model in provider.models]
BASES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE")
KEY = "sk-very-private-0815"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on a machine where nothing is to be found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THALAMUS_CONFIG", raising=False)
    for provider in PROVIDERS:
        for variable in provider.variables:
            monkeypatch.delenv(variable, raising=False)
    for variable in ("OLLAMA_HOST", *BASES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(discovery, "PORTS", {})
    monkeypatch.setattr(discovery, "has_bundled_model", lambda: False)
    return tmp_path


class Listing(BaseHTTPRequestHandler):
    body: Any = None

    def do_GET(self) -> None:
        data = json.dumps(self.body).encode() if not isinstance(self.body, bytes) else self.body
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Where a server lists `request.param` as its models."""
    handler = type("Handler", (Listing,), {"body": request.param})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_with_two_keys_the_file_has_experts_of_both_and_no_key(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    result = CliRunner().invoke(main, ["init"])
    assert result.exit_code == 0
    text = (bare / "thalamus.yaml").read_text()
    assert KEY not in text + result.output
    config = parse_config(text, env={"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY})
    assert {expert.provider for expert in config.experts} == {"openai", "anthropic"}
    assert config.policies["auto"].default == config.experts[0].name
    assert "thalamus serve" in result.output


@pytest.mark.parametrize("variable", BASES)
@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("https://proxy.corp.example/v1", ""),
        ("https://proxy.corp.example/v1/", ""),
        ("https://proxy.corp.example/openai", ""),
        ("https://proxy.corp.example", "/v1"),
        ("https://proxy.corp.example/", "v1"),
        ("http://127.0.0.1:4000", "/v1"),
    ],
)
def test_a_key_goes_to_the_address_that_the_environment_names(
    bare: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, read: str
) -> None:
    key = f"{variable.partition('_')[0]}_API_KEY"
    monkeypatch.setenv(key, KEY)
    monkeypatch.setenv(variable, value)
    result = CliRunner().invoke(main, ["init"])
    assert f"{key}, and {variable}: calls go to {value.rstrip('/')}\n" in result.output
    text = (bare / "thalamus.yaml").read_text()
    assert value not in text
    config = parse_config(text, env={key: KEY, variable: value})
    # Anthropic's protocol has `/v1` in its paths, not in its address.
    expected = value + read if variable.startswith("OPENAI") else value
    assert [expert.api_base for expert in config.experts] == [expected] * 2


def test_a_password_in_an_address_is_not_shown(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:hidden-0815@proxy.example/v1?token=hidden-0815")
    result = CliRunner().invoke(main, ["init"])
    assert "calls go to https://proxy.example/v1\n" in result.output
    assert "hidden-0815" not in result.output + (bare / "thalamus.yaml").read_text()


def test_an_address_of_one_provider_is_not_that_of_another(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://one.example")
    monkeypatch.setenv("ANTHROPIC_API_BASE", "https://other.example")
    monkeypatch.setenv("OPENAI_BASE_URL", " ")
    assert CliRunner().invoke(main, ["init"]).exit_code == 0
    text = (bare / "thalamus.yaml").read_text()
    config = parse_config(text)
    assert [e.api_base for e in config.experts] == [None, None, *["https://one.example"] * 2]


@pytest.mark.parametrize("port", [{"data": [{"id": "llama3.1:8b"}]}], indirect=True)
@pytest.mark.parametrize(
    "form", ["127.0.0.1:{}", "0.0.0.0:{}", ":{}", "http://127.0.0.1:{}", "http://localhost:{}/"]
)
def test_ollama_is_looked_for_where_its_variable_says(
    bare: Path, monkeypatch: pytest.MonkeyPatch, port: int, form: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", form.format(port))
    result = CliRunner().invoke(main, ["init"])
    assert "found    Ollama on http://" in result.output
    (expert,) = parse_config((bare / "thalamus.yaml").read_text()).experts
    assert expert.api_base in (f"http://127.0.0.1:{port}/v1", f"http://localhost:{port}/v1")
    assert expert.is_local


@pytest.mark.parametrize(
    "said", ["http://[", "box:port", "127.0.0.1:1", "ftp://127.0.0.1:1", "a b", "http://x:99999"]
)
def test_an_ollama_that_is_not_there_is_no_server(said: str) -> None:
    assert find_local_servers({}, {"OLLAMA_HOST": said}) == []


def test_a_model_of_another_machine_is_not_called_local() -> None:
    text, _ = build_first_config(Discovery(servers=[LocalServer("Ollama", "http://box:11434/v1", ("m",))]))
    (expert,) = parse_config(text).experts
    assert (expert.api_base, expert.is_local) == ("http://box:11434/v1", False)


def test_a_file_that_is_there_is_never_overwritten_unless_forced(bare: Path) -> None:
    (bare / "thalamus.yaml").write_text("mine")
    refused = CliRunner().invoke(main, ["init"])
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert (bare / "thalamus.yaml").read_text() == "mine"
    assert CliRunner().invoke(main, ["init", "--force"]).exit_code == 0
    assert (bare / "thalamus.yaml").read_text() != "mine"


def test_a_full_disk_leaves_the_file_that_init_was_to_replace(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "thalamus.yaml").write_text("mine")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = CliRunner().invoke(main, ["init", "--force"])
    assert (result.exit_code, result.output) == (
        1,
        "Error: thalamus.yaml cannot be written: No space left on device\n",
    )
    assert [(one.name, one.read_text()) for one in bare.iterdir()] == [("thalamus.yaml", "mine")]


def test_where_nothing_is_found_the_file_shows_how_and_still_reads(bare: Path) -> None:
    result = CliRunner().invoke(main, ["init"])
    assert result.exit_code == 0
    assert "no API key, no local server" in result.output
    assert parse_config((bare / "thalamus.yaml").read_text()).experts == ()


def test_the_bundled_model_is_several_experts() -> None:
    text, names = build_first_config(Discovery(bundled=True))
    config = parse_config(text)
    assert [expert.name for expert in config.experts] == names
    assert {"smollm2", "calculator"} < set(names)
    assert config.policies["auto"].default == "smollm2"
    assert all(expert.is_local for expert in config.experts)


def test_everything_found_at_once_makes_a_configuration_that_reads() -> None:
    found = Discovery(
        [(provider, provider.variables[0]) for provider in PROVIDERS],
        [
            LocalServer(
                "Ollama",
                "http://127.0.0.1:11434/v1",
                ("llama3.1:8b", "hf.co/x y/z:Q4", "smollm2", "yes", "123"),
            )
        ],
        bundled=True,
    )
    text, names = build_first_config(found)
    config = parse_config(text, env={provider.variables[0]: KEY for provider in PROVIDERS})
    assert [expert.name for expert in config.experts] == names
    assert len(set(names)) == len(names)
    live = {expert.upstream_model: expert for expert in config.experts if expert.api_base}
    assert {"llama3.1:8b", "hf.co/x y/z:Q4", "123"} <= live.keys()
    assert all(expert.is_local for expert in live.values())


def test_what_was_not_measured_is_guessed_better_than_the_bundled_experts() -> None:
    text, _ = build_first_config(Discovery([(PROVIDERS[0], "OPENAI_API_KEY")], bundled=True))
    config = parse_config(text, env={"OPENAI_API_KEY": "sk-0f3b6a91c47d2e85"})
    guesses = {expert.name: expert.quality for expert in config.experts}
    assert (guesses["gpt-5"] or 0.0) > (guesses["gpt-5-mini"] or 0.0) >= 0.9
    outcomes = load_bundled_outcomes()[0]
    for name, mean in zip(outcomes.experts, np.nanmean(outcomes.score, axis=0), strict=True):
        assert name == "calculator" or guesses[name] == pytest.approx(mean, abs=0.1)


@pytest.mark.parametrize(
    ("flag", "served", "chosen"),
    [
        ("[Flag: cheapest]", (), "gpt-5-mini"),
        ("[Flag: cheapest]", ("llama3.1:8b",), "llama3.1:8b"),  # free, and perhaps as good
        ("[Flag: cost]", (), "gpt-5-mini"),
        ("[Flag: best]", (), "gpt-5"),
        ("", ("llama3.1:8b",), "gpt-5-mini"),
    ],
)
def test_before_anything_is_measured_goals_go_by_prices(
    bare: Path, monkeypatch: pytest.MonkeyPatch, flag: str, served: tuple[str, ...], chosen: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    servers = [LocalServer("Ollama", "http://127.0.0.1:11434/v1", served)] if served else []
    text, _ = build_first_config(Discovery([(PROVIDERS[0], "OPENAI_API_KEY")], servers, bundled=True))
    Path("thalamus.yaml").write_text(text)
    result = CliRunner().invoke(main, ["route", "--json", f"{flag} Write a poem about the sea."])
    assert json.loads(result.output)["candidates"][0]["expert"] == chosen


def test_the_policy_best_begins_with_the_better_of_two_models() -> None:
    text, _ = build_first_config(Discovery([(PROVIDERS[0], "OPENAI_API_KEY")], bundled=True))
    policies = parse_config(text, env={"OPENAI_API_KEY": KEY}).policies
    assert (policies["auto"].default, policies["best"].default) == ("gpt-5-mini", "gpt-5")
    assert parse_config(build_first_config(Discovery(bundled=True))[0]).policies["best"].default == "smollm2"


def test_what_is_not_bundled_is_not_in_the_pool_of_a_hosted_configuration() -> None:
    text, names = build_first_config(Discovery([(PROVIDERS[0], "OPENAI_API_KEY")]))
    assert "calculator" not in names
    assert "smollm2" not in text


@pytest.mark.parametrize("model", PRICED)
def test_every_model_that_is_suggested_has_a_known_price(model: str) -> None:
    facts = facts_of(model)
    assert facts is not None
    assert facts.input_usd_per_token is not None
    assert facts.output_usd_per_token is not None


def test_a_variable_that_is_set_to_nothing_is_no_key() -> None:
    assert find_providers({"OPENAI_API_KEY": " ", "GROQ_API_KEY": ""}) == []


@pytest.mark.parametrize(
    "port", [{"object": "list", "data": [{"id": "llama3.1:8b", "owned_by": "library"}]}], indirect=True
)
def test_a_server_that_lists_models_is_found(port: int) -> None:
    assert find_local_servers({port: "Ollama"}) == [
        LocalServer("Ollama", f"http://127.0.0.1:{port}/v1", ("llama3.1:8b",))
    ]


@pytest.mark.parametrize(
    "port",
    [
        {"data": [{"id": "auto", "owned_by": "thalamus"}]},
        {"data": 3},
        {"data": [3]},
        [],
        b"<html>",
        b"[" * 100_000,
        {"data": []},
    ],
    indirect=True,
)
def test_what_is_no_model_server_is_passed_over(port: int) -> None:
    assert find_local_servers({port: "Something"}) == []


def test_ports_where_nobody_listens_are_passed_over() -> None:
    assert find_local_servers({1: "Closed"}) == []
