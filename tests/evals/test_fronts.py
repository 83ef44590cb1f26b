"""Fronts over size, recency and latency: what a report shows beside money."""

import csv
from typing import Any

import numpy as np
import pytest

from evals.commands.eval import _read_expert_facts
from evals.evaluate import RouterSpec
from evals.replay import RecordedExtractor
from evals.report import ReportRequest, export_files, facts_of, markdown_of, page_of
from evals.report.fronts import WEIGHTS, explain_gap
from evals.run_all import aggregate_runs, build_context, list_jobs, run_jobs
from evals.splits import kfold
from routers import FeatureExtractor, HashingEmbedder, OutcomeTable

EXPERTS = ("small-1b", "large-70b", "unsized")


def report(experts: dict[str, dict[str, Any]], latency: bool = True) -> dict[str, Any]:
    """On a table where the small expert knows sums, the large one everything, the third nothing."""
    n = 100
    sums = np.arange(n) % 2 == 1
    score = np.stack([sums, np.ones(n), np.zeros(n)], axis=1).astype(float)
    measures = {"score": score, **({"latency_s": np.tile([0.5, 4.0, 1.0], (n, 1))} if latency else {})}
    texts = [f"add {i} and {i + 1}" if i % 2 else f"write on {i} roses" for i in range(n)]
    table = OutcomeTable.build(texts, EXPERTS, measures, bucket=np.arange(n))
    protocol = kfold(table, [0])
    specs = [RouterSpec("knn:k=5", "knn", {"k": 5}, "static")]
    jobs = [job for job in list_jobs(protocol, specs) if job.name != "mean_of_four"]
    read = RecordedExtractor.of(protocol.texts(), FeatureExtractor(HashingEmbedder(64)), lambda *_: None)
    done = list(run_jobs(protocol, read, jobs, lambda *_: None, 1))
    request = ReportRequest("t", "c", "2026-01-01T00:00:00+00:00", "none", n_draws=100, experts=experts)
    return facts_of(protocol, build_context(protocol), aggregate_runs(protocol, jobs, done), request)


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return report({"small-1b": {"released": "2025-01-31"}, "large-70b": {"released": "2025-01-01"}})


def test_values_are_given_or_read_from_names_or_measured(facts: dict[str, Any]) -> None:
    fronts = facts["fronts"]
    assert fronts["size"]["experts"] == {"small-1b": 1, "large-70b": 70, "unsized": None}
    assert fronts["recency"]["experts"] == {"small-1b": 0, "large-70b": 30, "unsized": None}
    assert fronts["latency"]["experts"] == {"small-1b": 0.5, "large-70b": 4, "unsized": 1}


@pytest.mark.parametrize(("goal", "ends"), [("size", (70, 1)), ("recency", (30, 0)), ("latency", (4, 0.5))])
def test_a_growing_weight_gives_quality_for_the_goal(
    facts: dict[str, Any], goal: str, ends: tuple[float, float]
) -> None:
    (points,) = facts["fronts"][goal]["routers"].values()
    assert [one["weight"] for one in points] == list(WEIGHTS)
    values = [one["value"] for one in points]
    assert values == sorted(values, reverse=True)
    assert values[0] > ends[1]
    assert max(values) <= ends[0]
    assert points[-1]["value"] < points[0]["value"]
    assert points[0]["score"] >= points[-1]["score"]


def test_the_small_expert_answers_the_sums_at_no_loss(facts: dict[str, Any]) -> None:
    """Ranks weigh as in the engine: at a middle weight sums go to the small one, others to the large one."""
    (points,) = facts["fronts"]["size"]["routers"].values()
    middle = next(one for one in points if one["weight"] == 0.2)
    assert middle["score"] > 0.9
    assert 25 < middle["value"] < 45


def test_what_is_not_known_is_said_with_the_fix() -> None:
    facts = report({}, latency=False)
    fronts = facts["fronts"]
    assert fronts["recency"]["routers"] == fronts["latency"]["routers"] == {}
    assert "unsized: left out; parameters_b" in explain_gap("size", fronts["size"])
    assert "no front; released" in explain_gap("recency", fronts["recency"])
    for page in (markdown_of(facts), page_of(facts)):
        assert "latency is not known of small-1b, large-70b, unsized: no front" in page


def test_pages_and_export_show_the_fronts(facts: dict[str, Any]) -> None:
    point = next(iter(facts["fronts"]["size"]["routers"].values()))[0]
    for page in (markdown_of(facts), page_of(facts)):
        assert "size, billions of parameters" in page
        assert f"at {point['value']:.3g}" in page
    rows = list(csv.DictReader(export_files(facts)["fronts.csv"].splitlines()))
    assert len([row for row in rows if row["goal"] == "size" and row["name"] == "knn:k=5"]) == len(WEIGHTS)


def test_the_configuration_tells_facts_of_experts(tmp_path: Any) -> None:
    path = tmp_path / "thalamus.yaml"
    path.write_text("experts: [{name: a, parameters_b: 3, released: 2025-01-01}, 7]\n")
    assert _read_expert_facts(path)["a"]["parameters_b"] == 3
    assert _read_expert_facts(tmp_path / "none.yaml") == {}


@pytest.mark.parametrize("odd", [{"parameters_b": "big", "released": "soon"}, {"parameters_b": -1}])
def test_an_odd_fact_counts_as_unknown(odd: dict[str, Any]) -> None:
    assert report({"unsized": odd})["fronts"]["size"]["experts"]["unsized"] is None
