"""Routing as the configuration asks for it, on an artifact that was really fitted; online equals offline."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gateway.config import Config, parse_config
from gateway.experts.profiles import profiles
from gateway.routing import router as routing_build
from gateway.routing.embedding_batcher import EmbeddingBatcher
from gateway.routing.router import Router, build_router
from policies import Decision, Engine, Fleet, Scale
from routers import (
    Artifact,
    ArtifactError,
    EmbedderError,
    FeatureExtractor,
    FitSettings,
    Forecaster,
    HashingEmbedder,
    OutcomeTable,
    Tier,
    fit_artifact,
    query_of,
)
from tests.fakes.parsed import to_policy

SUMS = [f"What is {a} plus {b} times {a + b}?" for a in range(2, 14) for b in (3, 7)]
FACTS = [
    f"Who wrote the {n} book about the {w} of Rome?"
    for n in ("first", "last", "best")
    for w in ["kings", "laws", "gods", "roads", "art", "food", "war", "law"]
]
POLICIES = "policies: {auto: {}, always: {encoder: always}, never: {encoder: never}}\n"


def configuration(folder: Path, more: str = "", policies: str = POLICIES) -> Config:
    return parse_config(
        "experts:\n"
        "  - {name: sums, model: openai/sums, input_cost_per_token: 1e-7, output_cost_per_token: 1e-7}\n"
        "  - {name: facts, model: openai/facts, input_cost_per_token: 1e-6, output_cost_per_token: 1e-6}\n"
        f"{policies}routing: {{artifact: '{folder}/artifact'{more}}}\n"
    )


def table() -> OutcomeTable:
    texts = tuple(text for pair in zip(SUMS, FACTS, strict=True) for text in pair)
    n = len(texts)
    score = np.array([[1.0, 0.0] if text in SUMS else [0.0, 1.0] for text in texts])
    unknown = np.full((n, 2), np.nan)
    return OutcomeTable(
        ids=tuple(map(str, range(n))),
        texts=texts,
        tasks=("t",) * n,
        families=tuple(map(str, range(n))),
        bucket=np.arange(n) % 100,
        experts=("sums", "facts"),
        models=("openai/sums", "openai/facts"),
        score=score,
        cost_usd=unknown,
        input_tokens=unknown,
        output_tokens=np.full((n, 2), 20.0),
        latency_s=unknown,
        confidence=unknown,
        declined=unknown,
        propensity=unknown,
    )


def extractor() -> FeatureExtractor:
    return FeatureExtractor(HashingEmbedder(64), HashingEmbedder(96))


@pytest.fixture(scope="module")
def fit_small() -> Artifact:
    return fit_artifact(table(), extractor(), FitSettings(predictor="knn"))


@pytest.fixture
def folder(tmp_path: Path, fit_small: Artifact, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the artifact, in a world whose embedders are light."""
    monkeypatch.setattr(routing_build, "StaticEmbedder", lambda: HashingEmbedder(64))
    monkeypatch.setattr(routing_build, "load_embedder", lambda spec: HashingEmbedder(96))
    fit_small.save(tmp_path / "artifact")
    return tmp_path


@pytest.fixture
async def build_router_at(folder: Path) -> AsyncIterator[tuple[Router, Config]]:
    config = configuration(folder)
    routing = build_router(config, profiles(config))
    assert routing.batcher is not None
    yield routing, config
    routing.close()


def offline(config: Config, artifact: Artifact, texts: list[str], tier: Tier, policy: str) -> list[Decision]:
    """The same decisions as replay makes them: all at once, no server, no queue."""
    pool = profiles(config)
    forecaster = Forecaster(pool, artifact)
    queries = [query_of(text) for text in texts]
    prediction = forecaster.predict(queries, extractor().extract(queries, tier))
    scale = Scale(float(np.nanmax(forecaster.mean_cost_usd)), 1.0)
    return Engine(pool, scale).decide(config.policies_by_name()[policy], queries, prediction, Fleet.idle(2))


