"""Gathers concurrent queries into batches for the encoder, which runs in worker threads.

A lone query starts at once. While all threads are busy, queries wait; a thread that comes free takes the
oldest and those of about the same length, because padding costs more than batching saves.
Patient ones, of batches, are taken when no live query waits, and use none of the budget.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from routers import Embedder, Floats32

from ..errors import BusyError

MAX_BATCH = 8
MAX_WAITING = 4096
LENGTH_RATIO = 1.3
SLACK_CHARS = 16
BURST_S = 0.5
"""Encoder time that may be spent at once before the budget's share is asked about."""


@dataclass(slots=True)
class Waiting:
    """One query, and where its vector is to go."""

    text: str
    vector: "asyncio.Future[Floats32]"
    patient: bool = False


class Budget:
    """How much of the encoder's time adaptive policies may use: a bucket of seconds that fills at `share`.

    Until it is empty every query is served: a quiet gateway always runs the encoder.
    """

    def __init__(
        self, n_waiting: int, share: float, n_threads: int, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.n_waiting = n_waiting
        self._rate = share * n_threads
        self._clock = clock
        self._credit_s = BURST_S
        self._since = clock()

    def allows(self, n_waiting: int) -> bool:
        """Whether one more query may be embedded now, with so many waiting."""
        now = self._clock()
        self._credit_s = min(BURST_S, self._credit_s + (now - self._since) * self._rate)
        self._since = now
        return n_waiting < self.n_waiting and self._credit_s > 0

    def spend(self, seconds: float) -> None:
        """Note encoder time used."""
        self._credit_s -= seconds


class EmbeddingBatcher:
    """Embeds in worker threads; one event loop asks.

    `n_consulted`, `n_batches` and `busy_s` count since the start; `n_busy` threads run now.
    """

    def __init__(
        self,
        embedder: Embedder,
        n_threads: int = 1,
        max_waiting: int = MAX_WAITING,
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget
        self.n_consulted = 0
        self.n_batches = 0
        self.n_busy = 0
        self.busy_s = 0.0
        self._embedder = embedder
        self._n_threads = n_threads
        self._max_waiting = max_waiting
        self._waiting: list[Waiting] = []
        self._patient: list[Waiting] = []
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="encoder")

    @property
    def n_waiting(self) -> int:
        """Queries that no thread has taken yet, those of batches apart."""
        return len(self._waiting)

    def has_time(self) -> bool:
        """Whether the load budget allows a closer look; always, without one."""
        return self.budget is None or self.budget.allows(len(self._waiting))

    async def embed(self, text: str, patient: bool = False) -> Floats32:
        """(1, dim) unit row. A caller who goes away leaves the others of the batch alone.

        Raises:
            BusyError: the queue is full.
            EmbedderError: the embedder failed.
        """
        queue = self._patient if patient else self._waiting
        if len(queue) >= self._max_waiting:
            raise BusyError(f"{len(queue)} queries wait for the encoder")
        waiting = Waiting(text, asyncio.get_running_loop().create_future(), patient)
        queue.append(waiting)
        if self.n_busy < self._n_threads:
            self._start()
        try:
            return await waiting.vector
        finally:
            queue = self._patient if patient else self._waiting
            if waiting.vector.cancelled() and waiting in queue:
                queue.remove(waiting)

    async def embed_all(self, texts: Sequence[str], patient: bool = False) -> Floats32:
        """(n_texts, dim) unit rows; where one fails, the others are cancelled.

        Raises:
            BusyError, EmbedderError: as `embed`.
        """
        if len(texts) == 1:
            return await self.embed(texts[0], patient)
        tasks = [asyncio.ensure_future(self.embed(text, patient)) for text in texts]
        try:
            return np.concatenate(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """Let running batches end and cancel waiting queries."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        batch = self._take()
        if not batch:
            return
        self.n_busy += 1
        self.n_batches += 1
        loop = asyncio.get_running_loop()
        running = self._threads.submit(self._run, [waiting.text for waiting in batch])
        running.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, batch, done))

    def _run(self, texts: list[str]) -> tuple[Floats32, float]:
        started = perf_counter()
        return self._embedder.embed(texts), perf_counter() - started

    def _finish(self, batch: list[Waiting], done: "Future[tuple[Floats32, float]]") -> None:
        self.n_busy -= 1
        error = done.exception()
        if error is None:
            vectors, seconds = done.result()
            self._account(batch, seconds)
        for row, waiting in enumerate(batch):
            if waiting.vector.done():
                continue
            if error is not None:
                waiting.vector.set_exception(error)
            else:
                waiting.vector.set_result(vectors[row : row + 1])
        self._start()

    def _account(self, batch: list[Waiting], seconds: float) -> None:
        self.n_consulted += len(batch)
        self.busy_s += seconds
        if self.budget is not None and not batch[0].patient:
            self.budget.spend(seconds)

    def _take(self) -> list[Waiting]:
        """The oldest query, and others of about its length."""
        if self._waiting:
            batch, self._waiting = _alike(self._waiting)
        else:
            batch, self._patient = _alike(self._patient)
        return batch


def _alike(queue: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """The first of a queue with others of about its length; and the rest."""
    if not queue:
        return [], []
    n_chars = len(queue[0].text)
    longest = n_chars * LENGTH_RATIO + SLACK_CHARS
    shortest = (n_chars - SLACK_CHARS) / LENGTH_RATIO
    batch: list[Waiting] = []
    rest: list[Waiting] = []
    for waiting in queue:
        fits = len(batch) < MAX_BATCH and shortest <= len(waiting.text) <= longest
        (batch if fits else rest).append(waiting)
    return batch, rest
