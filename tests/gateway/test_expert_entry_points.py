"""Experts that an installed package offers in the entry-point group `thalamus.experts`."""

from pathlib import Path

import pytest

from gateway.config import ConfigError, ExpertConfig, TimeoutConfig, parse_config
from gateway.experts import build_expert
from gateway.experts.build import find_expert_factory
from gateway.experts.http_client import Transport
from gateway.experts.litellm import LiteLLMExpert
from gateway.experts.openai_compatible import OpenAIExpert
from gateway.runners import Runners
from tests.fakes.serving import gateway

MODULE = """
from gateway.experts import Reply, UpstreamError
from gateway.openai.answers import build_answer

class EchoExpert:
    def __init__(self, config, timeouts):
        if config.upstream_model == "unknown":
            raise ValueError("echo has no model 'unknown'; use 'parrot'")
        self.name, self.model, self.total_s = config.name, config.upstream_model, timeouts.total_s
        self.closed = False

    async def call(self, call):
        if b"fail" in bytes(call.fields["messages"]):
            raise UpstreamError("status", "answered 500", status=500)
        return Reply(body=build_answer(self.name, f"{self.model} says hello", True))

    def share(self, n_replicas):
        pass

    async def close(self):
        self.closed = True
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution on the path that offers experts of the provider `echo`, and claims `openai` too."""
    (tmp_path / "echo_expert.py").write_text(MODULE)
    metadata = tmp_path / "echo_expert-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-expert\nVersion: 1.0\n")
    points = "[thalamus.experts]\necho = echo_expert:EchoExpert\nopenai = echo_expert:EchoExpert\n"
    (metadata / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "echo"


def build(config: ExpertConfig, timeouts: TimeoutConfig | None = None) -> object:
    return build_expert(config, timeouts or TimeoutConfig(), Transport(), Runners({}))


def test_the_factory_is_found_by_the_provider_of_the_model(echo: str) -> None:
    expert = build(ExpertConfig(name="bird", model=f"{echo}/parrot"), TimeoutConfig(total_s=7.0))
    assert (expert.name, expert.model, expert.total_s) == ("bird", "parrot", 7.0)  # type: ignore[attr-defined]


def test_an_experts_own_timeouts_reach_its_factory(echo: str) -> None:
    expert = build(ExpertConfig(name="bird", model="echo/parrot", timeouts=TimeoutConfig(total_s=3.0)))
    assert expert.total_s == 3.0  # type: ignore[attr-defined]


@pytest.mark.usefixtures("echo")
def test_a_package_cannot_replace_a_built_in_provider() -> None:
    assert isinstance(build(ExpertConfig(name="gpt", model="openai/gpt-5-mini")), OpenAIExpert)


def test_a_provider_of_no_installed_package_goes_to_litellm() -> None:
    assert find_expert_factory("echo") is None
    assert isinstance(build(ExpertConfig(name="bird", model="echo/parrot")), LiteLLMExpert)


@pytest.mark.usefixtures("echo")
def test_a_factory_refuses_a_configuration_with_a_reason() -> None:
    with pytest.raises(ValueError, match="echo has no model 'unknown'; use 'parrot'"):
        build(ExpertConfig(name="bird", model="echo/unknown"))


def test_a_model_without_a_provider_is_refused_as_before(echo: str) -> None:
    with pytest.raises(ConfigError, match="has no provider"):
        parse_config(f"experts:\n  - {{name: bird, model: {echo}}}\n")


@pytest.mark.usefixtures("echo")
async def test_the_gateway_serves_streams_and_closes_an_installed_expert(tmp_path: Path) -> None:
    experts = [{"name": "bird", "model": "echo/parrot"}]
    async with gateway({"experts": experts}, str(tmp_path / "journal.sqlite3"), "bird") as live:
        answer = await live.chat("bird")
        assert answer.status == 200
        assert answer.json()["choices"][0]["message"]["content"] == "parrot says hello"
        assert b"parrot says hello" in (await live.chat("bird", stream=True)).body
        failed = await live.post(
            "chat/completions", {"model": "bird", "messages": [{"role": "user", "content": "fail"}]}
        )
        assert failed.status == 502
        expert = live.services.experts["bird"]
    assert expert.closed  # type: ignore[attr-defined]
