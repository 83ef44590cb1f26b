"""How every SQLite file of the gateway is opened: private to its owner, in WAL mode, of a known version."""

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

WAIT_S = 2.0
"""Longest wait for another thread's transaction: only one thread waits for another process."""


class StorageError(Exception):
    """A database cannot be opened; the message names the file and what to do."""


DiskFault = Literal["full", "unwritable"]


class DiskError(StorageError):
    """A database cannot be opened or written now, as its disk is full or cannot be written; that may pass."""

    def __init__(self, message: str, fault: DiskFault) -> None:
        super().__init__(message)
        self.fault: DiskFault = fault


class DatabaseBusy(sqlite3.OperationalError):
    """A thread of this process writes and has waited long already, probably for another process."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database holds. `name` stands in errors; `setting` is the configuration key of its location.

    `create` makes the tables inside a transaction. `upgrades` has what each older version needs to become
    the next one.
    """

    name: str
    setting: str
    version: int
    create: Callable[[sqlite3.Connection], None]
    upgrades: Mapping[int, Callable[[sqlite3.Connection], None]] = field(default_factory=dict)


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
SQLITE_UNWRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
LEAST_FREE_BYTES = 64 * 1024
"""What SQLite needs to open a file in WAL mode; with less it tells an I/O error, not a full disk."""


def find_disk_fault(error: Exception, path: Path | None = None) -> DiskFault | None:
    """What is wrong with the disk, going by an error; None where it is something else.

    path: the file that was asked for; it tells more than SQLite's error.
    """
    if isinstance(error, OSError):
        return "full" if error.errno in FULL else "unwritable" if error.errno in UNWRITABLE else None
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    primary = code & 0xFF  # https://sqlite.org/rescode.html#primary_result_codes_versus_extended_result_codes
    if primary == sqlite3.SQLITE_FULL:
        return "full"
    if primary not in SQLITE_UNWRITABLE or (path is not None and path.is_dir()):
        return None
    with contextlib.suppress(OSError):
        if path is not None and shutil.disk_usage(path.parent).free < LEAST_FREE_BYTES:
            return "full"
    return "unwritable"


def explain_write_error(error: Exception, path: Path) -> str:
    """The error in words, which say that the disk is full where SQLite tells of another error."""
    fault = error.fault if isinstance(error, DiskError) else find_disk_fault(error, path)
    return f"the disk is full ({error})" if fault == "full" and "full" not in str(error) else str(error)


def connect(path: Path, busy_s: float, autocommit: bool = False) -> sqlite3.Connection:
    """A connection that waits at most `busy_s` seconds for the locks of others.

    With `autocommit` the caller begins its own transactions, and any thread may use the connection in turn.
    """
    database = sqlite3.connect(path, timeout=busy_s, check_same_thread=not autocommit)
    if autocommit:
        database.isolation_level = None
    # In WAL mode NORMAL cannot corrupt the file. A power cut may lose the last commits, a crash of the
    # process none of them (https://sqlite.org/pragma.html#pragma_synchronous).
    database.execute("PRAGMA synchronous=NORMAL")
    return database


@contextlib.contextmanager
def write_transaction(database: sqlite3.Connection, lock: threading.Lock, name: str) -> Iterator[None]:
    """A transaction of the thread that gets `lock`: committed at the end, rolled back on an exception.

    Raises:
        DatabaseBusy: another thread has written to what is called `name` for too long.
        sqlite3.OperationalError: the disk is full, or another process writes for too long.
    """
    if not lock.acquire(timeout=WAIT_S):
        raise DatabaseBusy(f"another process writes to {name}")
    try:
        # IMMEDIATE takes the write lock now. A deferred transaction that reads and then writes fails at
        # once with SQLITE_BUSY if another process wrote meanwhile: it does not wait for its time-out.
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # A full disk may have ended it already (https://sqlite.org/lang_transaction.html).
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
    finally:
        lock.release()


def prepare(path: Path, schema: Schema, busy_s: float, directory_mode: int = 0o777) -> None:
    """Create the file with its tables, or check that it has this schema and a version this code can read.

    Raises:
        DiskError: the disk is full or cannot be written.
        StorageError: neither is possible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=directory_mode)
        # SQLite would create the file with the umask's mode. Its -wal and -shm files copy this mode.
        path.touch(mode=0o600, exist_ok=True)
        with contextlib.closing(connect(path, busy_s, autocommit=True)) as database:
            _ensure_schema(database, schema)
    except (sqlite3.Error, OSError, StorageError) as error:
        message = f"{path}: {schema.name} cannot be opened: {error}"
        if (fault := find_disk_fault(error, path)) is not None:
            raise DiskError(message, fault) from None
        raise StorageError(message) from None


def check_room(path: Path, schema: Schema) -> None:
    """See whether there is room beside a database for what it needs to grow.

    A file that has its tables opens on a full disk too.

    Raises:
        DiskError: the disk is full or cannot be written.
        StorageError: the folder cannot be written for another reason.
    """
    try:
        # Written and not asked for: a file system may keep a reserve for root, or a quota for this user.
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(LEAST_FREE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        message = f"{path}: {schema.name} cannot be written: {error.strerror or error}"
        if (fault := find_disk_fault(error)) is not None:
            raise DiskError(message, fault) from None
        raise StorageError(message) from None


def _ensure_schema(database: sqlite3.Connection, schema: Schema) -> None:
    if _needs_tables(database, schema):
        # Both are properties of the file and cannot change inside a transaction.
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("PRAGMA journal_mode=WAL")
    elif database.execute("PRAGMA user_version").fetchone()[0] == schema.version:
        return  # nothing to write: what is there can be read on a full disk too
    database.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have created the tables meanwhile.
        if _needs_tables(database, schema):
            schema.create(database)
        else:
            found = database.execute("PRAGMA user_version").fetchone()[0]
            for version in range(found, schema.version):
                schema.upgrades[version](database)
        database.execute(f"PRAGMA user_version={schema.version}")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _needs_tables(database: sqlite3.Connection, schema: Schema) -> bool:
    """Whether the file is empty.

    Raises:
        StorageError: it has a newer version, or tables that are not ours.
    """
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > schema.version:
        raise StorageError(
            f"it was written by a newer Thalamus (schema {version}, not {schema.version}); "
            f"update Thalamus, or change {schema.setting}"
        )
    if version == 0 and database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StorageError(f"it is another program's database; change {schema.setting}")
    return bool(version == 0)
