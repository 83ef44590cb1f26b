"""Health and load: when an expert is left alone, and how it comes back."""

import itertools

import pytest

from gateway.experts.types import UpstreamError
from gateway.fleet.circuit_breaker import FIRST_COOLDOWN_S, N_IN_A_ROW, N_REFUSED_IN_A_ROW, PROBE_LOST_S
from gateway.fleet.health import FleetState, PeerReport

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


_numbers = itertools.count()


def new_fields() -> dict[str, bytes]:
    """The fields of a request that was not made before."""
    return {"messages": f'[{{"role": "user", "content": "{next(_numbers)}"}}]'.encode()}


def fail(fleet: FleetState, error: UpstreamError, times: int = 1, caller: str | None = None) -> None:
    """So many different requests fail."""
    for _ in range(times):
        fields = new_fields()
        assert fleet.admit("a", caller, fields)
        fleet.record_failure("a", error, 0.0, caller, fields)


def test_a_single_failure_changes_nothing(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW - 1)
    assert fleet.snapshot().available.tolist() == [True, True]


def test_repeated_failures_start_a_cooldown_in_the_snapshot(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
    snapshot = fleet.snapshot()
    assert snapshot.available.tolist() == [False, True]
    assert "answered 500" in snapshot.unavailable["a"]
    assert fleet.state("a")["state"] == "open"
    assert not fleet.admit("a")


def test_a_success_in_between_starts_the_count_again(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW - 1)
    fleet.admit("a")
    fleet.record_success("a", 0.1)
    fail(fleet, BROKEN, N_IN_A_ROW - 1)
    assert fleet.snapshot().available[0]


def test_an_upstream_that_names_its_seconds_is_obeyed(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, LIMITED, 2)
    assert fleet.cooldown_s("a") == 7
    assert not fleet.admit("a", insist=True)
    clock.now += 7
    assert fleet.admit("a")


def test_insist_ignores_a_cooldown_the_upstream_did_not_ask_for(fleet: FleetState) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
    assert fleet.admit("a", insist=True)


def test_after_a_cooldown_one_probe_goes_first(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
    clock.now += FIRST_COOLDOWN_S
    assert fleet.state("a")["state"] == "half-open"
    assert fleet.snapshot().available[0]
    assert fleet.admit("a")
    assert not fleet.snapshot().available[0]
    assert not fleet.admit("a")


def test_a_probe_that_succeeds_opens_the_way(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
    clock.now += FIRST_COOLDOWN_S
    fleet.admit("a")
    fleet.record_success("a", 0.1)
    assert fleet.state("a")["state"] == "closed"
    assert fleet.admit("a")
    assert fleet.admit("a")


def test_a_probe_that_fails_doubles_the_cooldown(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
    clock.now += FIRST_COOLDOWN_S
    fail(fleet, BROKEN)
    assert fleet.cooldown_s("a") == 2 * FIRST_COOLDOWN_S


def test_an_abandoned_probe_lets_the_next_one_try(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
    clock.now += FIRST_COOLDOWN_S
    fleet.admit("a")
    fleet.release("a")
    assert fleet.snapshot().available[0]
    assert fleet.admit("a")


def test_a_lost_probe_blocks_other_probes_for_a_while_only(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
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
        UpstreamError("unsent", "was not called: the gateway is out of free file descriptors", status=503),
        UpstreamError("deadline", "was stopped"),
    ],
)
def test_a_request_at_fault_does_not_tell_on_the_expert(fleet: FleetState, error: UpstreamError) -> None:
    fail(fleet, error, 50)
    assert fleet.state("a")["state"] == "closed"
    assert fleet.state("a")["n_failed"] == 0


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


def test_a_wrong_key_is_a_cooldown_once_it_is_sure(fleet: FleetState) -> None:
    fail(fleet, UpstreamError("status", "answered 401", status=401), N_REFUSED_IN_A_ROW - 1)
    assert fleet.snapshot().available[0]
    fail(fleet, UpstreamError("status", "answered 401", status=401))
    assert not fleet.snapshot().available[0]
    assert fleet.cooldown_s("a") == 30


def test_an_expert_out_of_memory_is_waited_for_as_long_as_it_takes_to_load(clock: Clock) -> None:
    away = {"b": 8.0}
    fleet = FleetState(["a", "b"], {"a": None, "b": 2}, clock, lambda name: away.get(name, 0.0))
    assert fleet.snapshot().wait_s.tolist() == [0, 8]
    away.clear()
    fleet.invalidate()
    assert fleet.snapshot().wait_s.tolist() == [0, 0]


def test_a_probe_ends_with_its_first_token(fleet: FleetState, clock: Clock) -> None:
    fail(fleet, BROKEN, N_IN_A_ROW)
    clock.now += FIRST_COOLDOWN_S
    fields = new_fields()
    assert fleet.admit("a", None, fields)
    assert not fleet.admit("a")
    fleet.record_first_token("a", 0.0, None, fields)
    assert fleet.state("a")["state"] == "closed"
    assert fleet.snapshot().available[0]
    assert fleet.admit("a")
    clock.now += 600  # the stream goes on for ten minutes
    fleet.record_success("a", 600.0, has_spoken=True)
    assert (fleet.state("a")["in_flight"], fleet.state("a")["n_answered"]) == (1, 1)


def test_a_stream_that_breaks_off_counts_as_one_failure(fleet: FleetState) -> None:
    for _ in range(N_IN_A_ROW):
        fields = new_fields()
        assert fleet.admit("a", None, fields)
        fleet.record_first_token("a", 0.0, None, fields)
        fleet.record_failure("a", BROKEN, 0.0, None, fields, has_spoken=True)
    assert fleet.state("a")["state"] == "open"
    assert (fleet.state("a")["n_failed"], fleet.state("a")["in_flight"]) == (N_IN_A_ROW, 0)


def test_calls_that_may_yet_be_answered_speak_for_the_expert(fleet: FleetState, clock: Clock) -> None:
    running = [new_fields() for _ in range(50)]
    for fields in running:
        fleet.admit("a", None, fields)
    fail(fleet, BROKEN, 40)
    assert fleet.state("a")["state"] == "closed"
    for fields in running:  # their streams begin, and speak no more for what is not known
        fleet.record_first_token("a", 0.0, None, fields)
    fail(fleet, BROKEN, N_IN_A_ROW)
    assert fleet.state("a")["state"] == "open"


def test_a_caller_takes_the_expert_from_no_other(clock: Clock) -> None:
    fleet = FleetState(["a", "b"], {"a": None}, clock, tells_callers=True)
    for _ in range(200):
        fields = new_fields()
        if fleet.admit("a", "attacker", fields):
            fleet.record_failure("a", BROKEN, 0.0, "attacker", fields)
    assert fleet.snapshot().available[0]
    assert not fleet.admit("a", "attacker", new_fields())
    assert fleet.cooldown_s("a", "attacker", new_fields()) > 0
    assert (fleet.cooldown_s("a", "victim", new_fields()), fleet.state("a")["cooldown_s"]) == (0, 0)
    assert fleet.admit("a", "victim", new_fields())
    assert fleet.state("a")["n_held_off"] == 1


def test_the_state_says_how_much_fails(fleet: FleetState) -> None:
    assert (fleet.state("a")["failure_rate"], fleet.state("a")["n_opened"]) == (None, 0)
    fail(fleet, BROKEN)
    fleet.admit("a")
    fleet.record_success("a", 0.1)
    assert fleet.state("a")["failure_rate"] == 0.5
    fail(fleet, BROKEN, N_IN_A_ROW)
    assert fleet.state("a")["n_opened"] == 1


def test_the_last_error_says_nothing_that_the_upstream_said(fleet: FleetState) -> None:
    fail(fleet, UpstreamError("status", "answered 500: the prompt", status=500, cause="answered 500"))
    assert fleet.state("a")["last_error"] == "answered 500"


def test_a_further_attempt_spares_an_expert_that_failed_last(fleet: FleetState, clock: Clock) -> None:
    assert all(fleet.may_retry("a", None) for _ in range(20))  # nothing speaks against it
    fail(fleet, BROKEN)
    while fleet.retries.has_token(None):
        assert fleet.may_retry("a", None)
        fleet.retries.charge(None)
    assert not fleet.may_retry("a", None)
    assert fleet.may_retry("b", None)
    fleet.admit("a")
    fleet.record_success("a", 0.1)
    assert fleet.may_retry("a", None)
    assert fleet.retries.n_refused == 1


@pytest.mark.parametrize(("heard_s", "obeyed_s"), [(30.0, 30), (1e9, 3600), (-5.0, 0)])
def test_the_wait_that_a_peer_reports_is_bounded(
    fleet: FleetState, clock: Clock, heard_s: float, obeyed_s: float
) -> None:
    fleet.merge_peers({"a": PeerReport(wait_s=heard_s)})
    assert fleet.cooldown_s("a") == obeyed_s
    assert fleet.snapshot().available[0] == (obeyed_s == 0)


def test_what_fails_at_a_peer_is_not_suspect_where_it_is_answered(fleet: FleetState) -> None:
    for _ in range(5):
        fleet.admit("a")
        fleet.record_success("a", 0.1)
        fleet.merge_peers({"a": PeerReport(failing=True)})
        fail(fleet, BROKEN)
    assert fleet.snapshot().available[0]


def test_another_expert_can_answer_while_its_circuit_is_closed(fleet: FleetState) -> None:
    assert fleet.has_other("b", ["b", "a"])
    assert not fleet.has_other("a", ["a"])
    fail(fleet, BROKEN, N_IN_A_ROW)
    assert not fleet.has_other("b", ["b", "a"])
    assert fleet.has_other("a", ["b", "a"])
