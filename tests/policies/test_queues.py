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


def find_bound_s(snapshot: Snapshot, expert: str) -> float:
    """The largest bound on waiting under which the queue of an expert is due now, to 0.1 s."""
    due = [tenths for tenths in range(3000) if expert in find_due(snapshot, TurnRule(max_wait_s=tenths / 10))]
    return max(due) / 10


@pytest.mark.parametrize(
    ("residents", "expected_s"),
    [
        ((), 40 + 30 + 10),
        ((Resident("b", "one", 10),), 40 + 30 + 10),
        ((Resident("b", "one", 10), Resident("c", "two", 10)), 40 + 30 / 2 + 10),
        ((Resident("b", "one", 10), Resident("c", "two", 10, "leaving")), 40 + 30 + 10),
        ((Resident("b", "one", 10, "leaving"), Resident("c", "two", 10, "leaving")), 40 + 30 + 10),
        ((Resident("b", "one", 10, n_busy=1, idle_in_s=7.0),), 40 + (7 + 30) + 7 + 10),
    ],
)
def test_turns_pass_as_many_at_once_as_there_are_residents(
    residents: tuple[Resident, ...], expected_s: float
) -> None:
    """The queue of a is 40 s old and takes 10 s to load; one younger queue takes 30 s."""
    queues = (Queue("a", 1, 60.0), Queue("d", 1, 65.0, drain_s=30.0))
    assert find_bound_s(at(residents, queues), "a") == expected_s


@pytest.mark.parametrize(("oldest_s", "due"), [(40.0, True), (40.1, False)])
def test_an_expert_that_is_ready_takes_no_time_to_start(oldest_s: float, due: bool) -> None:
    snapshot = at((Resident("a", "one", 10, ready_s=50.0),), (Queue("a", 1, oldest_s),))
    assert ("a" in find_due(snapshot, TurnRule(max_wait_s=60.0))) is due


@pytest.mark.parametrize(
    ("resident", "lead_s"),
    [
        (Resident("b", "one", 10, "ready", ready_s=95.0), 0),  # its requests of before the load wait
        (Resident("b", "one", 10, "loading"), 10),
    ],
)
def test_the_current_turn_counts_before_an_older_queue(resident: Resident, lead_s: float) -> None:
    queues = (Queue("a", 1, 50.0), Queue("b", 1, 90.0, drain_s=20.0), Queue("c", 1, 55.0, drain_s=20.0))
    # a: 50 s old, then b's turn, the turn of c (10 s to load), and 10 s to load.
    assert find_bound_s(at((resident,), queues), "a") == 50 + (lead_s + 20) + 30 + 10


def test_a_turn_that_has_ended_counts_in_its_order() -> None:
    ended = Resident("b", "one", 10, "ready", ready_s=85.0)
    queues = (Queue("a", 1, 50.0), Queue("b", 1, 90.0, drain_s=20.0), Queue("c", 1, 55.0, drain_s=20.0))
    assert find_bound_s(at((ended,), queues), "a") == 50 + 30 + 10


def test_the_last_queue_waits_for_all_turns_before_it() -> None:
    queues = (Queue("a", 1, 50.0, drain_s=5.0), Queue("b", 1, 60.0, drain_s=6.0), Queue("c", 1, 70.0))
    assert find_bound_s(at((), queues), "c") == 30 + (15 + 16) + 10


def list_order(*queues: Queue, residents: tuple[Resident, ...] = ()) -> list[str]:
    return [queue.expert for queue in order_queues(at(residents, queues), TurnRule())]


def test_due_queues_go_before_priority() -> None:
    assert list_order(Queue("a", 9, 100.0, priority=5), Queue("b", 1, 10.0)) == ["b", "a"]


def test_of_due_queues_of_equal_age_the_one_of_priority_goes_first() -> None:
    assert list_order(Queue("a", 1, 10.0), Queue("b", 1, 10.0, priority=1)) == ["b", "a"]


def test_priority_goes_before_weight_and_weight_before_the_name() -> None:
    queues = (Queue("a", 1, 100.0), Queue("b", 3, 100.0), Queue("c", 2, 100.0, priority=1))
    assert list_order(*queues) == ["c", "b", "a"]


def test_an_older_queue_that_is_not_due_goes_first_only_by_its_weight() -> None:
    assert list_order(Queue("a", 1, 95.0), Queue("b", 2, 100.0)) == ["b", "a"]  # 1.5 against 2


def test_equal_queues_go_by_name() -> None:
    assert list_order(Queue("b", 1, 100.0), Queue("a", 1, 100.0)) == ["a", "b"]


