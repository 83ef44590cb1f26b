import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from evals.commands.plan import command as plan
from evals.simulation.trace import read_traffic
from gateway.config import JournalConfig
from gateway.storage.journal import AttemptRecord, Journal, JournalEntry


def run(*args: object) -> Result:
    return CliRunner().invoke(plan, ["residency", *(str(arg) for arg in args)])


def entry(n: int, expert: str | None, *attempts: AttemptRecord, took_s: float = 2.0) -> JournalEntry:
    return JournalEntry(
        decision_id=f"d{n}",
        request_id=f"r{n}",
        time=1_000.0 + n,
        policy="auto",
        expert_asked=None,
        expert_answered=expert,
        plan="single",
        status=200 if expert else 503,
        attempts=attempts,
        latency_s=took_s,
    )


async def journal(path: Path, *entries: JournalEntry) -> Path:
    kept = Journal.open(JournalConfig(path=str(path)))
    for one in entries:
        kept.record(one)
    await kept.close()
    return path


def make_attempt(expert: str, latency_s: float = 0.5, **printed: Any) -> AttemptRecord:
    return AttemptRecord(expert, "answered", latency_s=latency_s, **printed)


async def test_a_journal_tells_when_each_answered_call_came_and_how_long_it_took(tmp_path: Path) -> None:
    path = await journal(
        tmp_path / "j.sqlite3",
        entry(0, "a", AttemptRecord("b", "moved_on", latency_s=1.0), make_attempt("a")),
        entry(1, None, AttemptRecord("a", "moved_on")),
        entry(9, "b", make_attempt("b"), took_s=4.0),
    )
    trace = read_traffic(path)
    assert trace.experts == ("a", "b")
    assert trace.expert.tolist() == [0, 1]
    assert trace.service_s.tolist() == [2.0, 4.0]
    assert trace.time_s.tolist() == [0.0, 7.0]


async def test_members_of_a_panel_and_its_aggregator_count_each(tmp_path: Path) -> None:
    path = await journal(
        tmp_path / "j.sqlite3",
        entry(
            0,
            "a",
            make_attempt("a", 1.0, role="member"),
            make_attempt("b", 2.0, role="member"),
            make_attempt("a", 3.0, role="aggregator"),
            took_s=5.0,
        ),
    )
    trace = read_traffic(path)
    printed = sorted(zip(trace.time_s.tolist(), trace.expert.tolist(), trace.service_s.tolist(), strict=True))
    assert printed == [(0.0, 0, 1.0), (0.0, 1, 2.0), (2.0, 0, 3.0)]


async def test_a_journal_is_replayed_for_the_experts_whose_size_is_told(tmp_path: Path) -> None:
    entries = [entry(20 * n, "ab"[n % 2], make_attempt("ab"[n % 2])) for n in range(40)]
    path = await journal(tmp_path / "j.sqlite3", *entries, entry(900, "far", make_attempt("far")))
    args = ("--trace", path, "--size", "a=5", "--size", "b=4", "--memory", 5, "--memory", 9, "--json")
    result = run(*args)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    assert printed["experts"] == {"a": 20, "b": 20}
    swaps = {(row["memory_gb"], row["rule"]): row["swaps_per_1k"] for row in printed["rows"]}
    assert swaps[5.0, "in-order"] == 1000.0
    assert swaps[9.0, "lookahead"] == 50.0


async def test_a_journal_without_sizes_says_which_experts_there_are(tmp_path: Path) -> None:
    path = await journal(tmp_path / "j.sqlite3", entry(0, "a", make_attempt("a")))
    result = run("--trace", path)
    assert result.exit_code == 1
    assert "--size NAME=GB each; there are a (1 requests)" in result.output


def test_the_table_has_a_row_for_each_rule_and_memory() -> None:
    result = run("--synthetic", "sessions", "--requests", 300, "--memory", 2, "--memory", 4)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("300 requests for 8 experts")
    assert [line.split()[:2] for line in lines[2:7]] == [
        ["2", rule] for rule in ("in-order", "lru", "lfu", "lookahead", "oracle")
    ]
    assert len(lines) == 12


def test_rules_can_be_chosen_and_facts_are_the_same_for_the_same_seed() -> None:
    args = ("--synthetic", "zipf", "--requests", 200, "--rule", "lookahead", "--memory", 3, "--json")
    first, second = run(*args), run(*args)
    assert first.output == second.output
    (row,) = json.loads(first.output)["rows"]
    assert row["rule"] == "lookahead"
    assert set(row["latency_s"]) == {"p50", "p95", "p99"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give either --trace JOURNAL or --synthetic KIND"),
        (["--synthetic", "zipf", "--memory", 0.5], "--memory 0.5: e00 alone takes 1 GB"),
        (["--synthetic", "zipf", "--size", "zed=1"], "no request for zed"),
        (["--synthetic", "zipf", "--size", "e00"], "'e00' is not NAME=GB"),
        (["--synthetic", "zipf", "--load", "e00=long"], "'long' is no number"),
        (["--synthetic", "zipf", "--size", "e00=-1"], "--size: e00 takes -1 GB"),
        (["--trace", "absent.sqlite3"], "absent.sqlite3: no such file"),
    ],
)
def test_what_cannot_be_planned_fails_in_one_line(args: list[object], message: str) -> None:
    result = run(*args)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite3"
    text.write_text("not a database, and long enough to be read as one" * 20)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE t (x)")
    database.close()
    for path in (text, other):
        before = path.read_bytes()
        result = run("--trace", path)
        assert result.exit_code == 1
        assert "not a journal that can be read" in result.output
        assert path.read_bytes() == before
