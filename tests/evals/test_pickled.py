import gzip
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.datasets import detect, read_outcomes
from evals.datasets.pickled import _Call, read_frame
from routers import DataError

FRAMES = sorted((Path(__file__).parent / "data").glob("routerbench-*.pkl"))
"""Two made-up rows, pickled by pandas of that version."""


class Malicious:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def pickle_to(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("frame", FRAMES, ids=lambda path: path.stem)
def test_a_frame_of_pandas_becomes_outcomes(frame: Path) -> None:
    assert detect(frame) == "routerbench"
    table = read_outcomes(frame)
    assert table.ids == ("made-up.1", "made-up.2")
    assert table.texts == ("What is one and one?\nAnswer briefly.", "Name a colour.")
    assert table.experts == ("big/one", "small")
    assert table.tasks == ("sums", "colours")
    np.testing.assert_array_equal(table.score, [[1.0, 0.0], [0.25, 1.0]])
    np.testing.assert_array_equal(table.cost_usd, [[0.01, 0.001], [0.02, 0.002]])
    assert table.answers == (("2", "3"), ("blue", "red"))


def test_frames_were_pickled_by_several_versions() -> None:
    assert len(FRAMES) >= 2


def test_a_gzipped_frame_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "f.pkl.gz"
    path.write_bytes(gzip.compress(FRAMES[0].read_bytes()))
    assert read_outcomes(path).texts[1] == "Name a colour."


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (exec, "builtins.exec"),
        (shutil.rmtree, "shutil.rmtree"),
        (getattr, "builtins.getattr"),
        (np.load, "numpy.load"),
        (__import__, "builtins.__import__"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_in_one_line(
    tmp_path: Path, function: Any, named: str, protocol: int
) -> None:
    bait = tmp_path / "bait"
    bait.mkdir()
    args = (f"import shutil; shutil.rmtree({str(bait)!r})",) if function is exec else (str(bait),)
    path = pickle_to(tmp_path / "evil.pkl", Malicious(function, *args), protocol)
    with pytest.raises(DataError) as caught:
        read_outcomes(path)
    assert named.split(".")[1] in str(caught.value)
    assert "no code in them is run" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert bait.exists()


def test_code_hidden_in_a_cell_is_refused_with_the_frame(tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    bait.mkdir()
    with pytest.raises(DataError, match="it holds no DataFrame but dict"):
        read_frame(pickle_to(tmp_path / "f.pkl", {"prompt": [Malicious(shutil.rmtree, str(bait))]}))
    assert bait.exists()


def test_a_pickle_cannot_change_the_reader(tmp_path: Path) -> None:
    """BUILD with a pair sets attributes on what lies on the stack: here on a class of the reader."""
    path = tmp_path / "f.pkl"
    path.write_bytes(b"\x80\x02cpandas.core.frame\nDataFrame\nN}X\x04\x00\x00\x00argsK\x01s\x86b.")
    with pytest.raises(DataError, match="not read"):
        read_frame(path)
    assert read_frame(FRAMES[0])
    with pytest.raises(pickle.UnpicklingError, match="sets 'args' on a class"):
        setattr(_Call, "args", ())  # noqa: B010


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"prompt": ["p"]}, "it holds no DataFrame"),
        ([1, 2], "it holds no DataFrame"),
        (np.arange(3.0), "it holds no DataFrame"),
    ],
)
def test_other_pickles_are_no_frames(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_frame(pickle_to(tmp_path / "f.pkl", value))


@pytest.mark.parametrize("cut", [0, 1, 40, 400])
def test_a_damaged_frame_is_refused_in_one_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "f.pkl"
    path.write_bytes(FRAMES[0].read_bytes()[:cut])
    with pytest.raises(DataError, match="not read") as caught:
        read_frame(path)
    assert "\n" not in str(caught.value)


FOREIGN = sorted((Path(__file__).parent / "data").glob("foreign-columns-*.pkl"))
"""RouterBench's columns as pandas' own types, among columns of vectors, dates, dicts and objects."""


@pytest.mark.parametrize("frame", FOREIGN, ids=lambda path: path.stem)
def test_foreign_columns_of_a_frame_are_passed_over_and_named(frame: Path) -> None:
    table = read_outcomes(frame)
    assert (table.ids, table.experts) == (("made-up.1", "made-up.2"), ("big", "small"))
    assert table.tasks == ("sums", "colours")
    np.testing.assert_array_equal(table.score, [[1, 0.1], [np.nan, 1]])
    np.testing.assert_array_equal(table.cost_usd, [[0.01, 0.001], [0.02, np.nan]])
    assert table.answers == (("2", "3"), (None, "red"))
    for name in ("vectors", "day", "zone", "kind", "meta", "n", "t", "u", "p", "ts", "na", "np", "iv", "c"):
        assert f"column {name!r} is passed over: " in table.provenance.notes
    assert "'vectors' is passed over: it holds arrays" in table.provenance.notes


@pytest.mark.parametrize(
    "frame", sorted((Path(__file__).parent / "data").glob("arrow-columns-*.pkl")), ids=lambda path: path.stem
)
def test_arrow_columns_in_another_layout_are_read_without_arrow(frame: Path) -> None:
    table = read_outcomes(frame)
    assert table.texts == ("What is one and one?", "Name a colour.")
    np.testing.assert_array_equal(table.score, [[0.5, 1], [np.nan, 0]])
    assert table.provenance.notes == "column 'words' is passed over: words"


def test_a_needed_column_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    data = FOREIGN[1].read_bytes().replace(b"big|total_cost", b"day|total_cost")
    path = tmp_path / "f.pkl"
    path.write_bytes(data.replace(b"\x8c\x03big", b"\x8c\x03bag"))
    with pytest.raises(DataError, match="column 'day' cannot be read: it holds dates"):
        read_outcomes(path)


def test_code_beside_a_frame_is_not_run(tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    bait.mkdir()
    data = FRAMES[0].read_bytes()
    start = 2
    if data[start : start + 1] == b"\x95":  # its length would no longer fit
        data = data[:start] + data[start + 9 :]
    # Calls shutil.rmtree and drops what it returns: the frame stays whole.
    call = b"cshutil\nrmtree\n(V" + str(bait).encode() + b"\ntR0"
    path = tmp_path / "f.pkl"
    path.write_bytes(data[:start] + call + data[start:])
    assert read_outcomes(path).ids == ("made-up.1", "made-up.2")
    assert bait.exists()
