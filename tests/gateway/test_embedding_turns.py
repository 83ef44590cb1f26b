"""Texts of many requests in turn: order kept, none starved, nothing read for who is gone."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from gateway.embedding.turns import TEXTS_A_TURN, TextQueue
from gateway.errors import BusyError


class SlowReader:
    """Reads an item once it is let go."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.go = threading.Semaphore(0)

    def __call__(self, item: int) -> int:
        assert self.go.acquire(timeout=10)
        if item < 0:
            raise RuntimeError("no weights")
        self.seen.append(item)
        return item * 10


@pytest.fixture
def reader() -> SlowReader:
    return SlowReader()


@pytest.fixture
async def turns(reader: SlowReader) -> AsyncIterator[TextQueue]:
    turns = TextQueue(n_threads=1, max_waiting=20)
    yield turns
    reader.go.release(1000)
    turns.close()


async def test_results_come_in_the_order_of_the_items(turns: TextQueue, reader: SlowReader) -> None:
    reader.go.release(100)
    assert await turns.map(reader, range(10)) == [item * 10 for item in range(10)]
    assert (turns.n_read, await turns.map(reader, [])) == (10, [])


async def test_threads_share_a_request_and_the_order_holds(reader: SlowReader) -> None:
    turns = TextQueue(n_threads=3, max_waiting=100)
    reader.go.release(100)
    assert await turns.map(reader, range(50)) == [item * 10 for item in range(50)]
    turns.close()


async def test_requests_take_turns(turns: TextQueue, reader: SlowReader) -> None:
    long = asyncio.create_task(turns.map(reader, range(10)))
    await asyncio.sleep(0)
    short = asyncio.create_task(turns.map(reader, [100]))
    await asyncio.sleep(0)
    reader.go.release(100)
    await asyncio.gather(long, short)
    assert reader.seen.index(100) <= 2 * TEXTS_A_TURN


async def test_nothing_is_read_for_who_has_gone_away(turns: TextQueue, reader: SlowReader) -> None:
    gone = asyncio.create_task(turns.map(reader, range(10)))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.sleep(0)
    reader.go.release(100)
    assert await turns.map(reader, [100]) == [1000]
    assert reader.seen == [*range(TEXTS_A_TURN), 100]


async def test_a_failure_ends_its_request_alone(turns: TextQueue, reader: SlowReader) -> None:
    reader.go.release(100)
    bad = asyncio.create_task(turns.map(reader, [-1, *range(20)]))
    good = asyncio.create_task(turns.map(reader, [1]))
    with pytest.raises(RuntimeError, match="no weights"):
        await bad
    assert await good == [10]
    await asyncio.sleep(0.01)
    assert len(reader.seen) < 20


async def test_places_are_bounded_and_given_back(turns: TextQueue) -> None:
    with turns.reserve(15):
        with pytest.raises(BusyError), turns.reserve(6):
            pass
        with turns.reserve(5):
            assert (turns.n_waiting, turns.wait_s > 0) == (20, True)
    assert turns.n_waiting == 0
