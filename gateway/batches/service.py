"""The batches of one gateway: added, run, resumed after a restart, cancelled and stopped.

The process that runs a batch holds its lock, which the system releases when the process dies. So several
processes may share a store: a server, its successor, the command line.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..execution.executor import Accounting
from ..runners import Runners
from ..services import Services
from ..storage.sqlite import DiskError
from ..telemetry.background import DEATHS, start_task
from .calling import BatchExecutor, BatchThrottle, pause_unless_halted
from .execution import GRACE_S, BatchContext, BatchRun, Halt
from .files import FileStore
from .lines import EMBEDDED_HERE, InputFile, LineReader, validate
from .planning import LocalExpertQueue
from .results import (
    BatchResults,
    discard,
    errors_path,
    explain_lack_of_space,
    explain_wait,
    publish,
)
from .store import Worklist, new_id
from .types import Batch, BatchEnded, BatchNotKnown, LineError, Status

# Batches share the limits of their experts: running more of them at once would finish none sooner.
MAX_RUNNING_BATCHES = 4
MAX_EMBEDDED_LINES = 8
QUEUED_PER_SLOT = 2
"""Calls sent to a local expert per slot: an expert with calls waiting is not unloaded."""
RETRY_S = 5.0
SWEEP_S = 60.0
"""Files whose time is over are not shown any more; this often they are deleted."""
N_SWEEPS_OF_STRAYS = 60
WINDOW = re.compile(r"(\d{1,6})([smhd])")
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

INPUT_GONE = LineError("file_not_found", "the input file no longer exists")

log = logging.getLogger("thalamus")


def _count_queued(runners: Runners | None) -> dict[str, int]:
    """Calls of batches that each local expert has at a time, in flight and in line."""
    return {name: QUEUED_PER_SLOT * runners.count_slots(name) for name in runners} if runners else {}


def parse_window(text: str) -> float | None:
    """Seconds of a completion window such as 24h, 30m or 7d; None if it is invalid."""
    match = WINDOW.fullmatch(text)
    # 'or None': a window of 0h would expire before its first call.
    return float(int(match[1]) * UNIT_S[match[2]]) or None if match else None


class BatchService:
    """Runs batches. `n_in_flight` returns the number of live requests in progress.

    Calls are made in this process, or by `engine` if one is given.
    """

    def __init__(
        self,
        services: Services,
        accounting: Accounting,
        limits: Mapping[str, int | None],
        n_in_flight: Callable[[], int] = lambda: 0,
        engine: BatchExecutor | None = None,
    ) -> None:
        self.files = FileStore(services.store, services.config.batches)
        self._store = services.store
        bound = services.config.batches.max_parallel
        self._context = BatchContext(
            services=services,
            store=services.store,
            accounting=accounting,
            limits={
                **{name: bound if limit is None else limit for name, limit in limits.items()},
                **_count_queued(services.runners),
                EMBEDDED_HERE: MAX_EMBEDDED_LINES,
            },
            local=frozenset(services.runners or ()),
            local_queue=LocalExpertQueue(services.runners),
            throttle=BatchThrottle(n_in_flight),
            engine=engine,
        )
        self._slots = asyncio.Semaphore(MAX_RUNNING_BATCHES)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, BatchRun] = {}
        self._stopping = asyncio.Event()
        self._has_resumed = False
        self._waits: dict[str, str] = {}

    async def start(self) -> None:
        """Resume the batches that an earlier process left unfinished."""
        # Batches of the command line are not among these: their user resumes them with `thalamus batch
        # resume`.
        with contextlib.suppress(DiskError):  # the sweep resumes them once there is a store
            await self._resume_unfinished()
        self._tasks["sweep"] = start_task("sweep of files", self._sweep_files)

    async def _resume_unfinished(self) -> None:
        for batch_id in await asyncio.to_thread(self._store.list_unfinished):
            self.resume(batch_id)
        self._has_resumed = True

    async def _sweep_files(self) -> None:
        """Delete files whose time is over, and now and then what crashes left behind."""
        n_sweeps = 0
        while not self._stopping.is_set():
            try:
                if not self._has_resumed:
                    await self._resume_unfinished()
                await asyncio.to_thread(self._store.keep_clock)
                await asyncio.to_thread(self.files.delete_expired)
                if n_sweeps % N_SWEEPS_OF_STRAYS == 0:
                    await asyncio.to_thread(self.files.delete_strays)
            except (OSError, sqlite3.Error) as error:  # it is tried again
                log.warning("expired files are not deleted: %s", error)
            except DiskError:  # the store has said so
                await pause_unless_halted(self._stopping, RETRY_S)
                continue
            n_sweeps += 1
            await pause_unless_halted(self._stopping, SWEEP_S)

    async def stop(self) -> None:
        """Stop all batches between two calls; they can be resumed."""
        self._stopping.set()
        for run in self._runs.values():
            run.halt("stopped")
        tasks = list(self._tasks.values())
        if tasks:
            # Runs give their calls GRACE_S to end; the rest is for writing the last results.
            await asyncio.wait(tasks, timeout=GRACE_S + RETRY_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def add(self, batch: Batch) -> Batch:
        """Store a batch and begin to run it."""
        await asyncio.to_thread(self._store.add_batch, batch)
        self.resume(batch.id)
        return batch

    def resume(self, batch_id: str) -> None:
        """Run a batch, unless this process already does."""
        if batch_id not in self._tasks and not self._stopping.is_set():
            self._tasks[batch_id] = task = start_task("batch", lambda: self._work_until_ended(batch_id))
            task.add_done_callback(lambda _: self._tasks.pop(batch_id, None))

    async def find(self, batch_id: str, owner: str | None) -> Batch:
        """A batch of this owner, or of any owner if none is given.

        Raises:
            BatchNotKnown: the owner has no batch of that id.
        """
        found = await asyncio.to_thread(self._store.find_batch, batch_id, owner)
        if found is None:
            raise BatchNotKnown(f"there is no batch '{batch_id[:80]}'", param="batch_id")
        return found

    async def cancel(self, batch_id: str, owner: str | None) -> Batch:
        """Request the end of a batch; the process that runs it reads the status every 0.3 s.

        Raises:
            BatchNotKnown: as `find`.
            BatchEnded: the batch has ended already.
        """
        batch = await self.find(batch_id, owner)
        if batch.status != "cancelling":
            now = {"cancelling_at": int(self._store.clock.stamp())}
            ended = ("failed", "completed", "expired", "cancelled", "finalizing")
            if not await asyncio.to_thread(
                lambda: self._store.change(batch_id, ended, status="cancelling", times=now)
            ):
                raise BatchEnded(f"'{batch_id}' is {batch.status} already", param="batch_id")
        # The process that ran it may have died. Then this one gets the lock and closes the open lines.
        self.resume(batch_id)
        return await self.find(batch_id, owner)

    def describe_activity(self, batch_id: str) -> str:
        """What a batch that runs here is doing, in a few words."""
        run = self._runs.get(batch_id)
        return run.activity if run is not None else "checking lines"

    def explain_wait(self, batch: Batch) -> str | None:
        """What a batch that runs here waits for, in a few words; None where it does not wait."""
        run = self._runs.get(batch.id)
        return self._waits.get(batch.id) if run is None else run.waiting_for

    async def _work_until_ended(self, batch_id: str) -> None:
        """Run a batch until it has ended; retry after an exception."""
        while not self._stopping.is_set():
            try:
                if await self.run(batch_id) is not None:
                    self._waits.pop(batch_id, None)
                    return
            except Exception as error:  # a full disk or a bug: the batch is stored, and is run again
                why = explain_wait(error)
                if why is None:
                    log.exception("batch %s is interrupted", batch_id)
                    DEATHS.note("batch", error)
                elif batch_id not in self._waits:
                    log.warning("batch %s waits: %s (%s)", batch_id, why, error)
                if why is not None:
                    self._waits[batch_id] = why
            # Also after None: when the process that holds the lock dies, this one takes over.
            await pause_unless_halted(self._stopping, RETRY_S)

    async def run(self, batch_id: str) -> Batch | None:
        """Run a batch until it ends or stops; None if another process runs it.

        Raises:
            OSError, sqlite3.Error: its files cannot be read or written.
        """
        async with self._wait_for_slot((await self.find(batch_id, None)).expires_at):
            with lock_file(self._lock_path(batch_id)) as acquired:
                if not acquired:
                    return None
                batch = await self._work_locked(batch_id)
            # Only at the end: if the lock of a running batch were removed, a second process could create a
            # new file of that name and lock it too.
            if batch.has_ended:
                self._lock_path(batch_id).unlink(missing_ok=True)
            return batch

    @contextlib.asynccontextmanager
    async def _wait_for_slot(self, until: float) -> AsyncIterator[None]:
        """One of the batches that run; past its window a batch waits for no other, for it calls nothing."""
        taken = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - self._store.clock.expiry_time())):
                taken = await self._slots.acquire()
        try:
            yield
        finally:
            if taken:
                self._slots.release()

    async def _work_locked(self, batch_id: str) -> Batch:
        batch = await self.find(batch_id, None)
        worklist = Worklist(self._store, batch_id)
        reader = LineReader(self._context.services, batch.endpoint)
        if batch.status == "validating":
            batch = await self._validate_lines(batch, reader, worklist)
        if batch.status in ("in_progress", "cancelling"):
            batch = await self._execute(batch, reader, worklist)
        if batch.status == "finalizing":
            batch = await asyncio.to_thread(self._publish, batch, worklist)
        if batch.has_ended:
            await asyncio.to_thread(discard, batch, self._store, worklist)
        return batch

    async def _validate_lines(self, batch: Batch, reader: LineReader, worklist: Worklist) -> Batch:
        most = self._context.services.config.server.max_body_bytes
        try:
            n_lines, errors = await asyncio.to_thread(
                validate, Path(batch.input_path), reader, worklist, most
            )
        except FileNotFoundError:
            n_lines, errors = 0, [INPUT_GONE]
        if not errors:
            lack = await asyncio.to_thread(explain_lack_of_space, batch, n_lines, self._store)
            errors = [LineError("no_space", lack)] if lack else []
        if errors:
            return await self._set_status(batch, "failed", errors=tuple(errors), n_total=n_lines)
        return await self._set_status(batch, "in_progress", n_total=n_lines)

    async def _execute(self, batch: Batch, reader: LineReader, worklist: Worklist) -> Batch:
        try:
            source = InputFile(Path(batch.input_path))
        except FileNotFoundError:
            return await self._set_status(batch, "failed", errors=(INPUT_GONE,))
        results = await asyncio.to_thread(
            BatchResults, batch, self._store, worklist, self._context.accounting
        )
        run = BatchRun(self._context, reader, source, worklist, results)
        self._runs[batch.id] = run
        try:
            if self._stopping.is_set():
                run.halt("stopped")
            elif batch.status == "cancelling":
                run.halt("cancelled")
            elif self._store.clock.expiry_time() >= batch.expires_at:
                run.halt("expired")  # before a first call is paid
            halted = await run.execute()
        finally:
            del self._runs[batch.id]
            results.close()
            source.close()
            if n_lost := results.count_unwritten():
                self._store.n_lost_answers += n_lost
                text = "batch %s: %d answers could not be written; their lines are called and paid again"
                log.error(text, batch.id, n_lost)
        if halted == "stopped":
            return results.batch
        # The ids are stored before the files exist: publishing again after a crash writes the same files.
        ids = {"output_file_id": new_id("file"), "error_file_id": new_id("file")}
        return await self._set_status(results.batch, "finalizing", outcome=halted, **ids)

    async def _set_status(
        self, batch: Batch, status: Status, outcome: Halt | None = None, **changes: Any
    ) -> Batch:
        """Store a new status and return the batch; a requested cancellation stays."""
        times = {f"{status}_at": int(self._store.clock.stamp())}
        if outcome is not None:
            times[f"{outcome}_at"] = int(self._store.clock.stamp())
        # A cancellation that arrived while lines were checked must not be overwritten.
        unless = ("cancelling",) if status == "in_progress" else ()
        await asyncio.to_thread(
            lambda: self._store.change(batch.id, unless, status=status, times=times, **changes)
        )
        return await self.find(batch.id, None)

    def _publish(self, batch: Batch, worklist: Worklist) -> Batch:
        """Move the results to where they are read, and store the final status."""
        ends: tuple[Status, ...] = ("cancelled", "expired")
        status = next((end for end in ends if f"{end}_at" in batch.times), "completed")
        if batch.out_path is not None:
            output, errors = Path(batch.out_path), errors_path(batch.out_path)
            publish(batch, self._store, worklist, output, errors)
        elif batch.output_file_id and batch.error_file_id:
            output_id, error_id = batch.output_file_id, batch.error_file_id
            self.files.ensure_folder()
            publish(batch, self._store, worklist, self.files.path(output_id), self.files.path(error_id))
            if batch.output_bytes:
                name = f"{batch.id}_output.jsonl"
                self.files.keep(output_id, batch.owner, name, "batch_output", batch.output_expires_s)
            if batch.error_bytes:
                name = f"{batch.id}_error.jsonl"
                self.files.keep(error_id, batch.owner, name, "batch_output", batch.output_expires_s)
        self._store.change(batch.id, status=status, times={f"{status}_at": int(self._store.clock.stamp())})
        return self._store.find_batch(batch.id) or batch

    def _lock_path(self, batch_id: str) -> Path:
        return self._store.directory / f"{batch_id}.lock"


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Whether the lock was acquired; it is held until the block ends or the process dies."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # flock and not a row in the store: the system releases it even after kill -9.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(file)
