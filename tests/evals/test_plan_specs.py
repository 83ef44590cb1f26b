"""Plans compared by `thalamus eval --plans`: their names, what they are worth, and the ablations."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from evals.commands.eval import command
from evals.plans import BEST_SINGLE, add_ablations, parse_plan_specs
from routers import DataError, OutcomeTable


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name one at least"),
        ("single,single", "named twice"),
        ("duo", "no plan 'duo'"),
        ("single:k=3", "no plan"),
        ("panel:k", "is no KEY=VALUE"),
        ("panel:size=huge", "Invalid enum value"),
        ("panel:colour=red", "keys: k, aggregator"),
        ("panel:k=0", "k must be 1 or more"),
        ("panel:keywords=smollm2", "no expert is called here"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_plan_specs(text)


def test_ablations_are_added_for_each_size() -> None:
    names = [spec.name for spec in add_ablations(parse_plan_specs("panel:k=2,panel:k=2:size=mass"))]
    assert names[:3] == ["single", "panel:k=2", "panel:k=2:size=mass"]
    assert [name for name in names[3:] if "k=2" in name] == names[3:]
    assert any("draw=random" in name for name in names)
    assert any("predictor=constant" in name for name in names)
    assert any("skills-paper" in name and "with_replacement" in name for name in names)


def write_table(path: Path, *, with_answers: bool) -> None:
    """Three experts, each right in a field of its own; a fourth is right half the time everywhere."""
    rng = np.random.default_rng(0)
    fields = ["algebra sum", "court law", "poem verse"]
    kinds = [n % 3 for n in range(150)]
    score = np.array([[float(kind == e) for e in range(3)] + [float(rng.random() < 0.5)] for kind in kinds])
    answers = [["yes" if s else f"no {e}" for e, s in enumerate(row)] for row in score.tolist()]
    OutcomeTable.build(
        [f"{fields[kind]} question {n}" for n, kind in enumerate(kinds)],
        ["a", "b", "c", "d"],
        {"score": score},
        answers=answers if with_answers else None,
        bucket=np.arange(150) % 100,
    ).save(path)


@pytest.mark.parametrize("with_answers", [True, False])
def test_plans_are_compared_on_a_table(tmp_path: Path, with_answers: bool) -> None:
    write_table(tmp_path / "t.jsonl.gz", with_answers=with_answers)
    arguments = [str(tmp_path / "t.jsonl.gz"), "--plans", "panel:k=3:keywords=text", "--encoder", "none"]
    done = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out" / "plans.json").read_text())
    assert figures["single"]["accuracy"] > 0.9 > figures[BEST_SINGLE]["accuracy"]
    skilled, random = figures["panel:k=3:keywords=text"], figures["panel:k=3:draw=random"]
    assert skilled["best_of_those_asked"] > random["best_of_those_asked"]
    assert (skilled["calls"], figures["single"]["calls"]) == (3, 1)
    assert skilled["n_sets"] >= 2
    assert skilled["by_proxy"] == (0 if with_answers else 1)
    assert ("Answers were not recorded" in done.output) is not with_answers


def test_trials_beside_the_table_say_what_an_aggregator_would_gain(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    write_table(path, with_answers=True)
    table = OutcomeTable.load(path)
    lines = [{"probe": key, "expert": "d", "model": table.models[3], "score": 1.0} for key in table.ids]
    path.with_name("t.jsonl.gz.trials").write_text("\n".join(map(json.dumps, lines)) + '\n{"half')
    arguments = [str(path), "--plans", "panel:k=3", "--encoder", "none", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    figures = json.loads((tmp_path / "out" / "plans.json").read_text())["panel:k=3"]
    # As likely right as a right answer is shown: .97 and more with so many trials.
    assert figures["with_aggregator"] == pytest.approx(figures["best_of_those_asked"], abs=0.05)
    assert "With aggregator" in done.output
