"""Targets in dollars and quality, from the artifact's λ table to the answer of the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import Config, parse_config
from gateway.errors import InvalidField
from gateway.experts.profiles import profiles
from gateway.routing import router as routing_build
from gateway.routing.router import Router, build_router
from policies import Fleet, Objective, RoutingHints
from routers import FeatureExtractor, FitSettings, HashingEmbedder, OutcomeTable, fit_artifact
from tests.fakes.parsed import to_policy

TEXT = "What is 4 plus 7?"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an artifact in which the dear expert is always right, the cheap one mostly."""
    texts = [f"What is {n} plus {n + 3} times {n % 7}?" for n in range(120)]
    score = np.stack([np.arange(120) % 10 < 8, np.ones(120)], axis=1).astype(float)
    lengths = np.full((120, 2), 50.0)
    held = {"score": score, "cost_usd": np.tile([0.001, 0.01], (120, 1)), "output_tokens": lengths}
    table = OutcomeTable.build(texts, ["cheap", "dear"], held, models=["openai/cheap", "openai/dear"])
    artifact = fit_artifact(table, FeatureExtractor(HashingEmbedder(64)), FitSettings(predictor="constant"))
    artifact.save(tmp_path / "artifact")
    monkeypatch.setattr(routing_build, "StaticEmbedder", lambda: HashingEmbedder(64))
    (tmp_path / "thalamus.yaml").write_text(source(tmp_path))
    return tmp_path


def source(folder: Path) -> str:
    return (
        "experts:\n"
        "  - {name: cheap, model: openai/cheap, input_cost_per_token: 1e-6, output_cost_per_token: 2e-5}\n"
        "  - {name: dear, model: openai/dear, input_cost_per_token: 1e-5, output_cost_per_token: 2e-4}\n"
        "policies: {auto: {encoder: never}, thrifty: {encoder: never, objective: {max_usd_per_1k: 1.2}}}\n"
        f"routing: {{artifact: '{folder}/artifact'}}\n"
    )


def build_router_at(folder: Path) -> tuple[Router, Config]:
    config = parse_config(source(folder))
    return build_router(config, profiles(config)), config


async def choose_expert(folder: Path, policy: str = "auto", **target: Any) -> str:
    routing, config = build_router_at(folder)
    hints = RoutingHints(objective=Objective(**target)) if target else None
    decision = await routing.decide(to_policy(TEXT, config.policies_by_name()[policy], hints), Fleet.idle(2))
    return decision.chosen


async def test_a_policy_or_a_request_that_asks_for_dollars_gets_the_weight_for_them(folder: Path) -> None:
    assert await choose_expert(folder) == "dear"
    assert await choose_expert(folder, "thrifty") == "cheap"
    assert await choose_expert(folder, max_usd_per_1k=1.2) == "cheap"
    assert await choose_expert(folder, max_usd_per_1k=50.0) == "dear"
    assert await choose_expert(folder, target_quality=0.5) == "cheap"
    assert await choose_expert(folder, target_quality=0.95) == "dear"


@pytest.mark.parametrize("target", [{"max_usd_per_1k": 0.01}, {"target_quality": 1.0, "max_usd_per_1k": 5.0}])
async def test_a_target_out_of_reach_is_the_requests_fault(folder: Path, target: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="out of reach") as caught:
        await choose_expert(folder, **target)
    assert (caught.value.status, caught.value.param) == (400, "router")


def test_route_shows_what_other_weights_would_buy(folder: Path) -> None:
    config = ["--config", str(folder / "thalamus.yaml")]
    shown = CliRunner().invoke(main, ["route", TEXT, *config, "--policy", "thrifty"])
    assert shown.exit_code == 0, shown.output
    (line,) = [line for line in shown.output.splitlines() if "this policy" in line]
    assert float(line.split()[1]) == pytest.approx(1.0, rel=0.1)  # dollars a thousand: 50 tokens out at 2e-5
    assert "cost weight" in shown.output


def test_route_tells_the_table_as_json(folder: Path) -> None:
    config = ["--config", str(folder / "thalamus.yaml")]
    record = CliRunner().invoke(main, ["route", TEXT, *config, "--json"])
    tradeoff = json.loads(record.stdout)["tradeoff"]
    assert tradeoff["cost"] == 0
    assert [row["usd_per_1k"] for row in tradeoff["table"]] == pytest.approx([10.1, 1.01], rel=0.02)
    assert [row["quality"] for row in tradeoff["table"]] == pytest.approx([1.0, 0.8], abs=0.01)
