"""What a pool tells of one runner when it asks for a decision."""

import math
from dataclasses import replace

import pytest

from gateway.runners import Lease, RunnerBusy, RunnerSettings
from gateway.runners.queue import RunnerQueue
from gateway.runners.runner import Runner
from gateway.waiting import MAX_WAITING_PER_SLOT


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


async def test_calls_of_batches_count_only_where_no_others_wait() -> None:
    one = make_queue()
    for now_s in (1.0, 2.0):
        one.join(now_s, -1, wait_s=60.0)
    queue = one.demand()
    assert queue is not None
    assert (queue.n_waiting, queue.oldest_s, queue.patient) == (2, 1.0, True)
    one.join(5.0, 0, wait_s=60.0)
    queue = one.demand()
    assert queue is not None
    assert (queue.n_waiting, queue.oldest_s, queue.patient) == (1, 5.0, False)


async def test_a_full_line_of_a_batch_refuses_no_other() -> None:
    one = make_queue(n_parallel=1)
    for _ in range(MAX_WAITING_PER_SLOT):
        one.join(1.0, -1, wait_s=60.0)
    with pytest.raises(RunnerBusy):
        one.join(1.0, -1, wait_s=60.0)
    one.join(1.0, 0, wait_s=60.0)


async def test_what_a_batch_uses_is_no_use_to_others_but_keeps_it_loaded() -> None:
    one = make_queue()
    one.move = object()  # type: ignore[assignment]
    one.runner.settings = replace(one.runner.settings, ttl_s=10.0)
    one.note_use(began_s=0.0, now_s=5.0, patient=True)
    resident = one.resident()
    assert resident is not None
    assert (resident.n_uses, resident.last_used_s, resident.expires_s) == (0, 0.0, 15.0)


def lease_of(queue: RunnerQueue, since_s: float, grace: int = 1) -> Lease:
    lease = Lease(queue.runner, "http://x/v1", since_s, lambda _: None, grace=grace)
    queue.patient_leases.add(lease)
    return lease


async def test_calls_of_batches_are_recalled_when_others_waited_long_enough() -> None:
    one = make_queue()
    first, second = lease_of(one, since_s=0.0), lease_of(one, since_s=1.0, grace=4)
    one.recall_patient(14.0, 5.0, since_s=10.0)
    assert not first.recalled.is_set()
    one.recall_patient(15.0, 5.0, since_s=10.0)
    assert (first.recalled.is_set(), second.recalled.is_set()) == (True, False)
    one.recall_patient(30.0, 5.0, since_s=10.0)
    assert second.recalled.is_set()


async def test_as_many_calls_of_batches_are_recalled_as_others_wait_for_a_slot() -> None:
    one = make_queue()
    first, last = lease_of(one, since_s=0.0), lease_of(one, since_s=1.0)
    one.join(2.0, -1, wait_s=60.0)
    one.recall_patient(60.0, 5.0)
    assert not first.recalled.is_set()
    assert not last.recalled.is_set()
    one.join(10.0, 0, wait_s=60.0)
    one.recall_patient(15.0, 5.0)
    assert (first.recalled.is_set(), last.recalled.is_set()) == (False, True)
