"""Health and load: when an expert is left alone, and how it comes back."""

import pytest

from gateway.experts.types import UpstreamError
from gateway.fleet.circuit_breaker import FIRST_COOLDOWN_S, N_FAILURES_TO_OPEN, PROBE_LOST_S
from gateway.fleet.health import FleetState

BROKEN = UpstreamError("status", "answered 500", status=500)
LIMITED = UpstreamError("status", "answered 429", status=429, retry_after_s=7)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> FleetState:
    return FleetState(["a", "b"], {"a": None, "b": 2, "embedder": None}, clock)


def fail(fleet: FleetState, error: UpstreamError, times: int = 1) -> None:
    for _ in range(times):
        assert fleet.admit("a")
        fleet.record_failure("a", error)


def test_a_single_failure_changes_nothing(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN - 1)
    assert fleet.snapshot().available.tolist() == [True, True]


def test_repeated_failures_start_a_cooldown_in_the_snapshot(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN)
    snapshot = fleet.snapshot()
    assert snapshot.available.tolist() == [False, True]
    assert "answered 500" in snapshot.unavailable["a"]
    assert fleet.state("a")["state"] == "open"
    assert not fleet.admit("a")


def test_a_success_in_between_starts_the_count_again(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN - 1)
    fleet.admit("a")
    fleet.record_success("a", 0.1)
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN - 1)
    assert fleet.snapshot().available[0]


def test_an_upstream_that_names_its_seconds_is_obeyed_at_once(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, LIMITED)
    assert fleet.cooldown_s("a") == 7
    assert not fleet.admit("a", insist=True)
    clock.now += 7
    assert fleet.admit("a")


def test_insist_ignores_a_cooldown_the_upstream_did_not_ask_for(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN)
    assert fleet.admit("a", insist=True)


def test_after_a_cooldown_one_probe_goes_first(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN)
    clock.now += FIRST_COOLDOWN_S
    assert fleet.state("a")["state"] == "half-open"
    assert fleet.snapshot().available[0]
    assert fleet.admit("a")
    assert not fleet.snapshot().available[0]
    assert not fleet.admit("a")


def test_a_probe_that_succeeds_opens_the_way(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN)
    clock.now += FIRST_COOLDOWN_S
    fleet.admit("a")
    fleet.record_success("a", 0.1)
    assert fleet.state("a")["state"] == "closed"
    assert fleet.admit("a")
    assert fleet.admit("a")


def test_a_probe_that_fails_doubles_the_cooldown(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN)
    clock.now += FIRST_COOLDOWN_S
    fail(fleet, BROKEN)
    assert fleet.cooldown_s("a") == 2 * FIRST_COOLDOWN_S


def test_an_abandoned_probe_lets_the_next_one_try(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN)
    clock.now += FIRST_COOLDOWN_S
    fleet.admit("a")
    fleet.release("a")
    assert fleet.snapshot().available[0]
    assert fleet.admit("a")


def test_a_lost_probe_blocks_other_probes_for_a_while_only(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_FAILURES_TO_OPEN)
    clock.now += FIRST_COOLDOWN_S
    fleet.admit("a")
    assert not fleet.snapshot().available[0]
    clock.now += PROBE_LOST_S + 1
    assert fleet.snapshot().available[0]


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("refused", "answered 400", status=400),
        UpstreamError("status", "answered 400", status=400, context_too_long=True),
        UpstreamError("busy", "is full"),
        UpstreamError("declined", "has no answer"),
        UpstreamError("unsupported", "answered 404", status=404),
    ],
)
def test_a_request_at_fault_does_not_tell_on_the_expert(fleet: FleetState, error: UpstreamError) -> None:
    fail(fleet, error, 10)
    assert fleet.state("a")["state"] == "closed"


def test_the_snapshot_is_the_same_until_something_changes(fleet: FleetState) -> None:
    first = fleet.snapshot()
    fleet.admit("a")
    fleet.record_success("a", 0.2)
    assert fleet.snapshot() is first


def test_a_full_expert_is_expected_to_keep_one_waiting(fleet: FleetState) -> None:
    for _ in range(3):
        fleet.admit("b")
    fleet.record_success("b", 4.0)
    assert fleet.snapshot().wait_s.tolist() == [0.0, 2.0]
    fleet.record_success("b", 4.0)
    assert fleet.snapshot().wait_s.tolist() == [0.0, 0.0]


def test_a_wrong_key_is_a_cooldown_at_once(fleet: FleetState) -> None:
    fail(fleet, UpstreamError("status", "answered 401", status=401))
    assert not fleet.snapshot().available[0]


def test_an_expert_out_of_memory_is_waited_for_as_long_as_it_takes_to_load(clock: Clock) -> None:
    away = {"b": 8.0}
    fleet = FleetState(["a", "b"], {"a": None, "b": 2}, clock, lambda name: away.get(name, 0.0))
    assert fleet.snapshot().wait_s.tolist() == [0, 8]
    away.clear()
    fleet.invalidate()
    assert fleet.snapshot().wait_s.tolist() == [0, 0]
