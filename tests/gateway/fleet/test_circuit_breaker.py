"""The breaker of one expert: what each outcome of a call changes, on a clock of its own."""

import pytest

from gateway.experts.types import UpstreamError
from gateway.fleet.circuit_breaker import CircuitBreaker

BROKEN = UpstreamError("status", "answered 500", status=500)
REJECTED = UpstreamError("status", "answered 401", status=401)
LIMITED = UpstreamError("status", "answered 429", status=429)
LIMITED_7_S = UpstreamError("status", "answered 429", status=429, retry_after_s=7)


@pytest.fixture
def open_breaker() -> CircuitBreaker:
    """Opened by three failures at second 0, for five seconds."""
    breaker = CircuitBreaker()
    for _ in range(3):
        breaker.record_failure(BROKEN, 0.0)
    return breaker


def test_a_new_breaker_is_closed() -> None:
    breaker = CircuitBreaker()
    assert (breaker.state(0.0), breaker.is_available(0.0), breaker.admit(0.0)) == ("closed", True, True)
    assert (breaker.last_error, breaker.asked_to_wait, breaker.record_success()) == (None, False, False)
    assert (breaker.n_failures, breaker.n_opened, breaker.until, breaker.probe_since) == (0, 0, 0.0, None)


def test_the_third_failure_in_a_row_opens_it() -> None:
    breaker = CircuitBreaker()
    assert [breaker.record_failure(BROKEN, 0.0) for _ in range(3)] == [False, False, True]
    assert (breaker.last_error, breaker.asked_to_wait) == ("answered 500", False)


def test_it_is_open_until_the_cooldown_ends(open_breaker: CircuitBreaker) -> None:
    assert [open_breaker.state(now) for now in (0.0, 4.9, 5.0)] == ["open", "open", "half-open"]
    assert [open_breaker.is_available(now) for now in (0.0, 4.9, 5.0)] == [False, False, True]
    assert not open_breaker.admit(4.9)
    assert open_breaker.probe_since is None


@pytest.mark.parametrize(
    ("error", "pauses_s"),
    [
        (LIMITED, [5, 10, 20, 40, 60, 60]),
        (REJECTED, [30, 30, 30]),
        (UpstreamError("status", "answered 403", status=403), [30, 30]),
        (UpstreamError("quota", "answered 402", status=402), [30, 30]),
        (UpstreamError("status", "answered 529", status=529), [5, 10]),
        (LIMITED_7_S, [7, 7]),
        (BROKEN, [0, 0, 5, 10, 20, 40, 60]),
    ],
)
def test_the_cooldown_of_each_failure_in_a_row(error: UpstreamError, pauses_s: list[int]) -> None:
    breaker = CircuitBreaker()
    for n, pause_s in enumerate(pauses_s):
        now = 1000.0 * n
        assert breaker.record_failure(error, now) == (pause_s > 0)
        assert max(0.0, breaker.until - now) == pause_s


def test_a_shorter_cooldown_does_not_end_a_longer_one() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure(REJECTED, 0.0)
    breaker.record_failure(LIMITED_7_S, 1.0)
    assert (breaker.until, breaker.asked_to_wait) == (30.0, True)
    breaker.record_failure(REJECTED, 2.0)
    assert (breaker.until, breaker.asked_to_wait) == (32.0, False)


def test_half_open_admits_one_probe_until_it_is_lost(open_breaker: CircuitBreaker) -> None:
    assert open_breaker.admit(5.0)
    assert not open_breaker.admit(5.0)
    assert not open_breaker.is_available(125.0)
    assert open_breaker.admit(125.1)  # 120 s without a verdict: the probe is lost, another may go
    assert not open_breaker.admit(125.2)


def test_a_failed_probe_opens_it_again(open_breaker: CircuitBreaker) -> None:
    open_breaker.admit(5.0)
    assert open_breaker.record_failure(BROKEN, 6.0)
    assert (open_breaker.until, open_breaker.probe_since, open_breaker.state(15.0)) == (16.0, None, "open")


def test_a_successful_probe_closes_it_and_forgets(open_breaker: CircuitBreaker) -> None:
    open_breaker.record_failure(LIMITED_7_S, 0.0)
    open_breaker.admit(10.0)
    assert open_breaker.record_success()
    assert open_breaker.state(10.0) == "closed"
    assert (open_breaker.n_failures, open_breaker.n_opened, open_breaker.until, open_breaker.probe_since) == (
        0,
        0,
        0.0,
        None,
    )
    assert not open_breaker.asked_to_wait


def test_a_success_changes_a_count_of_failures() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure(BROKEN, 0.0)
    assert breaker.record_success()
    assert not breaker.record_success()


def test_a_released_probe_leaves_room_for_another(open_breaker: CircuitBreaker) -> None:
    assert not open_breaker.release()
    open_breaker.admit(5.0)
    assert open_breaker.release()
    assert open_breaker.admit(5.0)


def test_a_failure_without_a_pause_ends_a_probe() -> None:
    breaker = CircuitBreaker()
    breaker.record_failure(UpstreamError("status", "answered 429", status=429, retry_after_s=0), 0.0)
    breaker.probe_since = 0.0
    assert breaker.record_failure(BROKEN, 0.0)
    assert breaker.probe_since is None


def test_a_suspected_expert_opens_at_the_next_failure() -> None:
    breaker = CircuitBreaker()
    breaker.suspect()
    assert (breaker.n_failures, breaker.state(0.0)) == (2, "closed")
    assert breaker.record_failure(BROKEN, 0.0)
    assert breaker.until == 5.0


def test_suspicion_does_not_lower_the_count() -> None:
    breaker = CircuitBreaker()
    for _ in range(4):
        breaker.record_failure(BROKEN, 0.0)
    breaker.suspect()
    assert breaker.n_failures == 4
