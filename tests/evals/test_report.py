import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from evals.evaluate import RouterSpec
from evals.replay import RecordedExtractor
from evals.report import SCHEMA, Facts, ReportRequest, export_files, facts_of, markdown_of, page_of
from evals.report.exports import citation, figures_latex, frontier_svg
from evals.report.facts import label_costs
from evals.report.markdown import format_value
from evals.run_all import aggregate_runs, build_context, list_jobs, run_jobs
from evals.splits import kfold
from routers import FeatureExtractor, HashingEmbedder, OutcomeTable, Provenance

CHROMIUM = shutil.which("chromium")
SWITCHES = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000"
)
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">&amp;</script>"
REQUEST = ReportRequest(
    "A <b>title</b>", "thalamus eval data", "2026-01-01T00:00:00+00:00", "none", n_draws=200
)


def table(with_costs: bool = True) -> OutcomeTable:
    texts = [f"add {i} and {i + 1}{EVIL}" if i % 2 else f"write on {i} roses" for i in range(100)]
    sums = np.arange(100) % 2 == 1
    score = np.stack([sums, ~sums | (np.arange(100) % 3 == 0)], 1).astype(float)
    measures = {"score": score}
    if with_costs:
        measures["cost_usd"] = np.tile([0.001, 0.01], (100, 1))
    return OutcomeTable.build(
        texts,
        ["calc", "<i>bard"],
        measures,
        tasks=["sum" if s else "poem|<u>" for s in sums],
        bucket=np.arange(100),
        provenance=Provenance(source="made up </script>", cost_basis="PROXY"),
    )


def facts(held: OutcomeTable, request: ReportRequest = REQUEST) -> Facts:
    protocol = kfold(held, [0])
    jobs = list_jobs(
        protocol,
        [RouterSpec("knn:k=5", "knn", {"k": 5}, "static"), RouterSpec("constant", "constant", {}, "static")],
    )
    jobs = [job for job in jobs if job.name != "mean_of_four"]
    read = RecordedExtractor.of(held.texts, FeatureExtractor(HashingEmbedder()))
    runs = aggregate_runs(
        protocol, jobs, run_jobs(protocol, read, jobs, lambda *page_facts: None, n_workers=1)
    )
    return facts_of(protocol, build_context(protocol), runs, request)


@pytest.fixture(scope="module")
def page_facts() -> Facts:
    return facts(table())


def test_a_report_is_json_with_a_schema_and_an_interval_for_every_figure(page_facts: Facts) -> None:
    assert json.loads(json.dumps(page_facts, allow_nan=False))["schema"] == SCHEMA
    for group in ("routers", "baselines"):
        for name, figures in page_facts[group].items():
            assert {"accuracy", "area", "cost_saved", "apgr", "accuracy_in_domain"} <= set(figures), name
            for measure, found in figures.items():
                assert (
                    found is None
                    or found["low"] <= found["value"] <= found["high"]
                    or measure
                    in (
                        "calibration_error",
                        "decisions_per_s",
                    )
                ), (name, measure)
    assert page_facts["references"] == ["true_task", "oracle"]
    assert set(page_facts["references"]) < set(page_facts["baselines"])


