"""The calls of a batch: retries, the spend cap, the throttle beside live requests, and embeddings."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Protocol

import msgspec

from ..embedding import EmbedderPool
from ..errors import FailureKind, GatewayError, to_envelope
from ..execution.embedding import EmbeddingExecutor, choose_embedders, load_embedders, reserve_places
from ..execution.executor import ExecutionTrace, PlanExecutor
from ..experts.types import Call, Expert, UpstreamError
from ..experts.upstreams import UpstreamTable
from ..fleet.health import FleetState
from ..openai.answers import UNKNOWN_PRICE, Price, cost_usd
from ..requests.parsing import ToEmbedder
from ..storage.journal import AttemptRecord
from .lines import EMBEDDED_HERE
from .outcomes import CallFailure, CallOutcome

# Pauses of 0.5, 1 and 2 s lie between the four tries, unless the upstream names its own.
MAX_TRIES = 4
FIRST_PAUSE_S = 0.5
MIN_PAUSE_S = 0.2
LONGEST_WAIT_S = 5.0
# A call that an expert answers with an error of its own seldom ends otherwise: three such experts take 18 s.
RETRY_S = 6.0
N_FAILURES_TO_GIVE_UP = 3
# About what English text has. It only reserves money; the reported usage replaces it after the call.
BYTES_PER_TOKEN = 4
WRONG_ANSWERS: frozenset[FailureKind] = frozenset({"garbage", "empty", "bad_chunk", "error_event"})
NOT_CONFIGURED = "is not configured any more"
OUTPUT_TOKENS = 1000
"""Assumed length of an answer when neither the request nor a forecast limits it."""

_count = msgspec.json.Decoder(float | None)


class SpendCapExceeded(Exception):  # noqa: N818
    """A call would exceed the spend cap of its batch."""


@dataclass(slots=True)
class OutageTimer:
    """How long and how often an expert has failed in a row, and whether it answered, but with errors."""

    patience_s: float
    since_s: float | None = None
    n_failures: int = 0
    answers: bool = False

    def record_failure(self, error: UpstreamError, now_s: float) -> None:
        self.since_s = now_s if self.since_s is None else self.since_s
        self.n_failures += 1
        self.answers = error.retry_after_s is None and (
            error.status == 500 if error.kind == "status" else error.kind in WRONG_ANSWERS
        )

    def record_success(self) -> None:
        self.since_s, self.n_failures, self.answers = None, 0, False

    def is_too_long(self, now_s: float) -> bool:
        # Both must hold: three fast failures may be a restart, and one failure long ago is no outage.
        return (
            self.since_s is not None
            and self.n_failures >= N_FAILURES_TO_GIVE_UP
            and now_s - self.since_s >= self.patience_s
        )


class SpendCap:
    """The amount a batch may spend; calls in progress count with the most they can cost."""

    def __init__(self, prices: Mapping[str, Price], max_usd: float | None, spent_usd: float) -> None:
        self._prices = prices
        self._max_usd = max_usd
        self._spent_usd = spent_usd
        self._reserved: dict[object, float] = {}

    def reserve(self, ticket: object, expert: str, call: Call, n_out: float | None) -> bool | None:
        """Reserve the most a call may cost; None if other calls must end first.

        Raises:
            SpendCapExceeded: the cap does not allow the call, or its price is unknown.
        """
        if self._max_usd is None:
            return True
        usd = self._max_cost_usd(expert, call, n_out)
        if usd is None:
            raise SpendCapExceeded(
                f"the price of {expert} is unknown, and the batch may spend at most ${self._max_usd:g}"
            )
        if self._spent_usd + sum(self._reserved.values()) + usd <= self._max_usd:
            self._reserved[ticket] = usd
            return True
        # With no call in progress no reservation can be released, so waiting would never end.
        if self._reserved and usd:
            return None
        raise SpendCapExceeded(
            f"the batch may spend ${self._max_usd:g}, and ${self._spent_usd:.6g} of it is spent"
        )

    def settle(self, ticket: object, expert: str, outcome: CallOutcome | None) -> None:
        """Replace a reservation by the cost of the call; an unknown cost counts as reserved."""
        reserved = self._reserved.pop(ticket, 0.0)
        if outcome is not None and outcome.body is not None:
            usd = cost_usd(outcome.usage, self._prices.get(expert, UNKNOWN_PRICE))
            self._spent_usd += reserved if usd is None else usd

    def _max_cost_usd(self, expert: str, call: Call, n_out: float | None) -> float | None:
        price = self._prices.get(expert, UNKNOWN_PRICE)
        if price.input_usd is None or price.output_usd is None:
            return None
        n_in = sum(map(len, call.fields.values())) / BYTES_PER_TOKEN
        limit = _output_limit(call)
        most = n_out or OUTPUT_TOKENS if limit is None else limit
        n_choices = max(1.0, _number(call, "n") or 1.0)
        output_usd = most * n_choices * price.output_usd if price.output_usd else 0.0
        return n_in * price.input_usd + output_usd


def _output_limit(call: Call) -> float | None:
    """The most tokens one choice may have; infinite if the client's value cannot be read."""
    for name in ("max_completion_tokens", "max_tokens"):
        if (limit := _number(call, name)) is not None:
            return limit
    return None


