"""Files, batches and their open lines on disk: one SQLite database in WAL mode, shared by processes.

Methods block for milliseconds: from an event loop they are called in a thread. One connection, one lock.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from ..config.client_keys import MASTER, is_former_id, make_former_id
from ..storage.clock import ClockRecord, StorageClock
from ..storage.sqlite import (
    DiskError,
    Schema,
    StorageError,
    connect,
    find_disk_fault,
    prepare,
    write_transaction,
)
from .outcomes import CallOutcome
from .types import ENDED, Batch, FileNotKnown, LineError, StoredFile

SCHEMA_VERSION = 3
NAME = "batches.sqlite3"
BUSY_S = 10.0
REOPEN_S = 2.0
SALT_BYTES = 16

# WITHOUT ROWID stores rows in the order of their key, so reading lines in order needs no second look-up
# (https://sqlite.org/withoutrowid.html). The partial index `waiting` holds open calls only: it stays small
# however long the batch is (https://sqlite.org/partialindex.html).
_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, name TEXT NOT NULL,
  purpose TEXT NOT NULL, n_bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER);
CREATE TABLE batches (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, endpoint TEXT, input_file_id TEXT,
  input_path TEXT NOT NULL, input_mark TEXT NOT NULL, out_path TEXT, line_order TEXT NOT NULL,
  window_s REAL NOT NULL, window TEXT NOT NULL, max_usd REAL, metadata BLOB, status TEXT NOT NULL,
  errors BLOB NOT NULL, n_total INTEGER NOT NULL, n_completed INTEGER NOT NULL, n_failed INTEGER NOT NULL,
  cost_usd REAL NOT NULL, n_unpriced INTEGER NOT NULL, output_bytes INTEGER NOT NULL,
  error_bytes INTEGER NOT NULL, output_file_id TEXT, error_file_id TEXT, output_expires_s INTEGER,
  times BLOB NOT NULL);
CREATE TABLE lines (
  batch TEXT NOT NULL, n INTEGER NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL,
  custom_id TEXT NOT NULL, state INTEGER NOT NULL, decision BLOB, aggregator TEXT, at INTEGER,
  length INTEGER,
  PRIMARY KEY (batch, n)) WITHOUT ROWID;
CREATE TABLE calls (
  batch TEXT NOT NULL, n INTEGER NOT NULL, step INTEGER NOT NULL, expert TEXT NOT NULL, outcome BLOB,
  PRIMARY KEY (batch, n, step, expert)) WITHOUT ROWID;
CREATE INDEX waiting ON calls (batch, expert, n) WHERE outcome IS NULL;
"""
_ENCODED = frozenset({"errors", "metadata", "times"})
_COLUMNS = tuple(field.name for field in fields(Batch))
_FILE = "id, owner, name, purpose, n_bytes, created_at, expires_at"
_ALIVE = "(expires_at IS NULL OR expires_at > ?)"
_RUNNING = f"status NOT IN ({', '.join(repr(status) for status in sorted(ENDED))})"
log = logging.getLogger("thalamus")
_errors = msgspec.json.Decoder(tuple[LineError, ...])


