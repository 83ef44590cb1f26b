"""Reads the texts of concurrent requests in worker threads, a few of each request in turn.

A request of thousands of texts does not keep one of a single text waiting, and texts of a cancelled request
are not read.
"""

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from ..errors import BusyError

T = TypeVar("T")
R = TypeVar("R")

# A text of another request waits for at most this many texts in a thread.
TEXTS_A_TURN = 4
NICENESS = 10
FIRST_GUESS_S = 0.01
"""What a text takes before any was read."""


@dataclass(slots=True, eq=False)
class _Job:
    """The texts of one request: how many were handed out, and what came of them, by place."""

    read: Callable[[Any], Any]
    items: Sequence[Any]
    done: "asyncio.Future[list[Any]]"
    n_taken: int = 0
    found: dict[int, Any] = field(default_factory=dict)


class TextQueue:
    """Texts of concurrent requests, embedded in worker threads, a few of each request in turn.

    Called from one event loop. `n_waiting` texts have a place, `n_busy` threads read;
    `n_read` texts were embedded in `busy_s` seconds.
    """

    def __init__(self, n_threads: int, max_waiting: int) -> None:
        self.n_waiting = 0
        self.n_read = 0
        self.busy_s = 0.0
        self._n_threads = n_threads
        self.n_busy = 0
        self._max_waiting = max_waiting
        self._jobs: deque[_Job] = deque()
        self._threads = ThreadPoolExecutor(n_threads, "embedder", _lower_priority)

    @contextmanager
    def reserve(self, n_texts: int) -> Iterator[None]:
        """Places for so many texts, until the end of the block.

        Raises:
            BusyError: there are not so many left.
        """
        if self.n_waiting + n_texts > self._max_waiting:
            raise BusyError(f"{self.n_waiting} texts wait")
        self.n_waiting += n_texts
        try:
            yield
        finally:
            self.n_waiting -= n_texts

    def is_crowded(self, n_texts: int) -> bool:
        """Whether so many more, of a request that can wait, would take more than half of all places."""
        # The other half stays free for live requests.
        return self.n_waiting > 0 and 2 * (self.n_waiting + n_texts) > self._max_waiting

    @property
    def wait_s(self) -> float:
        """About how long it takes to read all that waits."""
        each_s = self.busy_s / self.n_read if self.n_read else FIRST_GUESS_S
        return self.n_waiting * each_s / self._n_threads

    async def map(self, read: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`read` of every item, in order, in the worker threads; any exception it raises ends the request."""
        if not items:
            return []
        job = _Job(read, items, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._start()
        try:
            return await job.done
        finally:
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        """Let running turns end; no request may be waiting."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs and self.n_busy < self._n_threads:
            job = self._jobs.popleft()
            first, job.n_taken = job.n_taken, min(job.n_taken + TEXTS_A_TURN, len(job.items))
            if job.n_taken < len(job.items):
                self._jobs.append(job)
            self.n_busy += 1
            running = self._threads.submit(_read_items, job.read, job.items[first : job.n_taken])
            # The callback runs in the worker thread; state of the queue changes in the event loop only.
            running.add_done_callback(partial(loop.call_soon_threadsafe, partial(self._finish, job, first)))

    def _finish(self, job: _Job, first: int, turn: "Future[tuple[list[Any], float]]") -> None:
        self.n_busy -= 1
        error = turn.exception()
        if error is None:
            found, seconds = turn.result()
            self.n_read += len(found)
            self.busy_s += seconds
            job.found |= dict(enumerate(found, first))
        if not job.done.done():
            if error is not None:
                job.done.set_exception(error)
            elif len(job.found) == len(job.items):
                job.done.set_result([job.found[place] for place in range(len(job.items))])
        self._start()


def _lower_priority() -> None:
    """Streams come first where cores are short; only on Linux does a thread have a niceness of its own."""
    if sys.platform == "linux":
        # With a thread's id: Linux keeps the niceness per thread, against POSIX (setpriority(2)).
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _read_items(read: Callable[[T], R], items: Sequence[T]) -> tuple[list[R], float]:
    started = perf_counter()
    return [read(item) for item in items], perf_counter() - started
