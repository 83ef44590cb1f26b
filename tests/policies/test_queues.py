"""Queues: weights, turns and who may displace whom; the defaults that a configuration without keys gets."""

import pytest

from policies import (
    AdmissionRule,
    Admitted,
    Arrivals,
    Device,
    Loadable,
    Objective,
    PanelRule,
    Policy,
    Queue,
    QueueState,
    ResidencyRule,
    Resident,
    Scale,
    Single,
    Snapshot,
    TurnRule,
    Wait,
    admit,
    decide_residency,
    decode_plan,
    order_queues,
    queue_weight,
)
from policies.queues import can_displace, find_due, is_in_turn

GPUS = (Device("one", 10, None, True), Device("two", 10, None, True))
LOADABLE = tuple(Loadable(name, 10, 10.0) for name in "abc")


def at(residents: tuple[Resident, ...], queues: tuple[Queue, ...], now_s: float = 100.0) -> Snapshot:
    return Snapshot(now_s, GPUS, LOADABLE, residents, queues)


def test_defaults() -> None:
    assert TurnRule() == TurnRule(tau_s=10.0, max_wait_s=60.0, swap_weight=1.0)
    assert AdmissionRule() == AdmissionRule(max_waiting=256, max_wait_s=120.0)
    assert ResidencyRule() == ResidencyRule("lookahead", TurnRule(), prefetch_s=60.0)
    assert PanelRule() == PanelRule(k=3, aggregator="auto", max_cost_usd=None)
    assert Objective() == Objective(cost=0.0, latency=0.0, within=0.02)
    assert Scale() == Scale(cost_usd=1.0, latency_s=1.0)
    assert Arrivals() == Arrivals(weight=0.2)
    policy = Policy("auto")
    assert (policy.encoder, policy.unknown_flags, policy.in_band_flags) == ("adaptive", "warn", True)
    assert (policy.n_fallbacks, policy.explore) == (2, 0.0)


@pytest.mark.parametrize(("oldest_s", "weight"), [(100.0, 3.0), (90.0, 6.0), (80.0, 9.0), (105.0, 3.0)])
def test_a_queue_weighs_its_length_times_one_plus_its_age_over_tau(oldest_s: float, weight: float) -> None:
    assert queue_weight(Queue("a", 3, oldest_s), 100.0, TurnRule(tau_s=10.0)) == weight


def test_an_expert_with_free_slots_has_no_negative_wait() -> None:
    assert admit(QueueState(0, 0, 4, service_s=8.0, ahead_s=1.0), AdmissionRule()) == Admitted(1.0)


@pytest.mark.parametrize(("mine", "other", "may"), [(1, 0, True), (0, 0, False), (0, 1, False)])
def test_only_a_higher_priority_displaces_a_heavier_queue(mine: int, other: int, may: bool) -> None:
    heavy = Queue("b", 9, 100.0, other)
    snapshot = at((Resident("b", "one", 10),), (Queue("a", 1, 100.0, mine), heavy))
    assert can_displace(Queue("a", 1, 100.0, mine), "b", snapshot, TurnRule(), frozenset()) is may


def test_equal_weights_displace_no_one() -> None:
    snapshot = at((Resident("b", "one", 10),), (Queue("b", 2, 100.0),))
    assert not can_displace(Queue("a", 2, 100.0), "b", snapshot, TurnRule(), frozenset())
    assert can_displace(Queue("a", 3, 100.0), "b", snapshot, TurnRule(), frozenset())


def test_of_two_due_queues_the_older_displaces() -> None:
    snapshot = at((Resident("b", "one", 10),), (Queue("b", 1, 20.0),))
    due = frozenset("ab")
    assert can_displace(Queue("a", 1, 10.0), "b", snapshot, TurnRule(), due)
    assert not can_displace(Queue("a", 1, 20.0), "b", snapshot, TurnRule(), due)
    assert can_displace(Queue("a", 1, 30.0), "b", snapshot, TurnRule(), frozenset("a"))
    assert not can_displace(Queue("a", 9, 10.0), "b", snapshot, TurnRule(), frozenset("b"))