def _number(call: Call, name: str) -> float | None:
    """A numeric field of the request; None if it is missing."""
    raw = call.fields.get(name)
    try:
        number = None if raw is None else _count.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Infinity never fits the cap: an unreadable limit must not make a call look cheap.
        return math.inf
    return None if number is None else max(0.0, number)


class RetryingCaller:
    """Calls experts and retries. It waits for the end of a cooldown instead of moving on.

    `pause` waits for a number of seconds, or raises if the batch must stop. `owner` is the name of the key
    whose batch it is, None where there is none.
    """

    def __init__(
        self,
        experts: Mapping[str, Expert],
        fleet: FleetState,
        patience_s: float,
        pause: Callable[[float], Awaitable[None]],
        upstreams: UpstreamTable | None = None,
        owner: str | None = None,
    ) -> None:
        self._known = experts
        self._executor = PlanExecutor(experts, fleet, upstreams=upstreams)
        self._fleet = fleet
        self._patience_s = patience_s
        self._pause = pause
        self._owner = owner
        self._outages: dict[str, OutageTimer] = {}

    async def call(self, name: str, call: Call) -> CallOutcome:
        """The outcome of a call after its retries."""
        if name not in self._known:
            return build_skipped_outcome(name)
        outage = self._outages.setdefault(name, OutageTimer(self._patience_s))
        # Collects the attempts only. The line's own trace is built when its plan has ended.
        trace = ExecutionTrace("", self._owner, call.fields)
        error = UpstreamError("connect", "was not called")
        retry_until_s = time.monotonic() + RETRY_S
        for n in range(MAX_TRIES):
            if not await self._wait_for_admission(name, call, outage, retry_until_s):
                if not trace.attempts:
                    return build_skipped_outcome(
                        name, f"has failed for {self._patience_s:g} s and is given up"
                    )
                break
            try:
                reply = await self._executor.call(name, call, trace)
            except UpstreamError as failure:
                error = failure
                if error.faults_expert:
                    outage.record_failure(error, time.monotonic())
                if error.can_adapt and n + 1 < MAX_TRIES:
                    continue
                if not error.can_succeed_later or n + 1 == MAX_TRIES:
                    break
                if outage.answers and time.monotonic() >= retry_until_s:
                    break
                # With a Retry-After (RFC 9110, section 10.2.3) the breaker is open that long, and the
                # admission waits for it.
                await self._pause(FIRST_PAUSE_S * 2**n if error.retry_after_s is None else 0.0)
            else:
                outage.record_success()
                *tries, record = trace.attempts
                return CallOutcome(record, reply.body, reply.usage, tries=tuple(tries))
        *tries, record = trace.attempts
        return CallOutcome(record, failure=CallFailure.of(error), tries=tuple(tries))

    async def _wait_for_admission(
        self, name: str, call: Call, outage: OutageTimer, retry_until_s: float
    ) -> bool:
        """Wait until the expert may be called; False if it has failed for too long.

        An expert that answers, but with errors, is called again at `retry_until_s` even while it cools down,
        unless it asked to wait: other lines may be answered, and this one must end.
        """
        while not outage.is_too_long(time.monotonic()):
            left_s = retry_until_s - time.monotonic() if outage.answers else LONGEST_WAIT_S
            if self._fleet.admit(name, self._owner, call.fields, insist=left_s <= 0):
                return True
            wait_s = min(self._fleet.cooldown_s(name, self._owner, call.fields), LONGEST_WAIT_S, left_s)
            await self._pause(max(wait_s, MIN_PAUSE_S))
        return False


