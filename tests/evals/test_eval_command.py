import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evals.commands.eval import command, seeds_of
from routers import OutcomeTable

USD = {"calc": 0.001, "bard": 0.01}
CSV = "prompt,model,score,cost_usd,bucket,task\n" + "".join(
    f"{kind} {n},{model},{float((kind == 'sum') == (model == 'calc'))},{USD[model]},{n},{kind}\n"
    for n in range(60)
    for kind in ("sum", "poem about the sea")
    for model in ("calc", "bard")
)


def run(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])


def test_eval_writes_three_reports_of_the_routers_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    out = tmp_path / "new" / "report"
    options = ("--encoder", "none", "--jobs", 1, "--draws", 100, "--out", out)
    protocol = ("--protocol", "holdout", "--test", "40-59")
    result = run(tmp_path / "t.csv", "--routers", "knn:k=5,constant@static", *protocol, *options)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        *(
            "report.json",
            "report.md",
            "report.html",
            "figures.csv",
            "differences.csv",
            "tasks.csv",
            "fronts.csv",
        ),
        *("figures.tex", "accuracy.svg", "frontier.svg", "citation.bib"),
    }
    printed = json.loads((out / "report.json").read_text())
    assert list(printed["routers"]) == ["knn:k=5", "constant@static"]
    assert printed["routers"]["knn:k=5"]["accuracy"]["value"] == 1
    assert printed["data"]["n_tested"] == 40
    assert "knn:k=5: accuracy 100.0 %" in result.output
    assert printed["made_with"]["settings"]["routers"]["knn:k=5"] == {
        "predictor": "knn",
        "tier": "static",
        "k": 5,
    }
    assert str(out / "report.html") in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["absent.csv"], "no such file"),
        (["t.csv", "--routers", "zed"], "no predictor 'zed'"),
        (["t.csv", "--protocol", "holdout"], "--test goes with --protocol holdout"),
        (["t.csv", "--test", "3"], "--test goes with --protocol holdout"),
        (["t.csv", "--protocol", "routerdc"], "only a folder with prompts.parquet"),
        (["t.csv", "--protocol", "routellm"], "MMLU queries leave none to test"),
        (["t.csv", "--buckets", "3-4"], "two folds at least"),
        (["t.csv", "--buckets", "99"], "too few to compare on"),
        (["t.csv", "--experts", "calc"], "1 experts are too few"),
        (["t.csv", "--seeds", "1,1"], "each once"),
        (["t.csv", "--seeds", "x"], "not numbers and commas"),
        (["t.csv", "--out", "t.csv"], "is a file"),
    ],
)
def test_eval_fails_in_one_line_before_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(CSV)
    result = run(*args, "--encoder", "none")
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_seeds_are_numbers_and_commas() -> None:
    assert seeds_of("0, 3,7") == [0, 3, 7]


def save_gaps(path: Path, seed: int, shares: dict[str, float], cost_gaps: float = 0.0) -> OutcomeTable:
    """Random outcomes, each expert measured on that share of 150 queries only."""
    rng = np.random.default_rng(seed)
    shape = (150, len(shares))
    score = np.where(rng.random(shape) < list(shares.values()), rng.integers(0, 2, shape), np.nan)
    cost = np.where(np.isnan(score) | (rng.random(shape) < cost_gaps), np.nan, rng.random(shape))
    held = OutcomeTable.build(
        [f"{('add', 'rhyme', 'list')[i % 3]} {i} things" for i in range(150)],
        list(shares),
        {"score": score, "cost_usd": cost},
        tasks=[("sum", "poem", "list")[i % 3] for i in range(150)],
        bucket=rng.integers(0, 100, 150),
    )
    held.save(path)
    return held


QUICK = ("--encoder", "none", "--jobs", 1, "--draws", 100, "--routers", "knn:k=5,constant")


