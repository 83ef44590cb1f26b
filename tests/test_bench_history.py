"""The history of `make bench`: what is kept, and what counts as slower."""

import json
from pathlib import Path

import pytest

pytest.importorskip("benchmarks.history")  # the wheel has no benchmarks

from benchmarks.history import N_BEFORE, find_slower, name_machine, read_runs, record

pytestmark = pytest.mark.source


def test_what_got_slower_is_named_with_its_usual_time(tmp_path: Path) -> None:
    for n in range(N_BEFORE):
        assert record("stages", {"form": 10.0 + n % 2, "engine": 20.0}, tmp_path) == []
    (line,) = record("stages", {"form": 30.0, "engine": 20.5}, tmp_path)
    assert line.startswith("stages: form takes 30.0 µs, 3.00 × the usual 10.0 µs of 5 runs before")
    runs = read_runs("stages", tmp_path)
    assert [run["us"]["form"] for run in runs][-2:] == [10.0, 30.0]  # type: ignore[index]
    assert {"at", "commit", "benchmark"} <= runs[0].keys()


def test_one_slow_run_on_a_busy_machine_sets_no_new_measure() -> None:
    before: list[dict[str, object]] = [
        {"benchmark": "b", "us": {"a": value}} for value in (10.0, 10.0, 90.0, 10.0)
    ]
    assert find_slower({"benchmark": "b", "us": {"a": 14.0}}, before)


@pytest.mark.parametrize(("usual", "now"), [(0.5, 1.4), (100.0, 120.0), (10.0, 5.0)])
def test_noise_and_gains_are_not_slower(usual: float, now: float) -> None:
    before: list[dict[str, object]] = [{"benchmark": "b", "us": {"a": usual}}]
    assert find_slower({"benchmark": "b", "us": {"a": now, "new": 7.0}}, before) == []


def test_other_benchmarks_and_broken_lines_do_not_count(tmp_path: Path) -> None:
    record("other", {"form": 1.0}, tmp_path)
    with (tmp_path / f"{name_machine()}.jsonl").open("a") as file:
        file.write('{"half a li\n[]\n' + json.dumps({"us": 3}) + "\n")
    assert record("stages", {"form": 50.0}, tmp_path) == []
    assert len(read_runs(folder=tmp_path)) == 2
