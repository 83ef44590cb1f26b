"""The journal keeps what happened, and never costs a request anything."""

import asyncio
import contextlib
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from gateway.config import JournalConfig
from gateway.storage import journal as journal_module
from gateway.storage.feedback import FeedbackRecord
from gateway.storage.journal import SCHEMA, AttemptRecord, Journal, JournalEntry
from gateway.storage.sqlite import StorageError, prepare
from policies import Decision, Single, decision_record


def decision() -> Decision:
    return Decision(
        policy="auto",
        experts=("a", "b"),
        chosen="b",
        plan=Single(("b", "a")),
        tier="static",
        reason="best of 2 by static: quality 0.80",
        order=np.array([1, 0]),
        utility=np.array([0.5, 0.8]),
        quality=np.array([0.5, 0.8]),
        quality_std=np.array([0.1, 0.1]),
        output_tokens=np.array([10.0, 20.0]),
        cost_usd=np.array([np.nan, 0.001]),
        latency_s=np.array([1.0, 2.0]),
        evidence=np.array([True, False]),
        rejections={},
        margin=0.3,
        propensity=0.9,
    )


def entry(decision_id: str = "d1", **changes: Any) -> JournalEntry:
    fields: dict[str, Any] = {
        "decision_id": decision_id,
        "request_id": "r1",
        "time": time.time(),
        "policy": "auto",
        "expert_asked": None,
        "expert_answered": "b",
        "plan": "single",
        "status": 200,
        "decision": decision(),
        "attempts": (AttemptRecord("b", "answered", status=200, latency_s=0.5),),
        "input_tokens": 3,
        "cost_usd": None,
        "prompt": "PRIVATE ask",
        "answer": "PRIVATE answer",
    }
    return JournalEntry(**{**fields, **changes})


@pytest.fixture
async def open_journal(tmp_path: Path) -> AsyncIterator[Callable[..., Journal]]:
    journals: list[Journal] = []

    def open_(max_waiting: int = 1000, **settings: Any) -> Journal:
        config = JournalConfig(**{"path": str(tmp_path / "sub" / "j.sqlite3"), **settings})
        journals.append(Journal.open(config, max_waiting))
        return journals[-1]

    yield open_
    for journal in journals:
        await journal.close()


def rows(journal: Journal, what: str = "count(*)") -> Any:
    database = sqlite3.connect(journal._config.path)
    try:
        return database.execute(f"SELECT {what} FROM decisions").fetchone()[0]
    finally:
        database.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (what is waited for happens in a thread)
            await asyncio.sleep(0.01)


