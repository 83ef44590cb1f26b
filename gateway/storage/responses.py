"""Responses that clients may go on from: their items in one SQLite file, which all workers share.

Methods block for a millisecond: from an event loop they are called in a thread.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clock import StorageClock
from .sqlite import DiskError, Schema, StorageError, connect, find_disk_fault, prepare, write_transaction

SCHEMA_VERSION = 1
BUSY_S = 5.0
REOPEN_S = 2.0
SWEEP_EVERY_S = 60.0
"""How often what is too old is looked for, while responses are added."""
MAX_CHAIN = 10_000
"""Most responses that a conversation may have."""
VACUUM_PAGES = 256
DAY_S = 86_400.0

# The items of one response lie beside each other, in the order of their key. `totals` are kept by triggers: a
# sum over all rows would read the whole table at each response.
_TABLES = (
    "CREATE TABLE responses (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, "
    "previous TEXT, created_at INTEGER NOT NULL, n_bytes INTEGER NOT NULL, head BLOB NOT NULL)",
    "CREATE INDEX response_ages ON responses (created_at)",
    "CREATE INDEX response_owners ON responses (owner, seq)",
    "CREATE TABLE items (response INTEGER NOT NULL, n INTEGER NOT NULL, is_output INTEGER NOT NULL, "
    "id TEXT NOT NULL, item BLOB NOT NULL, PRIMARY KEY (response, n)) WITHOUT ROWID",
    "CREATE INDEX item_ids ON items (id)",
    "CREATE TABLE totals (owner TEXT PRIMARY KEY, n_bytes INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TRIGGER response_added AFTER INSERT ON responses BEGIN "
    "INSERT INTO totals VALUES (new.owner, new.n_bytes) "
    "ON CONFLICT DO UPDATE SET n_bytes = n_bytes + excluded.n_bytes; END",
    "CREATE TRIGGER response_deleted AFTER DELETE ON responses BEGIN "
    "UPDATE totals SET n_bytes = n_bytes - old.n_bytes WHERE owner = old.owner; "
    "DELETE FROM items WHERE response = old.seq; END",
)
_INSERT = "INSERT INTO responses (id, owner, previous, created_at, n_bytes, head) VALUES (?, ?, ?, ?, ?, ?)"
_FIND = "SELECT seq, created_at, head, previous FROM responses WHERE id = ? AND owner = ? AND created_at > ?"
_COUNT = "SELECT sum(n_bytes) FROM totals WHERE ?1 IS NULL OR owner = ?1"
_DELETE_OLDEST = "DELETE FROM responses WHERE seq = (SELECT min(seq) FROM responses)"
_DELETE_OLDEST_OF = "DELETE FROM responses WHERE seq = (SELECT min(seq) FROM responses WHERE owner = ?)"
_CHAIN = """
WITH RECURSIVE chain (seq, previous, depth) AS (
  SELECT seq, previous, 0 FROM responses WHERE id = ? AND owner = ? AND created_at > ?
  UNION ALL
  SELECT r.seq, r.previous, depth + 1 FROM chain JOIN responses r ON r.id = chain.previous
  WHERE r.owner = ? AND r.created_at > ? AND depth < ?)
