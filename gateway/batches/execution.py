"""The execution of one batch: calls grouped by expert; local experts in turn, the others concurrently.

Only calls in progress are in memory: open calls are read from the worklist, outcomes go to the results.
So a batch can stop at any point, also by a crash, and be resumed.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from policies import Attempt, Decision, Gather

from ..errors import INTERNAL_ERROR, GatewayError
from ..execution.executor import Accounting, ExecutionRequest
from ..execution.panel import build_aggregation_call, build_member_call
from ..experts.types import Call, UpstreamError
from ..experts.upstreams import UpstreamTable
from ..requests.parsing import ParsedRequest, ToEmbedder, ToPolicy
from ..services import Services
from ..storage.journal import AttemptRecord, unpack_decision
from .calling import (
    BatchExecutor,
    BatchThrottle,
    ExpertCaller,
    LocalExecutor,
    RetryingCaller,
    SpendCap,
    SpendCapExceeded,
    embed_line,
    pause_unless_halted,
)
from .lines import EMBEDDED_HERE, FaultyLine, InputFile, LineReader
from .outcomes import CallFailure, CallOutcome, PlanEnded, build_refusal_line, build_skipped_line, next_step
from .planning import LineRouter, LocalExpertQueue, Pairs
from .results import BatchResults, CallResult, ClosedLine, explain_wait
from .store import BatchLine, BatchStore, PendingCall, Worklist

Halt = Literal["stopped", "cancelled", "expired"]

CALLS_PER_QUERY = 64
# A cancellation by another process is a changed row, and SQLite has no notifications: the row is polled.
POLL_S = 0.3
GRACE_S = 5.0
# (line, step): lines count from 1 and steps from 0, so every call comes after it.
START = (0, -1)
SKIP_REASONS: Mapping[Halt, tuple[str, str]] = {
    "cancelled": ("batch_cancelled", "This request was not made: the batch was cancelled."),
    "expired": ("batch_expired", "This request could not be made before the completion window ended."),
}


log = logging.getLogger("thalamus")


class HaltedError(Exception):
    """The batch must stop before its next call."""


@dataclass(frozen=True, slots=True)
class BatchContext:
    """What the batches of one gateway share. Local experts take turns in `local_queue`."""

    services: Services
    store: BatchStore
    accounting: Accounting
    limits: Mapping[str, int]
    local: frozenset[str]
    local_queue: LocalExpertQueue
    throttle: BatchThrottle
    engine: BatchExecutor | None = None


class BatchRun:
    """One run of a batch, from its lines to its results. `results.batch` holds the progress."""

    def __init__(
        self,
        context: BatchContext,
        reader: LineReader,
        source: InputFile,
        worklist: Worklist,
        results: BatchResults,
    ) -> None:
        services, batch = context.services, results.batch
        self._context = context
        self._reader = reader
        self._source = source
        self._worklist = worklist
        self._results = results
        self._id = batch.id
        self._line_router = LineRouter(services, reader, source, worklist, results)
        self._spend_cap = SpendCap(context.accounting.prices, batch.max_usd, batch.cost_usd)
        patience_s = services.config.batches.patience_s
        upstreams = UpstreamTable.of(services.config.experts)
        caller = RetryingCaller(
            services.experts, services.fleet, patience_s, self._pause, upstreams, batch.owner or None
        )
        self._engine: BatchExecutor = context.engine or LocalExecutor(caller)
        self._halted = asyncio.Event()
        self._halt_reason: Halt | None = None
        self._groups: dict[str, asyncio.Task[None]] = {}
        self._local_now = ""

    @property
    def activity(self) -> str:
        """What the run is doing, in a few words."""
        if self.waiting_for is not None:
            return f"waiting: {self.waiting_for}"
        busy = [name for name in self._groups if name not in self._context.local or name == self._local_now]
        return f"calling {', '.join(sorted(busy))}" if busy else "routing"

    @property
    def waiting_for(self) -> str | None:
        """Why no further call is made now, None where calls are made."""
        return self._results.waiting_for

    def halt(self, why: Halt) -> None:
        """Make no more calls. Calls in progress are cancelled, unless the batch is only stopped for now."""
        # The first reason wins. A cancellation during a shutdown is in the store and is seen on resuming.
        if self._halt_reason is None:
            self._halt_reason = why
            self._halted.set()
            # A shutdown lets calls in progress end, because their answers are paid for.
            if why != "stopped":
                for task in self._groups.values():
                    task.cancel()

    async def execute(self) -> Halt | None:
        """Run until every line has its output, which is None, or until halted, which is the reason."""
        writing = asyncio.ensure_future(self._results.write())
        watching = asyncio.ensure_future(self._watch())
        working = asyncio.ensure_future(self._execute())
        tasks = (working, writing, watching)
        try:
            # Writer and watcher run forever: what completes first is the work, or an exception of one.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._halt_reason

    async def _watch(self) -> None:
        """Watch for the end of the window and for a cancellation by any process."""
        store = self._context.store
        while True:
            try:
                batch = await asyncio.to_thread(store.find_batch, self._id)
            except sqlite3.Error as error:  # a disk that fails must not cost the answers that wait for it
                if explain_wait(error) is None:
                    raise
                await asyncio.sleep(POLL_S)
                continue
            if batch is None or batch.status == "cancelling":
                self.halt("cancelled")
            # The window is read again too: a clock that is set back dates the batch anew.
            left_s = batch.expires_at - store.clock.expiry_time() if batch is not None else 0.0
            if left_s <= 0:
                self.halt("expired")
            await asyncio.sleep(min(POLL_S, left_s) if left_s > 0 else POLL_S)

    async def _execute(self) -> None:
        await self._line_router.route_open_lines(self._halted)
        await self._run_all_groups()
        if self._halt_reason == "cancelled" or self._halt_reason == "expired":
            await self._close_open_lines(self._halt_reason)
        await self._results.wait_until_written()

    async def _run_all_groups(self) -> None:
        try:
            while True:
                await self._start_groups()
                if not self._groups:
                    return
                await asyncio.wait(self._groups.values(), return_when=asyncio.FIRST_COMPLETED)
                for name in [name for name, task in self._groups.items() if task.done()]:
                    task = self._groups.pop(name)
                    if not task.cancelled():
                        task.result()
        finally:
            for task in self._groups.values():
                task.cancel()
            await asyncio.gather(*self._groups.values(), return_exceptions=True)

    async def _start_groups(self) -> None:
        """Start every expert that has open calls; local experts take turns."""
        # The writer inserts the calls of next steps: what it has not written yet is not found below.
        await self._results.wait_until_written()
        if self._halted.is_set():
            return
        waiting = await asyncio.to_thread(self._worklist.count_waiting)
        pairs = frozenset[tuple[str, str]]()
        if waiting.keys() & self._context.local:
            pairs = frozenset(await asyncio.to_thread(self._worklist.list_open_aggregators))
        for name in waiting.keys() - self._groups.keys():
            calls = (
                self._run_local_group(name, pairs) if name in self._context.local else self._run_group(name)
            )
            self._groups[name] = asyncio.ensure_future(calls)

    async def _run_local_group(self, name: str, pairs: Pairs) -> None:
        async with self._context.local_queue.turn(name, pairs):
            self._local_now = name
            await self._run_group(name)

    async def _run_group(self, expert: str) -> None:
        """Make all calls to one expert, also those added meanwhile."""
        async with self._engine.stage(expert) as call_expert:
            await self._make_calls(expert, call_expert)

    async def _make_calls(self, expert: str, call_expert: ExpertCaller) -> None:
        calls: set[asyncio.Task[None]] = set()
        after = START
        try:
            while not self._halted.is_set():
                # The cursor skips calls in progress, which have no outcome in the store yet.
                rows = await asyncio.to_thread(self._worklist.list_waiting, expert, after, CALLS_PER_QUERY)
                for row in rows:
                    await self._wait_for_slot(expert, calls)
                    if self._halted.is_set():
                        break
                    calls.add(asyncio.ensure_future(self._make_call(row, call_expert)))
                if not rows:
                    await _drain(calls)
                    await self._results.wait_until_written()
                    # Calls that ended meanwhile may have added calls of earlier lines. The group ends only
                    # when a search from the start finds none.
                    if after == START:
                        return
                after = (rows[-1].line.n, rows[-1].step) if rows else START
            if calls:
                await asyncio.wait(calls, timeout=GRACE_S)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _wait_for_slot(self, expert: str, calls: set[asyncio.Task[None]]) -> None:
        """Wait until one more call may be in progress."""
        limit = self._context.limits.get(expert, 1)
        if expert in self._context.local:
            # Every Ray worker loads the local expert and has all of its slots.
            limit *= self._engine.n_workers
        # The limit depends on live traffic, so it is read again every POLL_S even if no call ends.
        while not self._halted.is_set() and (
            self.waiting_for is not None or len(calls) >= self._context.throttle.max_calls(limit)
        ):
            if not calls:
                await asyncio.sleep(POLL_S)
                continue
            done, _ = await asyncio.wait(calls, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                calls.discard(call)
                call.result()

    async def _make_call(self, row: PendingCall, call_expert: ExpertCaller) -> None:
        """Make one call and put its outcome into the results."""
        try:
            parsed, request = self._read_request(row)
            with contextlib.suppress(HaltedError):
                outcome = await self._execute_call(row, parsed, request, call_expert)
                await self._results.put(CallResult(row.line, row.step, request, outcome))
        except FaultyLine as fault:
            await self._results.put(
                ClosedLine(row.line, build_refusal_line(row.line.custom_id, fault.to_gateway_error()))
            )
        except SpendCapExceeded as error:
            output_line = build_skipped_line(
                row.line.custom_id, "cost_cap_reached", f"This request was not made: {error}."
            )
            await self._results.put(ClosedLine(row.line, output_line))
        except (OSError, sqlite3.Error):  # of the store or the input: the whole batch is run again
            raise
        except Exception:  # a bug that one line triggers must not stop the others
            log.exception("line %d of batch %s failed", row.line.n, self._id)
            await self._results.put(
                ClosedLine(row.line, build_refusal_line(row.line.custom_id, GatewayError(INTERNAL_ERROR)))
            )

    def _read_request(self, row: PendingCall) -> tuple[ParsedRequest, ExecutionRequest]:
        _, parsed = self._reader.read(self._source.text(row.line))
        if row.decision is None or not isinstance(parsed, ToPolicy):
            return parsed, self._reader.build_request(parsed)
        return parsed, ExecutionRequest.for_decision(parsed, unpack_decision(row.decision))

    async def _execute_call(
        self, row: PendingCall, parsed: ParsedRequest, request: ExecutionRequest, call_expert: ExpertCaller
    ) -> CallOutcome:
        if isinstance(parsed, ToEmbedder) and row.expert == EMBEDDED_HERE:
            return await embed_line(parsed, self._context.services.embedders, self._pause)
        try:
            # Building fails if a panel's answers cannot be put into the request; then the plan moves on.
            call = await self._build_call(row, request)
        except UpstreamError as error:
            return CallOutcome(
                AttemptRecord(row.expert, "moved_on", error=error.message), failure=CallFailure.of(error)
            )
        n_out = _predict_tokens(request, row.expert)
        # None: calls in progress reserved the rest, and usually cost less than they reserved.
        while not self._spend_cap.reserve(row, row.expert, call, n_out):
            await self._pause(POLL_S)
        outcome = None
        try:
            outcome = await call_expert(replace(call, patient=True))
        finally:
            # Also on cancellation: the reservation would block other calls.
            self._spend_cap.settle(row, row.expert, outcome)
        return outcome

    async def _build_call(self, row: PendingCall, request: ExecutionRequest) -> Call:
        """The call that this step of the plan makes."""
        # Single attempts and fallbacks send the client's own call at every step.
        if request.plan.is_sequential:
            return request.call
        step = await asyncio.to_thread(self._current_step, row, request)
        if isinstance(step, Gather):
            return build_member_call(request.call)
        if isinstance(step, Attempt) and step.answers is not None:
            return build_aggregation_call(request.call, step.answers)
        return request.call

    def _current_step(self, row: PendingCall, request: ExecutionRequest) -> Attempt | Gather | PlanEnded:
        with self._context.store.transaction() as database:
            # Earlier steps only: the outcomes of this step are still incomplete.
            history = self._worklist.load_history(database, row.line.n)[: row.step]
        return next_step(request.plan, [[one for one in step if one is not None] for step in history])

    async def _pause(self, seconds: float) -> None:
        if await pause_unless_halted(self._halted, seconds):
            raise HaltedError

    async def _close_open_lines(self, why: Halt) -> None:
        """Write an output for every line that has none."""
        await self._results.wait_until_written()
        after = 0
        while lines := await asyncio.to_thread(self._worklist.list_open, after, CALLS_PER_QUERY):
            for line in lines:
                await self._results.put(_build_unmade_line(line, why))
            after = lines[-1].n


def _build_unmade_line(line: BatchLine, why: Halt) -> ClosedLine:
    return ClosedLine(line, build_skipped_line(line.custom_id, *SKIP_REASONS[why]))


def _predict_tokens(request: ExecutionRequest, expert: str) -> float | None:
    decision = request.decision
    if not isinstance(decision, Decision) or expert not in decision.experts:
        return None
    n_out = float(decision.output_tokens[decision.experts.index(expert)])
    return n_out if n_out > 0 else None


async def _drain(calls: set[asyncio.Task[None]]) -> None:
    """Wait for all calls in progress. Raises the first exception of one."""
    while calls:
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for call in done:
            calls.discard(call)
            call.result()
