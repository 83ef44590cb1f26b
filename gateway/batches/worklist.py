"""The open work of a batch: its lines, and the calls that each line waits for.

A line has one or more calls under way, all of the same step of its plan; each call belongs to the expert it
is for, so that experts can be worked off one after another. What was heard stays here until the line ends.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from .outcomes import CallOutcome
from .store import BatchStore
from .types import LineError

UNROUTED, WAITING, ANSWERED, FAILED = range(4)
"""States of a line; beyond `WAITING` it has its one line of output."""

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
    """The lines of one batch."""

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

    def list_unrouted(self, limit: int) -> list[BatchLine]:
        """The next lines that are not routed."""
        found = self._store.rows(
            "SELECT n, offset, size, custom_id FROM lines WHERE batch = ? AND state = ? ORDER BY n LIMIT ?",
            *(self._id, UNROUTED, limit),
        )
        return [BatchLine(*row) for row in found]

    def route(self, routed: Iterable[RoutedLine]) -> None:
        """Store decisions, and enqueue the calls of each first step."""
        with self._store.transaction() as database:
            for one in routed:
                database.execute(
                    "UPDATE lines SET state = ?, decision = ?, aggregator = ? WHERE batch = ? AND n = ?",
                    (WAITING, one.decision, one.aggregator, self._id, one.n),
                )
                self.add_calls(database, one.n, 0, one.experts)

    def add_calls(self, database: sqlite3.Connection, n: int, step: int, experts: Iterable[str]) -> None:
        """Enqueue the calls of a step."""
        rows = [(self._id, n, step, expert) for expert in experts]
        database.executemany("INSERT INTO calls (batch, n, step, expert) VALUES (?, ?, ?, ?)", rows)

    def count_waiting(self) -> dict[str, int]:
        """How many calls wait for each expert."""
        found = self._store.rows(
            "SELECT expert, count(*) FROM calls WHERE batch = ? AND outcome IS NULL "
            "GROUP BY expert ORDER BY expert",
            self._id,
        )
        return dict(found)

    def list_aggregations(self) -> set[tuple[str, str]]:
        """Pairs of an expert that calls wait for and one that is to aggregate what it says."""
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
