"""Over HTTP and in a replay an artifact decides alike: real texts, real embedders, fakes that answer."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import pytest
import pytest_asyncio

from evals.probes.files import load_bundled_outcomes
from evals.replay import RecordedExtractor, replay
from gateway.app import build_application, build_services
from gateway.config import Config
from gateway.experts.http_client import Transport
from gateway.testing import FakeUpstream
from policies import Objective, Policy, decision_record
from routers import (
    Artifact,
    FeatureExtractor,
    FitSettings,
    OutcomeTable,
    StaticEmbedder,
    fit_artifact,
    load_embedder,
)
from tests.fakes.serving import LiveApp, live, secret

POLICIES = (
    Policy("always", encoder="always"),
    Policy("never", encoder="never"),
    Policy("adaptive", encoder="adaptive"),
    Policy("frugal", Objective(cost=0.5), encoder="always"),
    Policy("losses", encoder="never", predictor="tryage-paper"),
    Policy("kinds", encoder="adaptive", predictor="coe"),
    Policy(
        "mapped",
        encoder="never",
        predictor="knn",
        mapping={"general": ("good-b",), "arithmetic": ("good-c",)},
    ),
)
HEADS = ("coe", "knn", "tryage-paper")
N_ASKED = 40


@pytest.fixture(scope="module")
def outcomes() -> OutcomeTable:
    """Bundled prompts of every kind, answered by made-up experts who each know some kinds."""
    fitted, held = load_bundled_outcomes()
    texts = [*held.texts[:: len(held) // N_ASKED][:N_ASKED], *fitted.texts[::5]]
    tasks = [*held.tasks[:: len(held) // N_ASKED][:N_ASKED], *fitted.tasks[::5]]
    kinds = {task: n for n, task in enumerate(dict.fromkeys(tasks))}
    score = np.eye(3)[[kinds[task] % 3 for task in tasks]]
    measures = {
        "score": 0.2 + 0.6 * score,
        "cost_usd": np.tile([1e-4, 4e-4, 1e-3], (len(texts), 1)),
        "output_tokens": np.tile([30.0, 60.0, 90.0], (len(texts), 1)),
    }
    return OutcomeTable.build(texts, ["good-a", "good-b", "good-c"], measures, tasks=tasks)


@pytest.fixture(scope="module")
def read(outcomes: OutcomeTable) -> RecordedExtractor:
    return RecordedExtractor.of(outcomes.texts, FeatureExtractor(StaticEmbedder(), load_embedder("minilm")))


@pytest.fixture(scope="module")
def artifact(
    outcomes: OutcomeTable, read: RecordedExtractor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Artifact]:
    path = tmp_path_factory.mktemp("parity") / "artifact"
    trained = outcomes.take(np.arange(N_ASKED, len(outcomes)))
    fit_artifact(trained, read, FitSettings("blend", heads=HEADS)).save(path)
    return path, Artifact.load(path)


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture
async def gateway(
    outcomes: OutcomeTable, artifact: tuple[Path, Artifact], upstream: FakeUpstream, tmp_path: Path
) -> AsyncIterator[LiveApp]:
    config = {
        "experts": [
            {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url}
            for name in outcomes.experts
        ],
        "policies": {
            policy.name: {
                "encoder": policy.encoder,
                "objective": {"cost": policy.objective.cost},
                "predictor": policy.predictor,
                "mapping": policy.mapping or {},
            }
            for policy in POLICIES
        },
        "routing": {"artifact": str(artifact[0]), "load_budget": "off"},
        "journal": {"path": str(tmp_path / "journal.sqlite3")},
    }
    transport = Transport()
    services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
    async with (
        live(build_application(services, transport)) as address,
        aiohttp.ClientSession() as http,
    ):
        yield LiveApp(f"{address}/v1", services, http)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
async def test_every_decision_over_http_is_the_one_of_a_replay(
    policy: Policy,
    outcomes: OutcomeTable,
    read: RecordedExtractor,
    artifact: tuple[Path, Artifact],
    gateway: LiveApp,
    upstream: FakeUpstream,
) -> None:
    asked = outcomes.take(np.arange(N_ASKED))
    came = replay(asked, artifact[1], read, policy)
    for text, decision in zip(asked.texts, came.decisions, strict=True):
        messages = [{"role": "user", "content": text}]
        answer = await gateway.chat(
            f"auto:{policy.name}", messages=messages, headers={"x_thalamus_debug": "true"}
        )
        live, offline = msgspec.json.decode(answer.headers["x-thalamus-decision"]), decision_record(decision)
        assert (answer.expert, upstream.calls[-1]["model"]) == (decision.chosen, decision.chosen)
        assert (live["tier"], live["reason"]) == (offline["tier"], offline["reason"])
        assert (
            answer.headers["x-thalamus-head"]
            == live["head"]
            == offline["head"]
            == (policy.predictor or "blend")
        )
        for here, there in zip(live["candidates"], offline["candidates"], strict=True):
            assert here["expert"] == there["expert"]
            assert here["quality"] == pytest.approx(there["quality"], abs=1e-5)
            assert here["cost_usd"] == pytest.approx(there["cost_usd"], rel=1e-4)
    assert len({decision.chosen for decision in came.decisions}) > 1


async def test_a_conversation_is_decided_alike_in_chats_form_and_in_anthropics(
    outcomes: OutcomeTable, gateway: LiveApp
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    function = {"name": "f", "description": "does", "parameters": schema}
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    chosen = set()
    for before, text in zip(outcomes.texts[:12], outcomes.texts[12:24], strict=True):
        first, last = {"role": "user", "content": before}, {"role": "user", "content": text}
        chat = [
            {"role": "system", "content": "Be brief."},
            first,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t", "content": "found"},
            last,
        ]
        result = {"type": "tool_result", "tool_use_id": "t", "content": "found"}
        parts = [result, {"type": "text", "text": text}]
        turns = [first, {"role": "assistant", "content": [block]}, {"role": "user", "content": parts}]
        body = {"model": "auto:always", "max_tokens": 64}
        tool = {"name": "f", "description": "does", "input_schema": schema}
        bodies = {
            "chat/completions": {
                **body,
                "messages": chat,
                "tools": [{"type": "function", "function": function}],
            },
            "messages": {**body, "messages": turns, "system": "Be brief.", "tools": [tool]},
        }
        answers = [await gateway.post(path, sent, x_thalamus_debug="true") for path, sent in bodies.items()]
        decisions = [msgspec.json.decode(answer.headers["x-thalamus-decision"]) for answer in answers]
        for decision in decisions:
            decision.pop("id")
        assert decisions[0]["candidates"]
        assert decisions[0] == decisions[1]
        chosen.add(answers[0].expert)
    assert len(chosen) > 1
