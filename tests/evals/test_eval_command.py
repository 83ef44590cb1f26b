import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from evals.commands.eval import command, seeds_of

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
        *("report.json", "report.md", "report.html", "figures.csv", "differences.csv", "tasks.csv"),
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