async def online(
    routing: Router, config: Config, texts: list[str], policy: str, in_bulk: bool = False
) -> list[Decision]:
    chosen = config.policies_by_name()[policy]
    if in_bulk:
        found = await routing.decide_many([to_policy(text, chosen) for text in texts], Fleet.idle(2))
        return [decision for decision in found if isinstance(decision, Decision)]
    return [await routing.decide(to_policy(text, chosen), Fleet.idle(2)) for text in texts]


@pytest.mark.parametrize("in_bulk", [False, True])
@pytest.mark.parametrize(("policy", "tier"), [("never", "static"), ("always", "encoder")])
async def test_online_decisions_equal_offline_ones(
    build_router_at: tuple[Router, Config], fit_small: Artifact, policy: str, tier: Tier, in_bulk: bool
) -> None:
    routing, config = build_router_at
    texts = [*SUMS[:5], *FACTS[:5], "What is 99 plus 1?", "Who wrote it?"]
    here = await online(routing, config, texts, policy, in_bulk)
    there = offline(config, fit_small, texts, tier, policy)
    for a, b in zip(here, there, strict=True):
        assert (a.chosen, a.tier, a.reason, a.plan) == (b.chosen, b.tier, b.reason, b.plan)
        np.testing.assert_allclose(a.utility, b.utility, atol=1e-6)  # float32 sums in another order


async def test_what_was_learned_decides_who_answers(build_router_at: tuple[Router, Config]) -> None:
    routing, config = build_router_at
    decisions = await online(
        routing, config, ["What is 31 plus 8 times 2?", "Who wrote the new book of Rome?"], "never"
    )
    assert [decision.chosen for decision in decisions] == ["sums", "facts"]
    assert routing.degraded is None


async def test_without_an_artifact_nothing_is_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing_build, "StaticEmbedder", lambda: pytest.fail("an embedder was loaded"))
    config = configuration(tmp_path)
    routing = build_router(config, profiles(config))
    assert routing.batcher is None
    (decision,) = await online(routing, config, ["hi"], "auto")
    assert (decision.tier, routing.degraded) == ("prior", None)
    assert "no evidence" in decision.reason


def no_embedder(*_: Any) -> Any:
    raise EmbedderError("install the weights")


async def test_an_encoder_that_cannot_be_loaded_degrades_and_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing_build, "load_embedder", no_embedder)
    config = configuration(folder)
    routing = build_router(config, profiles(config))
    assert routing.batcher is None
    assert routing.degraded == "no encoder: install the weights"
    (decision,) = await online(routing, config, SUMS[:1], "always")
    assert (decision.chosen, decision.tier) == ("sums", "static")
    assert decision.reason.endswith("degraded: no encoder: install the weights")


async def test_without_any_embedder_the_prior_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_build, "StaticEmbedder", no_embedder)
    config = configuration(folder)
    routing = build_router(config, profiles(config))
    (decision,) = await online(routing, config, SUMS[:1], "auto")
    assert decision.tier == "prior"
    assert "degraded: no embedder: install the weights" in decision.reason


@pytest.mark.parametrize(
    ("more", "policies"),
    [(", encoder: none", POLICIES), ("", "policies: {auto: {encoder: never}}\n")],
)
def test_an_encoder_nobody_asks_for_is_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, more: str, policies: str
) -> None:
    monkeypatch.setattr(routing_build, "load_embedder", lambda _: pytest.fail("the encoder was loaded"))
    config = configuration(folder, more, policies)
    routing = build_router(config, profiles(config))
    assert (routing.batcher, routing.degraded) == (None, None)


def test_an_artifact_of_another_embedder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_build, "StaticEmbedder", lambda: HashingEmbedder(32))
    config = configuration(folder)
    with pytest.raises(ArtifactError, match="thalamus fit"):
        build_router(config, profiles(config))


@pytest.mark.parametrize(("more", "limited"), [("", True), (", load_budget: off", False)])
def test_the_load_budget_is_there_unless_it_is_off(folder: Path, more: str, limited: bool) -> None:
    config = configuration(folder, more)
    batcher: EmbeddingBatcher | None = build_router(config, profiles(config)).batcher
    assert batcher is not None
    assert (batcher.budget is not None) is limited
    batcher.close()


def test_a_routers_products_are_not_shared_out_over_threads(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with threadpool_limits(2, user_api="blas"):
        build_router(config, profiles(config)).close()
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
