import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from evals.commands.fit import command as fit
from evals.commands.plan import command as plan
from evals.replay import replay
from policies import Policy
from routers import Artifact, FeatureExtractor, OutcomeTable, StaticEmbedder

KINDS = {"sum": "what is {n} plus {n}?", "poem": "write a poem about the sea, number {n}"}


def table(path: Path, *, tasks: bool = True, n: int = 40) -> Path:
    """`calc-1b` is right on sums, `bard-7b` on poems, `all-70b` nearly everywhere, at a price."""
    printed = [(kind, text.format(n=i)) for kind, text in KINDS.items() for i in range(n)]
    sums = np.array([kind == "sum" for kind, _ in printed])
    late = np.arange(len(printed)) % 5 == 0
    OutcomeTable.build(
        [text for _, text in printed],
        ["calc-1b", "bard-7b", "all-70b"],
        {
            "score": np.column_stack((sums, ~sums, ~late)).astype(float),
            "cost_usd": np.tile([0.001, 0.002, 0.05], (len(printed), 1)),
        },
        tasks=[kind for kind, _ in printed] if tasks else None,
    ).save(path)
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(plan, ["mapping", *(str(arg) for arg in args)])


def test_the_whole_curve_comes_from_one_call(tmp_path: Path) -> None:
    result = run(table(tmp_path / "t.jsonl"), "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert set(printed["categories"]) == {"sum", "poem", "general"}
    sizes = [point["size"] for point in printed["points"]]
    quality = [point["quality"] for point in printed["points"]]
    assert sizes == sorted(sizes)
    assert quality == sorted(quality)
    assert printed["points"][0]["experts"] == ["calc-1b"]
    assert printed["points"][-1]["mapping"]["sum"] == ["calc-1b"]


def test_one_budget_is_printed_as_a_policy(tmp_path: Path) -> None:
    result = run(table(tmp_path / "t.jsonl"), "--budget", "8", "--second")
    assert result.exit_code == 0, result.output
    policy = yaml.safe_load(result.output[result.output.index("policies:") :])["policies"]["coe"]
    assert policy["mapping"]["sum"] == ["calc-1b", "bard-7b"]
    assert policy["mapping"]["poem"] == ["bard-7b", "calc-1b"]


def test_budgets_on_money_and_pairs_are_kept(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl")
    printed = json.loads(run(path, "--along", "usd", "--budget", "0.0016", "--json").output)
    assert printed["points"][0]["usd"] <= 0.0016
    printed = json.loads(run(path, "--along", "experts", "--pin", "sum=all-70b", "--json").output)
    assert {tuple(point["mapping"]["sum"]) for point in printed["points"]} == {("all-70b",)}


def test_without_a_budget_the_next_step_is_said(tmp_path: Path) -> None:
    result = run(table(tmp_path / "t.jsonl"), "--along", "experts")
    assert "next: the same with --budget, in experts" in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--budget", "0.5"], "no mapping meets these limits"),
        (["--along", "memory"], "give --memory NAME=16"),
        (["--size", "calc-1b"], "'calc-1b' is not NAME=NUMBER"),
        (["--size", "calc-1b=big"], "'big' is no number"),
        (["--size", "zed=7"], "no expert 'zed'"),
        (["--pin", "prose=calc-1b"], "no category 'prose'"),
        (["--artifact", "absent"], "no artifact there"),
    ],
)
def test_what_cannot_be_planned_fails_in_one_line(tmp_path: Path, args: list[str], message: str) -> None:
    result = run(table(tmp_path / "t.jsonl"), *args)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_table_without_tasks_is_told_what_to_do(tmp_path: Path) -> None:
    result = run(table(tmp_path / "t.jsonl", tasks=False))
    assert result.exit_code != 0
    assert "no query has a task" in result.output


def test_a_mapping_by_the_artifacts_categories_is_followed_in_replay(tmp_path: Path) -> None:
    path, artifact = table(tmp_path / "t.jsonl"), tmp_path / "a"
    fitted = CliRunner().invoke(fit, [str(path), str(artifact), "--predictor", "coe", "--encoder", "none"])
    assert fitted.exit_code == 0, fitted.output
    printed = json.loads(run(path, "--artifact", artifact, "--budget", "8", "--json").output)["points"][0]
    assert printed["mapping"]["poem"] == ["bard-7b"]
    mapping = {category: tuple(names) for category, names in printed["mapping"].items()}
    outcomes = OutcomeTable.load(path)
    policy = Policy("coe", mapping=mapping, encoder="never")
    result = replay(outcomes, Artifact.load(artifact), FeatureExtractor(StaticEmbedder()), policy)
    assert result.score.mean() > 0.9
    assert {decision.chosen for decision in result.decisions} <= {"calc-1b", "bard-7b"}
    assert sum(d.reason.startswith("category poem: mapped to bard-7b") for d in result.decisions) > 30
