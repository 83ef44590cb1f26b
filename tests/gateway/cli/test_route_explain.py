"""`thalamus route --explain`: the measured prompts near this one, read where the tables lie."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evals.commands.fit import command as fit
from gateway.cli.route import N_NEAREST, command
from routers import OutcomeTable

CONFIG = """
routing: {artifact: a, encoder: none}
experts:
  - {name: calc, model: openai/calc, api_key: x}
  - {name: bard, model: openai/bard, api_key: x}
"""
TEXTS = [*(f"What is {n} plus {n}?" for n in range(20)), *(f"A poem about {n} seas" for n in range(20))]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an artifact, a configuration, and the table, which knows an expert outside the pool."""
    monkeypatch.chdir(tmp_path)
    score = np.repeat([[1.0, 0.25, 0.5], [0.0, np.nan, 0.5]], 20, axis=0)
    score[20:, 1] = np.where(np.arange(20) == 3, np.nan, 1.0)
    OutcomeTable.build(
        [*TEXTS, TEXTS[0]], ["calc", "bard", "other"], {"score": np.vstack((score, score[:1]))}
    ).save(tmp_path / "o.jsonl")
    (tmp_path / "thalamus.yaml").write_text(CONFIG)
    done = CliRunner().invoke(fit, ["o.jsonl", "a", "--predictor", "constant"])
    assert done.exit_code == 0, done.output
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(command, [*args])


def test_the_nearest_measured_prompts_stand_with_what_each_expert_of_the_pool_scored(here: Path) -> None:
    nearest = json.loads(run("What is 0 plus 0?", "--explain", "--json").stdout)["nearest"]
    assert nearest[0] == {
        "similarity": 1.0,
        "prompt": "What is 0 plus 0?",
        "scores": {"calc": 1.0, "bard": 0.25},
    }
    assert len({one["prompt"] for one in nearest}) == len(nearest) == N_NEAREST
    assert all(one["prompt"].startswith("What is") for one in nearest)
    similarity = [one["similarity"] for one in nearest]
    assert similarity == sorted(similarity, reverse=True)


def test_an_outcome_that_was_not_measured_is_not_shown(here: Path) -> None:
    nearest = json.loads(run("A poem about 3 seas", "--explain", "--json").stdout)["nearest"]
    assert nearest[0]["scores"] == {"calc": 0.0}


def test_they_are_printed_below_the_decision(here: Path) -> None:
    shown = run("What is 5 plus 5?", "--explain").stdout
    assert "nearest measured prompts" in shown
    assert " 1.00  What is 5 plus 5?\n       calc 1.00, bard 0.25" in shown
    assert "nearest" not in run("What is 5 plus 5?").stdout


def test_a_table_that_is_gone_is_a_note(here: Path) -> None:
    (here / "o.jsonl").unlink()
    record = json.loads(run("hi", "--explain", "--json").stdout)
    assert record["nearest"] == []
    assert "o.jsonl is not here" in record["notes"][-1]


def test_without_an_artifact_there_is_nothing_near_and_a_note_says_why(here: Path) -> None:
    (here / "thalamus.yaml").write_text(CONFIG.replace("artifact: a", "artifact: none"))
    record = json.loads(run("hi", "--explain", "--json").stdout)
    assert record["nearest"] == []
    assert "`thalamus fit` writes one" in record["notes"][-1]


def test_the_bundled_outcomes_are_found_by_their_name(here: Path) -> None:
    (here / "thalamus.yaml").write_text(CONFIG.replace("name: calc", "name: smollm2"))
    manifest = here / "a" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"o.jsonl"', '"bundled"'))
    record = json.loads(run("What is 17*23?", "--explain", "--json").stdout)
    assert len(record["nearest"]) == N_NEAREST
    assert all("smollm2" in one["scores"] for one in record["nearest"])