@pytest.mark.parametrize("seed", [0, 3])
def test_all_figures_are_of_the_same_queries_so_no_router_beats_the_oracle(tmp_path: Path, seed: int) -> None:
    table, out = tmp_path / "gaps.jsonl.gz", tmp_path / "out"
    shares = {"a": 1.0, "b": 0.9, "c": 0.8, "d": 0.3 + 0.2 * seed}
    held = save_gaps(table, seed, shares, cost_gaps=0.2 * (seed % 2))
    result = run(table, *QUICK, "--out", out, "--seeds", "0")
    assert result.exit_code == 0, result.output
    facts = json.loads((out / "report.json").read_text())
    complete = ~np.isnan(held.score).any(axis=1)
    assert facts["data"]["n_tested"] == complete.sum()
    assert facts["data"]["n_left_out"] == (~complete).sum()
    assert f"{(~complete).sum()} queries enter no figure" in result.output
    assert f"{(~complete).sum()} queries enter no figure" in (out / "report.md").read_text()
    figures = {**facts["routers"], **facts["baselines"]}
    assert figures["oracle"]["accuracy"]["value"] == pytest.approx(
        held.score[complete].max(axis=1).mean(), abs=1e-5
    )
    for name, found in figures.items():
        assert found["accuracy"]["value"] <= figures["oracle"]["accuracy"]["value"], name
        assert found["measured"] is None or found["measured"]["value"] == 1, name
    for task in facts["tasks"]:
        assert max(task["scores"].values()) == task["scores"]["oracle"]
    priced = complete & ~np.isnan(held.cost_usd).any(axis=1)
    for column, name in enumerate(held.experts):
        single = figures[f"single:{name}"]
        assert single["accuracy"]["value"] == pytest.approx(held.score[complete, column].mean(), abs=1e-5)
        assert single["cost_usd"]["value"] == pytest.approx(held.cost_usd[priced, column].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ({"calculator": 0.01, "a": 1.0, "b": 0.9}, "a,b"),
        ({"a": 1.0, "b c": 0.9, "x": 0.1, "y": 0.02}, "a,b c"),
    ],
)
def test_too_few_complete_queries_name_the_expert_and_a_command_that_works(
    tmp_path: Path, shares: dict[str, float], kept: str
) -> None:
    table, out = tmp_path / "gaps.jsonl.gz", tmp_path / "out"
    held = save_gaps(table, 0, shares)
    options = (*QUICK, "--protocol", "holdout", "--test", "0-49", "--out", out)
    result = run(table, *options)
    fewest = min(shares, key=lambda name: shares[name])
    count = int((~np.isnan(held.score[:, held.experts.index(fewest)])).sum())
    assert result.exit_code != 0
    assert len(result.output.strip().splitlines()) == 1
    assert f"expert {fewest!r} has the fewest outcomes ({count})" in result.output
    assert f"--experts {shlex.quote(','.join(shares))} --out {table}`" in result.output
    found = re.search("without it: `(--experts .*?)`", result.output)
    assert found
    assert shlex.split(found[1])[1] == kept
    assert run(table, *options, *shlex.split(found[1])).exit_code == 0


@pytest.mark.parametrize("n", [14, 60])
def test_experts_that_fit_leaves_out_are_left_out_by_themselves(tmp_path: Path, n: int) -> None:
    score = np.random.default_rng(n).integers(0, 2, (n, 4)).astype(float)
    score[:, 2:] = 0.0, np.nan
    declined = np.zeros((n, 4))
    declined[:, 2] = 1
    held = OutcomeTable.build(
        [f"Question {i}?" for i in range(n)],
        ["a", "b", "calculator", "never asked"],
        {"score": score, "declined": declined},
        bucket=np.arange(n) * 7 % 100,
    )
    held.save(tmp_path / "own.jsonl.gz")
    result = run(tmp_path / "own.jsonl.gz", *QUICK, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"calculator is left out of this comparison: it declined all {n} prompts" in result.output
    assert "never asked is left out of this comparison: it has no score" in result.output
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {name for name in facts["baselines"] if name.startswith("single:")} == {"single:a", "single:b"}


def test_an_expert_measured_in_one_fold_only_is_named(tmp_path: Path) -> None:
    rows = [f"query {n},{model},1,{n % 100}" for n in range(200) for model in ("a", "b")]
    rows += [f"query {n},calculator,1,{n % 100}" for n in range(200) if n % 100 < 20]
    (tmp_path / "t.csv").write_text("prompt,model,score,bucket\n" + "\n".join(rows) + "\n")
    result = run(tmp_path / "t.csv", *QUICK, "--out", tmp_path / "out")
    assert result.exit_code != 0
    assert "no outcome in a training part; expert 'calculator' has the fewest outcomes (40)" in result.output
    assert "`--experts a,b`" in result.output
    assert "thalamus profile" not in result.output  # it would not write to this file