@pytest.mark.parametrize(("ready_s", "turn"), [(20.0, True), (19.0, False)])
def test_a_turn_lasts_at_least_as_long_as_the_load_took(ready_s: float, turn: bool) -> None:
    slow = (Loadable("b", 10, 80.0),)
    resident = Resident("b", "one", 10, ready_s=ready_s)
    snapshot = Snapshot(100.0, GPUS, slow, (resident,), (Queue("b", 1, 5.0),))
    assert is_in_turn("b", snapshot, TurnRule(max_wait_s=60.0)) is turn


def test_without_requests_there_is_no_turn() -> None:
    assert not is_in_turn("b", at((Resident("b", "one", 10, ready_s=95.0),), ()), TurnRule())


def test_of_equal_priority_the_heavier_queue_displaces() -> None:
    snapshot = at((Resident("b", "one", 10),), (Queue("b", 1, 100.0, 1),))
    assert can_displace(Queue("a", 2, 100.0, 1), "b", snapshot, TurnRule(), frozenset())


def test_a_due_queue_displaces_an_expert_without_requests() -> None:
    snapshot = Snapshot(100.0, GPUS, LOADABLE, (Resident("b", "one", 10, n_busy=1),), rate_per_s={"b": 9.0})
    assert can_displace(Queue("a", 1, 10.0), "b", snapshot, TurnRule(), frozenset("a"))


def may_displace_used(
    n_waiting: int, used_s: float = 101.0, rate_per_s: float = 0.2, weight: float = 1.0
) -> bool:
    """Whether so many requests that came just now, at 100 s, displace an expert used at `used_s`."""
    loadable = (Loadable("a", 10, 5.0), Loadable("b", 10, 15.0))
    resident = Resident("b", "one", 10, last_used_s=used_s)
    snapshot = Snapshot(100.0, GPUS, loadable, (resident,), (), rate_per_s={"b": rate_per_s})
    rule = TurnRule(swap_weight=weight)
    return can_displace(Queue("a", n_waiting, 100.0), "b", snapshot, rule, frozenset())


def test_a_swap_delays_what_arrives_during_both_loads() -> None:
    assert not may_displace_used(4)  # 20 s of loading, one request in 5 s
    assert may_displace_used(5)


def test_delayed_requests_count_by_their_weight() -> None:
    assert may_displace_used(3, weight=0.5)
    assert not may_displace_used(2, weight=0.5)


def test_an_expert_used_when_the_request_came_is_not_in_use_since() -> None:
    assert may_displace_used(1, used_s=100.0)


def test_an_expert_without_recent_requests_delays_none() -> None:
    resident = Resident("b", "one", 10, last_used_s=101.0)
    snapshot = at((resident,), (Queue("b", 1, 100.0),))
    assert not can_displace(Queue("a", 1, 100.0), "b", snapshot, TurnRule(), frozenset())
    assert can_displace(Queue("a", 2, 100.0), "b", snapshot, TurnRule(), frozenset())


def test_delayed_and_waiting_requests_add_up() -> None:
    resident = Resident("b", "one", 10, last_used_s=101.0)
    snapshot = Snapshot(100.0, GPUS, LOADABLE, (resident,), (Queue("b", 3, 100.0),), rate_per_s={"b": 0.1})
    assert not can_displace(Queue("a", 5, 100.0), "b", snapshot, TurnRule(), frozenset())
    assert can_displace(Queue("a", 6, 100.0), "b", snapshot, TurnRule(), frozenset())


def test_two_requests_at_once_are_a_million_a_second_and_no_more() -> None:
    arrivals = Arrivals().after("a", 5.0).after("a", 5.0)
    assert arrivals.next_use_s(5.0) == {"a": 0.0}
    assert arrivals.rate_per_s(5.0) == {"a": pytest.approx(1e6)}


def test_a_clock_set_back_makes_no_negative_gap() -> None:
    assert Arrivals().after("a", 10.0).after("a", 4.0).gap_s == {"a": 0.0}


def test_the_latest_gap_counts_by_its_weight() -> None:
    arrivals = Arrivals(weight=0.25).after("a", 0.0).after("a", 8.0).after("a", 24.0)
    assert arrivals.gap_s == {"a": pytest.approx(0.25 * 16 + 0.75 * 8)}
    assert (arrivals.weight, arrivals.last_s) == (0.25, {"a": 24.0})


def test_one_request_is_no_gap_yet() -> None:
    arrivals = Arrivals(weight=0.5).after("a", 3.0)
    assert (arrivals.weight, arrivals.last_s, arrivals.gap_s) == (0.5, {"a": 3.0}, {})
