"""An artifact is replaced in one step: a reader finds the old one or the new one, whole."""

import ctypes
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from routers import Artifact, ArtifactError, FeatureExtractor, FitSettings, OutcomeTable, fit_artifact
from routers.artifacts import previous_path
from routers.embedders import HashingEmbedder


def artifact(n: int) -> Artifact:
    table = OutcomeTable.build([f"q {i}" for i in range(4)], ["a"], {"score": np.full((4, 1), n / 100)})
    return fit_artifact(table, FeatureExtractor(HashingEmbedder()), FitSettings("constant", n_folds=2))


def score(path: Path) -> float:
    loaded = Artifact.load(path)
    learned = loaded.tiers["static"].quality.arrays()["mean"][0]
    assert learned == pytest.approx(loaded.experts[0].score)  # manifest and arrays are of one fit
    return loaded.experts[0].score


class WithoutExchange:
    """A system library that cannot exchange two names."""


@pytest.fixture(params=["exchange", "two renames"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: WithoutExchange())
    return str(request.param)


def test_the_replaced_artifact_stays_beside_the_new_one(tmp_path: Path, system: str) -> None:
    for n in (10, 20, 30):
        artifact(n).save(tmp_path / "a", keep_previous=True)
    assert score(tmp_path / "a") == pytest.approx(0.3)
    assert score(previous_path(tmp_path / "a")) == pytest.approx(0.2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.previous"]


def test_a_rename_that_fails_leaves_the_artifact_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: WithoutExchange())
    artifact(10).save(tmp_path / "a")
    rename = os.rename

    def refuse_new(source: Path, target: Path) -> None:
        if Path(source).name == "new" and Path(target) == tmp_path / "a":
            raise OSError(28, "no space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(ArtifactError, match="no space left"):
        artifact(20).save(tmp_path / "a")
    assert score(tmp_path / "a") == pytest.approx(0.1)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "renameat2"), reason="the system has no exchange")
def test_a_reader_never_misses_the_artifact_nor_mixes_two(tmp_path: Path) -> None:
    versions = [artifact(n) for n in (10, 20)]
    versions[0].save(tmp_path / "a")
    stop = threading.Event()
    found: set[float] = set()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                found.add(round(score(tmp_path / "a"), 2))
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(40):
        versions[n % 2].save(tmp_path / "a")
    stop.set()
    reader.join()
    assert failed == []
    assert found <= {0.1, 0.2}
    assert found
