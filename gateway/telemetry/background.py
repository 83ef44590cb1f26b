"""Threads and tasks that run beside requests: one that dies is started again, counted, and reported.

What they work on belongs to their owners (a queue, a table), so nothing of it is lost with a thread.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from traceback import extract_tb

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
STEADY_S = 60.0
"""After so long without a death one counts as well again."""

log = logging.getLogger("thalamus.background")


class DeathRecord:
    """The deaths of this process's threads and tasks by their names.

    `n_restarts` counts since the start of the process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.n_restarts: Counter[str] = Counter()
        self._clock = clock
        self._last: dict[str, tuple[float, str]] = {}
        self._in_a_row: Counter[str] = Counter()

    def note(self, name: str, error: BaseException) -> float:
        """One has died and is started again; gives the seconds to wait before that."""
        now = self._clock()
        died_at, _ = self._last.get(name, (float("-inf"), ""))
        self._in_a_row[name] = self._in_a_row[name] + 1 if now - died_at < STEADY_S else 1
        self._last[name] = now, type(error).__name__
        self.n_restarts[name] += 1
        # An exception's own words may quote a prompt: where it was raised tells as much.
        frames = extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        log.error("%s died of %s%s and is started again", name, type(error).__name__, where)
        return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._in_a_row[name] - 1, 10)))

    def list_degraded(self) -> Iterator[str]:
        """Those that died lately, one line each."""
        now = self._clock()
        for name, (died_at, kind) in self._last.items():
            if now - died_at < STEADY_S:
                yield f"{name}: died of {kind} and was started again ({self.n_restarts[name]} times)"


DEATHS = DeathRecord()


def start_thread(name: str, run: Callable[[], None], stopping: threading.Event) -> threading.Thread:
    """A thread that calls `run`, and again whenever it raises, until it returns.

    Once `stopping` is set it is called once more at most, for what is left to do.
    """

    def run_again() -> None:
        n_deaths_at_end = 0
        while n_deaths_at_end < 2:
            try:
                run()
                return
            except BaseException as error:
                n_deaths_at_end += stopping.is_set()
                stopping.wait(DEATHS.note(name, error))

    thread = threading.Thread(target=run_again, name=name, daemon=True)
    thread.start()
    return thread


def start_task(name: str, run: Callable[[], Coroutine[None, None, None]]) -> "asyncio.Task[None]":
    """A task that awaits `run()`, and again whenever it raises, until it returns or the task is cancelled."""

    async def run_again() -> None:
        while True:
            try:
                await run()
                return
            except Exception as error:
                await asyncio.sleep(DEATHS.note(name, error))

    # A context of its own: it outlives the request that may have started it, whose id its log would carry.
    return asyncio.get_running_loop().create_task(run_again(), name=name, context=Context())
