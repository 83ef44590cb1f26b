"""An artifact is tried before it serves: whole, all numbers, and it decides as when it was fitted."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers import (
    Artifact,
    ArtifactError,
    FeatureExtractor,
    FitSettings,
    HashingEmbedder,
    OutcomeTable,
    Tier,
    add_experts,
    fit_artifact,
    keep_experts,
)
from routers.artifacts import TRIAL_TEXTS, _write_arrays
from routers.types import Floats

N_QUERIES = 60
EXTRACTOR = FeatureExtractor(HashingEmbedder())


def table(*experts: str, seed: int = 0) -> OutcomeTable:
    random = np.random.default_rng(seed)
    words = ["sum", "poem", "code", "list", "history", "war"]
    texts = [f"{n} {' '.join(random.choice(words, 5))}" for n in range(N_QUERIES)]
    score = np.array([["sum" in text, "poem" in text, "code" in text] for text in texts], np.float64)
    return OutcomeTable.build(
        texts,
        experts,
        {"score": score[:, : len(experts)], "output_tokens": 20 + 9 * score[:, : len(experts)]},
    )


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return fit_artifact(table("a", "b"), EXTRACTOR, FitSettings("blend"))


@pytest.fixture
def folder(artifact: Artifact, tmp_path: Path) -> Path:
    artifact.save(tmp_path / "artifact")
    return tmp_path / "artifact"


def change_arrays(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with np.load(folder / "arrays.npz") as file:
        arrays = {name: file[name] for name in file}
    change(arrays)
    with (folder / "arrays.npz").open("wb") as written:
        _write_arrays(written, arrays)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_saved_passes(folder: Path) -> None:
    loaded = Artifact.load(folder, mapped=True)
    assert loaded.trial is not None
    assert loaded.trial.texts == TRIAL_TEXTS
    loaded.try_out(EXTRACTOR)


def test_experts_that_are_added_or_kept_are_part_of_the_trial(artifact: Artifact) -> None:
    more = add_experts(artifact, table("a", "b", "c"), EXTRACTOR, FitSettings("blend"))
    kept = keep_experts(fit_artifact(table("x"), EXTRACTOR, FitSettings("constant")), artifact, EXTRACTOR)
    for each in (more, kept):
        assert each.trial is not None
        assert each.trial.quality["static"].shape == (len(TRIAL_TEXTS), 3)
        each.try_out(EXTRACTOR)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda a: a["static.quality.3.dense"].__setitem__((3, 1), np.nan), "no number"),
        (lambda a: a["static.quality.stack.leaf"].__setitem__((3, 1), np.inf), "no number"),
        (lambda a: a["static.quality.3.dense"].__setitem__((3, 1), 0.5), "not those of one fit"),
        (lambda a: a.update({"static.smear": a["static.smear"][:1]}), "not those of one fit"),
        (lambda a: a.pop("static.tokens.dense"), "not those of one fit"),
    ],
)
def test_arrays_that_were_changed_are_refused(folder: Path, damage: Any, said: str, mapped: bool) -> None:
    change_arrays(folder, damage)
    with pytest.raises(ArtifactError, match=f"damaged .*{said}.*; `thalamus fit` makes a new one"):
        Artifact.load(folder, mapped=mapped)


def test_files_of_two_fits_are_refused(folder: Path, tmp_path: Path) -> None:
    fit_artifact(table("a", "b", seed=1), EXTRACTOR, FitSettings("blend")).save(tmp_path / "other")
    for name in ("manifest.json", "arrays.npz"):
        mixed = tmp_path / f"mixed-{name}"
        shutil.copytree(folder, mixed)
        shutil.copy(tmp_path / "other" / name, mixed)
        with pytest.raises(ArtifactError, match="not those of one fit"):
            Artifact.load(mixed)


def test_a_manifest_whose_experts_changed_places_is_refused(folder: Path) -> None:
    change_manifest(folder, lambda manifest: manifest["experts"].reverse())
    with pytest.raises(ArtifactError, match="not those of one fit"):
        Artifact.load(folder)


class OddEmbedder(HashingEmbedder):
    """Says it is the same and gives other vectors, as from a damaged file."""

    def embed_ids(self, ids: Any) -> Any:
        return -super().embed_ids(ids)


def test_other_decisions_than_at_the_fit_are_refused(artifact: Artifact) -> None:
    assert artifact.trial is not None
    swapped: dict[Tier, Floats] = {"static": artifact.trial.quality["static"][:, ::-1]}
    with pytest.raises(ArtifactError, match=r"does not decide as when it was fitted.*`thalamus fit`"):
        replace(artifact, trial=replace(artifact.trial, quality=swapped)).try_out(EXTRACTOR)
    with pytest.raises(ArtifactError, match="the embedder of its static tier reads texts otherwise"):
        artifact.try_out(FeatureExtractor(OddEmbedder()))


class RecordedTexts(FeatureExtractor):
    """Has features of the texts of one table alone."""

    def extract(self, queries: Any, tier: Tier, reuse: Any = None) -> Any:
        row_of = {text: n for n, text in enumerate(table("a").texts)}
        assert [row_of[query.text] for query in queries]
        return super().extract(queries, tier, reuse)


def test_features_that_were_recorded_give_an_artifact_without_a_trial(tmp_path: Path) -> None:
    recorded = fit_artifact(table("a"), RecordedTexts(HashingEmbedder()), FitSettings("constant"))
    assert recorded.trial is None
    recorded.save(tmp_path / "artifact")
    Artifact.load(tmp_path / "artifact").try_out(EXTRACTOR)


def test_an_older_artifact_without_a_trial_has_to_predict_a_number_for_each_expert(folder: Path) -> None:
    change_manifest(folder, lambda manifest: [manifest.pop(name) for name in ("digest", "trial")])
    Artifact.load(folder).try_out(EXTRACTOR)
    change_arrays(folder, lambda a: a.update({"static.quality.3.dense": a["static.quality.3.dense"][:10]}))
    older = Artifact.load(folder)
    with pytest.raises(ArtifactError, match=r"damaged .*; `thalamus fit` makes a new one"):
        older.try_out(EXTRACTOR)
