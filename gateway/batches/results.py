"""Results in the order in which calls end: appended to files and recorded in the store in one transaction.

The store holds the valid length of each file. Bytes that a crash left beyond it are cut off when the batch
is resumed, so every line of the input has exactly one line of output after any crash.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..execution.executor import Accounting, ExecutionRequest
from ..storage.sqlite import LEAST_FREE_BYTES, StorageError, find_disk_fault
from .outcomes import CallOutcome, OutputLine, PlanEnded, build_output_line, list_experts, next_step
from .store import ANSWERED, FAILED, BatchLine, BatchStore, Worklist
from .types import Batch

# Bounded, so that a slow disk slows the calls down instead of filling the memory.
MAX_WAITING = 512
INPUTS = "inputs"
"""Folder of the store for what the command line read from a pipe; it is gone when its batch has ended."""
MAX_PER_WRITE = 256
# A transaction syncs its files, which takes milliseconds; the results of 50 ms share one.
GATHER_S = 0.05
SPANS_PER_QUERY = 1000
REWRITE_S = 1.0
DISK_FAULTS = {"full": "its disk is full", "unwritable": "its disk cannot be written"}

log = logging.getLogger("thalamus")


@dataclass(frozen=True, slots=True)
class CallResult:
    """The outcome of one call of a line."""

    line: BatchLine
    step: int
    request: ExecutionRequest
    outcome: CallOutcome


@dataclass(frozen=True, slots=True)
class ClosedLine:
    """A line that ends without an answer; its open calls are dropped."""

    line: BatchLine
    output_line: OutputLine


@dataclass(frozen=True, slots=True)
class ResultPaths:
    """Where the results of a batch are written while it runs; failed lines have a file of their own."""

    output: Path
    errors: Path

    @classmethod
    def of(cls, batch: Batch, store: BatchStore) -> "ResultPaths":
        work = store.directory / "work"
        work.mkdir(exist_ok=True, mode=0o700)
        if batch.out_path and batch.line_order == "finished":
            return cls(Path(batch.out_path), errors_path(batch.out_path))
        return cls(work / f"{batch.id}.output", work / f"{batch.id}.errors")


def errors_path(out_path: str) -> Path:
    """The file of failed lines of the command line: OUT.errors.jsonl."""
    return Path(out_path).with_suffix(".errors.jsonl")


BYTES_PER_RESULT = 2048
"""What a line of output usually takes."""


def explain_lack_of_space(batch: Batch, n_lines: int, store: BatchStore) -> str | None:
    """Why the results will not fit on the disk; None where they will, as far as that can be told."""
    paths = ResultPaths.of(batch, store)
    final = Path(batch.out_path).parent if batch.out_path else store.directory
    # Results in the order of the input are written twice: the working files stay until they are published.
    folders = {paths.output.parent} if paths.output.parent == final else {paths.output.parent, final}
    needed: dict[int, tuple[Path, int]] = {}
    for folder in sorted(folders):
        device = folder.stat().st_dev
        needed[device] = (folder, needed.get(device, (folder, 0))[1] + n_lines * BYTES_PER_RESULT)
    for folder, n_bytes in needed.values():
        free = shutil.disk_usage(folder).free
        if free < n_bytes:
            return (
                f"the results of {n_lines} lines take about {n_bytes >> 20} MiB, and {folder} has "
                f"{free >> 20} MiB free: nothing was called; make room and start again"
            )
    return None


def explain_wait(error: Exception) -> str | None:
    """What a batch waits for after this error, in a few words; None where waiting does not help."""
    if isinstance(error, (OSError, sqlite3.Error, StorageError)):
        fault = getattr(error, "fault", None) or find_disk_fault(error)
        if fault is not None:
            return DISK_FAULTS[fault]
        # https://sqlite.org/rescode.html: the last byte of an extended code is its kind
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return "another process writes to its store"
    return None


def explain_full_disk(batch: Batch, store: BatchStore) -> str | None:
    """What a batch that has not ended waits for, as far as its disk shows it to another process."""
    folder = Path(batch.out_path).parent if batch.out_path else store.directory
    with contextlib.suppress(OSError):
        for place in (store.directory, folder):
            if not batch.has_ended and shutil.disk_usage(place).free < LEAST_FREE_BYTES:
                return DISK_FAULTS["full"]
    return None


class BatchResults:
    """The only writer of a batch's results. `batch` holds its progress and cost.

    What cannot be written is kept and tried again, for it is paid; `waiting_for` says why, and no new call is
    to be made then. So what waits is bounded: the queue, one write, and the calls that were under way.
    """

    def __init__(self, batch: Batch, store: BatchStore, worklist: Worklist, accounting: Accounting) -> None:
        self.batch = batch
        self._store = store
        self._worklist = worklist
        self._accounting = accounting
        self._queue: asyncio.Queue[CallResult | ClosedLine] = asyncio.Queue(MAX_WAITING)
        paths = ResultPaths.of(batch, store)
        self._writing = threading.Lock()
        self._closed = False
        self._in_hand: Sequence[CallResult | ClosedLine] = ()
        # A line is built once, however often it is written: building it records it in the journal.
        self._built: dict[int, OutputLine] = {}
        self.waiting_for: str | None = None
        self._output = _open_file(paths.output, batch.output_bytes)
        self._errors = _open_file(paths.errors, batch.error_bytes)

    def close(self) -> None:
        """Close the files, after the write in progress."""
        # A cancelled to_thread goes on in its thread. Closing under it would let it write to the file that
        # gets the descriptor next.
        with self._writing:
            self._closed = True
            os.close(self._output)
            os.close(self._errors)

    async def put(self, item: CallResult | ClosedLine) -> None:
        """Queue an item; waits while the queue is full."""
        await self._queue.put(item)

    async def wait_until_written(self) -> None:
        """Wait until all queued items are on disk."""
        await self._queue.join()

    async def write(self) -> None:
        """Write until cancelled; a disk that is full or cannot be written is waited for.

        Raises:
            OSError, sqlite3.Error: a write failed for another reason, and none of its items counts.
        """
        while True:
            items = [await self._queue.get()]
            if len(items) + self._queue.qsize() < MAX_PER_WRITE:
                await asyncio.sleep(GATHER_S)
            while len(items) < MAX_PER_WRITE and not self._queue.empty():
                items.append(self._queue.get_nowait())
            self._in_hand = items
            await self._write_patiently(items)
            # Only after the commit: wait_until_written promises that results are on disk.
            for _ in items:
                self._queue.task_done()

    def count_unwritten(self) -> int:
        """Answers that wait to be written; once the files are closed, those that are lost."""
        waiting = [*self._in_hand, *self._queue._queue]  # type: ignore[attr-defined]
        return sum(isinstance(item, CallResult) and item.outcome.body is not None for item in waiting)

    async def _write_patiently(self, items: Sequence[CallResult | ClosedLine]) -> None:
        while True:
            try:
                await asyncio.to_thread(self._write_items, items)
            except (OSError, sqlite3.Error, StorageError) as error:
                why = explain_wait(error)
                if why is None:
                    raise
                if self.waiting_for is None:
                    text = "batch %s waits: %s (%s); it calls no further line, and its answers wait in memory"
                    log.warning(text, self.batch.id, why, error)
                self.waiting_for = why
                await asyncio.sleep(REWRITE_S)
            else:
                if self.waiting_for is not None:
                    log.info("batch %s goes on: its results can be written again", self.batch.id)
                self.waiting_for = None
                return

    def _write_items(self, items: Sequence[CallResult | ClosedLine]) -> None:
        pending = _PendingWrite(self.batch)
        with self._writing, self._store.transaction() as database:
            if self._closed:
                return
            for item in items:
                output_line = (
                    item.output_line if isinstance(item, ClosedLine) else self._settle(database, item)
                )
                if output_line is not None:
                    at, length = pending.add(output_line)
                    state = FAILED if output_line.failed else ANSWERED
                    self._worklist.close_line(database, item.line.n, state, at, length)
            _append(self._output, self.batch.output_bytes, pending.output)
            _append(self._errors, self.batch.error_bytes, pending.errors)
            database.execute(
                "UPDATE batches SET n_completed = ?, n_failed = ?, cost_usd = ?, n_unpriced = ?, "
                "output_bytes = ?, error_bytes = ? WHERE id = ?",
                pending.counts(),
            )
        # Outside the transaction: a rolled back one must not advance the lengths.
        self.batch = pending.batch()
        self._in_hand = ()
        self._built.clear()

    def _settle(self, database: sqlite3.Connection, result: CallResult) -> OutputLine | None:
        """The output of the line after this result; None if its plan has more calls to make."""
        n, plan = result.line.n, result.request.plan
        history = [[result.outcome]]
        # Most lines end with their first call. Its outcome is then written nowhere but in the output.
        is_only_call = result.step == 0 and plan.is_sequential
        if not is_only_call:
            history = self._load_outcomes(database, result)
            if not history:
                return None
        step = next_step(plan, history)
        if isinstance(step, PlanEnded):
            if n not in self._built:
                self._built[n] = build_output_line(
                    result.line.custom_id, result.request, history, step, self._accounting, self.batch.owner
                )
            return self._built[n]
        if is_only_call:
            self._worklist.record_outcome(database, n, result.step, result.outcome)
        self._worklist.add_calls(database, n, result.step + 1, list_experts(step))
        return None

    def _load_outcomes(self, database: sqlite3.Connection, result: CallResult) -> list[list[CallOutcome]]:
        """All outcomes of the line, with this one; empty while another call of its step is in progress."""
        self._worklist.record_outcome(database, result.line.n, result.step, result.outcome)
        steps = self._worklist.load_history(database, result.line.n)
        known = [[outcome for outcome in step if outcome is not None] for step in steps]
        return known if all(len(k) == len(s) for k, s in zip(known, steps, strict=True)) else []


class _PendingWrite:
    """The additions of one transaction."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.output = bytearray()
        self.errors = bytearray()
        self._n_completed = batch.n_completed
        self._n_failed = batch.n_failed
        self._cost_usd = batch.cost_usd
        self._n_unpriced = batch.n_unpriced

    def add(self, output_line: OutputLine) -> tuple[int, int]:
        """Add a result; returns its offset and length in its file, in bytes."""
        if output_line.cost_usd is None:
            self._n_unpriced += 1
        else:
            self._cost_usd += output_line.cost_usd
        if output_line.failed:
            self._n_failed += 1
            at = self._batch.error_bytes + len(self.errors)
            self.errors += output_line.text
        else:
            self._n_completed += 1
            at = self._batch.output_bytes + len(self.output)
            self.output += output_line.text
        return at, len(output_line.text)

    def counts(self) -> tuple[object, ...]:
        batch = self.batch()
        return (
            *(batch.n_completed, batch.n_failed, batch.cost_usd, batch.n_unpriced),
            *(batch.output_bytes, batch.error_bytes, batch.id),
        )

    def batch(self) -> Batch:
        """The batch after this transaction."""
        return replace(
            self._batch,
            n_completed=self._n_completed,
            n_failed=self._n_failed,
            cost_usd=self._cost_usd,
            n_unpriced=self._n_unpriced,
            output_bytes=self._batch.output_bytes + len(self.output),
            error_bytes=self._batch.error_bytes + len(self.errors),
        )


