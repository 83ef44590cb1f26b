"""The journal: an append-only record of decisions and outcomes, in SQLite.

`record` takes microseconds and never raises: entries wait in a bounded queue for one writer thread, which
encodes and inserts them in batches. Lost entries are counted in `dropped` and reported in `degraded`.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config import JournalConfig
from .journal_records import COLUMNS, NAMES, AttemptRecord, JournalEntry, describe_entry, row_to_json, to_row
from .sqlite import Schema, connect, prepare

SCHEMA_VERSION = 1
MAX_WAITING = 20_000
BATCH = 2000
GATHER_S = 0.2
RETRY_S = 0.5
BUSY_S = 2.0
CHECKPOINT_PAGES = 4000
TIDY_EVERY_S = 600.0
TIDY_ROWS = 10_000
DAY_S = 86_400.0

_PLACES = ", ".join("?" * len(NAMES))
_NAMED = ", ".join(NAMES)
_INSERT = f"INSERT OR IGNORE INTO decisions ({_NAMED}) VALUES ({_PLACES})"  # noqa: S608 (our own column names)
_SELECT = f"SELECT {_NAMED} FROM decisions WHERE id = ?"  # noqa: S608


class Journal:
    """Keeps entries; one writer thread, any number of readers. `close` drains what waits."""

    def __init__(self, config: JournalConfig, max_waiting: int = MAX_WAITING) -> None:
        self.content = config.content
        self.dropped = 0
        self._config = config
        self._max_waiting = max_waiting
        # A dict and not a queue, because `get` must find entries that are not written yet.
        self._waiting: dict[str, JournalEntry] = {}
        self._trouble: str | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._database: sqlite3.Connection | None = None

    @classmethod
    def open(cls, config: JournalConfig, max_waiting: int = MAX_WAITING) -> "Journal":
        """A journal that keeps what it is given; nothing at all where the configuration disables it.

        Raises:
            StorageError: the file cannot be made or is no journal of this version.
        """
        journal = cls(config, max_waiting)
        if config.enabled:
            prepare(Path(config.path), SCHEMA, BUSY_S)
            journal._thread = threading.Thread(target=journal._write, name="journal", daemon=True)
            journal._thread.start()
        return journal

    @property
    def degraded(self) -> str | None:
        """What is wrong now, or None."""
        return f"journal: {self._trouble}; {self.dropped} entries lost so far" if self._trouble else None

    @property
    def n_waiting(self) -> int:
        """Entries not yet on disk."""
        return len(self._waiting)

    def record(self, entry: JournalEntry) -> None:
        """Take an entry; never blocks and never raises. A full queue loses it, and counts that."""
        if self._thread is None:
            return
        if len(self._waiting) >= self._max_waiting:
            self.dropped += 1
            self._trouble = self._trouble or "the writer cannot keep up"
            return
        self._waiting[entry.decision_id] = entry
        # Reading the flag needs no lock; setting it does, and would cost every request a few microseconds.
        if not self._wake.is_set():
            self._wake.set()

    async def get(self, decision_id: str) -> dict[str, Any] | None:
        """The decision and its outcome, written or still waiting; None where there is no such entry."""
        if (entry := self._waiting.get(decision_id)) is not None:
            return describe_entry(entry, self.content)
        if self._thread is None:
            return None
        return await asyncio.to_thread(self._read, decision_id)

    async def close(self) -> None:
        """Write what waits, within reason, and stop."""
        if self._thread is not None:
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _read(self, decision_id: str) -> dict[str, Any] | None:
        with contextlib.suppress(sqlite3.Error), _connection(Path(self._config.path)) as database:
            row = database.execute(_SELECT, (decision_id,)).fetchone()
            return row_to_json(row) if row else None
        return None

    def _write(self) -> None:
        tidied = -TIDY_EVERY_S
        while True:
            self._wake.wait(timeout=60.0)
            # Collects entries for one transaction; a commit per request would cost a sync each.
            self._stopping.wait(GATHER_S)
            self._wake.clear()
            written = self._flush()
            if written and time.monotonic() - tidied > TIDY_EVERY_S:
                tidied = time.monotonic()
                self._tidy()
            if self._stopping.is_set():
                self._disconnect()
                return
            if not written:
                self._stopping.wait(RETRY_S)
                self._wake.set()

    def _flush(self) -> bool:
        """Put everything that waits on disk; False where it cannot be, and the entries wait on."""
        try:
            while self._waiting:
                batch = [entry for entry, _ in zip(list(self._waiting.values()), range(BATCH), strict=False)]
                rows = [row for entry in batch if (row := self._row(entry))]
                with self._connected() as database:
                    database.executemany(_INSERT, rows)
                # Only now: until the commit `get` must find them here. Written twice is harmless (OR IGNORE).
                for entry in batch:
                    self._waiting.pop(entry.decision_id, None)
        except (sqlite3.Error, OSError) as error:
            self._trouble = f"cannot be written ({error})"
            self._disconnect()
            return False
        self._trouble = None
        return True

    def _connected(self) -> sqlite3.Connection:
        """The writer's own connection; a new one after trouble."""
        if self._database is None:
            self._database = _connect(Path(self._config.path))
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _row(self, entry: JournalEntry) -> tuple[Any, ...] | None:
        try:
            return to_row(entry, self.content)
        except Exception:  # a malformed entry must not keep the others from the disk
            self.dropped += 1
            return None

    def _tidy(self) -> None:
        """Delete what is too old or too much, a little at a time so that the lock is short."""
        oldest = time.time() - self._config.max_days * DAY_S
        with contextlib.suppress(sqlite3.Error), _connection(Path(self._config.path)) as database:
            last = database.execute("SELECT coalesce(max(seq), 0) FROM decisions").fetchone()[0]
            while not self._stopping.is_set():
                with database:
                    cursor = database.execute(
                        "DELETE FROM decisions WHERE seq IN (SELECT seq FROM "
                        "(SELECT seq, time FROM decisions ORDER BY seq LIMIT ?) WHERE time < ? OR seq <= ?)",
                        (TIDY_ROWS, oldest, last - self._config.max_rows),
                    )
                if cursor.rowcount < TIDY_ROWS:
                    break
            database.execute("PRAGMA incremental_vacuum")


def check_journal(config: JournalConfig) -> None:
    """See whether the journal could be opened, and leave no file behind that was not there.

    Raises:
        StorageError: as `Journal.open`.
    """
    path = Path(config.path)
    there = path.exists()
    prepare(path, SCHEMA, BUSY_S)
    if not there:
        path.unlink()


@contextlib.contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes are committed at the end, or undone."""
    database = _connect(path)
    try:
        with database:
            yield database
    finally:
        database.close()


def _connect(path: Path) -> sqlite3.Connection:
    database = connect(path, BUSY_S)
    database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    return database


def _create(database: sqlite3.Connection) -> None:
    database.execute(f"CREATE TABLE decisions (seq INTEGER PRIMARY KEY, {', '.join(COLUMNS)})")


SCHEMA = Schema("the journal", "journal.path", SCHEMA_VERSION, _create)

__all__ = ["AttemptRecord", "Journal", "JournalEntry"]