"""
_FIRST = _CHAIN + "SELECT previous FROM chain ORDER BY depth DESC LIMIT 1"  # noqa: S608 (both are constants)
_HISTORY = (
    _CHAIN + "SELECT item FROM chain JOIN items ON items.response = chain.seq ORDER BY depth DESC, n"  # noqa: S608
)
log = logging.getLogger("thalamus")


def _create(database: sqlite3.Connection) -> None:
    for statement in _TABLES:
        database.execute(statement)


SCHEMA = Schema("the store of responses", "responses.path", SCHEMA_VERSION, _create)


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item of a response, as JSON."""

    id: str
    json: bytes


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response. `head` is its JSON object without its output; `inputs` are those of its own request."""

    id: str
    owner: str
    created_at: int
    head: bytes
    previous: str | None = None
    inputs: Sequence[StoredItem] = ()
    outputs: Sequence[StoredItem] = ()

    @property
    def n_bytes(self) -> int:
        """What it takes, about."""
        return len(self.head) + sum(len(item.json) for item in (*self.inputs, *self.outputs))


class ResponseStore:
    """The responses of all owners, bounded in age and bytes.

    days: what is older is deleted.
    max_bytes, max_bytes_per_key: where there is more, of all or of one owner, the oldest are deleted.
    """

    def __init__(
        self,
        path: Path,
        days: float,
        max_bytes: int,
        max_bytes_per_key: int,
        clock: StorageClock | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_per_key = max_bytes_per_key
        self._path = path
        self._age_s = days * DAY_S
        self._clock = clock or StorageClock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._opening = threading.Lock()
        self._trouble: DiskError | None = None
        self._retry_at = 0.0
        self._sweep_at = 0.0

    def open(self) -> "ResponseStore":
        """Create the file or check it; where its disk is full, once there is room. The first use connects.

        Raises:
            StorageError: it has a version this code cannot read, or is another program's.
        """
        try:
            prepare(self._path, SCHEMA, BUSY_S, directory_mode=0o700)
        except DiskError as error:
            log.warning("responses wait for their disk: %s", error)
            self._trouble = error
        return self

    @property
    def degraded(self) -> str | None:
        """Why no response is kept now, None where they are; looks now and then whether the disk is back."""
        if self._trouble is not None:
            with contextlib.suppress(StorageError):
                self._ensure_open()
        return f"responses: {self._trouble}" if self._trouble else None

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        prepare(self._path, SCHEMA, BUSY_S, directory_mode=0o700)
        try:
            # Reads wait for no write: in WAL mode they see what is committed.
            return connect(self._path, BUSY_S, autocommit=True), connect(self._path, BUSY_S, autocommit=True)
        except sqlite3.Error as error:
            message = f"{self._path}: {SCHEMA.name} cannot be read: {error}"
            if (fault := find_disk_fault(error, self._path)) is not None:
                raise DiskError(message, fault) from None
            raise StorageError(message) from None

    def _ensure_open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """The connections that write and read.

        Raises:
            DiskError: the disk is still full, or cannot be written.
        """
        with self._opening:
            if self._connections is not None:
                return self._connections
            if self._trouble is not None and time.monotonic() < self._retry_at:
                raise DiskError(str(self._trouble), self._trouble.fault)
            try:
                self._connections = self._connect()
            except DiskError as error:
                self._trouble, self._retry_at = error, time.monotonic() + REOPEN_S
                raise
            if self._trouble is not None:
                self._trouble = None
                log.info("responses are kept again")
            return self._connections

    def close(self) -> None:
        """Close the file; nothing can be stored afterwards."""
        with self._opening, self._lock, self._reading:
            for connection in self._connections or ():
                connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database, _ = self._ensure_open()
        with write_transaction(database, self._lock, SCHEMA.name):
            yield database

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        _, reader = self._ensure_open()
        with self._reading:
            return reader.execute(query, values).fetchall()

    @property
    def _oldest(self) -> float:
        return self._clock.expiry_time() - self._age_s

    def add(self, response: StoredResponse) -> bool:
        """Store a response; False where it alone is larger than all of its owner may be.

        Raises:
            sqlite3.Error, StorageError: it cannot be written now.
        """
        n_bytes = response.n_bytes
        if n_bytes > min(self._max_bytes, self._max_bytes_per_key):
            return False
        row = (response.id, response.owner, response.previous, response.created_at, n_bytes, response.head)
        with self._transaction() as database:
            seq = database.execute(_INSERT, row).lastrowid
            sides = [*((item, 0) for item in response.inputs), *((item, 1) for item in response.outputs)]
            database.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?)",
                [(seq, n, is_output, item.id, item.json) for n, (item, is_output) in enumerate(sides)],
            )
            self._make_room(database, response.owner)
        return True

    def _make_room(self, database: sqlite3.Connection, owner: str) -> None:
        """Delete what is too old, now and then, and the oldest while there is too much."""
        now = time.monotonic()
        n_deleted = 0
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_S
            gone = database.execute("DELETE FROM responses WHERE created_at <= ?", (self._oldest,))
            n_deleted += gone.rowcount
        while database.execute(_COUNT, (owner,)).fetchone()[0] > self._max_bytes_per_key:
            n_deleted += database.execute(_DELETE_OLDEST_OF, (owner,)).rowcount
        while database.execute(_COUNT, (None,)).fetchone()[0] > self._max_bytes:
            n_deleted += database.execute(_DELETE_OLDEST).rowcount
        if n_deleted:
            # Pages that are free go back to the disk, a few at a time.
            database.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()

    def find(self, response_id: str, owner: str) -> StoredResponse | None:
        """A response of this owner, with its items; None where there is none.

        Raises:
            sqlite3.Error, StorageError: it cannot be read now.
        """
        found = self._rows(_FIND, response_id, owner, self._oldest)
        if not found:
            return None
        ((seq, created_at, head, previous),) = found
        items = self._rows("SELECT is_output, id, item FROM items WHERE response = ? ORDER BY n", seq)
        inputs = [StoredItem(ident, item) for is_output, ident, item in items if not is_output]
        outputs = [StoredItem(ident, item) for is_output, ident, item in items if is_output]
        return StoredResponse(response_id, owner, created_at, head, previous, inputs, outputs)

    def find_history(self, response_id: str, owner: str) -> list[bytes] | None:
        """All items of a conversation up to a response, oldest first; None where any of it is missing.

        Raises:
            sqlite3.Error, StorageError: it cannot be read now.
        """
        oldest = self._oldest
        values = (response_id, owner, oldest, owner, oldest, MAX_CHAIN)
        chain = self._rows(_FIRST, *values)
        # The first response of a conversation goes on from none.
        if not chain or chain[0][0] is not None:
            return None
        return [item for (item,) in self._rows(_HISTORY, *values)]

    def find_items(self, ids: Sequence[str], owner: str) -> Mapping[str, bytes]:
        """Items of any of an owner's responses, by id; without those that there are not.

        Raises:
            sqlite3.Error, StorageError: they cannot be read now.
        """
        query = (
            "SELECT item FROM items JOIN responses ON seq = response "
            "WHERE items.id = ? AND owner = ? AND created_at > ? LIMIT 1"
        )
        oldest = self._oldest
        rows = {ident: self._rows(query, ident, owner, oldest) for ident in dict.fromkeys(ids)}
        return {ident: found[0][0] for ident, found in rows.items() if found}

    def delete(self, response_id: str, owner: str) -> bool:
        """Delete a response; False where the owner has none of this id.

        Raises:
            sqlite3.Error, StorageError: it cannot be written now.
        """
        with self._transaction() as database:
            gone = database.execute("DELETE FROM responses WHERE id = ? AND owner = ?", (response_id, owner))
            return gone.rowcount > 0
