"""The waiting line keeps its count of slots when waiting calls are cancelled, refused or time out."""

import asyncio
import random

import pytest

from gateway.errors import UpstreamError
from gateway.experts.deployments import ConcurrencyLimit, RateLimit
from gateway.waiting import WaitingLine


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


class MinuteClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_after(limit: RateLimit) -> float:
    """What a refused call is told to wait."""
    with pytest.raises(UpstreamError, match="of this minute") as caught:
        limit.begin()
    assert (caught.value.status, caught.value.moves_on, caught.value.faults_expert) == (429, True, False)
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_no_more_calls_begin_in_any_minute_than_allowed() -> None:
    clock = MinuteClock()
    limit = RateLimit(3, None, clock)
    for _ in range(3):
        limit.begin()
        clock.now += 10
    assert wait_after(limit) == 30
    clock.now += 30
    limit.begin()  # the first is a minute ago, the second and the third are not
    assert wait_after(limit) == 10


def test_a_call_waits_until_enough_tokens_of_the_minute_are_forgotten() -> None:
    clock = MinuteClock()
    limit = RateLimit(None, 100, clock)
    for n_tokens in (30, 60, 50):
        limit.begin()
        limit.charge(n_tokens)
        clock.now += 10
    assert wait_after(limit) == 40  # 140 were used; without the first 110, without the second 50
    clock.now += 40
    limit.begin()
    assert limit.wait_s() == 0


def test_an_answer_larger_than_the_limit_blocks_for_a_minute_and_no_longer() -> None:
    clock = MinuteClock()
    limit = RateLimit(None, 100, clock)
    limit.charge(100_000)
    assert wait_after(limit) == 60
    clock.now += 60
    limit.begin()


def test_the_longer_of_both_waits_counts() -> None:
    clock = MinuteClock()
    limit = RateLimit(1, 10, clock)
    limit.begin()
    clock.now += 20
    limit.charge(10)
    assert wait_after(limit) == 60


def test_replicas_share_a_rate() -> None:
    limit = RateLimit(4, 2, MinuteClock())
    limit.share(2)
    limit.begin()
    limit.begin()
    assert wait_after(limit) == 60
    limit.share(1)
    limit.begin()
    limit.share(100)
    limit.charge(1)
    assert wait_after(limit) == 60  # at least one call and one token


async def test_a_call_that_the_rate_refuses_holds_no_slot() -> None:
    limit = ConcurrencyLimit(1, RateLimit(1, None, MinuteClock()))
    await limit.acquire(0.0)
    limit.release()
    with pytest.raises(UpstreamError, match="of this minute"):
        await limit.acquire(5.0)
    assert (limit.in_use, limit.load) == (0, float("inf"))


async def test_calls_that_waited_for_a_slot_are_counted_when_they_begin() -> None:
    limit = ConcurrencyLimit(1, RateLimit(2, None, MinuteClock()))
    await limit.acquire(0.0)
    others = [asyncio.ensure_future(limit.acquire(5.0)) for _ in range(2)]
    await asyncio.sleep(0)
    limit.release()
    await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
    limit.release()
    results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), UpstreamError]
    assert limit.in_use == 0
