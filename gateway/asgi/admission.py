"""Which requests are worked on now, and which wait: bounded for the process, and fair between keys."""

import asyncio
from functools import partial
from time import monotonic

from ..config import LimitsConfig
from ..errors import ServerBusy
from ..waiting import WaitingLine

N_PER_TURN = 16
"""Requests that begin in one turn of the event loop.

A beginning is work without a pause (parse, decide, call). Hundreds in one turn would keep every stream
waiting for all of them.
"""
MEASURED_S = 0.5
LONGEST_RETRY_S = 60.0

Key = str | None


class Admission:
    """Gives requests their turn: so many at once, keys by the fewest running, then in order of arrival.

    Attributes:
        n_running: requests that have their turn and have not ended.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.n_running = 0
        self._running: dict[Key, int] = {}
        self._lines: dict[Key, WaitingLine] = {}
        self._n_begun = 0
        self._may_give = False
        # How fast the line moved, measured while there was one all the time.
        self._since_s = 0.0
        self._n_given = 0
        self._given_per_s: float | None = None

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(len(line.waiting) for line in self._lines.values())

    async def admit(self, key: Key) -> None:
        """Wait for the turn of a request of this key; `leave` must follow.

        Raises:
            ServerBusy: all places are taken, or the wait would be longer than `max_wait_s`.
        """
        if not self._lines and self._has_room():
            self._begin(key)
        else:
            await self._wait(key)

    def leave(self, key: Key) -> None:
        """A request that was admitted has ended."""
        self.n_running -= 1
        n = self._running.pop(key) - 1
        if n:
            self._running[key] = n
        if self._lines:
            self._serve()

    def _has_room(self) -> bool:
        return self.n_running < self.limits.max_running and self._n_begun < N_PER_TURN

    def _begin(self, key: Key) -> None:
        self.n_running += 1
        self._running[key] = self._running.get(key, 0) + 1
        self._n_begun += 1
        if self._n_begun == 1:
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        """The next turn of the loop has begun."""
        self._n_begun = 0
        self._serve()

    def _serve(self) -> None:
        """Give turns to those who wait, to the key with the fewest running first."""
        while self._lines and self._has_room():
            key = min(self._lines, key=lambda waiting: self._running.get(waiting, 0))
            # Taken out and put in again: among equals the one that was served last comes last.
            line = self._lines.pop(key)
            self._may_give = True
            line.serve()
            self._may_give = False
            if line.waiting:
                self._lines[key] = line

    def _give(self, key: Key) -> None:
        self._may_give = False
        self._begin(key)
        self._n_given += 1
        elapsed_s = monotonic() - self._since_s
        if elapsed_s > MEASURED_S:
            self._given_per_s = self._n_given / elapsed_s
            self._since_s += elapsed_s
            self._n_given = 0

    async def _wait(self, key: Key) -> None:
        if not self._lines:
            self._since_s, self._n_given, self._given_per_s = monotonic(), 0, None
        line = self._lines.get(key) or WaitingLine(
            lambda: self._may_give, partial(self._give, key), partial(self.leave, key)
        )
        wait_s = self._predict_s(line)
        if wait_s > self.limits.max_wait_s:
            raise self._refusal(wait_s, "max_wait_s")
        if not self._find_place(line):
            raise self._refusal(wait_s, "max_waiting")
        waiter = line.enter()
        self._lines[key] = line
        try:
            await line.wait(waiter, self.limits.max_wait_s)
        except TimeoutError:
            raise self._refusal(self._predict_s(line), "max_wait_s") from None
        finally:
            if not line.waiting and self._lines.get(key) is line:
                del self._lines[key]

    def _predict_s(self, line: WaitingLine) -> float:
        """How long one that enters a line would wait: as long as it takes to serve all lines to its place."""
        if not self._given_per_s:
            return 0.0
        n_ahead = sum(min(len(other.waiting), len(line.waiting) + 1) for other in self._lines.values())
        return n_ahead / self._given_per_s

    def _find_place(self, line: WaitingLine) -> bool:
        """Whether there is a place; where all are taken, the longest line gives one up to a shorter one."""
        if self.n_waiting < self.limits.max_waiting:
            return True
        longest = max(self._lines.values(), key=lambda other: len(other.waiting), default=line)
        if len(longest.waiting) <= len(line.waiting) + 1:
            return False
        longest.refuse_last(self._refusal(self._predict_s(longest), "max_waiting"))
        return True

    def _refusal(self, wait_s: float, limit: str) -> ServerBusy:
        return ServerBusy(
            f"this gateway works on {self.n_running} requests and {self.n_waiting} wait: ask again later",
            limit=limit,
            retry_after_s=min(wait_s, LONGEST_RETRY_S),
        )
