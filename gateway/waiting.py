"""Limits of calls: who waits for a slot, in which order, and how many calls and tokens a minute takes."""

import asyncio
import bisect
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from .errors import UpstreamError

# Far more than an upstream works off within a first-token time-out; a longer line only holds memory.
MAX_WAITING_PER_SLOT = 64

_arrivals = count()


@dataclass(slots=True, eq=False)
class Waiter:
    """One request in line. `turn` is done when it has its slot, or was refused."""

    since_s: float
    priority: int
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    n_arrival: int = field(default_factory=lambda: next(_arrivals))

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key: higher priorities first, then in order of arrival."""
        return -self.priority, self.n_arrival


class WaitingLine:
    """Gives slots to waiting requests by priority, then in order of arrival.

    The owner counts the slots: `has_room` says whether one is free, `begin` takes one, `end` returns one.

    Invariant: exactly the requests that return from `wait` hold a slot. A request can be cancelled, or time
    out, after it was given a slot and before it runs again: `wait` then gives the slot back.
    """

    def __init__(
        self, has_room: Callable[[], bool], begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._has_room = has_room
        self._begin = begin
        self._end = end
        # A sorted list, not a heap: those that give up leave from the middle, and the lead is read often.
        self.waiting: list[Waiter] = []

    def enter(self, since_s: float = 0.0, priority: int = 0) -> Waiter:
        """Join the line; call `wait` with what it returns."""
        waiter = Waiter(since_s, priority)
        bisect.insort(self.waiting, waiter, key=lambda other: other.rank)
        return waiter

    async def wait(self, waiter: Waiter, timeout_s: float) -> None:
        """Wait for the turn of `waiter`; the caller then holds a slot.

        Raises:
            TimeoutError: no slot came free within `timeout_s` seconds.
            Exception: what `refuse` was called with.
        """
        turn = waiter.turn
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException:
            # BaseException, because a cancelled request must return its slot too.
            with contextlib.suppress(ValueError):
                self.waiting.remove(waiter)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._end()
                self.serve()
            turn.cancel()
            raise

    def serve(self) -> None:
        """Give free slots to those in line."""
        while self.waiting and self._has_room():
            waiter = self.waiting.pop(0)
            # A cancelled task cancels the future it awaits, but leaves the line only when it runs again.
            if not waiter.turn.done():
                self._begin()
                waiter.turn.set_result(None)

    def refuse(self, error: Exception) -> None:
        """Raise `error` in every waiting request."""
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(error)


MINUTE_S = 60.0


class RateLimit:
    """At most `calls` calls begin, and `tokens` tokens are used, in any minute; None for any number.

    Tokens are known when an answer ends: a call begins while those of the last minute are below the limit.
    """

    def __init__(
        self, calls: int | None, tokens: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._configured = (calls, tokens)
        self._calls, self._tokens = calls, tokens
        self._clock = clock
        self._begun: deque[float] = deque()
        self._used: deque[tuple[float, int]] = deque()
        self._n_used = 0

    def wait_s(self) -> float:
        """Seconds until a call may begin; 0 when it may now."""
        now = self._clock()
        self._forget(now - MINUTE_S)
        ends = []
        if self._calls is not None and len(self._begun) >= self._calls:
            ends.append(self._begun[len(self._begun) - self._calls])
        if self._tokens is not None and self._n_used >= self._tokens:
            ends.append(self._find_room_for_tokens())
        return max((end + MINUTE_S - now for end in ends), default=0.0)

    def check(self) -> None:
        """Check that a call may begin.

        Raises:
            UpstreamError: the minute is used up; `retry_after_s` says when it is not.
        """
        if (wait_s := self.wait_s()) > 0:
            raise UpstreamError(
                "busy", "has had its calls or tokens of this minute", status=429, retry_after_s=wait_s
            )

    def begin(self) -> None:
        """Count a call that begins now.

        Raises:
            UpstreamError: as `check`.
        """
        self.check()
        if self._calls is not None:
            self._begun.append(self._clock())

    def charge(self, n_tokens: int) -> None:
        """Count the tokens of an answer."""
        if self._tokens is not None and n_tokens > 0:
            self._used.append((self._clock(), n_tokens))
            self._n_used += n_tokens

    def share(self, n_replicas: int) -> None:
        """Use an even share, at least one: other replicas call the same upstream."""
        self._calls, self._tokens = (
            None if limit is None else max(1, limit // n_replicas) for limit in self._configured
        )

    def _forget(self, before: float) -> None:
        while self._begun and self._begun[0] <= before:
            self._begun.popleft()
        while self._used and self._used[0][0] <= before:
            self._n_used -= self._used.popleft()[1]

    def _find_room_for_tokens(self) -> float:
        """When the answer was given that has to be forgotten before the next call."""
        left = self._n_used
        for used_at, n_tokens in self._used:
            left -= n_tokens
            if self._tokens is not None and left < self._tokens:
                return used_at
        return self._clock()


class ConcurrencyLimit:
    """At most `limit` calls run at a time, None for any number; a bounded number of others wait in line.

    A `rate` limits them further: a call that it does not admit is refused and does not wait.
    """

    def __init__(self, limit: int | None, rate: RateLimit | None = None) -> None:
        self.limit = self._configured = limit
        self.rate = rate
        self.in_use = 0
        self._line = WaitingLine(self._has_room, self._begin, self._end)

    @property
    def load(self) -> float:
        """Running and waiting calls per slot; infinite where none may begin now."""
        if self.rate is not None and self.rate.wait_s() > 0:
            return float("inf")
        return (self.in_use + len(self._line.waiting)) / (self.limit or 1)

    async def acquire(self, timeout_s: float) -> None:
        """Wait for a slot; call `release` once when done with it.

        Raises:
            UpstreamError: too many calls wait already, no slot came free within `timeout_s` seconds, or the
                rate admits none.
        """
        if self.rate is None:
            await self._take(timeout_s)
            return
        self.rate.check()  # before the line: a call that may not begin must not hold a place in it
        await self._take(timeout_s)
        try:
            self.rate.begin()
        except UpstreamError:
            self.release()
            raise

    async def _take(self, timeout_s: float) -> None:
        limit = self.limit
        # Serving on every release keeps the line empty while there is room, so this call overtakes none.
        if limit is None or self.in_use < limit:
            self.in_use += 1
            return
        if len(self._line.waiting) >= limit * MAX_WAITING_PER_SLOT:
            raise UpstreamError(
                "busy", f"serves {limit} at a time and too many wait already", retry_after_s=1
            )
        try:
            await self._line.wait(self._line.enter(), timeout_s)
        except TimeoutError:
            raise UpstreamError("busy", f"had no free slot within {timeout_s:g} s", retry_after_s=1) from None

    def release(self) -> None:
        """Return a slot; the next call in line takes it."""
        self.in_use -= 1
        self._line.serve()

    def share(self, n_replicas: int) -> None:
        """Use an even share of the configured limit, at least one: other replicas call the same upstream."""
        if self.rate is not None:
            self.rate.share(n_replicas)
        if self._configured is not None:
            self.limit = max(1, self._configured // n_replicas)
            self._line.serve()

    def _has_room(self) -> bool:
        return self.limit is None or self.in_use < self.limit

    def _begin(self) -> None:
        self.in_use += 1

    def _end(self) -> None:
        self.in_use -= 1