async def test_an_entry_is_told_the_same_before_and_after_it_is_written(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    journal.record(entry())
    before = await journal.get("d1")
    await until(lambda: journal.n_waiting == 0)
    after = await journal.get("d1")
    assert before == after
    assert after is not None
    assert after["decision"] == {"id": "d1", **decision_record(decision())}
    assert after["attempts"][0]["verdict"] == "answered"
    assert after["cost_usd"] is None


async def test_an_unknown_decision_is_none(open_journal: Callable[..., Journal]) -> None:
    assert await open_journal().get("nope") is None


async def test_every_record_carries_a_propensity(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    journal.record(entry("d1"))
    journal.record(entry("d2", decision=None, policy=None, expert_asked="a"))
    await until(lambda: journal.n_waiting == 0)
    assert rows(journal, "group_concat(propensity)") == "0.9,1.0"
    row_to_json = await journal.get("d2")
    assert row_to_json is not None
    assert (row_to_json["decision"]["expert"], row_to_json["decision"]["propensity"]) == ("a", 1.0)


@pytest.mark.parametrize(("content", "kept"), [(False, False), (True, True)])
async def test_prompts_and_answers_are_kept_only_when_asked_for(
    open_journal: Callable[..., Journal], content: bool, kept: bool
) -> None:
    journal = open_journal(content=content)
    journal.record(entry())
    await journal.close()
    on_disk = b"".join(path.read_bytes() for path in Path(journal._config.path).parent.iterdir())
    assert (b"PRIVATE ask" in on_disk, b"PRIVATE answer" in on_disk) == (kept, kept)


async def test_closing_writes_what_waits(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    for n in range(700):
        journal.record(entry(f"d{n}"))
    await journal.close()
    assert rows(journal) == 700


async def test_a_journal_opens_again_where_it_left_off(open_journal: Callable[..., Journal]) -> None:
    first = open_journal()
    first.record(entry("d1"))
    await first.close()
    second = open_journal()
    second.record(entry("d2"))
    await second.close()
    assert rows(second) == 2


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    prepare(tmp_path / "j.sqlite3", SCHEMA, 1.0)
    assert stat.S_IMODE((tmp_path / "j.sqlite3").stat().st_mode) == 0o600


async def test_a_disabled_journal_keeps_nothing(open_journal: Callable[..., Journal], tmp_path: Path) -> None:
    journal = open_journal(enabled=False)
    journal.record(entry())
    assert await journal.get("d1") is None
    assert not (tmp_path / "sub").exists()


async def test_a_locked_file_delays_entries_and_says_so(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BUSY_S", 0.01)
    journal = open_journal()
    other = sqlite3.connect(journal._config.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    journal.record(entry("d1"))
    await until(lambda: journal.degraded is not None)
    assert "locked" in str(journal.degraded)
    assert await journal.get("d1") is not None
    other.execute("ROLLBACK")
    other.close()
    await until(lambda: journal.n_waiting == 0)
    assert (journal.degraded, journal.dropped, rows(journal)) == (None, 0, 1)


async def test_a_full_disk_loses_entries_counts_them_and_raises_nothing(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(max_waiting=10)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", full)
    for n in range(25):
        journal.record(entry(f"d{n}"))
    await until(lambda: "disk is full" in str(journal.degraded))
    assert journal.dropped == 15
    assert "15 entries lost" in str(journal.degraded)


async def test_trouble_with_the_disk_is_logged_once_and_so_is_its_end(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "thalamus")
    monkeypatch.setattr(journal_module, "RETRY_S", 0.01)
    insert_rows = journal_module.insert_rows
    attempts: list[object] = []

    def full(*arguments: object) -> None:
        attempts.append(arguments)
        raise sqlite3.OperationalError("database or disk is full")

    journal = open_journal()
    for name in ("d1", "d2"):
        monkeypatch.setattr(journal_module, "insert_rows", full)
        attempts.clear()
        journal.record(entry(name))
        await until(lambda: len(attempts) > 2)
        monkeypatch.setattr(journal_module, "insert_rows", insert_rows)
        await until(lambda: journal.degraded is None)
    await journal.close()
    waits, written = (
        "the journal waits for its disk: database or disk is full",
        "the journal is written again",
    )
    said = [(one.levelname, one.getMessage()) for one in caplog.records]
    assert said == [("WARNING", waits), ("INFO", written)] * 2
    assert (journal.dropped, rows(journal)) == (0, 2)


async def test_what_a_full_disk_keeps_waiting_to_the_end_is_lost_aloud(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal()

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        for n in range(50):
            journal.record(entry(f"d{n}"))
        await until(lambda: journal.degraded is not None)
        await journal.close()
        await journal.close()
    errors = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    lost = "50 entries of the journal are lost: it could not be written (database or disk is full)"
    assert errors == [lost]
    assert (journal.dropped, journal.n_waiting, rows(journal)) == (50, 0, 0)


async def test_the_end_tries_once_more(
    open_journal: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal()
    connect, is_failing = sqlite3.connect, threading.Event()

    def fail_once(*_: object, **__: object) -> None:
        monkeypatch.setattr(sqlite3, "connect", connect)
        is_failing.set()
        journal._stopping.wait(10)  # the gateway is told to stop while this attempt is under way
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", fail_once)
    journal.record(entry())
    await until(is_failing.is_set)
    await journal.close()
    assert (journal.dropped, rows(journal)) == (0, 1)


async def test_an_entry_that_cannot_be_encoded_does_not_stop_the_others(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    journal.record(entry("bad", attempts=(object(),)))
    journal.record(entry("good"))
    await until(lambda: journal.n_waiting == 0)
    assert (rows(journal, "group_concat(id)"), journal.dropped) == ("good", 1)


async def test_a_value_that_sqlite_cannot_hold_costs_its_own_row_alone_among_many(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    for n in range(130):
        journal.record(entry(f"d{n}", error=cast("str", {"not": "a text"}) if n == 60 else None))
    await journal.close()
    assert (journal.dropped, rows(journal)) == (1, 129)
    assert rows(journal, "sum(id IN ('d0', 'd49', 'd50', 'd99', 'd100', 'd129'))") == 6


async def test_a_value_wider_than_sqlite_is_unknown_and_half_a_character_a_question_mark(
    open_journal: Callable[..., Journal],
) -> None:
    journal = open_journal()
    for n in range(60):
        changes = {"session_id": "half \ud83d", "input_tokens": 2**63} if n == 55 else {}
        journal.record(entry(f"d{n}", **changes))
    await journal.close()
    assert (journal.dropped, rows(journal)) == (0, 60)
    assert rows(journal, "max(session_id)") == "half ?"
    assert rows(journal, "sum(input_tokens IS NULL)") == 1


@pytest.mark.parametrize(
    ("settings", "left"), [({"max_rows": 3}, "d7,d8,d9"), ({"max_days": 5.5}, "d5,d6,d7,d8,d9")]
)
async def test_old_entries_make_room(
    open_journal: Callable[..., Journal], settings: dict[str, Any], left: str
) -> None:
    journal = open_journal(**settings)
    now = time.time()
    for n in range(10):
        journal.record(entry(f"d{n}", time=now - (10 - n) * 86_400 + 3600))
    await journal.close()
    again = open_journal(**settings)
    again.record(entry("d9", time=now))
    await until(lambda: again.n_waiting == 0 and rows(again) == left.count("d"))
    assert rows(again, "group_concat(id)") == left


async def test_a_journal_of_a_newer_version_is_refused(open_journal: Callable[..., Journal]) -> None:
    path = open_journal()._config.path
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StorageError, match=r"newer Thalamus \(schema 99, not 3\)"):
        open_journal()


async def test_another_programs_database_is_left_alone(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    path = tmp_path / "theirs.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    with pytest.raises(StorageError, match="another program's"):
        open_journal(path=str(path))


async def test_a_file_that_is_no_database_is_refused(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("not a database" * 100)
    with pytest.raises(StorageError, match="cannot be opened"):
        open_journal(path=str(tmp_path / "text"))


async def test_a_folder_that_cannot_be_made_is_refused(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        open_journal(path=str(tmp_path / "file" / "j.sqlite3"))


async def test_the_writer_thread_ends_with_the_journal(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    await journal.close()
    assert "journal" not in {thread.name for thread in threading.enumerate()}


async def test_a_journal_of_the_first_version_gets_the_table_of_feedback(
    tmp_path: Path, open_journal: Callable[..., Journal]
) -> None:
    path = tmp_path / "old.sqlite3"
    database = sqlite3.connect(path)
    database.execute(f"CREATE TABLE decisions (seq INTEGER PRIMARY KEY, {', '.join(journal_module.COLUMNS)})")
    row = journal_module.to_row(entry("before"), True)
    database.execute(f"INSERT INTO decisions VALUES (1, {', '.join('?' * len(row))})", row)
    database.execute("PRAGMA user_version=1")
    database.commit()
    database.close()
    journal = open_journal(path=str(path))
    await journal.add_feedback([FeedbackRecord(decision_id="before", time=1.0, score=0.5)])
    found = await journal.get("before")
    assert found is not None
    assert [one["score"] for one in found["feedback"]] == [0.5]
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (3,)


async def test_the_ids_that_keys_had_are_read_as_the_master_key(
    tmp_path: Path, open_journal: Callable[..., Journal]
) -> None:
    journal = open_journal(path=str(tmp_path / "old.sqlite3"))
    said = FeedbackRecord(decision_id="before", time=1.0, score=0.5, key_id="0123456789ab")
    journal.record(entry("before", key_id="0123456789ab"))
    await journal.add_feedback([said])
    await journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "old.sqlite3")) as database:
        database.execute("PRAGMA user_version=2")
        database.commit()
    journal = open_journal(path=str(tmp_path / "old.sqlite3"))
    await journal.add_feedback([replace(said, key_id="master", score=1.0, time=2.0)])
    found = await journal.get("before")
    assert found is not None
    assert (found["key_id"], [one["score"] for one in found["feedback"]]) == ("master", [1.0])


async def test_what_was_said_of_a_request_is_deleted_with_it(open_journal: Callable[..., Journal]) -> None:
    journal = open_journal()
    for name in ("gone", "kept"):
        journal.record(entry(name))
        await journal.add_feedback([FeedbackRecord(decision_id=name, time=1.0, score=0.5)])
    await journal.close()
    path = Path(journal._config.path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM decisions WHERE id = 'gone'")
    assert [(found["id"], len(said)) for found, said in journal_module.read_rated(path)] == [("kept", 1)]
