"""`thalamus encoders`: fine-tuning and exporting; and an encoder of one's own from `fit` to the gateway."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evals.commands.encoders import command as encoders
from evals.commands.fit import TUNED, digest_text
from evals.commands.fit import command as fit
from gateway.cli.route import command as route
from gateway.config import ConfigError, load_config
from routers import Artifact, OutcomeTable
from tests.fakes.embedders import write_encoder_folder, write_onnx

ROWS = [(kind, n) for n in range(30) for kind in ("sum of", "poem about the sea and")]
CONFIG = """
routing: {{artifact: a, encoder: {encoder}}}
policies: {{auto: {{encoder: always}}}}
experts:
  - {{name: calc, model: openai/calc, api_key: x}}
  - {{name: bard, model: openai/bard, api_key: x}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of outcomes and an encoder of another kind."""
    monkeypatch.chdir(tmp_path)
    score = np.array([[float(kind == "sum of"), float(kind != "sum of")] for kind, _ in ROWS])
    texts = [f"{kind} {n} and {n + 1}" for kind, n in ROWS]
    OutcomeTable.build(texts, ["calc", "bard"], {"score": score}, models=["calc", "bard"]).save(
        tmp_path / "o.jsonl"
    )
    write_onnx(write_encoder_folder(tmp_path / "own") / "onnx" / "model.onnx")
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(encoders, [*map(str, args)])


def test_an_encoder_by_path_is_fitted_on_and_then_served(here: Path) -> None:
    (here / "thalamus.yaml").write_text(CONFIG.format(encoder="own"))
    done = CliRunner().invoke(fit, ["o.jsonl", "a", "--predictor", "knn"])
    assert done.exit_code == 0, done.output
    assert Artifact.load("a").tiers["encoder"].fingerprint.startswith("exported-")
    assert "to serve this artifact" not in done.stderr
    answer = CliRunner().invoke(route, ["sum of 7 and 8", "--json"])
    assert answer.exit_code == 0, answer.output
    record = json.loads(answer.stdout)
    assert (record["expert"], record["tier"]) == ("calc", "encoder")


def test_fit_says_which_setting_serves_another_encoder(here: Path) -> None:
    done = CliRunner().invoke(fit, ["o.jsonl", "a", "--predictor", "knn", "--encoder", "own"])
    assert done.exit_code == 0, done.output
    assert "thalamus.yaml needs routing: {encoder: own}" in done.stderr


def test_fit_refuses_what_cannot_be_served_in_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    write_encoder_folder(here / "bare")
    done = CliRunner().invoke(fit, ["o.jsonl", "a", "--encoder", "bare"])
    assert done.exit_code == 1
    assert "thalamus encoders export bare OUT" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (here / "a").exists()


def test_fit_tells_that_an_encoder_has_seen_its_queries(here: Path) -> None:
    seen = [digest_text(f"{kind} {n} and {n + 1}") for kind, n in ROWS[:40]]
    (here / "own" / TUNED).write_text(json.dumps({"texts": seen}))
    done = CliRunner().invoke(fit, ["o.jsonl", "a", "--predictor", "knn", "--encoder", "own"])
    assert "has learned from 40 of these 60 queries" in done.stderr


def test_an_encoder_that_does_not_exist_is_an_error_of_the_configuration(here: Path) -> None:
    (here / "thalamus.yaml").write_text(CONFIG.format(encoder="./missing"))
    with pytest.raises(ConfigError, match=r"routing\.encoder.*there is no encoder"):
        load_config(here / "thalamus.yaml")


def test_without_torch_the_command_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for done in (run("fit", "o.jsonl", "out"), run("export", "minilm", "out")):
        assert done.exit_code == 1
        assert "pip install 'thalamus-gateway[train]'" in done.stderr
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layers", "0"), "neither a number of layers nor all"),
        (("--folds", "1"), "2 or more, or 0"),
        (("--buckets", "x"), "buckets"),
    ],
)
def test_a_wrong_option_is_named(here: Path, options: tuple[str, ...], said: str) -> None:
    done = run("fit", "o.jsonl", "out", *options)
    assert done.exit_code != 0
    assert said in done.stderr


def test_a_folder_that_is_something_else_is_left_alone(here: Path) -> None:
    for done in (run("fit", "o.jsonl", "."), run("export", "minilm", ".")):
        assert done.exit_code == 1
        assert "choose another name" in done.stderr


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_fit_compares_with_the_base_and_leaves_an_encoder_that_serves(here: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    done = run("fit", "o.jsonl", "out", "--layers", "1", "--epochs", "1", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    held_out = facts["held out, score of the chosen"]
    assert set(held_out) == {"base", "tuned", "difference", "interval"}
    assert facts["queries"] == len(json.loads((here / "out" / TUNED).read_text())["texts"]) == 60
    done = CliRunner().invoke(fit, ["o.jsonl", "a", "--predictor", "knn", "--encoder", "out"])
    assert "has learned from 60 of these 60 queries" in done.stderr


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_an_interruption_leaves_the_encoder_before_as_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    (here / "out").mkdir()
    (here / "out" / TUNED).write_text("{}")
    monkeypatch.setattr("evals.commands.encoders.write_file", _interrupt)
    assert run("fit", "o.jsonl", "out", "--layers", "1", "--epochs", "1", "--folds", "0").exit_code != 0
    assert [path.name for path in (here / "out").iterdir()] == [TUNED]
    assert not list(here.glob(".out*"))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
