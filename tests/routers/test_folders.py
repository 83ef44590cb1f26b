"""Folders that are written whole or not at all."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from routers import ArtifactError
from routers.folders import replace_files, replace_folder
from tests.routers.test_embedding_selection import selection


def read_all(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()}


def test_a_folder_takes_the_place_of_another_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "kept"
    for n in range(2):
        with replace_folder(target) as fresh:
            (fresh / f"{n}.txt").write_text(str(n))
            assert read_all(target) == ({"0.txt": "0"} if n else {})
    assert read_all(target.parent) == {"kept/1.txt": "1"}


def test_files_take_their_places_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "old.txt").write_text("old")
    with replace_files(tmp_path) as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "old.txt").write_text("new")
        (fresh / "more.txt").write_text("more")
    assert read_all(tmp_path) == {"own.txt": "mine", "sub/old.txt": "new", "more.txt": "more"}


@pytest.mark.parametrize("replace", [replace_folder, replace_files])
def test_where_writing_fails_all_is_as_it_was(
    tmp_path: Path, replace: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    target = tmp_path / "kept"
    target.mkdir()
    (target / "a.txt").write_text("a")

    def fail() -> None:
        with replace(target) as fresh:
            (fresh / "a.txt").write_text("b")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert read_all(tmp_path) == {"kept/a.txt": "a"}


def test_a_selection_stays_where_the_disk_tells_late_that_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    selection().save(path)
    before = {one.name: one.read_bytes() for one in path.iterdir()}

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    other = selection().remove_expert("law")
    with pytest.raises(ArtifactError, match="No space left on device"):
        other.save(path)
    assert {one.name: one.read_bytes() for one in path.iterdir()} == before
    assert [one.name for one in tmp_path.iterdir()] == ["s"]
