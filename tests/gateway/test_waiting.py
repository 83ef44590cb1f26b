"""The waiting line keeps its count of slots when waiting calls are cancelled, refused or time out."""

import asyncio
import random

import pytest

from gateway.errors import UpstreamError
from gateway.waiting import ConcurrencyLimit, WaitingLine


class CountedSlots:
    """Slots that a test opens and closes by hand."""

    def __init__(self, n_free: int) -> None:
        self.n_free = n_free
        self.line = WaitingLine(lambda: self.n_free > 0, self.begin, self.end)

    def begin(self) -> None:
        self.n_free -= 1

    def end(self) -> None:
        self.n_free += 1


async def run_calls(limit: ConcurrencyLimit, random_: random.Random, n_calls: int) -> int:
    """Run calls of which many are cancelled at a random moment; return how many ran at once at most."""
    n_running = most = 0

    async def call() -> None:
        nonlocal n_running, most
        await limit.acquire(random_.choice([0.0, 0.001, 5.0]))
        n_running += 1
        most = max(most, n_running)
        try:
            for _ in range(random_.randrange(3)):
                await asyncio.sleep(0)
        finally:
            n_running -= 1
            limit.release()

    tasks = [asyncio.ensure_future(call()) for _ in range(n_calls)]
    for task in random_.sample(tasks, n_calls // 2):
        await asyncio.sleep(0)
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert result is None or isinstance(result, asyncio.CancelledError | UpstreamError), result
    return most


@pytest.mark.parametrize("seed", range(20))
async def test_cancelled_calls_neither_lose_nor_leak_a_slot(seed: int) -> None:
    limit = ConcurrencyLimit(3)
    assert await run_calls(limit, random.Random(seed), n_calls=120) == 3
    assert limit.in_use == 0
    assert limit.load == 0
    for _ in range(3):
        await limit.acquire(0.0)
    with pytest.raises(UpstreamError, match="no free slot within 0 s"):
        await limit.acquire(0.0)


async def test_a_slot_given_to_a_call_that_is_cancelled_before_it_runs_goes_to_the_next() -> None:
    limit = ConcurrencyLimit(1)
    await limit.acquire(1)
    first, second = (asyncio.ensure_future(limit.acquire(5)) for _ in range(2))
    await asyncio.sleep(0)
    limit.release()
    first.cancel()
    await second
    assert first.cancelled()
    assert limit.in_use == 1


async def test_higher_priorities_go_first_and_equals_in_order_of_arrival() -> None:
    slots, order = CountedSlots(0), []

    async def call(name: str, priority: int) -> None:
        await slots.line.wait(slots.line.enter(priority=priority), 5)
        order.append(name)

    names = [("a", 0), ("batch", -1), ("b", 0), ("urgent", 1)]
    calls = [asyncio.ensure_future(call(*each)) for each in names]
    for _ in calls:
        await asyncio.sleep(0)
        slots.end()
    slots.line.serve()
    await asyncio.gather(*calls)
    assert order == ["urgent", "a", "b", "batch"]
    assert slots.n_free == 0


async def test_refused_calls_raise_the_error_and_take_no_slot() -> None:
    slots = CountedSlots(0)
    calls = [asyncio.ensure_future(slots.line.wait(slots.line.enter(), 5)) for _ in range(3)]
    await asyncio.sleep(0)
    slots.line.refuse(LookupError("stopped"))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(result) for result in results] == ["stopped"] * 3
    slots.end()
    slots.line.serve()
    assert slots.n_free == 1


async def test_a_larger_share_lets_waiting_calls_run() -> None:
    limit = ConcurrencyLimit(4)
    limit.share(4)
    await limit.acquire(1)
    call = asyncio.ensure_future(limit.acquire(5))
    await asyncio.sleep(0)
    limit.share(2)
    await call
    assert limit.in_use == 2