class BatchStore:
    """The database; `transaction` gives its connection to one thread at a time.

    `n_lost_answers` counts answers of batches that were paid and could not be written before the end.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.salt = os.urandom(SALT_BYTES)
        self._master_key: str | None = None
        self.clock = StorageClock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._opening = threading.Lock()
        self._trouble: DiskError | None = None
        self._retry_at = 0.0
        self.n_lost_answers = 0

    @classmethod
    def open(cls, directory: Path, *, may_wait: bool = False, master_key: str | None = None) -> "BatchStore":
        """The store in a directory, created if it is missing.

        may_wait: where the disk is full or cannot be written, it is opened once it can be.
        master_key: what is stored under its former id becomes that of `master`.

        Raises:
            StorageError: it cannot be created, or has a version this code cannot read.
        """
        store = cls(directory)
        store._master_key = master_key
        try:
            store._connections, store.salt = store._open()
        except DiskError as error:
            if not may_wait:
                raise
            log.warning("files and batches wait for their disk: %s", error)
            store._trouble = error
        return store

    @property
    def degraded(self) -> str | None:
        """Why there are no files and batches now, None where there are."""
        return f"batches: {self._trouble}" if self._trouble else None

    def _open(self) -> tuple[tuple[sqlite3.Connection, sqlite3.Connection], bytes]:
        """Open the database: the connections that write and read, and its salt."""
        path = self.directory / NAME
        prepare(path, SCHEMA, BUSY_S, directory_mode=0o700)
        database = connect(path, BUSY_S, autocommit=True)
        try:
            facts = dict(database.execute("SELECT name, value FROM facts").fetchall())
            # Reads wait for no write: in WAL mode they see what is committed, also while another process
            # writes.
            reader = connect(path, BUSY_S, autocommit=True)
            if self._master_key is not None:
                _adopt(database, make_former_id(self._master_key, facts["salt"]))
        except sqlite3.Error as error:
            database.close()
            message = f"{path}: {SCHEMA.name} cannot be read: {error}"
            if (fault := find_disk_fault(error, path)) is not None:
                raise DiskError(message, fault) from None
            raise StorageError(message) from None
        self.clock.remember(ClockRecord.decode(facts.get("clock", b"")))
        return (database, reader), facts["salt"]

    def _ensure_open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """The connections that write and read, opened now where they could not be at the start.

        Raises:
            DiskError: the disk is still full, or cannot be written.
        """
        if self._connections is not None:
            return self._connections
        with self._opening:
            if self._connections is not None:
                return self._connections
            if self._trouble is not None and time.monotonic() < self._retry_at:
                raise DiskError(str(self._trouble), self._trouble.fault)
            try:
                self._connections, _ = self._open()
            except DiskError as error:
                self._trouble, self._retry_at = error, time.monotonic() + REOPEN_S
                raise
            self._trouble = None
            log.info("files and batches are there again")
            return self._connections

    def close(self) -> None:
        with self._opening, self._lock, self._reading:
            for connection in self._connections or ():
                connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end, rolled back on an exception.

        Raises:
            sqlite3.OperationalError: the disk is full, or another process or thread writes for too long.
            DiskError: the store could not be opened yet.
        """
        database, _ = self._ensure_open()
        with write_transaction(database, self._lock, "the store of batches"):
            yield database

    def keep_clock(self) -> None:
        """Keep the time that has been reached, by which a start sees whether the clock has jumped.

        Where the clock was set back, what was made in the meantime would live until it is right again: its
        age begins now.
        """
        last = self.clock.find_last_stamp()
        with self.transaction() as database:
            fact = ("clock", self.clock.to_record().encode())
            database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", fact)
            if last is not None:
                now = int(self.clock.stamp())
                database.execute(
                    "UPDATE files SET expires_at = ? + expires_at - created_at, created_at = ? "
                    "WHERE created_at > ?",
                    (now, now, last),
                )
                query = f"SELECT id, times FROM batches WHERE {_RUNNING}"  # noqa: S608
                for batch_id, encoded in database.execute(query).fetchall():
                    times = msgspec.json.decode(encoded)
                    if times.get("created_at", 0) > last:
                        values = msgspec.json.encode({**times, "created_at": now}), batch_id
                        database.execute("UPDATE batches SET times = ? WHERE id = ?", values)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query.

        Raises:
            DiskError: the store could not be opened yet.
        """
        _, reader = self._ensure_open()
        with self._reading:
            return reader.execute(query, values).fetchall()

    def add_file(self, file: StoredFile) -> None:
        """Insert a file's row, or replace the row of the same id."""
        row = (file.id, file.owner, file.name, file.purpose, file.n_bytes, file.created_at, file.expires_at)
        with self.transaction() as database:
            database.execute(f"INSERT OR REPLACE INTO files ({_FILE}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608

    def find_file(self, file_id: str, owner: str) -> StoredFile | None:
        query = f"SELECT {_FILE} FROM files WHERE id = ? AND owner = ? AND {_ALIVE}"  # noqa: S608
        found = self.rows(query, file_id, owner, self.clock.expiry_time())
        return StoredFile(*found[0]) if found else None

    def list_files(
        self, owner: str, purpose: str | None, after: str | None, limit: int, newest_first: bool = True
    ) -> list[StoredFile]:
        """A page of an owner's files, beginning behind `after`."""
        # `seq` and not `created_at` is the cursor: several files can have the same second.
        side, order = ("<", "DESC") if newest_first else (">", "ASC")
        found = self.rows(
            f"SELECT {_FILE} FROM files WHERE owner = ? AND {_ALIVE} AND (? IS NULL OR purpose = ?) "  # noqa: S608
            f"AND (? IS NULL OR seq {side} (SELECT seq FROM files WHERE id = ?)) "
            f"ORDER BY seq {order} LIMIT ?",
            *(owner, self.clock.expiry_time(), purpose, purpose, after, after, limit),
        )
        return [StoredFile(*row) for row in found]

    def list_file_ids(self) -> frozenset[str]:
        """The ids of all files, expired ones too."""
        return frozenset(row[0] for row in self.rows("SELECT id FROM files"))

    def count_bytes(self, owner: str) -> tuple[int, int]:
        """The bytes that are stored for an owner, and for all: files, and results of batches that run."""
        ((n_own, n_all),) = self.rows(
            "SELECT coalesce(sum(CASE WHEN owner = ? THEN n END), 0), coalesce(sum(n), 0) FROM ("  # noqa: S608
            "SELECT owner, n_bytes AS n FROM files UNION ALL SELECT owner, output_bytes + error_bytes "
            f"FROM batches WHERE out_path IS NULL AND {_RUNNING})",
            owner,
        )
        return n_own, n_all

    def delete_expired_files(self) -> list[str]:
        """Delete the rows of files whose time is over and which no batch reads; returns their ids."""
        # One transaction: a batch that is added at the same moment finds its input, or is refused.
        unused = f"NOT EXISTS (SELECT 1 FROM batches WHERE input_file_id = files.id AND {_RUNNING})"  # noqa: S608
        with self.transaction() as database:
            query = f"SELECT id FROM files WHERE NOT {_ALIVE} AND {unused}"  # noqa: S608
            found = database.execute(query, (self.clock.expiry_time(),)).fetchall()
            database.executemany("DELETE FROM files WHERE id = ?", found)
        return [file_id for (file_id,) in found]

    def delete_file(self, file_id: str) -> str | None:
        """Delete a file's row, unless a batch still reads it: returns the id of that batch."""
        query = f"SELECT id FROM batches WHERE input_file_id = ? AND {_RUNNING}"  # noqa: S608
        with self.transaction() as database:
            reading = database.execute(query, (file_id,)).fetchone()
            if reading is None:
                database.execute("DELETE FROM files WHERE id = ?", (file_id,))
        return None if reading is None else str(reading[0])

    def add_batch(self, batch: Batch) -> None:
        """Insert a batch.

        Raises:
            FileNotKnown: its input file was deleted meanwhile.
        """
        values = [_encode_column(name, getattr(batch, name)) for name in _COLUMNS]
        places = ", ".join("?" * len(_COLUMNS))
        with self.transaction() as database:
            if batch.input_file_id is not None:
                query, file_id = "SELECT 1 FROM files WHERE id = ?", batch.input_file_id
                if database.execute(query, (file_id,)).fetchone() is None:
                    raise FileNotKnown(f"there is no file '{file_id[:80]}'", param="input_file_id")
            database.execute(f"INSERT INTO batches ({', '.join(_COLUMNS)}) VALUES ({places})", values)  # noqa: S608

    def find_batch(self, batch_id: str, owner: str | None = None) -> Batch | None:
        """A batch of this owner, or of any owner if none is given."""
        found = self._select_batches("id = ? AND (? IS NULL OR owner = ?)", batch_id, owner, owner)
        return found[0] if found else None

    def list_batches(self, owner: str, after: str | None, limit: int) -> list[Batch]:
        """A page of an owner's batches, newest first, without those of the command line."""
        return self._select_batches(
            "owner = ? AND out_path IS NULL AND (? IS NULL OR seq < (SELECT seq FROM batches WHERE id = ?)) "
            "ORDER BY seq DESC LIMIT ?",
            *(owner, after, after, limit),
        )

    def list_all(self) -> list[Batch]:
        """The batches of all owners, oldest first."""
        return self._select_batches("1 ORDER BY seq")

    def list_unfinished(self) -> list[str]:
        """Ids of the batches a server resumes after a restart, oldest first."""
        found = self.rows("SELECT id, status FROM batches WHERE out_path IS NULL ORDER BY seq")
        return [batch_id for batch_id, status in found if status not in ENDED]

    def change(self, batch_id: str, unless: Sequence[str] = (), **changes: Any) -> bool:
        """Set columns of a batch, unless its status is one of those; `times` are added to those it has."""
        # Compare and set in one transaction: another process may cancel the batch at the same moment.
        with self.transaction() as database:
            row = database.execute("SELECT status, times FROM batches WHERE id = ?", (batch_id,)).fetchone()
            if row is None or row[0] in unless:
                return False
            if "times" in changes:
                changes["times"] = {**msgspec.json.decode(row[1]), **changes["times"]}
            values = [_encode_column(name, value) for name, value in changes.items()]
            places = ", ".join(f"{name} = ?" for name in changes)
            database.execute(f"UPDATE batches SET {places} WHERE id = ?", (*values, batch_id))  # noqa: S608
        return True

    def _select_batches(self, where: str, *values: Any) -> list[Batch]:
        found = self.rows(f"SELECT {', '.join(_COLUMNS)} FROM batches WHERE {where}", *values)  # noqa: S608
        return [_decode_batch(row) for row in found]


def _encode_column(name: str, value: Any) -> Any:
    return msgspec.json.encode(value) if name in _ENCODED else value


def _decode_batch(row: tuple[Any, ...]) -> Batch:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["errors"] = _errors.decode(values["errors"])
    for name in ("metadata", "times"):
        values[name] = msgspec.json.decode(values[name])
    return Batch(**values)


def _adopt(database: sqlite3.Connection, former_id: str) -> None:
    """Give `master` what has the id that its key had as owner before keys had names.

    Ids of other keys stay: another gateway with another key may have written them.
    """
    for table in ("files", "batches"):
        query = f"SELECT 1 FROM {table} WHERE owner = ? LIMIT 1"  # noqa: S608 (our own names)
        if database.execute(query, (former_id,)).fetchone():  # else nothing is written: the disk may be full
            database.execute(f"UPDATE {table} SET owner = ? WHERE owner = ?", (MASTER, former_id))  # noqa: S608


def _create(database: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):
        database.execute(statement)
    # Wrong keys are logged by a salted hash: the salt is kept, so that the same one is known again.
    database.execute("INSERT INTO facts VALUES ('salt', ?)", (os.urandom(SALT_BYTES),))


def _add_expiry(database: sqlite3.Connection) -> None:
    database.execute("ALTER TABLE files ADD COLUMN expires_at INTEGER")
    database.execute("ALTER TABLE batches ADD COLUMN output_expires_s INTEGER")


def _name_owners(database: sqlite3.Connection) -> None:
    # The owner was an id made of the value of the one key: a new value left files and batches without owner.
    parts = (f"SELECT owner FROM {table} WHERE {is_former_id('owner')}" for table in ("files", "batches"))  # noqa: S608
    ids = database.execute(" UNION ".join(parts)).fetchall()
    # Several were those of several gateways, or of a key that was changed: only the keys tell, in `_adopt`.
    if len(ids) == 1:
        _adopt(database, ids[0][0])


SCHEMA = Schema(
    "the store of batches",
    "batches.path",
    SCHEMA_VERSION,
    _create,
    upgrades={1: _add_expiry, 2: _name_owners},
)


def new_id(kind: str) -> str:
    """An id that cannot be guessed: `file-…`, `batch_…`."""
    return f"{kind}{'-' if kind == 'file' else '_'}{secrets.token_hex(16)}"


UNROUTED, WAITING, ANSWERED, FAILED = range(4)
"""States of a line; beyond `WAITING` it has its one line of output."""

ADD_CALL = "INSERT INTO calls (batch, n, step, expert) VALUES (?, ?, ?, ?)"

_decode = msgspec.msgpack.Decoder(CallOutcome).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class BatchLine:
    """The position of a line in the input, counted from 1, and its custom_id."""

    n: int
    offset: int
    size: int
    custom_id: str


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that can be made now; `decision` is None if the line names its expert."""

    line: BatchLine
    step: int
    expert: str
    decision: bytes | None


@dataclass(frozen=True, slots=True)
class RoutedLine:
    """A routed line: the experts of its first step, and the aggregator of a panel."""

    n: int
    experts: tuple[str, ...]
    decision: bytes | None = None
    aggregator: str | None = None


class Worklist:
    """The open work of a batch: its lines, and the calls that each line waits for.

    The open calls of a line belong to one step of its plan, and each names its expert, so that experts can
    be called one after another. Outcomes stay here until the line ends.
    """

    def __init__(self, store: BatchStore, batch_id: str) -> None:
        self._store = store
        self._id = batch_id

    def clear(self) -> None:
        """Delete all lines and calls."""
        with self._store.transaction() as database:
            database.execute("DELETE FROM calls WHERE batch = ?", (self._id,))
            database.execute("DELETE FROM lines WHERE batch = ?", (self._id,))

    def add(self, lines: Iterable[BatchLine]) -> None:
        rows = ((self._id, line.n, line.offset, line.size, line.custom_id, UNROUTED) for line in lines)
        with self._store.transaction() as database:
            database.executemany(
                "INSERT INTO lines (batch, n, offset, size, custom_id, state) VALUES (?, ?, ?, ?, ?, ?)", rows
            )

    def find_repeated(self, limit: int) -> list[LineError]:
        """Lines whose custom_id an earlier line has already."""
        # In SQL and not with a set in memory: a file may have millions of lines.
        found = self._store.rows(
            "SELECT n, first, custom_id FROM (SELECT n, custom_id, "
            "min(n) OVER (PARTITION BY custom_id) AS first FROM lines WHERE batch = ?) "
            "WHERE n > first ORDER BY n LIMIT ?",
            *(self._id, limit),
        )
        return [
            LineError(
                "duplicate_custom_id", f"line {first} has the custom_id {name[:80]!r} too", n, "custom_id"
            )
            for n, first, name in found
        ]

    def list_unrouted(self, after: int, limit: int) -> list[BatchLine]:
        """The next lines behind line `after` that are not routed."""
        # From there and not from the first line: reading over what is routed already would make every line
        # of a large batch dearer than the one before.
        found = self._store.rows(
            "SELECT n, offset, size, custom_id FROM lines WHERE batch = ? AND n > ? AND state = ? "
            "ORDER BY n LIMIT ?",
            *(self._id, after, UNROUTED, limit),
        )
        return [BatchLine(*row) for row in found]

    def route(self, routed: Sequence[RoutedLine]) -> None:
        """Store decisions, and enqueue the calls of each first step."""
        with self._store.transaction() as database:
            database.executemany(
                "UPDATE lines SET state = ?, decision = ?, aggregator = ? WHERE batch = ? AND n = ?",
                [(WAITING, one.decision, one.aggregator, self._id, one.n) for one in routed],
            )
            calls = [(self._id, one.n, 0, expert) for one in routed for expert in one.experts]
            database.executemany(ADD_CALL, calls)

    def add_calls(self, database: sqlite3.Connection, n: int, step: int, experts: Iterable[str]) -> None:
        """Enqueue the calls of a step."""
        rows = [(self._id, n, step, expert) for expert in experts]
        database.executemany(ADD_CALL, rows)

    def count_waiting(self) -> dict[str, int]:
        """How many calls wait for each expert."""
        found = self._store.rows(
            "SELECT expert, count(*) FROM calls WHERE batch = ? AND outcome IS NULL "
            "GROUP BY expert ORDER BY expert",
            self._id,
        )
        return dict(found)

    def list_open_aggregators(self) -> set[tuple[str, str]]:
        """Pairs of an expert with open calls and the aggregator of its answers."""
        found = self._store.rows(
            "SELECT DISTINCT c.expert, l.aggregator FROM calls c JOIN lines l ON l.batch = c.batch "
            "AND l.n = c.n WHERE c.batch = ? AND c.outcome IS NULL AND c.step = 0 "
            "AND l.aggregator IS NOT NULL",
            self._id,
        )
        return {(member, aggregator) for member, aggregator in found}

    def list_waiting(self, expert: str, after: tuple[int, int], limit: int) -> list[PendingCall]:
        """The next calls for an expert, by line and step, behind `after`."""
        found = self._store.rows(
            "SELECT l.n, l.offset, l.size, l.custom_id, c.step, c.expert, l.decision FROM calls c "
            "JOIN lines l ON l.batch = c.batch AND l.n = c.n WHERE c.batch = ? AND c.expert = ? "
            "AND c.outcome IS NULL AND (c.n, c.step) > (?, ?) ORDER BY c.n, c.step LIMIT ?",
            *(self._id, expert, *after, limit),
        )
        return [PendingCall(BatchLine(*row[:4]), *row[4:]) for row in found]

    def list_open(self, after: int, limit: int) -> list[BatchLine]:
        """The next lines without an output, behind line `after`."""
        found = self._store.rows(
            "SELECT n, offset, size, custom_id FROM lines WHERE batch = ? AND state <= ? AND n > ? "
            "ORDER BY n LIMIT ?",
            *(self._id, WAITING, after, limit),
        )
        return [BatchLine(*row) for row in found]

    def load_history(self, database: sqlite3.Connection, n: int) -> list[list[CallOutcome | None]]:
        """The outcomes of a line by step; None for a call in progress."""
        found = database.execute(
            "SELECT step, outcome FROM calls WHERE batch = ? AND n = ? ORDER BY step, expert", (self._id, n)
        )
        steps: list[list[CallOutcome | None]] = []
        for step, outcome in found:
            while len(steps) <= step:
                steps.append([])
            steps[step].append(None if outcome is None else _decode(outcome))
        return steps

    def record_outcome(self, database: sqlite3.Connection, n: int, step: int, outcome: CallOutcome) -> None:
        database.execute(
            "UPDATE calls SET outcome = ? WHERE batch = ? AND n = ? AND step = ? AND expert = ?",
            (_encode(outcome), self._id, n, step, outcome.record.expert),
        )

    def close_line(self, database: sqlite3.Connection, n: int, state: int, at: int, length: int) -> None:
        """Mark a line as ended, with the position of its output in the file."""
        # Outcomes hold whole answers: deleting them keeps the database at the size of the open work.
        database.execute("DELETE FROM calls WHERE batch = ? AND n = ?", (self._id, n))
        database.execute(
            "UPDATE lines SET state = ?, at = ?, length = ?, decision = NULL WHERE batch = ? AND n = ?",
            (state, at, length, self._id, n),
        )

    def output_spans(self, state: int, after: int, limit: int) -> list[tuple[int, int, int]]:
        """(line, offset, length) of outputs of one kind, in the order of the input."""
        found = self._store.rows(
            "SELECT n, at, length FROM lines WHERE batch = ? AND state = ? AND n > ? ORDER BY n LIMIT ?",
            *(self._id, state, after, limit),
        )
        return [(n, at, length) for n, at, length in found]
