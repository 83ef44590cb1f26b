"""The journal: an append-only record of decisions and outcomes, in SQLite.

`record` takes microseconds and never raises: entries wait in a bounded queue for one writer thread, which
encodes and inserts them in batches. Lost entries are counted in `dropped` and reported in `degraded`.
A decision is stored as its arrays, which is quick; the record of every candidate is built when it is read.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from policies import Decision, Session, decision_record, decode_plan

from ..config import JournalConfig
from ..config.client_keys import find_owner
from ..embedding import TextChoice
from ..telemetry.background import start_thread
from .clock import StorageClock
from .feedback import (
    FeedbackRecord,
    create_feedback_table,
    name_keys_of_feedback,
    read_feedback,
    write_feedback,
)
from .sqlite import (
    DiskError,
    Schema,
    StorageError,
    check_room,
    connect,
    explain_write_error,
    find_disk_fault,
    prepare,
)

SCHEMA_VERSION = 3
MAX_WAITING = 20_000
BATCH = 2000
GATHER_S = 0.2
RETRY_S = 0.5
BUSY_S = 2.0
STOP_WITHIN_S = 5.0
# 16 MiB of 4 KiB pages; SQLite's default of 1000 would checkpoint four times as often
# (https://sqlite.org/wal.html).
CHECKPOINT_PAGES = 4000
TIDY_EVERY_S = 600.0
TIDY_ROWS = 10_000
DAY_S = 86_400.0

log = logging.getLogger("thalamus")

Role = Literal["member", "aggregator"]
BY_NAME = "asked for by name"


# Structs and not dataclasses, here and wherever one is made for every request: a frozen dataclass of so many
# fields takes four times as long to make.
class AttemptRecord(msgspec.Struct, frozen=True, gc=False):
    """One call to one expert with its result; `role` is its part in a panel.

    `verdict` is `answered`, `moved_on` (the next expert was asked), `refused` (the request was at fault),
    `skipped` (no call was made) or `abandoned` (ended before its answer did: the client left, a panel had
    its answer, the gateway stopped).

    `tokens_estimated`: the expert counted none, and those of the entry are an estimate.
    `error` is fit for all to read; `client_error` has the words of the expert, for the client of the request.
    The journal keeps none: an expert may quote the prompt, or a key.
    """

    expert: str
    verdict: str
    status: int | None = None
    error: str | None = None
    latency_s: float | None = None
    deployment: str | None = None
    role: Role | None = None
    tokens_estimated: bool = False
    client_error: str | None = None


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request as the journal keeps it; None is unknown, never 0. `time` is seconds since 1970.

    `key_id` is the name of the client's key. `prompt` and `answer` are kept only where the configuration says
    so, even if a caller passes them.
    """

    decision_id: str
    request_id: str
    time: float
    policy: str | None
    expert_asked: str | None
    expert_answered: str | None
    plan: str
    status: int
    decision: Decision | TextChoice | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    first_token_s: float | None = None
    overhead_s: float | None = None
    stream: bool = False
    endpoint: str = "chat/completions"
    error: str | None = None
    key_id: str | None = None
    session_id: str | None = None
    prompt: str | None = None
    answer: str | None = None


def _encode_attempts(attempts: Sequence[AttemptRecord]) -> bytes:
    """The attempts as JSON, without what is for the client of the request alone."""
    plain = [msgspec.structs.asdict(attempt) for attempt in attempts]
    for one in plain:
        del one["client_error"]
    return msgspec.json.encode(plain)


BAD_ROW = (
    *(OverflowError, ValueError, TypeError, sqlite3.InterfaceError, sqlite3.DataError),
    *(sqlite3.IntegrityError, sqlite3.ProgrammingError),
)
"""What a value raises that SQLite cannot hold: trying again would never help."""
MAX_INTEGER = 2**63 - 1