def test_figures_are_those_of_the_table(page_facts: Facts) -> None:
    assert page_facts["baselines"]["oracle"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert page_facts["baselines"]["single:calc"]["accuracy"]["value"] == 0.5
    assert page_facts["routers"]["knn:k=5"]["accuracy"]["value"] > 0.95
    assert page_facts["routers"]["knn:k=5"]["accuracy_in_domain"] is None
    assert page_facts["routers"]["knn:k=5"]["apgr"]["value"] > 0.9
    assert page_facts["baselines"]["cheapest"]["area"] is None
    assert page_facts["data"]["has_costs"]


def test_comparisons_are_paired_differences_of_the_figures(page_facts: Facts) -> None:
    by = page_facts["comparisons"]["knn:k=5"]["best_single"]["accuracy"]
    own, base = (
        page_facts[g][n]["accuracy"]["value"]
        for g, n in (("routers", "knn:k=5"), ("baselines", "best_single"))
    )
    assert by["value"] == pytest.approx(own - base, abs=1e-5)
    assert by["low"] > 0
    assert page_facts["comparisons"]["constant"]["best_single"]["accuracy"] == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    assert "best_single" not in page_facts["comparisons"]
    singles = [name for name in page_facts["baselines"] if name.startswith("single:")]
    assert set(singles) <= set(page_facts["comparisons"]["constant"])
    assert "| single:" not in markdown_of(page_facts).partition("## Differences")[2].partition("##")[0]


def test_tasks_count_wins_ties_and_losses(page_facts: Facts) -> None:
    sums = next(row for row in page_facts["tasks"] if row["task"] == "sum")
    against = sums["against_best_single"]["knn:k=5"]
    assert sums["n"] == 50
    assert against["n_won"] + against["n_tied"] + against["n_lost"] == 50
    assert against["verdict"] == "win"
    assert sums["against_best_single"]["constant"]["verdict"] == "tie"


def test_regrets_name_the_choice_and_who_was_better(page_facts: Facts) -> None:
    for one in page_facts["regrets"]["constant"]:
        assert one["score"] < one["best_score"]
        assert one["chosen"] not in one["best"]
    assert len(page_facts["regrets"]["constant"]) == 15
    silent = facts(table(), replace(REQUEST, with_prompts=False))
    assert {one["prompt"] for one in silent["regrets"]["constant"]} == {None}
    assert "roses" not in json.dumps(silent)


def test_shares_add_up(page_facts: Facts) -> None:
    for name, parts in page_facts["shares"].items():
        assert sum(parts["free"].values()) == pytest.approx(1, abs=0.001), name


def test_without_costs_what_needs_them_is_null() -> None:
    bare = facts(table(with_costs=False))
    figures = bare["routers"]["knn:k=5"]
    assert figures["accuracy"] is not None
    assert [figures[name] for name in ("area", "cost_saved", "cost_usd", "router_arena")] == [None] * 4
    assert bare["frontier"] == {}
    assert "knn:k=5" in markdown_of(bare)
    assert page_of(bare)


def test_markdown_holds_every_router_and_escapes_pipes(page_facts: Facts) -> None:
    page = markdown_of(page_facts)
    assert "| **knn:k=5** |" in page
    assert "| *oracle* |" in page
    assert "poem\\|<u>" in page
    assert "| knn:k=5 | constant | +" in page
    assert "| constant | knn:k=5 |" not in page
    assert all(line.count("|") >= 3 for line in page.splitlines() if line.startswith("|"))


class Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def outline(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Outline()
    parser.feed(page)
    return parser.tags


def test_the_page_loads_nothing_and_runs_only_its_own_script(page_facts: Facts) -> None:
    tags = outline(page_of(page_facts))
    assert [attrs.get("type") for tag, attrs in tags if tag == "script"] == ["application/json", None]
    links = [value for _, attrs in tags for key, value in attrs.items() if key in ("src", "href")]
    assert set(links) <= {"data:,", "#figures"}
    assert not {"img", "iframe", "object", "b"} & {tag for tag, attrs in tags if "style" not in attrs}
    policy = next(a["content"] for t, a in tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy


def test_every_pair_is_compared_once_baselines_included(page_facts: Facts) -> None:
    names = [*page_facts["routers"], *page_facts["baselines"]]
    pairs = {(pair["first"], pair["second"]): pair["differences"] for pair in page_facts["pairs"]}
    assert len(pairs) == len(page_facts["pairs"]) == len(names) * (len(names) - 1) / 2
    found = pairs["best_single", "oracle"]["accuracy"]
    figures = page_facts["baselines"]
    least = figures["best_single"]["accuracy"]["value"] - figures["oracle"]["accuracy"]["value"]
    assert found["value"] == pytest.approx(least, abs=1e-5)
    assert found["high"] < 0
    rows = [attrs for tag, attrs in outline(page_of(page_facts)) if tag == "tr" and "data-first" in attrs]
    assert [(row["data-first"], row["data-second"]) for row in rows] == list(pairs)


def test_proxy_costs_are_named_beside_every_figure_that_rests_on_them(page_facts: Facts) -> None:
    page, text = page_of(page_facts), markdown_of(page_facts)
    assert page_facts["data"]["cost_label"] == "proxy costs"
    for measure in ("area", "cost saved", "cost saved score", "router arena"):
        assert f">{measure} (proxy costs)</th>" in page
        assert f"| {measure} (proxy costs) |" in text
    assert "cost saved |" not in text
    assert "(proxy costs)" in figures_latex(page_facts)
    assert "Mean score over cost (proxy costs)" in frontier_svg(page_facts)
    measured = replace(table(), provenance=Provenance(cost_basis="billed by the provider"))
    assert "proxy" not in markdown_of(facts(measured))
    assert label_costs("") == "basis of costs not stated"


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("share", 0.69734, "69.7 %"),
        ("points", 0.03249, "+3.2"),
        ("points", -0.03249, "−3.2"),
        ("points", -0.0000001, "+0.0"),
        ("usd", 0.00123456, "$1.23/1k"),
        ("usd", 12.3456, "$12300/1k"),
        ("score", 0.86049, "0.860"),
        ("score", -0.05, "−0.050"),
        ("number", 7715.4, "7,715"),
    ],
)
def test_a_figure_is_rounded_alike_everywhere(unit: str, value: float, text: str) -> None:
    assert format_value(unit, value) == text


def test_versions_settings_and_a_citation_are_on_the_page(page_facts: Facts) -> None:
    asked = replace(REQUEST, settings={"knn:k=5": {"predictor": "knn", "k": 5}})
    page_facts = {**page_facts, "made_with": facts(table(), asked)["made_with"]}
    page, text = page_of(page_facts), markdown_of(page_facts)
    versions = page_facts["made_with"]["versions"]
    assert {"thalamus", "python", "numpy", "scikit-learn", "onnxruntime"} <= versions.keys()
    assert f"<dt>numpy</dt><dd>{versions['numpy']}</dd>" in page
    assert "<dt>knn:k=5</dt><dd>predictor knn, k 5</dd>" in page
    assert "- `knn:k=5`: predictor knn, k 5" in text
    assert f"@misc{{thalamus-report-{page_facts['data']['fingerprint'][:8]}," in page
    assert page_facts["data"]["fingerprint"] in citation(page_facts)


def test_the_exports_are_what_they_say(page_facts: Facts) -> None:
    exported = export_files(page_facts)
    rows = list(csv.DictReader(exported["figures.csv"].splitlines()))
    own = next(row for row in rows if (row["name"], row["measure"]) == ("knn:k=5", "cost_saved"))
    assert float(own["value"]) == page_facts["routers"]["knn:k=5"]["cost_saved"]["value"]
    assert (own["kind"], own["unit"], own["costs"]) == ("router", "share", "proxy costs")
    pairs = list(csv.DictReader(exported["differences.csv"].splitlines()))
    assert {(row["first"], row["second"]) for row in pairs} >= {
        ("knn:k=5", "oracle"),
        ("best_single", "random"),
    }
    tasks = list(csv.DictReader(exported["tasks.csv"].splitlines()))
    assert {row["task"] for row in tasks} == {"sum", "poem|<u>"}
    for name in ("accuracy.svg", "frontier.svg"):
        assert ElementTree.fromstring(exported[name]).tag == "{http://www.w3.org/2000/svg}svg"
    assert "&lt;i&gt;bard" in exported["accuracy.svg"]
    tex = exported["figures.tex"]
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    body = re.sub(r"\$(-|\\uparrow|\\downarrow)\$", "", tex.partition("\n")[2])
    assert re.findall(r"(?<!\\)[_%#$]", body) == []
    assert "frontier.svg" not in export_files(facts(table(with_costs=False)))


def test_wide_tables_say_that_they_scroll(page_facts: Facts) -> None:
    page = page_of(page_facts)
    assert page.count('<p class="wide">The table is wider than the page: scroll it sideways.</p>') == 3


def test_the_page_keeps_its_facts_whole(page_facts: Facts) -> None:
    found = re.search(
        r'<script type="application/json" id="facts">(.*?)</script>', page_of(page_facts), re.DOTALL
    )
    assert found is not None
    assert json.loads(found.group(1)) == json.loads(json.dumps(page_facts))


def browse(page: Path, profile: Path, *more: str) -> subprocess.CompletedProcess[str]:
    switches = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    )
    switches += (
        " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000"
    )
    command = [str(CHROMIUM), *switches.split(), f"--user-data-dir={profile}", *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to look at the page with")
def test_a_browser_draws_the_page_without_an_error_and_asks_for_nothing(
    page_facts: Facts, tmp_path: Path
) -> None:
    """Its policy forbids requests: trying one is an error on the console, which the second page shows."""
    page = tmp_path / "report.html"
    page.write_text(page_of(page_facts), "utf-8")
    seen = browse(page, tmp_path / "profile", "--window-size=1200,900", "--dump-dom")
    assert "CONSOLE" not in seen.stderr, seen.stderr
    drawn = seen.stdout
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in drawn
    tags = outline(drawn)
    assert sum(tag == "svg" for tag, _ in tags) == 3
    assert sum(tag == "details" for tag, _ in tags) == len(page_facts["regrets"]["knn:k=5"])
    assert sum(attrs.get("class") == "bar" for _, attrs in tags) > 3
    assert "dollars a thousand queries (proxy costs)" in drawn
    assert "cost saved (proxy costs), at " in drawn
    shown = [attrs for tag, attrs in tags if tag == "tr" and "data-first" in attrs and "hidden" not in attrs]
    assert {row["data-first"] for row in shown} == {"knn:k=5"}
    hints = [attrs for tag, attrs in tags if attrs.get("class") == "wide"]
    assert ["hidden" in hint for hint in hints] == [False, True, True]
    assert not any(tag == "img" for tag, _ in tags)
    page.write_text(
        page_of(page_facts).replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'), "utf-8"
    )
    assert "CONSOLE" in browse(page, tmp_path / "profile", "--dump-dom").stderr


def test_every_measure_is_explained(page_facts: Facts) -> None:
    meanings: dict[str, Any] = page_facts["measures"]
    assert all(one["about"] and one["unit"] for one in meanings.values())
    schema = files("evals").joinpath("SCHEMA.md").read_text("utf-8")
    baselines = [name for name in page_facts["baselines"] if not name.startswith("single:")]
    named = (*meanings, *page_facts, *baselines)
    assert [name for name in named if f"`{name}`" not in schema] == []
