"""Keywords told by an expert: over HTTP, within a bound, kept by text; and panels recruited by them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest

import gateway.routing.router as routing_build
from gateway.app import build_application, build_services
from gateway.config import Config, ConfigError, parse_config
from gateway.experts.http_client import Transport
from gateway.routing.keywords import MAX_AT_ONCE, KeywordFinder, ask_for_keywords
from gateway.testing import FakeUpstream
from routers import Artifact, FeatureExtractor, FitSettings, HashingEmbedder, OutcomeTable, fit_artifact
from routers.skills import NamedSkills, skills_path
from tests.fakes.serving import LiveApp, secret
from tests.fakes.serving import live as serving

KNOWS = {"sums": "algebra", "laws": "statute", "verse": "poetry"}
QUESTION = "please answer this"


def table() -> OutcomeTable:
    """Questions of three fields that look alike; each expert knows its own."""
    fields = [*KNOWS] * 30
    score = np.array([[float(field == name) for name in (*KNOWS, "namer")] for field in fields])
    texts = [f"{QUESTION} {n}" for n in range(90)]
    models = [f"openai/says-{name}" for name in KNOWS] + ["openai/namer"]
    return OutcomeTable.build(texts, [*KNOWS, "namer"], {"score": score}, models=models, tasks=fields)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return fit_artifact(table(), FeatureExtractor(HashingEmbedder(64)), FitSettings("constant"))


@contextlib.asynccontextmanager
async def gateway(
    tmp_path: Path,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    namer: str = "says-Keywords:_statute",
    keywords: str = "namer",
    wait_s: float = 5.0,
    **more: Any,
) -> AsyncIterator[tuple[LiveApp, FakeUpstream]]:
    """A gateway whose `auto` is a panel of two that is recruited by what the expert `namer` tells."""
    monkeypatch.setattr(routing_build, "StaticEmbedder", lambda: HashingEmbedder(64))
    rows = table()
    artifact.save(tmp_path / "artifact")
    words = {text: [KNOWS[field]] for text, field in zip(rows.texts, rows.tasks, strict=True)}
    NamedSkills.fit(rows, HashingEmbedder(64), words).save(skills_path(tmp_path / "artifact"))
    async with FakeUpstream() as upstream:
        experts = [
            {"name": name, "model": f"openai/says-{name}", "api_base": upstream.base_url} for name in KNOWS
        ]
        experts.append({"name": "namer", "model": f"openai/{namer}", "api_base": upstream.base_url})
        panel = {"k": 2, "aggregator": "vote", "keywords": keywords, "keywords_wait_s": wait_s, **more}
        config = {
            "experts": experts,
            "policies": {
                "auto": {"encoder": "never", "require": {"exclude": ["namer"]}, "plan": {"panel": panel}},
                "one": {"encoder": "never"},
            },
            "routing": {"artifact": str(tmp_path / "artifact")},
            "journal": {"path": str(tmp_path / "j.sqlite3")},
        }
        transport = Transport()
        services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
        async with serving(build_application(services, transport)) as base, aiohttp.ClientSession() as http:
            yield LiveApp(f"{base}/v1", services, http), upstream


async def decide(live: LiveApp, text: str = QUESTION, **more: Any) -> dict[str, Any]:
    answer = await live.chat("auto", messages=[{"role": "user", "content": text}], **more)
    assert answer.status == 200, answer.body
    decision: dict[str, Any] = (await live.read_record(answer))["decision"]
    return decision


async def test_a_panel_is_recruited_by_the_keywords_that_an_expert_tells(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, artifact, monkeypatch) as (live, upstream):
        decision = await decide(live)
        assert decision["skills"] == ["statute"]
        assert decision["plan"]["members"][0] == "laws"
        assert decision["reason"].startswith("panel, keywords told by an expert")
        asked = [call for call in upstream.calls if call["model"].startswith("says-Keywords")]
        assert [(call["temperature"], call["max_tokens"]) for call in asked] == [(0.7, 48)] * 5
        assert all(QUESTION in call["messages"][-1]["content"] for call in asked)
        # Kept by text: the same prompt asks nothing again.
        assert (await decide(live))["skills"] == ["statute"]
        assert upstream.n_calls("says-Keywords:_statute") == 5


@pytest.mark.parametrize("namer", ["hang", "status-500", "says-I_know_nothing."])
async def test_keywords_that_are_not_there_in_time_are_found_in_the_prompt(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, namer: str
) -> None:
    async with gateway(tmp_path, artifact, monkeypatch, namer, wait_s=0.2) as (live, _):
        start = asyncio.get_running_loop().time()
        decision = await decide(live, "some poetry, if you please")
        assert asyncio.get_running_loop().time() - start < 3
        assert decision["skills"] == ["poetry"]
        assert decision["plan"]["members"][0] == "verse"
        assert "told by an expert" not in decision["reason"]


@pytest.mark.parametrize("hint", [{"models": ["sums", "laws"]}, {"exclude": ["namer"]}])
async def test_a_request_that_excludes_the_expert_is_not_shown_to_it(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, hint: dict[str, Any]
) -> None:
    async with gateway(tmp_path, artifact, monkeypatch) as (live, upstream):
        decision = await decide(live, router=hint)
        assert "told by an expert" not in decision["reason"]
        assert upstream.n_calls("says-Keywords:_statute") == 0


def test_prompts_that_stay_here_are_shown_to_no_other_expert() -> None:
    text = (
        "experts: [{name: here, model: openai/a, local: true}, {name: there, model: openai/b}]\n"
        "policies: {auto: {require: {local: true}, plan: {panel: {k: 2, keywords: %s}}}}"
    )
    assert parse_config(text % "here").policies["auto"].require.local
    with pytest.raises(ConfigError, match="'there' is not local, and would read prompts"):
        parse_config(text % "there")


async def test_a_policy_without_a_panel_asks_for_no_keywords(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, artifact, monkeypatch) as (live, upstream):
        answer = await live.chat("auto:one", messages=[{"role": "user", "content": QUESTION}])
        assert (answer.status, len(upstream.calls)) == (200, 1)


async def test_a_request_asks_fewer_experts_than_its_policy(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, artifact, monkeypatch, keywords="text") as (live, _):
        decision = await decide(live, "a statute", router={"panel": {"k": 1}})
        assert (decision["plan"]["kind"], decision["expert"]) == ("single", "laws")
        decision = await decide(live, "a statute", router={"panel": {"aggregator": "sums", "draw": "best"}})
        assert (decision["plan"]["members"][0], decision["plan"]["aggregator"]) == ("laws", "sums")


@pytest.mark.parametrize(
    ("model", "panel", "said"),
    [
        ("auto", {"k": 3}, "router.panel.k: the policy 'auto' asks at most 2 experts"),
        ("auto:one", {"k": 2}, "router.panel: the policy 'one' has no panel"),
        ("auto", {"aggregator": "nix"}, "router.panel.aggregator: there is no expert 'nix'"),
        ("auto", {"draw": "with_replacement", "size": "mass"}, "router.panel.size: "),
        ("auto", {"members": 2}, "unknown field `members`"),
        ("auto", {"k": 0}, "router.panel.k"),
    ],
)
async def test_a_panel_that_cannot_be_is_refused(
    tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, model: str, panel: Any, said: str
) -> None:
    async with gateway(tmp_path, artifact, monkeypatch, keywords="text") as (live, upstream):
        answer = await live.chat(
            model, messages=[{"role": "user", "content": QUESTION}], router={"panel": panel}
        )
        assert (answer.status, upstream.calls) == (400, [])
        whole = f"{answer.error['param']}: {answer.error['message']}"
        assert said.replace("`", "'").replace("unknown field", "unknown key") in whole


class KeywordTeller:
    """Tells the same keywords after a while; `asked` counts calls."""

    name = "teller"

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait_s, self.asked = wait_s, 0

    async def call(self, call: Any) -> Any:
        self.asked += 1
        await asyncio.sleep(self.wait_s)
        body = {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Keywords: Algebra, sums"}}]
        }
        return type("Answer", (), {"body": msgspec.json.encode(body)})()

    def share(self, n_replicas: int) -> None: ...

    async def close(self) -> None: ...


async def test_what_is_told_too_late_serves_the_next_time() -> None:
    expert = KeywordTeller(0.1)
    finder = KeywordFinder(expert)
    assert await finder.find("2 + 2", 0.01) is None
    await asyncio.sleep(0.3)
    assert await finder.find("2 + 2", 0.0) == ("algebra", "sums")
    assert expert.asked == 5


async def test_while_an_expert_is_slow_no_decision_waits_for_it() -> None:
    finder = KeywordFinder(KeywordTeller(0.2))
    await finder.find("first", 1.0)
    start = asyncio.get_running_loop().time()
    assert await finder.find("second", 0.1) is None
    assert asyncio.get_running_loop().time() - start < 0.05


async def test_an_expert_is_asked_for_few_prompts_at_a_time() -> None:
    expert = KeywordTeller(0.1)
    finder = KeywordFinder(expert)
    await asyncio.gather(*(finder.find(str(n), 0.0) for n in range(10)))
    await asyncio.sleep(0.05)
    assert expert.asked == 5 * MAX_AT_ONCE
    finder.close()


async def test_keywords_are_those_told_twice() -> None:
    assert await ask_for_keywords(KeywordTeller(), "2 + 2") == ("algebra", "sums")