def fit_row(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row as SQLite can hold it: wider integers are unknown, half an emoji is a question mark."""
    return tuple(map(_fit_column, row))


def _fit_column(value: Any) -> Any:
    if type(value) is int:
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else None
    if type(value) is str and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    return value


COLUMNS = (
    "id TEXT NOT NULL UNIQUE",
    "request_id TEXT NOT NULL",
    "time REAL NOT NULL",
    "endpoint TEXT NOT NULL",
    "policy TEXT",
    "expert_asked TEXT",
    "expert_answered TEXT",
    "plan TEXT NOT NULL",
    "tier TEXT",
    "propensity REAL NOT NULL",
    "decision BLOB",
    "attempts BLOB",
    "status INTEGER NOT NULL",
    "error TEXT",
    "input_tokens INTEGER",
    "output_tokens INTEGER",
    "cost_usd REAL",
    "latency_s REAL",
    "first_token_s REAL",
    "overhead_s REAL",
    "stream INTEGER NOT NULL",
    "key_id TEXT",
    "session_id TEXT",
    "prompt TEXT",
    "answer TEXT",
)
"""The table; the names are the format on disk."""
NAMES = tuple(sql.partition(" ")[0] for sql in COLUMNS)


def to_row(entry: JournalEntry, content: bool, late_s: float = 0.0) -> tuple[Any, ...]:
    """The values of `COLUMNS`; prompt and answer only with `content`. `late_s` is added to its time."""
    decision = entry.decision
    return (
        entry.decision_id,
        entry.request_id,
        entry.time + late_s,
        entry.endpoint,
        entry.policy,
        entry.expert_asked,
        entry.expert_answered,
        entry.plan,
        # A request that named its expert was not routed: propensity 1, no tier.
        decision.tier if decision else None,
        decision.propensity if decision else 1.0,
        _pack_column(decision) if decision else None,
        _encode_attempts(entry.attempts),
        entry.status,
        entry.error,
        entry.input_tokens,
        entry.output_tokens,
        entry.cost_usd,
        entry.latency_s,
        entry.first_token_s,
        entry.overhead_s,
        int(entry.stream),
        entry.key_id,
        entry.session_id,
        entry.prompt if content else None,
        entry.answer if content else None,
    )


def row_to_json(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row as JSON-able values, its decision in full."""
    values = dict(zip(NAMES, row, strict=True))
    decision_id = values.pop("id")
    packed = values.pop("decision")
    attempts = msgspec.json.decode(values.pop("attempts") or b"[]")
    tier, propensity = values.pop("tier"), values.pop("propensity")
    if packed is not None:
        record = _unpack_record(packed)
    else:
        asked = values["expert_asked"]
        record = {
            "policy": values["policy"] or "",
            "expert": asked or values["expert_answered"] or "",
            "plan": {"kind": values["plan"], "experts": [asked] if asked else []},
            "tier": tier or "prior",
            "reason": BY_NAME,
            "margin": None,
            "propensity": propensity,
            "candidates": [],
        }
    values["stream"] = bool(values["stream"])
    values["key_id"] = find_owner(values["key_id"])
    entry_json = {"id": decision_id, "object": "decision", **values, "attempts": attempts}
    return {**entry_json, "decision": {"id": decision_id, **record}}


def describe_decision(decision: Decision | TextChoice) -> dict[str, Any]:
    """A decision of either kind as JSON values, in full."""
    return decision.record() if isinstance(decision, TextChoice) else decision_record(decision)


def _pack_column(decision: Decision | TextChoice) -> bytes:
    if isinstance(decision, TextChoice):
        return msgspec.msgpack.encode({"record": decision.record()})
    return pack_decision(decision)


def _unpack_record(packed: bytes) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.msgpack.decode(packed)
    return plain["record"] if "record" in plain else decision_record(unpack_decision(packed))


def pack_decision(decision: Decision) -> bytes:
    plain = msgspec.structs.asdict(decision)
    plan = decision.plan
    plain["plan"] = {"kind": plan.kind, **plan.parts()}
    return msgspec.msgpack.encode(plain, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return dict(value) if hasattr(value, "keys") else float(value)


def unpack_decision(packed: bytes) -> Decision:
    plain = msgspec.msgpack.decode(packed)
    parts = plain["plan"]
    plain["plan"] = decode_plan(parts.pop("kind"), parts)
    for name in ("experts", "skills"):
        if plain.get(name) is not None:
            plain[name] = tuple(plain[name])
    if plain.get("session") is not None:
        plain["session"] = msgspec.convert(plain["session"], Session)
    for name, value in plain.items():
        if isinstance(value, list):
            # Arrays are lists in msgpack: their types must be restored, as indexing with floats fails.
            kind = {"order": np.int64, "evidence": np.bool_, "assumed_length": np.bool_}.get(name, np.float64)
            plain[name] = np.array(value, dtype=kind)
    return Decision(**plain)


def describe_entry(entry: JournalEntry, content: bool) -> dict[str, Any]:
    """An entry that is not in the database yet, as JSON values like one that is."""
    return row_to_json(to_row(entry, content))


_PLACES = ", ".join("?" * len(NAMES))
_NAMED = ", ".join(NAMES)
_INSERT = f"INSERT OR IGNORE INTO decisions ({_NAMED}) VALUES ({_PLACES})"  # noqa: S608 (our own column names)
N_TOGETHER = 50
_INSERT_TOGETHER = _INSERT + f", ({_PLACES})" * (N_TOGETHER - 1)
_SELECT = f"SELECT {_NAMED} FROM decisions WHERE id = ?"  # noqa: S608


def insert_rows(database: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add rows of `COLUMNS`, within the transaction of the caller; those that are there stay.

    Raises:
        sqlite3.Error, and what `BAD_ROW` names.
    """
    try:
        _insert(database, rows)
    except BAD_ROW:  # nearly every row fits as it is; to look at each value would take longer than all else
        _insert(database, list(map(fit_row, rows)))


def _insert(database: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    # Many to a statement: between two statements this thread waits for the interpreter, which the event loop
    # holds, and then holds it up itself: 25 µs a row one by one, 6 so.
    n_together = len(rows) - len(rows) % N_TOGETHER
    for start in range(0, n_together, N_TOGETHER):
        database.execute(_INSERT_TOGETHER, list(chain.from_iterable(rows[start : start + N_TOGETHER])))
    database.executemany(_INSERT, rows[n_together:])


class Journal:
    """Keeps entries; one writer thread, any number of readers. `close` drains what waits."""

    def __init__(self, config: JournalConfig, max_waiting: int = MAX_WAITING) -> None:
        self.content = config.content
        self.dropped = 0
        self._config = config
        self._max_waiting = max_waiting
        # A dict and not a queue, because `get` must find entries that are not written yet.
        self._waiting: dict[str, JournalEntry] = {}
        self.clock = StorageClock()
        self._is_prepared = True
        self._trouble: str | None = None
        self._obstacle: str | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._database: sqlite3.Connection | None = None

    @classmethod
    def open(cls, config: JournalConfig, max_waiting: int = MAX_WAITING) -> "Journal":
        """A journal that keeps what it is given; nothing at all where the configuration disables it.

        Raises:
            StorageError: the file cannot be made or is no journal of this version. A disk that is full or
                cannot be written is waited for.
        """
        journal = cls(config, max_waiting)
        if config.enabled:
            try:
                prepare(Path(config.path), SCHEMA, BUSY_S)
            except DiskError as error:
                journal._is_prepared = False
                journal._note_obstacle(error)
            journal._begin()
        return journal

    def _begin(self) -> None:
        self._thread = start_thread("journal", self._write, self._stopping)

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
        if self._thread is None:
            return None
        entry = self._waiting.get(decision_id)
        found, said = await asyncio.to_thread(self._read, decision_id)
        if entry is not None:
            found = describe_entry(entry, self.content)
        return None if found is None else {**found, "feedback": [one.to_json() for one in said]}

    async def add_feedback(self, said: Sequence[FeedbackRecord]) -> None:
        """Keep what is said of decisions, all of it or nothing; it is on disk when this returns.

        Raises:
            StorageError: it cannot be written now.
        """
        await asyncio.to_thread(self._add_feedback, said)

    async def close(self) -> None:
        """Write what waits, within reason, and stop; what cannot be written is lost, counted and logged."""
        if self._thread is not None:
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=STOP_WITHIN_S)
        if n_lost := len(self._waiting):
            self.dropped += n_lost
            self._waiting.clear()
            is_busy = self._thread is not None and self._thread.is_alive()
            reason = self._obstacle or ("there was no time" if is_busy else "its writer died")
            log.error("%d entries of the journal are lost: it could not be written (%s)", n_lost, reason)

    def _note_obstacle(self, error: Exception) -> None:
        """Note why the journal cannot be written, and log it when it begins."""
        reason = explain_write_error(error, Path(self._config.path))
        if self._obstacle is None:
            log.warning("the journal waits for its disk: %s", reason)
        self._obstacle = reason
        self._trouble = f"cannot be written ({reason})"

    def _note_success(self) -> None:
        """Note that the journal can be written, and log it where it could not."""
        if self._obstacle is not None:
            log.info("the journal is written again")
        self._trouble = self._obstacle = None

    def _ensure_prepared(self) -> None:
        """Make the file that could not be made at the start.

        Raises:
            StorageError: it cannot be made yet.
        """
        if not self._is_prepared:
            prepare(Path(self._config.path), SCHEMA, BUSY_S)
            self._is_prepared = True

    def _read(self, decision_id: str) -> tuple[dict[str, Any] | None, list[FeedbackRecord]]:
        if not self._is_prepared:
            return None, []
        with contextlib.suppress(sqlite3.Error), _connection(Path(self._config.path)) as database:
            row = database.execute(_SELECT, (decision_id,)).fetchone()
            return row_to_json(row) if row else None, read_feedback(database, decision_id)
        return None, []

    def _add_feedback(self, said: Sequence[FeedbackRecord]) -> None:
        self._ensure_prepared()
        path = Path(self._config.path)
        try:
            with _connection(path) as database:
                write_feedback(database, said)
        except sqlite3.Error as error:
            message = f"the journal cannot be written: {explain_write_error(error, path)}"
            if (fault := find_disk_fault(error, path)) is not None:
                raise DiskError(message, fault) from None
            raise StorageError(message) from None

    def _write(self) -> None:
        tidied = -TIDY_EVERY_S
        # What waits may be from before this thread's start; a connection is of the thread that opened it.
        self._wake.set()
        self._database = None
        while True:
            self._wake.wait(timeout=60.0)
            # Collects entries for one transaction; a commit per request would cost a sync each.
            self._stopping.wait(GATHER_S)
            self._wake.clear()
            # Asked before the flush, so that one follows the last entry and the last change of the disk.
            is_last = self._stopping.is_set()
            written = self._flush()
            if written and time.monotonic() - tidied > TIDY_EVERY_S:
                tidied = time.monotonic()
                self._tidy()
            if is_last:
                self._disconnect()
                return
            if not written:
                self._stopping.wait(RETRY_S)
                self._wake.set()

    def _flush(self) -> bool:
        """Put everything that waits on disk; False where it cannot be, and the entries wait on."""
        try:
            self._ensure_prepared()
            while self._waiting:
                batch = list(self._waiting.values())[:BATCH]
                self._store_all(list(self._build_rows(batch)))
                # Only now: until the commit `get` must find them here. Written twice is harmless (OR IGNORE).
                for entry in batch:
                    self._waiting.pop(entry.decision_id, None)
        except (sqlite3.Error, OSError, StorageError) as error:
            self._note_obstacle(error)
            self._disconnect()
            return False
        self._note_success()
        return True

    def _store_all(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Put rows on disk; one that cannot be stored is lost alone.

        Raises:
            sqlite3.Error, OSError: none can be now.
        """
        try:
            self._store(rows)
        except BAD_ROW:
            self._disconnect()
            for row in rows:
                try:
                    self._store([row])
                except BAD_ROW:
                    self.dropped += 1

    def _store(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Put rows on disk, all or none.

        Raises:
            sqlite3.Error, OSError: they cannot be now.
        """
        with self._open_connection() as database:
            insert_rows(database, rows)

    def _open_connection(self) -> sqlite3.Connection:
        """The writer's own connection; a new one after trouble."""
        if self._database is None:
            self._database = _connect(Path(self._config.path))
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _build_rows(self, batch: Sequence[JournalEntry]) -> Iterator[tuple[Any, ...]]:
        # While the machine's clock is behind what has passed, an entry would look old, and be deleted.
        late_s = max(0.0, -self.clock.gap_s)
        for entry in batch:
            try:
                yield to_row(entry, self.content, late_s)
            except Exception:  # a malformed entry must not keep the others from the disk
                self.dropped += 1

    def _tidy(self) -> None:
        """Delete what is too old or too much, a little at a time so that the lock is short."""
        oldest = self.clock.expiry_time() - self._config.max_days * DAY_S
        with contextlib.suppress(sqlite3.Error), _connection(Path(self._config.path)) as database:
            self._date_again(database)
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
            # Gives free pages back to the file system; a full VACUUM would copy the file under a lock.
            database.execute("PRAGMA incremental_vacuum")

    def _date_again(self, database: sqlite3.Connection) -> None:
        """Date entries from the future anew, once they are the first: a wrong clock was set back since."""
        last = self.clock.find_last_stamp()
        first = database.execute("SELECT time FROM decisions ORDER BY seq LIMIT 1").fetchone()
        if last is not None and first is not None and first[0] > last:
            with database:
                now = self.clock.stamp()
                database.execute("UPDATE decisions SET time = ? WHERE time > ?", (now, last))


def read_rated(
    path: Path, also: Collection[str] = ()
) -> Iterator[tuple[dict[str, Any], list[FeedbackRecord]]]:
    """The decisions that were spoken about, or that are named in `also`, with what was said, oldest first.

    Raises:
        StorageError: there is no journal, or none of this version.
    """
    if not path.exists():
        raise StorageError(f"{path}: there is no journal; it comes with the first request that is served")
    prepare(path, SCHEMA, BUSY_S)
    with _connection(path) as database:
        said: dict[str, list[FeedbackRecord]] = {}
        for one in read_feedback(database):
            said.setdefault(one.decision_id, []).append(one)
        for decision_id in dict.fromkeys([*said, *also]):
            row = database.execute(_SELECT, (decision_id,)).fetchone()
            if row is not None:
                yield row_to_json(row), said.get(decision_id, [])


def read_prompts(path: Path) -> Iterator[dict[str, Any]]:
    """`endpoint` and `prompt` of every decision whose prompt was kept, oldest first.

    Raises:
        StorageError: there is no journal, or none of this version.
    """
    if not path.exists():
        raise StorageError(f"{path}: there is no journal; it comes with the first request that is served")
    prepare(path, SCHEMA, BUSY_S)
    with _connection(path) as database:
        kept = "SELECT endpoint, prompt FROM decisions WHERE prompt IS NOT NULL ORDER BY time"
        for endpoint, prompt in database.execute(kept):
            yield {"endpoint": endpoint, "prompt": prompt}


def check_journal(config: JournalConfig) -> None:
    """See whether the journal could be opened and written, and leave no file behind that was not there.

    Raises:
        StorageError: as `Journal.open`.
    """
    path = Path(config.path)
    there = path.exists()
    try:
        prepare(path, SCHEMA, BUSY_S)
        check_room(path, SCHEMA)
    finally:
        if not there:
            with contextlib.suppress(OSError):
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
    return _tune(connect(path, BUSY_S))


def connect_journal(path: Path) -> sqlite3.Connection:
    """A connection that any thread may use in turn, and that begins its own transactions."""
    return _tune(connect(path, BUSY_S, autocommit=True))


def _tune(database: sqlite3.Connection) -> sqlite3.Connection:
    database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    return database


def _create(database: sqlite3.Connection) -> None:
    database.execute(f"CREATE TABLE decisions (seq INTEGER PRIMARY KEY, {', '.join(COLUMNS)})")
    create_feedback_table(database)


SCHEMA = Schema(
    "the journal",
    "journal.path",
    SCHEMA_VERSION,
    _create,
    upgrades={1: create_feedback_table, 2: name_keys_of_feedback},
)
