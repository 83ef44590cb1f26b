"""What a pool tells of one runner when it asks for a decision."""

import math

from gateway.runners import RunnerSettings
from gateway.runners.queue import RunnerQueue
from gateway.runners.runner import Runner


def make_queue(n_parallel: int = 2) -> RunnerQueue:
    settings = RunnerSettings(
        "command", "a", command=("true", "${PORT}"), memory_bytes=1, n_parallel=n_parallel
    )
    return RunnerQueue(Runner(settings, "a", ("a",)), clock=0.0)


async def test_a_line_tells_how_long_it_takes_once_answers_were_timed() -> None:
    one = make_queue(n_parallel=2)
    for now_s, priority in ((10.0, 0), (12.0, 1), (13.0, 0)):
        one.join(now_s, priority, wait_s=60.0)
    queue = one.demand()
    assert queue is not None
    assert (queue.n_waiting, queue.oldest_s, queue.priority, queue.drain_s) == (3, 10.0, 1, 0.0)
    one.service_s = 4.0
    queue = one.demand()
    assert queue is not None
    assert queue.drain_s == 6.0


async def test_a_runner_tells_when_it_should_be_idle_once_answers_were_timed() -> None:
    one = make_queue()
    one.move = object()  # type: ignore[assignment]  # being loaded: it holds memory
    resident = one.resident()
    assert resident is not None
    assert resident.idle_in_s == math.inf
    one.note_use(began_s=0.0, now_s=5.0)
    resident = one.resident()
    assert resident is not None
    assert resident.idle_in_s == one.service_s > 0.0