def _open_file(path: Path, n_bytes: int) -> int:
    """Open a file of results, cut to its valid length."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    # Bytes beyond the committed length were written by a process that died before its commit.
    os.ftruncate(file, n_bytes)
    return file


def _append(file: int, at: int, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        # pwrite may write less than it was given.
        n = os.pwrite(file, left, at)
        left, at = left[n:], at + n
    # Synced before the transaction commits: a committed length never points past what is on disk.
    if data:
        os.fdatasync(file)


def publish(batch: Batch, store: BatchStore, worklist: Worklist, output: Path, errors: Path) -> None:
    """Write the results to their final files, in the batch's order.

    It can be repeated: the working files stay until `discard`.
    """
    paths = ResultPaths.of(batch, store)
    for source, target, state, n_bytes in (
        (paths.output, output, ANSWERED, batch.output_bytes),
        (paths.errors, errors, FAILED, batch.error_bytes),
    ):
        if source == target:
            if not n_bytes and state == FAILED:
                source.unlink(missing_ok=True)
        # The command line creates its OUT file even if it is empty; /v1/files has no empty outputs.
        elif n_bytes or (batch.out_path and state == ANSWERED):
            partial = target.with_name(target.name + ".part")
            with source.open("rb") as read, partial.open("wb") as write:
                if batch.line_order == "input":
                    for at, length in _iter_in_input_order(worklist, state):
                        read.seek(at)
                        write.write(read.read(length))
                else:
                    shutil.copyfileobj(read, write)
                write.flush()
                os.fsync(write.fileno())
            # Renaming is atomic: a reader sees the whole file or none.
            partial.replace(target)


def _iter_in_input_order(worklist: Worklist, state: int) -> Iterator[tuple[int, int]]:
    n = 0
    while spans := worklist.output_spans(state, n, SPANS_PER_QUERY):
        yield from ((at, length) for _, at, length in spans)
        n = spans[-1][0]


def discard(batch: Batch, store: BatchStore, worklist: Worklist) -> None:
    """Delete what is not needed once the results are published."""
    worklist.clear()
    paths = ResultPaths.of(batch, store)
    if paths.output.parent == store.directory / "work":
        for path in (paths.output, paths.errors):
            with contextlib.suppress(OSError):
                path.unlink()
    if Path(batch.input_path).parent == (store.directory / INPUTS).absolute():
        Path(batch.input_path).unlink(missing_ok=True)
