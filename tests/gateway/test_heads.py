"""Policies that name a head: each decides by its own, on features read once, or is refused in time."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import gateway.routing.router as routing_build
from gateway.cli import main
from gateway.config import Config, load_config
from gateway.experts.profiles import profiles
from gateway.routing.router import Router, build_router
from policies import Fleet
from routers import (
    Artifact,
    ArtifactError,
    FeatureExtractor,
    Features,
    FitSettings,
    HashingEmbedder,
    OutcomeTable,
    Query,
    Tier,
    fit_artifact,
)
from tests.fakes.parsed import to_policy

EXPERTS = """
experts:
  - {name: sums, model: openai/sums, api_base: 'http://127.0.0.1:9/v1'}
  - {name: facts, model: openai/facts, api_base: 'http://127.0.0.1:9/v1'}
routing: {artifact: artifact}
"""
POLICIES = """
policies:
  auto: {encoder: never}
  kinds: {encoder: never, predictor: coe}
  same: {encoder: never, predictor: constant}
  maths: {encoder: never, predictor: constant, mapping: {sum: [sums], general: [facts]}}
"""


QUESTIONS = {"sum": "please add two numbers, plus", "fact": "who was the king of England around"}
SUM = "please add two numbers, plus 124"


def table() -> OutcomeTable:
    """Sums and facts, each with an expert who knows them; the one of facts is right more often in all."""
    kinds = ["sum" if n % 12 < 5 else "fact" for n in range(240)]
    score = np.array([[float(kind == "sum"), float(kind == "fact")] for kind in kinds])
    texts = [f"{QUESTIONS[kind]} {n}" for n, kind in enumerate(kinds)]
    models, bucket = ["openai/sums", "openai/facts"], np.arange(240) % 97
    return OutcomeTable.build(
        texts, ["sums", "facts"], {"score": score}, models=models, tasks=kinds, bucket=bucket
    )


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    extractor = FeatureExtractor(HashingEmbedder(64))
    return fit_artifact(table(), extractor, FitSettings("linear", heads=("coe", "constant", "knn")))


@pytest.fixture
def here(tmp_path: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and an artifact of several heads, in a world whose embedder is light."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(routing_build, "StaticEmbedder", lambda: HashingEmbedder(64))
    artifact.save(tmp_path / "artifact")
    (tmp_path / "thalamus.yaml").write_text(EXPERTS + POLICIES)
    return tmp_path


def build(config: Config | None = None, **more: Any) -> tuple[Router, Config]:
    config = config or load_config("thalamus.yaml")
    return build_router(config, profiles(config), **more), config


async def decide(router: Router, config: Config, policy: str, text: str) -> Any:
    return await router.decide(to_policy(text, config.policies_by_name()[policy]), Fleet.idle(2))


@pytest.mark.parametrize("mapped", [False, True])
async def test_each_policy_is_decided_by_the_head_that_it_names(here: Path, mapped: bool) -> None:
    router, config = build(mapped=mapped)
    for policy, head, chosen in (
        ("auto", "linear", "sums"),
        ("kinds", "coe", "sums"),
        ("same", "constant", "facts"),
    ):
        decision = await decide(router, config, policy, SUM)
        assert (decision.head, decision.chosen) == (head, chosen)
        (patient,) = await router.decide_many(
            [to_policy(SUM, config.policies_by_name()[policy])], Fleet.idle(2)
        )
        assert (patient.head, patient.chosen) == (head, chosen)  # type: ignore[union-attr]


async def test_a_mapping_reads_categories_whatever_head_predicts(here: Path) -> None:
    router, config = build()
    decision = await decide(router, config, "maths", SUM)
    assert (decision.head, decision.chosen) == ("constant", "sums")
    assert decision.reason == "category sum: mapped to sums"


async def test_queries_of_several_heads_that_come_together_are_read_together(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, config = build()
    assert router.extractor is not None
    texts = [f"{QUESTIONS[kind]} {n}" for n, kind in enumerate(["sum", "fact"] * 3)]
    names = ["auto", "kinds", "same", "auto", "kinds", "same"]
    alone = [await decide(router, config, *one) for one in zip(names, texts, strict=True)]
    sizes: list[int] = []
    extract = router.extractor.extract

    def count(queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        sizes.append(len(queries))
        return extract(queries, tier, reuse)

    monkeypatch.setattr(router.extractor, "extract", count)
    together = await asyncio.gather(*(decide(router, config, *one) for one in zip(names, texts, strict=True)))
    assert sizes == [6]
    for one, other in zip(alone, together, strict=True):
        assert (one.head, one.chosen) == (other.head, other.chosen)
        np.testing.assert_allclose(one.quality, other.quality, atol=1e-4)


async def test_a_head_that_fails_costs_only_its_own_queries_their_prediction(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router, config = build()

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(router.find_head(config.policies_by_name()["kinds"]).forecaster, "_quality", fail)
    monkeypatch.setattr(routing_build.log, "warning", lambda *_: None)
    names = ["auto", "kinds", "same"]
    found = await asyncio.gather(*(decide(router, config, name, SUM) for name in names))
    assert [decision.head for decision in found] == ["linear", None, "constant"]
    assert "degraded: the predictor failed" in found[1].reason


def test_a_head_that_no_policy_uses_is_not_read(here: Path) -> None:
    (here / "artifact/heads/knn/arrays.npz").write_bytes(b"damaged")
    build()
    (here / "artifact/heads/coe/arrays.npz").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="artifact/heads/coe: damaged"):
        build()


def test_a_head_is_tried_out_before_it_serves(here: Path) -> None:
    build()
    folder = here / "artifact/heads/coe"
    arrays = dict(np.load(folder / "arrays.npz"))
    arrays["static.calibration.intercept"] = arrays["static.calibration.intercept"] + 0.2
    np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ArtifactError, match=r"^artifact: head coe: damaged \(its static tier does not decide"
    ):
        build()


MISSING = (
    "policies.kinds.predictor: artifact has no head 'tryage', there are linear, coe, constant, knn; "
    "`thalamus fit outcomes.jsonl.gz artifact --head tryage` adds it"
)


@pytest.fixture
def missing(here: Path) -> Path:
    (here / "thalamus.yaml").write_text(EXPERTS + POLICIES.replace("predictor: coe", "predictor: tryage"))
    return here


def test_a_head_that_the_artifact_lacks_is_an_error_of_the_check_with_line_and_fix(missing: Path) -> None:
    result = CliRunner().invoke(main, ["config", "check"])
    assert result.exit_code == 1
    assert f"thalamus.yaml:9: {MISSING}" in result.output
    shown = json.loads(CliRunner().invoke(main, ["config", "check", "--json"]).output)
    assert (shown["ok"], [problem["line"] for problem in shown["problems"]]) == (False, [9])


def test_a_head_that_the_artifact_lacks_stops_the_start(missing: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        build()
    assert str(refused.value) == MISSING
    result = CliRunner().invoke(main, ["route", SUM, "--policy", "kinds"])
    assert (result.exit_code, result.output) == (1, f"Error: {MISSING}\n")


def test_without_an_artifact_a_named_head_is_no_error(missing: Path) -> None:
    (missing / "artifact").rename(missing / "elsewhere")
    assert CliRunner().invoke(main, ["config", "check"]).exit_code == 0
    build()


def test_an_unknown_head_names_the_ones_there_are(here: Path) -> None:
    (here / "thalamus.yaml").write_text(EXPERTS + POLICIES.replace("predictor: coe", "predictor: cue"))
    result = CliRunner().invoke(main, ["config", "check"])
    assert "policies.kinds.predictor" in result.output
    assert "coe" in result.output


def test_route_and_doctor_tell_heads(here: Path) -> None:
    shown = CliRunner().invoke(main, ["route", SUM, "--policy", "kinds"]).output
    assert "(policy kinds, head coe)" in shown
    record = json.loads(CliRunner().invoke(main, ["route", SUM, "--policy", "same", "--json"]).output)
    assert record["head"] == "constant"
    shown = CliRunner().invoke(main, ["doctor"]).output
    assert "heads linear (auto), coe (kinds), constant (same, maths), knn (no policy)" in shown
    (here / "artifact/heads/knn/arrays.npz").write_bytes(b"damaged")
    found = CliRunner().invoke(main, ["doctor"])
    assert found.exit_code == 1
    assert "artifact/heads/knn: damaged" in found.output


async def test_another_head_chooses_the_members_of_a_panel(here: Path) -> None:
    rule = "{panel: {k: 2, aggregator: vote%s}}"
    policy = "policies:\n  auto: {encoder: never, predictor: constant, plan: " + rule + "}\n"
    members = []
    for more in ("", ", predictor: linear"):
        (here / "thalamus.yaml").write_text(EXPERTS + policy % more)
        router, config = build()
        decision = await decide(router, config, "auto", SUM)
        members.append(decision.plan.summary()["members"])
        # What they are worth, and so how much their votes count, is the policy's head's word.
        assert (decision.head, decision.order.tolist()) == ("constant", [1, 0])
    assert members == [["facts", "sums"], ["sums", "facts"]]


def test_all_heads_that_are_not_there_are_named_at_once(here: Path) -> None:
    policies = "policies: {a: {predictor: skills}, b: {predictor: tryage}}\n"
    (here / "thalamus.yaml").write_text(EXPERTS + policies)
    with pytest.raises(ArtifactError) as raised:
        build()
    assert [line.partition(":")[0] for line in str(raised.value).splitlines()] == [
        "policies.a.predictor",
        "policies.b.predictor",
    ]


def test_the_head_of_a_panel_must_be_there_too(here: Path) -> None:
    policy = "policies: {auto: {plan: {panel: {predictor: skills}}}}\n"
    (here / "thalamus.yaml").write_text(EXPERTS + policy)
    result = CliRunner().invoke(main, ["config", "check"])
    assert "policies.auto.plan.panel.predictor: artifact has no head 'skills'" in result.output
    with pytest.raises(ArtifactError, match=r"^policies\.auto\.plan\.panel\.predictor: artifact has no head"):
        build()
