"""The line of requests that wait for a slot: who is next, and what a cancellation leaves behind."""

import asyncio
import bisect
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

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

    def refuse_last(self, error: Exception) -> None:
        """Raise `error` in the last waiting request."""
        waiter = self.waiting.pop()
        if not waiter.turn.done():
            waiter.turn.set_exception(error)

    def refuse(self, error: Exception) -> None:
        """Raise `error` in every waiting request."""
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(error)
