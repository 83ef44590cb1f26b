import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evals.commands.fit import command as fit
from evals.commands.import_ import bucket_set
from evals.commands.import_ import command as import_
from routers import Artifact, OutcomeTable

CSV = "prompt,model,score,bucket\n" + "".join(
    f"{kind} {n},{model},{float((kind == 'sum') == (model == 'calc'))},{n}\n"
    for n in range(60)
    for kind in ("sum", "poem about the sea")
    for model in ("calc", "bard")
)


def run(command: object, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])  # type: ignore[arg-type]


def test_importing_selects_buckets_and_experts_and_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    out = tmp_path / "sub" / "o.jsonl.gz"
    result = run(
        import_, tmp_path / "t.csv", out, "--buckets", "0-9,20", "--model", "calc=tool/calc", "--json"
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["n_queries"], facts["best_single"], facts["oracle"]) == (22, "bard", 1.0)
    assert facts["experts"]["calc"] == {"model": "tool/calc", "score": 0.5}
    table = OutcomeTable.load(out)
    assert set(table.bucket.tolist()) == {*range(10), 20}
    assert run(import_, out, tmp_path / "one.jsonl", "--experts", "bard").exit_code == 0
    assert OutcomeTable.load(tmp_path / "one.jsonl").experts == ("bard",)


def test_importing_with_merge_adds_to_what_is_there(tmp_path: Path) -> None:
    out = tmp_path / "o.jsonl"
    for name, model in (("a.csv", "a"), ("b.csv", "b")):
        (tmp_path / name).write_text(f"id,prompt,model,score\n1,p,{model},1\n")
        result = run(import_, tmp_path / name, out, "--merge")
        assert result.exit_code == 0
        assert "next: thalamus fit" in result.output
    assert OutcomeTable.load(out).experts == ("a", "b")


def test_importing_gives_an_expert_the_name_and_model_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    out = tmp_path / "o.jsonl"
    given = ("--model", "calc=tool/calc", "--rename", "calc=sums")
    assert run(import_, tmp_path / "t.csv", out, *given).exit_code == 0
    table = OutcomeTable.load(out)
    assert list(zip(table.experts, table.models, strict=True)) == [("bard", "bard"), ("sums", "tool/calc")]


def test_importing_names_the_columns_that_it_passes_over(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,subject,big\np,sums,1\n")
    result = run(import_, tmp_path / "t.csv", tmp_path / "o.jsonl")
    assert "note: column 'subject' is passed over: words" in result.output
    facts = json.loads(run(import_, tmp_path / "t.csv", tmp_path / "o.jsonl", "--json").output)
    assert facts["notes"] == ["column 'subject' is passed over: words"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["absent.csv", "o.jsonl"], "no such file"),
        (["t.csv", "o.txt"], "must end in .jsonl"),
        (["t.csv", "o.jsonl", "--buckets", "9-3"], "bucket or range of 0-99"),
        (["t.csv", "o.jsonl", "--buckets", "99"], "no query left"),
        (["t.csv", "o.jsonl", "--experts", "zed"], "no expert 'zed'"),
        (["t.csv", "o.jsonl", "--model", "zed=x"], "'zed' is not an expert of the table: bard, calc"),
        (["t.csv", "o.jsonl", "--model", "calc"], "'calc' is not NAME=MODEL"),
        (["t.csv", "o.jsonl", "--rename", "calc=bard"], "two experts would be 'bard'"),
        (["t.csv", "o.jsonl", "--format", "folder"], "prompts.parquet"),
    ],
)
def test_importing_fails_in_one_line(tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    result = run(import_, tmp_path / args[0], tmp_path / args[1], *args[2:])
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("printed", "found"), [("0-3", {0, 1, 2, 3}), ("5, 7-8", {5, 7, 8}), ("99", {99})])
def test_buckets_are_numbers_and_ranges(printed: str, found: set[int]) -> None:
    assert bucket_set(printed) == found


def test_fitting_writes_an_artifact_that_tells_the_experts_apart(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    run(import_, tmp_path / "t.csv", tmp_path / "o.jsonl")
    result = run(fit, tmp_path / "o.jsonl", tmp_path / "a", "--encoder", "none", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["heads"]["blend"]["static"]["accuracy"] > 0.95
    artifact = Artifact.load(tmp_path / "a")
    assert [expert.name for expert in artifact.experts] == ["bard", "calc"]
    assert list(artifact.tiers) == ["static"]
    assert np.isnan(artifact.latency).all()


def test_fitting_says_how_many_prompts_a_tool_declined(tmp_path: Path) -> None:
    declined = np.zeros((23, 2))
    declined[6:, 0] = 1
    table = OutcomeTable.build(
        [f"question {n}" for n in range(23)],
        ["tool", "bard"],
        {"score": np.where(declined == 1, 0.0, 1.0), "declined": declined},
    )
    table.save(tmp_path / "o.jsonl")
    options = ("--encoder", "none", "--predictor", "constant")
    said = run(fit, tmp_path / "o.jsonl", tmp_path / "a", *options).output
    assert "tool: model tool, n 6 (declined 17 of 23), score 1.00" in said
    assert "bard: model bard, n 23, score" in said
    facts = json.loads(run(fit, tmp_path / "o.jsonl", tmp_path / "b", *options, "--json").stdout)
    assert facts["experts"]["tool"]["n_declined"] == 17
    assert "n_declined" not in facts["experts"]["bard"]


def test_fitting_says_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(CSV)
    run(import_, "t.csv", "o.jsonl")
    options = ("--encoder", "none", "--predictor", "constant")
    for out in ([], ["./.thalamus/artifact"], [tmp_path / ".thalamus" / "artifact"]):
        lines = run(fit, "o.jsonl", *out, *options).output.splitlines()
        assert lines[-2:] == [
            "next: thalamus serve",
            "a gateway that runs reads the new artifact on SIGHUP: kill -HUP PID",
        ]
    elsewhere = run(fit, "o.jsonl", "mine", *options).output
    assert "next: thalamus serve, with `routing: {artifact: mine}` in thalamus.yaml\n" in elsewhere


def test_an_expert_is_added_to_an_artifact_that_does_not_know_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    run(import_, tmp_path / "t.csv", tmp_path / "o.jsonl")
    common = [tmp_path / "o.jsonl", tmp_path / "a", "--encoder", "none", "--predictor", "knn"]
    assert "no artifact there" in run(fit, *common, "--add-expert").output
    run(fit, *common, "--experts", "calc")
    result = run(fit, *common, "--add-expert")
    assert result.exit_code == 0, result.output
    assert [expert.name for expert in Artifact.load(tmp_path / "a").experts] == ["calc", "bard"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["absent.jsonl"], "no such file; `thalamus profile` writes"),
        (["o.jsonl", "busy"], "exists and is not an artifact"),
        (["o.jsonl", "a", "--settings", "["], "not JSON"),
        (["o.jsonl", "a", "--predictor", "knn", "--settings", '{"z": 1}'], "predictor 'knn'"),
        (["o.jsonl", "a", "--encoder", "nosuch"], "no embedder 'nosuch'"),
        (["o.jsonl", "a", "--experts", "zed"], "no expert 'zed'"),
    ],
)
def test_fitting_fails_in_one_line(tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    (tmp_path / "busy").mkdir()
    run(import_, tmp_path / "t.csv", tmp_path / "o.jsonl")
    tail = ["--encoder", "none"] if "--encoder" not in args else []
    paths = [str(tmp_path / arg) for arg in args[: 2 if len(args) > 1 else 1]]
    result = run(fit, *paths, *args[2:], *tail)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
