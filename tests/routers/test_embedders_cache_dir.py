"""Files built once: atomically, by the first process, and never half."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from routers import EmbedderError
from routers.embedders.model_files import build_cached, cache_dir, content_hash


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THALAMUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_directory_is_chosen_by_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("THALAMUS_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "thalamus"


def test_a_file_is_built_once(cache: Path) -> None:
    calls: list[Path] = []

    def build(path: Path) -> None:
        calls.append(path)
        path.write_text("content")

    assert build_cached("a.bin", build).read_text() == "content"
    assert [build_cached("a.bin", build)] == list(cache.iterdir())
    assert len(calls) == 1


def test_a_damaged_file_is_built_again(cache: Path) -> None:
    def build(path: Path) -> None:
        path.write_text("content")

    build_cached("a.bin", build).write_text("cintent")
    assert build_cached("a.bin", build).read_text() == "content"


def test_two_builders_at_once_both_get_a_whole_file(cache: Path) -> None:
    both_inside = threading.Barrier(2, timeout=10)
    found: list[str] = []

    def build(path: Path) -> None:
        with path.open("w") as file:
            file.write("first half, ")
            file.flush()
            both_inside.wait()
            file.write("second half")

    threads = [
        threading.Thread(target=lambda: found.append(build_cached("b.bin", build).read_text())) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["first half, second half"] * 2
    assert len(os.listdir(cache)) == 1


def test_two_processes_that_build_the_encoder_at_once_both_succeed(cache: Path) -> None:
    script = (
        "from routers.embedders import OnnxEmbedder; print(OnnxEmbedder().embed(['hello'])[0, :4].tolist())"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [job.communicate(timeout=60) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], answers
    assert answers[0][0] == answers[1][0] != ""
    assert len(os.listdir(cache)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_build_leaves_nothing(cache: Path, error: Any) -> None:
    def build(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(error):
        build_cached("c.bin", build)
    assert os.listdir(cache) == []


def test_an_unwritable_cache_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("THALAMUS_CACHE", str(tmp_path / "file"))
    with pytest.raises(EmbedderError, match="THALAMUS_CACHE"):
        build_cached("d.bin", lambda path: None)


def test_the_hash_follows_the_content_not_the_name(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in "123")
    one.write_text("same")
    two.write_text("same")
    three.write_text("else")
    assert content_hash(one) == content_hash(two) != content_hash(three)
    assert content_hash(one, three) != content_hash(three, one)
    one.write_text("changed")
    assert content_hash(one) != content_hash(two)
