"""What residency decisions are made from: defaults, and what a snapshot knows of its experts."""

import pytest

from policies import Device, Loadable, Queue, Resident, Snapshot


def test_what_is_not_said_of_memory_and_its_experts() -> None:
    assert Device("gpu", 10) == Device("gpu", 10, free_bytes=None, settled=True)
    assert Loadable("a", 10, 5.0) == Loadable("a", 10, 5.0, devices=(), pinned=False)
    assert Queue("a", 1, 90.0) == Queue("a", 1, 90.0, priority=0, drain_s=0.0)


def test_a_resident_of_which_nothing_more_is_said_is_ready_idle_and_stays() -> None:
    assert Resident("a", "gpu", 10) == Resident(
        "a",
        "gpu",
        10,
        state="ready",
        n_busy=0,
        n_uses=0,
        last_used_s=0.0,
        ready_s=0.0,
        expires_s=None,
        held=False,
        idle_in_s=float("inf"),
    )


def snapshot(*residents: Resident, queues: tuple[Queue, ...] = (), pinned: bool = False) -> Snapshot:
    loadable = (Loadable("a", 10, 5.0, pinned=pinned), Loadable("b", 10, 7.0))
    return Snapshot(100.0, (Device("gpu", 10),), loadable, residents, queues)


def test_a_queue_in_which_no_request_waits_is_no_queue() -> None:
    queues = (Queue("a", 0, 0.0), Queue("b", 1, 90.0))
    assert snapshot(queues=queues).queue == {"b": queues[1]}


def test_experts_and_residents_are_found_by_name() -> None:
    there = Resident("b", "gpu", 10)
    assert snapshot(there).resident == {"b": there}
    assert sorted(snapshot().by_expert) == ["a", "b"]


@pytest.mark.parametrize(
    ("residents", "longest_s"),
    [
        ([], 0.0),
        ([Resident("a", "gpu", 5, n_busy=1, idle_in_s=3.0)], 3.0),
        ([Resident("a", "gpu", 5, n_busy=1, idle_in_s=0.5)], 0.5),
        (
            [
                Resident("a", "gpu", 5, n_busy=1, idle_in_s=3.0),
                Resident("b", "gpu", 5, n_busy=2, idle_in_s=4),
            ],
            4,
        ),
        ([Resident("a", "gpu", 5, n_busy=0, idle_in_s=3.0)], 0.0),
        ([Resident("a", "gpu", 5, n_busy=1)], 0.0),
    ],
)
def test_the_longest_answer_is_of_the_busy_whose_end_is_known(
    residents: list[Resident], longest_s: float
) -> None:
    assert snapshot(*residents).longest_answer_s == longest_s


@pytest.mark.parametrize(("expert", "load_s"), [("a", 5.0), ("b", 7.0), ("remote", 0.0)])
def test_a_load_takes_its_own_time_and_none_where_nothing_is_loaded(expert: str, load_s: float) -> None:
    assert snapshot().load_s(expert) == load_s


@pytest.mark.parametrize(("expert", "pinned"), [("a", True), ("b", False), ("remote", False)])
def test_only_what_is_marked_is_pinned(expert: str, pinned: bool) -> None:
    assert snapshot(pinned=True).is_pinned(expert) is pinned
