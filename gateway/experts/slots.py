"""A bound on calls at a time, first come, first served."""

import asyncio
import contextlib
from collections import deque

from .types import UpstreamError

MAX_WAITING_PER_SLOT = 64


class Slots:
    """`limit` calls run at a time, None for any number; others wait in order, and not without bound."""

    def __init__(self, limit: int | None) -> None:
        self.limit = self._whole = limit
        self.in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def load(self) -> float:
        """Calls running and waiting, for each that may run."""
        return (self.in_use + len(self._waiting)) / (self.limit or 1)

    async def take(self, timeout_s: float) -> None:
        """Wait for a slot; whoever took one gives it back.

        Raises:
            UpstreamError: too many wait already, or none came free in time.
        """
        if self.limit is None or self.in_use < self.limit:
            self.in_use += 1
            return
        if len(self._waiting) >= self.limit * MAX_WAITING_PER_SLOT:
            raise UpstreamError(
                "busy", f"serves {self.limit} at a time and too many wait already", retry_after_s=1
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back()
            else:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise UpstreamError(
                    "busy", f"had no free slot within {timeout_s:g} s", retry_after_s=1
                ) from None
            raise

    def give_back(self) -> None:
        """End one's call: the next in line takes the slot over."""
        self.in_use -= 1
        self._hand_out()

    def share(self, n_replicas: int) -> None:
        """Take an even share of the whole limit, one at least: other replicas call there too."""
        if self._whole is not None:
            self.limit = max(1, self._whole // n_replicas)
            self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and (self.limit is None or self.in_use < self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self.in_use += 1
