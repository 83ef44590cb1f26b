"""`thalamus fit` with several heads: those that policies need, those that are named, and those that stay."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from evals.commands.fit import command as fit
from routers import Artifact, ArtifactError, OutcomeTable, list_heads

ROWS = [(kind, n) for n in range(40) for kind in ("sum", "poem about the sea")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of outcomes."""
    monkeypatch.chdir(tmp_path)
    score = np.array([[float(kind == "sum"), float(kind != "sum")] for kind, _ in ROWS])
    texts = [f"{kind} {n}" for kind, n in ROWS]
    tasks = [kind[:4] for kind, _ in ROWS]
    OutcomeTable.build(texts, ["calc", "bard"], {"score": score}, tasks=tasks).save(tmp_path / "o.jsonl")
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(fit, ["o.jsonl", "a", "--encoder", "none", *map(str, args)])


def read_files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("manifest.json", "arrays.npz")]


@pytest.mark.parametrize(
    ("policies", "names"),
    [
        ("{}", ("knn",)),
        (
            "{auto: {predictor: coe-paper}, b: {predictor: knn}, c: {predictor: constant}}",
            ("knn", "coe-paper", "constant"),
        ),
        ("{maths: {mapping: {sum: [calc]}}}", ("knn", "coe")),
        ("{maths: {mapping: {sum: [calc]}, predictor: coe-paper}}", ("knn", "coe-paper")),
        ("{all: {mapping: {general: [calc]}}}", ("knn",)),
        ("{many: {plan: {panel: {predictor: constant}}}}", ("knn", "constant")),
        ("[]", ("knn",)),
        ("{", ("knn",)),
    ],
)
def test_the_heads_that_policies_need_are_fitted(here: Path, policies: str, names: tuple[str, ...]) -> None:
    (here / "thalamus.yaml").write_text(f"policies: {policies}\n")
    result = run("--predictor", "knn", "--json")
    assert result.exit_code == 0, result.output
    assert tuple(json.loads(result.stdout)["heads"]) == names
    assert list_heads(here / "a") == names


def test_a_head_is_added_and_renewed_and_the_others_stay_to_the_byte(here: Path) -> None:
    assert run("--heads", "blend,constant").exit_code == 0
    root, constant = read_files(here / "a"), read_files(here / "a/heads/constant")
    for seed in (0, 1):
        result = run("--head", "coe", "--seed", seed)
        assert "heads that stay as they were: blend, constant" in result.output
        assert list_heads(here / "a") == ("blend", "coe", "constant")
        assert read_files(here / "a") == root
        assert read_files(here / "a/heads/constant") == constant
    assert Artifact.load(here / "a").head("coe").provenance["seed"] == 1
    # Another predictor takes the place of the default; the others stay.
    assert run("--predictor", "knn").exit_code == 0
    assert list_heads(here / "a") == ("knn", "coe", "constant")
    assert run("--head", "coe", "--fresh").exit_code == 0
    assert list_heads(here / "a") == ("knn", "coe", "constant")
    assert run("--fresh").exit_code == 0
    assert list_heads(here / "a") == ("blend",)


def test_a_first_fit_of_another_head_says_that_it_decides_for_auto(here: Path) -> None:
    said = "head coe decides for `auto` too"
    assert said in run("--head", "coe").output
    assert said not in run("--head", "coe").output
    assert "`auto` too" not in run("--fresh", "--heads", "coe,blend").output
    assert "`auto` too" not in run("--predictor", "knn").output


def test_without_a_terminal_a_long_fit_tells_how_far_it_is(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.console.TELL_EVERY_S", 600.0)
    assert "fitting: " not in run("--predictor", "knn").stderr
    monkeypatch.setattr("evals.console.TELL_EVERY_S", 0.0)
    lines = [line for line in run("--predictor", "knn").stderr.splitlines() if line.startswith("fitting: ")]
    assert len(lines) > 2


def test_settings_belong_to_the_one_head_that_is_named(here: Path) -> None:
    assert run("--head", "knn", "--settings", '{"k": 3}').exit_code == 0
    assert Artifact.load(here / "a").tiers["static"].quality.settings()["k"] == 3
    assert run("--head", "coe-paper").exit_code == 0
    assert Artifact.load(here / "a").head("coe-paper").tiers["static"].quality.settings()["mode"] == "paper"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "oracle"], "no head 'oracle'; there are blend, "),
        (["--head", "../coe"], "no head '../coe'; there are blend, "),
        (["--head", "coe", "--predictor", "knn"], "--predictor and --head both name what to fit; keep one"),
        (["--heads", "coe,knn", "--settings", "{}"], "--settings are those of one head"),
        (["--config", "absent.yaml"], "absent.yaml: no such file"),
        (["--predictor", "knn", "--settings", '{"n": 3}'], "predictor 'knn' has no setting 'n'; it has k, "),
    ],
)
def test_what_cannot_be_fitted_is_told_in_one_line(here: Path, options: list[str], message: str) -> None:
    result = run(*options)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_policy_that_names_no_head_is_told_with_its_file(here: Path) -> None:
    (here / "thalamus.yaml").write_text("policies: {auto: {predictor: oracle}}\n")
    assert "thalamus.yaml: policies: no head 'oracle'; there are blend, " in run().output
    assert run("--head", "constant").exit_code == 0


def test_a_head_of_another_embedder_is_dropped_or_refused(here: Path) -> None:
    assert run("--heads", "knn,constant").exit_code == 0
    for folder in (here / "a", here / "a/heads/constant"):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["tiers"]["static"]["fingerprint"] = "another"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    refused = run("--head", "coe", "--yes")
    assert (
        "head knn was fitted on another embedder: give its --encoder, or fit all with --heads"
        in refused.output
    )
    assert list_heads(here / "a") == ("knn", "constant")
    dropped = run("--yes")
    assert "head constant is dropped: it was fitted on another embedder" in dropped.output
    assert list_heads(here / "a") == ("blend",)


def test_a_damaged_head_is_renewed_by_the_fit_that_its_message_names(here: Path) -> None:
    assert run("--heads", "blend,constant").exit_code == 0
    arrays = here / "a/heads/constant/arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="damaged"):
        Artifact.load(here / "a").head("constant")
    result = run("--head", "constant")
    assert result.exit_code == 0, result.output
    assert Artifact.load(here / "a").head("constant").name == "constant"


def test_without_a_table_a_fit_takes_those_of_the_artifact(here: Path) -> None:
    assert run("--head", "blend").exit_code == 0
    (here / "a").rename(here / "b")
    served = here / ".thalamus"
    served.mkdir()
    (here / "b").rename(served / "artifact")
    result = CliRunner().invoke(fit, ["--encoder", "none", "--head", "constant"])
    assert result.exit_code == 0, result.output
    assert "fitting on o.jsonl, as .thalamus/artifact was" in result.output
    assert list_heads(served / "artifact") == ("blend", "constant")
    (here / "o.jsonl").unlink()
    result = CliRunner().invoke(fit, ["--encoder", "none", "--head", "constant"])
    assert (result.exit_code, "outcomes.jsonl.gz: no such file" in result.output) == (1, True)