@pytest.mark.parametrize(("used_s", "busy", "may"), [(99.0, 0, True), (101.0, 0, False), (99.0, 1, False)])
def test_requests_that_a_swap_delays_count_for_an_expert_in_use(used_s: float, busy: int, may: bool) -> None:
    resident = Resident("b", "one", 10, n_busy=busy, last_used_s=used_s)
    snapshot = Snapshot(101.0, GPUS, LOADABLE, (resident,), (), rate_per_s={"b": 0.1})
    # A swap takes 20 s, in which two requests for b are expected; one request that is 1 s old weighs 1.1.
    assert can_displace(Queue("a", 1, 100.0), "b", snapshot, TurnRule(), frozenset()) is may
    assert can_displace(Queue("a", 2, 100.0), "b", snapshot, TurnRule(), frozenset())


@pytest.mark.parametrize(
    ("oldest_s", "ready_s", "turn"),
    [(90.0, 90.0, True), (91.0, 90.0, False), (10.0, 40.0, True), (10.0, 39.0, False)],
)
def test_a_turn_lasts_while_requests_of_before_the_load_wait(
    oldest_s: float, ready_s: float, turn: bool
) -> None:
    snapshot = at((Resident("b", "one", 10, ready_s=ready_s),), (Queue("b", 1, oldest_s),))
    assert is_in_turn("b", snapshot, TurnRule(max_wait_s=60.0)) is turn


def test_a_queue_is_due_when_its_load_would_end_past_the_bound() -> None:
    rule = TurnRule(max_wait_s=60.0)
    assert find_due(at((), (Queue("a", 1, 50.0),)), rule) == {"a"}  # 50 s old, 10 s to load
    assert find_due(at((), (Queue("a", 1, 50.1),)), rule) == frozenset()
    ready = at((Resident("a", "one", 10, ready_s=60.0),), (Queue("a", 1, 50.0),))
    assert find_due(ready, rule) == frozenset()


def test_a_queue_is_due_earlier_by_the_turns_before_it() -> None:
    queues = (Queue("a", 1, 60.0, drain_s=5.0), Queue("b", 1, 65.0, drain_s=0.0))
    # a: 40 s old + 10 s for b's turn + 10 s to load; b: 35 s old + 15 s for a's turn + 10 s to load.
    assert find_due(at((), queues), TurnRule(max_wait_s=60.0)) == frozenset("ab")
    assert find_due(at((), queues), TurnRule(max_wait_s=60.1)) == frozenset()


def test_of_two_devices_the_one_whose_turn_ends_is_waited_for() -> None:
    turn = Resident("b", "one", 10, ready_s=95.0)
    claim = Resident("c", "two", 10, ready_s=50.0)
    queues = (Queue("a", 1, 100.0), Queue("b", 5, 90.0), Queue("c", 9, 99.0))
    assert Wait("a", "turn") in decide_residency(at((turn, claim), queues))


def test_a_claim_is_waited_for_rather_than_memory_that_others_took() -> None:
    claim = Resident("c", "two", 10, ready_s=50.0)
    devices = (Device("one", 10, 0, True), GPUS[1])
    queues = (Queue("a", 1, 100.0), Queue("c", 9, 99.0))
    assert Wait("a", "claim") in decide_residency(Snapshot(100.0, devices, LOADABLE, (claim,), queues))
    taken = Snapshot(100.0, devices[:1], LOADABLE, (), queues[:1])
    assert decide_residency(taken) == (Wait("a", "taken"),)


def test_of_due_queues_the_oldest_goes_first_and_not_the_longest() -> None:
    queues = (Queue("b", 9, 20.0), Queue("a", 1, 10.0))
    assert [queue.expert for queue in order_queues(at((), queues), TurnRule())] == ["a", "b"]


def test_a_single_plan_is_decoded_from_lists() -> None:
    assert decode_plan("single", {"experts": ["a", "b"]}) == Single(("a", "b"))
