"""Is the server still there? Two ways to find out: it answers on its health path, and it says something.

A health path often answers while nothing is generated any more. So with requests in flight a server must have
said something lately; one that has not is asked a short question of its own, and one that is silent however
long is given up on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from .errors import RunnerError
from .local_http import answers
from .types import Patience


class Pulse:
    """When the server last said something, and how many requests wait for it to."""

    __slots__ = ("at_s", "n_in_flight", "suspected")

    def __init__(self) -> None:
        self.n_in_flight = 0
        self.at_s = 0.0
        self.suspected = False

    def begin(self) -> None:
        """A request is sent."""
        if not self.n_in_flight:
            self.beat()
        self.n_in_flight += 1

    def end(self) -> None:
        """A request is over."""
        self.n_in_flight -= 1

    def beat(self) -> None:
        """Something was said."""
        self.at_s = time.monotonic()
        self.suspected = False

    def suspect(self) -> None:
        """A request got nothing within its time-out."""
        self.suspected = True

    def silence_s(self) -> float:
        """Seconds without output while a request waits for it."""
        return time.monotonic() - self.at_s if self.n_in_flight else 0.0


async def until_hung(
    address: str,
    path: str,
    patience: Patience,
    pulse: Pulse,
    n_slots: int,
    question: Callable[[], Awaitable[object]],
) -> str:
    """Returns, with the reason, when `n_missed_probes` in a row went unanswered or it fell silent.

    The question is only asked while fewer than `n_slots` requests are in flight: else it would wait its turn.
    """
    n_missed = 0
    while n_missed < patience.n_missed_probes:
        await asyncio.sleep(patience.probe_every_s)
        n_missed = 0 if await answers(address, path, patience.probe_timeout_s) else n_missed + 1
        if pulse.silence_s() > patience.hung_s:
            return f"said nothing for {patience.hung_s:g} s"
        doubtful = pulse.suspected or pulse.silence_s() > patience.silent_s
        if doubtful and pulse.n_in_flight < n_slots and not await _speaks(pulse, question):
            return "answers on its health path but generates nothing"
    return f"gave no answer to {patience.n_missed_probes} probes in a row"


async def _speaks(pulse: Pulse, question: Callable[[], Awaitable[object]]) -> bool:
    """Whether it answers anything, a request or the watchdog's own probe."""
    asked_s = time.monotonic()
    try:
        await question()
    except RunnerError:
        return pulse.at_s > asked_s
    pulse.beat()
    return True