def build_skipped_outcome(name: str, why: str = NOT_CONFIGURED) -> CallOutcome:
    """The outcome of a call that was not made."""
    failure = CallFailure("connect", why, 503)
    return CallOutcome(AttemptRecord(name, "skipped", error=why), failure=failure)


class BatchThrottle:
    """Limits the calls of a batch to one expert, so that live requests keep their latency.

    `n_in_flight` returns the number of live requests in progress.
    """

    # Live requests come in bursts: full speed right after one would slow down the next.
    QUIET_S = 10.0

    def __init__(self, n_in_flight: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._n_live = n_in_flight
        self._clock = clock
        self._last_s = float("-inf")

    def max_calls(self, limit: int) -> int:
        """Calls allowed of `limit`: a quarter beside live requests, half for 10 s after one, else all."""
        if self._n_live():
            self._last_s = self._clock()
            return max(1, limit // 4)
        return limit if self._clock() - self._last_s > self.QUIET_S else max(1, limit // 2)


async def pause_unless_halted(halted: asyncio.Event, seconds: float) -> bool:
    """Wait; True if the batch was halted before or meanwhile."""
    if seconds <= 0:
        return halted.is_set()
    try:
        async with asyncio.timeout(seconds):
            await halted.wait()
    except TimeoutError:
        return False
    return True


ExpertCaller = Callable[[Call], Awaitable[CallOutcome]]


class BatchExecutor(Protocol):
    """Makes the calls to one expert after another."""

    @property
    def n_workers(self) -> int:
        """How many workers serve a local expert."""

    def stage(self, expert: str) -> AbstractAsyncContextManager[ExpertCaller]:
        """A function that calls the expert, valid while the block runs."""


class LocalExecutor:
    """Makes calls in this process and with its runners."""

    n_workers = 1

    def __init__(self, caller: RetryingCaller) -> None:
        self._caller = caller

    @asynccontextmanager
    async def stage(self, expert: str) -> AsyncIterator[ExpertCaller]:
        yield partial(self._caller.call, expert)


EMBEDDERS_POLL_S = 0.3


async def embed_line(
    parsed: ToEmbedder, pool: EmbedderPool | None, pause: Callable[[float], Awaitable[None]]
) -> CallOutcome:
    """The outcome of a line that the gateway's own embedders answer.

    `pause` waits for a number of seconds, or raises if the batch must stop.
    """
    start = perf_counter()
    if pool is None:
        return _embedding_failure(GatewayError("no embedder is served here any more"), start)
    try:
        await load_embedders(pool)
        # A batch takes at most half of the places. A live request would be refused here; a line can wait.
        while pool.turns.is_crowded(len(parsed.input.texts)):
            await pause(EMBEDDERS_POLL_S)
        with reserve_places(parsed.input, pool):
            executor = EmbeddingExecutor(parsed, await choose_embedders(parsed.input, pool), pool)
            reply = await executor.execute(executor.request, ExecutionTrace(""))
    except GatewayError as error:
        return _embedding_failure(error, start)
    record = AttemptRecord(EMBEDDED_HERE, "answered", 200, None, perf_counter() - start)
    return CallOutcome(record, reply.body, reply.usage)


def _embedding_failure(error: GatewayError, start: float) -> CallOutcome:
    record = AttemptRecord(EMBEDDED_HERE, "refused", error.status, error.message, perf_counter() - start)
    failure = CallFailure("refused", error.message, error.status, to_envelope(error))
    return CallOutcome(record, failure=failure)
