"""Gathering: a lone query at once, company of like length, none lost."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from gateway.errors import BusyError
from gateway.routing.embedding_batcher import BURST_S, MAX_BATCH, Budget, EmbeddingBatcher
from routers import Floats32


class Slow:
    """An embedder whose batches end when they are let go; the vector is the text's length."""

    fingerprint = "slow"
    dim = 1

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Semaphore(0)
        self.fail = False

    def embed(self, texts: Sequence[str]) -> Floats32:
        self.batches.append(list(texts))
        assert self.go.acquire(timeout=10)
        if self.fail:
            raise RuntimeError("no weights")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
async def batcher(slow: Slow) -> AsyncIterator[EmbeddingBatcher]:
    batcher = EmbeddingBatcher(slow, n_threads=1, max_waiting=50)
    yield batcher
    slow.go.release(1000)
    batcher.close()


async def ask_batcher(batcher: EmbeddingBatcher, texts: Sequence[str]) -> "list[asyncio.Task[Floats32]]":
    tasks = [asyncio.create_task(batcher.embed(text)) for text in texts]
    await asyncio.sleep(0.02)
    return tasks


async def test_a_lone_query_starts_at_once(batcher: EmbeddingBatcher, slow: Slow) -> None:
    (task,) = await ask_batcher(batcher, ["hello"])
    assert slow.batches == [["hello"]]
    slow.go.release()
    assert (await task).tolist() == [[5.0]]


async def test_those_who_wait_go_together_by_length_oldest_first(
    batcher: EmbeddingBatcher, slow: Slow
) -> None:
    tasks = await ask_batcher(batcher, ["first", "b" * 1000, "c" * 10, "d" * 1100, "e" * 12])
    slow.go.release(3)
    vectors = await asyncio.gather(*tasks)
    assert [[len(text) for text in batch] for batch in slow.batches] == [[5], [1000, 1100], [10, 12]]
    assert [v.item() for v in vectors] == [5, 1000, 10, 1100, 12]


async def test_a_batch_is_bounded(batcher: EmbeddingBatcher, slow: Slow) -> None:
    tasks = await ask_batcher(batcher, ["a"] * (2 + 2 * MAX_BATCH))
    slow.go.release(10)
    await asyncio.gather(*tasks)
    assert max(map(len, slow.batches)) == MAX_BATCH
    assert (batcher.n_consulted, batcher.n_busy, batcher.n_waiting) == (2 + 2 * MAX_BATCH, 0, 0)


async def test_a_full_queue_refuses(batcher: EmbeddingBatcher, slow: Slow) -> None:
    tasks = await ask_batcher(batcher, ["a"] * 51)
    with pytest.raises(BusyError):
        await batcher.embed("b")
    slow.go.release(100)
    await asyncio.gather(*tasks)


async def test_who_goes_away_while_waiting_is_not_embedded(batcher: EmbeddingBatcher, slow: Slow) -> None:
    first, second, third = await ask_batcher(batcher, ["a", "bb", "ccc"])
    second.cancel()
    await asyncio.sleep(0)
    slow.go.release(2)
    assert (await third).item() == 3
    assert slow.batches == [["a"], ["ccc"]]
    await first


async def test_who_goes_away_while_running_leaves_the_others_alone(
    batcher: EmbeddingBatcher, slow: Slow
) -> None:
    first, second, third = await ask_batcher(batcher, ["a", "bb", "ccc"])
    slow.go.release()
    await first
    await asyncio.sleep(0.02)
    second.cancel()
    slow.go.release()
    assert (await third).item() == 3


async def test_a_failure_reaches_everybody_of_its_batch_and_nobody_else(
    batcher: EmbeddingBatcher, slow: Slow
) -> None:
    slow.fail = True
    tasks = await ask_batcher(batcher, ["a", "bb", "ccc"])
    slow.go.release(2)
    with pytest.raises(RuntimeError):
        await tasks[0]
    for task in tasks[1:]:
        with pytest.raises(RuntimeError, match="no weights"):
            await task
    slow.fail = False
    slow.go.release()
    assert (await batcher.embed("dddd")).item() == 4


async def test_the_event_loop_goes_on_while_a_thread_embeds(batcher: EmbeddingBatcher, slow: Slow) -> None:
    (task,) = await ask_batcher(batcher, ["a"])
    ticks = 0
    for _ in range(50):
        await asyncio.sleep(0.001)
        ticks += 1
    assert (ticks, task.done()) == (50, False)
    slow.go.release()
    await task


def test_a_quiet_budget_always_allows_and_a_spent_one_fills_again() -> None:
    now = [0.0]
    budget = Budget(n_waiting=4, share=0.25, n_threads=2, clock=lambda: now[0])
    assert budget.allows(0)
    budget.spend(BURST_S + 1.0)
    assert not budget.allows(0)
    now[0] += 1.9
    assert not budget.allows(0)
    now[0] += 0.2
    assert budget.allows(0)


def test_a_budget_does_not_save_up_for_ever() -> None:
    now = [0.0]
    budget = Budget(n_waiting=4, share=0.5, n_threads=1, clock=lambda: now[0])
    now[0] = 1e6
    assert budget.allows(0)
    budget.spend(BURST_S)
    assert not budget.allows(0)


def test_a_queue_too_long_exhausts_the_budget() -> None:
    budget = Budget(n_waiting=4, share=1.0, n_threads=1)
    assert budget.allows(3)
    assert not budget.allows(4)


async def test_patient_ones_are_taken_when_nobody_else_waits(batcher: EmbeddingBatcher, slow: Slow) -> None:
    first = asyncio.create_task(batcher.embed("first"))
    await asyncio.sleep(0.02)
    patient = asyncio.create_task(batcher.embed_all(["p", "q"], patient=True))
    await asyncio.sleep(0.02)
    live = await ask_batcher(batcher, ["live"])
    assert batcher.n_waiting == 1
    slow.go.release(3)
    assert (await patient).tolist() == [[1.0], [1.0]]
    await asyncio.gather(first, *live)
    assert slow.batches == [["first"], ["live"], ["p", "q"]]
