"""The breaker of one expert: what each outcome of a call changes, on a clock of its own."""

import random

import pytest

from gateway.experts.types import UpstreamError
from gateway.fleet.circuit_breaker import (
    FIRST_COOLDOWN_S,
    MAX_SCOPES,
    N_IN_A_ROW,
    N_REFUSED_IN_A_ROW,
    PROBE_LOST_S,
    REMEMBERED_S,
    CallSource,
    CircuitBreaker,
    RetryBudget,
    classify_failure,
    compute_pause_s,
)

BROKEN = UpstreamError("status", "answered 500", status=500)
REJECTED = UpstreamError("status", "answered 401", status=401)
LIMITED = UpstreamError("status", "answered 429", status=429)


def build_limit(wait_s: float) -> UpstreamError:
    return UpstreamError("status", "answered 429", status=429, retry_after_s=wait_s)


def ask(prompt: object, caller: str | None = None) -> CallSource:
    return CallSource(caller, {"messages": f'[{{"role": "user", "content": "{prompt}"}}]'.encode()})


def fail(
    breaker: CircuitBreaker,
    n: int,
    error: UpstreamError = BROKEN,
    now: float = 0.0,
    caller: str | None = None,
) -> None:
    """So many different requests fail."""
    for _ in range(n):
        breaker.record_failure(error, now, ask(random.random(), caller))


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker()


@pytest.fixture
def with_keys() -> CircuitBreaker:
    """One of a gateway whose callers have keys of their own."""
    return CircuitBreaker(tells_callers=True)


@pytest.fixture
def open_breaker(breaker: CircuitBreaker) -> CircuitBreaker:
    """Opened by failures at second 0, for five seconds."""
    fail(breaker, N_IN_A_ROW)
    return breaker


def test_a_new_breaker_is_closed(breaker: CircuitBreaker) -> None:
    assert (breaker.state(0.0), breaker.is_available(0.0), breaker.admit(0.0)) == ("closed", True, True)
    assert (breaker.last_error, breaker.asked_to_wait, breaker.record_success(0.0)) == (None, False, False)
    assert (breaker.n_opened, breaker.until, breaker.probe_since) == (0, 0.0, None)


# -- what opens it


def test_different_requests_that_fail_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, N_IN_A_ROW - 1)
    assert breaker.state(0.0) == "closed"
    fail(breaker, 1)
    assert (breaker.state(0.0), breaker.until, breaker.last_error) == ("open", 5.0, "answered 500")


def test_an_answer_in_between_begins_the_row_anew(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        fail(breaker, N_IN_A_ROW - 1)
        breaker.record_success(0.0, ask("good"))
    assert breaker.state(0.0) == "closed"
    assert breaker.failure_rate(0.0) == pytest.approx(21 / 24)


def test_with_little_traffic_three_in_a_row_are_enough_where_they_lie_apart(breaker: CircuitBreaker) -> None:
    for now in (0.0, 2.0, 4.9):
        fail(breaker, 1, now=now)
    assert breaker.state(5.0) == "closed"
    fail(breaker, 1, now=5.0)
    assert breaker.state(5.0) == "open"


def test_a_failure_of_long_ago_does_not_count(breaker: CircuitBreaker) -> None:
    for n in range(20):
        fail(breaker, 2, now=n * (REMEMBERED_S + 1))
    assert breaker.state(20 * (REMEMBERED_S + 1)) == "closed"


@pytest.mark.parametrize(
    ("n_good_of_ten", "opens"), [(9, False), (8, False), (7, False), (4, True), (2, True)]
)
def test_the_share_of_failures_opens_it(breaker: CircuitBreaker, n_good_of_ten: int, opens: bool) -> None:
    draw, was_open = random.Random(3), False
    for n in range(400):
        now = n / 20
        if draw.random() * 10 < n_good_of_ten:
            breaker.record_success(now, ask(n))
        else:
            breaker.record_failure(BROKEN, now, ask(n))
        was_open = was_open or breaker.state(now) != "closed"
    assert was_open == opens


def test_failures_that_are_faster_than_answers_do_not_count_for_more(breaker: CircuitBreaker) -> None:
    # 250 calls begin at once; the 50 that fail are seen before the first answer.
    for n in range(50):
        breaker.record_failure(BROKEN, 0.01, ask(n), 0.0, n_pending=250 - n - 1)
    assert breaker.state(0.01) == "closed"
    for n in range(200):
        breaker.record_failure(BROKEN, 0.02, ask(100 + n), 0.0, n_pending=200 - n - 1)
    assert breaker.state(0.02) == "open"


def test_refusals_open_it_later_than_errors(breaker: CircuitBreaker) -> None:
    fail(breaker, N_REFUSED_IN_A_ROW - 1, REJECTED)
    assert breaker.state(0.0) == "closed"
    fail(breaker, 1, REJECTED)
    assert (breaker.state(0.0), breaker.until) == ("open", 30.0)


def test_a_limit_that_two_requests_meet_opens_it_for_as_long_as_it_says(breaker: CircuitBreaker) -> None:
    fail(breaker, 1, build_limit(7))
    assert breaker.state(0.0) == "closed"
    fail(breaker, 1, build_limit(7), now=1.0)
    assert (breaker.state(1.0), breaker.until, breaker.asked_to_wait) == ("open", 8.0, True)


def test_a_limit_that_another_request_does_not_meet_opens_nothing(breaker: CircuitBreaker) -> None:
    for n in range(20):
        fail(breaker, 1, build_limit(60), now=n)
        breaker.record_success(float(n), ask("small"))
    assert breaker.state(20.0) == "closed"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (BROKEN, "server"),
        (UpstreamError("timeout", "took long", status=408), "server"),
        (UpstreamError("connect", "cannot be connected to"), "server"),
        (UpstreamError("status", "answered 503", status=503), "server"),
        (UpstreamError("status", "answered 503", status=503, retry_after_s=3), "limit"),
        (UpstreamError("status", "answered 500", status=500, retry_after_s=0), "limit"),
        (LIMITED, "limit"),
        (UpstreamError("status", "answered 498", status=498), "limit"),
        (UpstreamError("status", "answered 529", status=529), "limit"),
        (REJECTED, "refused"),
        (UpstreamError("status", "answered 403", status=403), "refused"),
        (UpstreamError("status", "answered 404", status=404), "refused"),
        (UpstreamError("status", "answered 308", status=308), "refused"),
        (UpstreamError("quota", "answered 402", status=402), "refused"),
        (UpstreamError("quota", "reported an error"), "refused"),
    ],
)
def test_the_cause_of_a_failure(error: UpstreamError, cause: str) -> None:
    assert classify_failure(error) == cause


# -- who is held off


@pytest.mark.parametrize("error", [BROKEN, REJECTED, LIMITED, build_limit(86400)])
@pytest.mark.parametrize("keys", [False, True])
def test_a_request_that_kills_its_upstream_closes_the_way_to_itself_only(
    error: UpstreamError, keys: bool
) -> None:
    breaker = CircuitBreaker(keys)
    for _ in range(100):
        breaker.record_failure(error, 0.0, ask("kill", "a"))
    assert not breaker.admit(0.0, ask("kill", "a"))
    assert breaker.admit(0.0, ask("other", "a"))
    assert breaker.admit(0.0, ask("other", "b"))
    assert breaker.is_available(0.0)
    assert breaker.n_held_off(0.0) == 1


@pytest.mark.parametrize("error", [BROKEN, REJECTED, LIMITED, build_limit(86400)])
def test_a_caller_whose_requests_fail_is_held_off_alone(
    with_keys: CircuitBreaker, error: UpstreamError
) -> None:
    fail(with_keys, 100, error, caller="a")
    assert not with_keys.admit(0.0, ask("another", "a"))
    assert with_keys.admit(0.0, ask("another", "b"))
    assert with_keys.admit(0.0, ask("another"))
    assert with_keys.is_available(0.0)


def test_a_flood_of_one_caller_does_not_turn_a_failure_of_another_against_all(
    with_keys: CircuitBreaker,
) -> None:
    for n in range(50):
        fail(with_keys, 10, now=n / 10, caller="a")
        if n % 10 == 0:
            with_keys.record_failure(BROKEN, n / 10, ask(n, "b"))
        with_keys.record_success(n / 10, ask(n, "b"))
    assert with_keys.is_available(5.0)


def test_failures_of_several_callers_open_it_for_all(with_keys: CircuitBreaker) -> None:
    for n in range(N_IN_A_ROW + 1):
        assert with_keys.is_available(0.0)
        fail(with_keys, 1, caller=f"caller {n}")
    assert not with_keys.is_available(0.0)
    assert not with_keys.admit(0.0, ask("x", "another"))


def test_two_callers_alone_open_it_for_all_too(with_keys: CircuitBreaker) -> None:
    for _ in range(N_IN_A_ROW):
        fail(with_keys, 1, caller="a")
        fail(with_keys, 1, caller="b")
    assert not with_keys.is_available(0.0)


def test_a_limit_that_two_callers_meet_opens_it_for_all(with_keys: CircuitBreaker) -> None:
    fail(with_keys, 3, build_limit(9), caller="a")
    assert with_keys.is_available(0.0)
    fail(with_keys, 1, build_limit(9), caller="b")
    assert (with_keys.is_available(0.0), with_keys.until) == (False, 9.0)


def test_equal_prompts_are_one_request_however_they_are_asked() -> None:
    body = b'[{"role": "user", "content": "x"}]'
    one = CallSource(None, {"messages": body, "temperature": b"0"})
    other = CallSource(None, {"messages": memoryview(body), "seed": b"7"})
    assert one.request == other.request != ask("y").request
    # Long prompts are told apart by both ends.
    long = [CallSource(None, {"prompt": b"a" * 50_000 + end}).request for end in (b"1", b"2")]
    assert long[0] != long[1]


def test_the_requests_that_are_held_off_are_bounded(with_keys: CircuitBreaker) -> None:
    for n in range(2 * MAX_SCOPES):
        with_keys.record_failure(build_limit(60), float(n), ask(n, f"caller {n}"))
        with_keys.record_success(float(n), ask("good", "b"))
    assert len(with_keys.scoped) <= MAX_SCOPES
    with_keys.admit(1e6, ask("x"))
    assert not with_keys.scoped


# -- how long


@pytest.mark.parametrize(
    ("error", "pauses_s"),
    [
        (LIMITED, [5, 10, 20, 40, 60, 60]),
        (BROKEN, [5, 10, 20, 40, 60, 60]),
        (REJECTED, [30, 30, 30]),
        (UpstreamError("status", "answered 403", status=403), [30, 30]),
        (UpstreamError("quota", "answered 402", status=402), [30, 30]),
        (build_limit(7), [7, 7, 7]),
        (build_limit(0), [1, 2, 4, 8, 16, 32, 60, 60]),
        (build_limit(0.001), [1, 2, 4]),
        (build_limit(-5), [1, 2]),
        (build_limit(float("nan")), [1, 2]),
        (build_limit(50), [50, 50]),
        (build_limit(90), [60, 90, 90]),
        (build_limit(86400), [60, 300, 1200, 3600, 3600]),
        (build_limit(float("inf")), [60, 300, 1200, 3600, 3600]),
    ],
)
def test_the_cooldown_after_each_probe_that_fails(error: UpstreamError, pauses_s: list[int]) -> None:
    assert [compute_pause_s(error, n) for n in range(len(pauses_s))] == pauses_s
    assert compute_pause_s(error, 10_000) <= 3600


def test_failures_of_calls_that_began_before_do_not_prolong_a_cooldown(open_breaker: CircuitBreaker) -> None:
    for n in range(200):
        open_breaker.record_failure(BROKEN, 1.0, ask(n), started_s=-1.0)
    assert (open_breaker.until, open_breaker.n_opened) == (5.0, 1)


def test_an_answer_to_a_call_that_began_before_does_not_end_a_cooldown(open_breaker: CircuitBreaker) -> None:
    assert not open_breaker.record_success(1.0, ask("slow"), started_s=-30.0)
    assert open_breaker.state(1.0) == "open"


def test_insist_goes_through_a_cooldown_the_upstream_did_not_ask_for(open_breaker: CircuitBreaker) -> None:
    assert open_breaker.admit(1.0, ask("x"), insist=True)
    asked = CircuitBreaker()
    fail(asked, 2, build_limit(7))
    assert not asked.admit(1.0, ask("x"), insist=True)
    assert asked.admit(7.0, ask("x"), insist=True)


# -- how it comes back


def test_it_is_open_until_the_cooldown_ends(open_breaker: CircuitBreaker) -> None:
    assert [open_breaker.state(now) for now in (0.0, 4.9, 5.0)] == ["open", "open", "half-open"]
    assert [open_breaker.is_available(now) for now in (0.0, 4.9, 5.0)] == [False, False, True]
    assert [open_breaker.wait_s(now) for now in (0.0, 4.0, 5.0, 9.0)] == [5.0, 1.0, 0.0, 0.0]
    assert not open_breaker.admit(4.9)
    assert open_breaker.probe_since is None


def test_half_open_admits_one_probe_until_it_is_lost(open_breaker: CircuitBreaker) -> None:
    assert open_breaker.admit(5.0)
    assert not open_breaker.admit(5.0)
    assert not open_breaker.is_available(5.0 + PROBE_LOST_S)
    later = 5.1 + PROBE_LOST_S
    assert open_breaker.admit(later)  # without a verdict for so long the probe is lost, another may go
    assert not open_breaker.admit(later)


def test_a_failed_probe_opens_it_again_for_longer(open_breaker: CircuitBreaker) -> None:
    open_breaker.admit(5.0, ask("x"))
    assert open_breaker.record_failure(BROKEN, 6.0, ask("x"), started_s=5.0)
    assert (open_breaker.until, open_breaker.probe_since, open_breaker.state(15.0)) == (16.0, None, "open")


def test_a_successful_probe_closes_it_and_forgets(open_breaker: CircuitBreaker) -> None:
    open_breaker.admit(5.0, ask("x"))
    assert open_breaker.record_success(5.5, ask("x"), started_s=5.0)
    assert (open_breaker.n_opened, open_breaker.until, open_breaker.probe_since) == (0, 0.0, None)
    fail(open_breaker, N_IN_A_ROW - 1, now=6.0)
    assert open_breaker.state(6.0) == "closed"


def test_a_released_probe_leaves_room_for_another(open_breaker: CircuitBreaker) -> None:
    assert not open_breaker.release()
    open_breaker.admit(5.0)
    assert not open_breaker.release(None, started_s=-1.0)  # another call, which began before
    assert not open_breaker.admit(5.0)
    assert open_breaker.release(None, started_s=5.0)
    assert open_breaker.admit(5.0)


def test_after_a_failed_probe_others_go_first(open_breaker: CircuitBreaker) -> None:
    open_breaker.admit(5.0, ask("kill"))
    open_breaker.record_failure(BROKEN, 5.0, ask("kill"), 5.0)
    assert not open_breaker.admit(15.0, ask("kill"))
    assert open_breaker.admit(15.0, ask("other"))
    open_breaker.release(ask("other"), 15.0)
    assert open_breaker.admit(15.0 + FIRST_COOLDOWN_S, ask("kill"))  # alone it goes a little later


def test_a_held_off_request_comes_back_by_a_probe_of_its_own(breaker: CircuitBreaker) -> None:
    breaker.record_failure(build_limit(7), 0.0, ask("large"))
    assert not breaker.admit(6.9, ask("large"))
    assert breaker.wait_s(5.0, ask("large")) == 2.0
    assert breaker.admit(7.0, ask("large"))
    assert breaker.record_success(7.5, ask("large"), 7.0)
    assert not breaker.scoped


# -- streams, peers


def test_a_stream_that_breaks_off_is_a_failure_and_no_answer(breaker: CircuitBreaker) -> None:
    fail(breaker, 1)
    for n in range(N_IN_A_ROW - 1):
        assert breaker.state(0.0) == "closed"
        breaker.record_success(0.0, ask(n))
        breaker.record_failure(BROKEN, 0.0, ask(n), has_spoken=True)
    assert breaker.state(0.0) == "open"


def test_a_suspected_expert_opens_at_the_next_failure(breaker: CircuitBreaker) -> None:
    breaker.is_suspect = True
    assert breaker.state(0.0) == "closed"
    fail(breaker, 1)
    assert breaker.until == 5.0


@pytest.mark.parametrize("error", [REJECTED, LIMITED])
def test_what_a_request_may_have_caused_confirms_no_suspicion(
    breaker: CircuitBreaker, error: UpstreamError
) -> None:
    breaker.is_suspect = True
    fail(breaker, 1, error)
    assert breaker.state(0.0) == "closed"


def test_an_answer_ends_a_suspicion(breaker: CircuitBreaker) -> None:
    breaker.is_suspect = True
    fail(breaker, 1, REJECTED)
    breaker.record_success(0.0, ask("x"))
    fail(breaker, 1)
    assert breaker.state(0.0) == "closed"


# -- further attempts


def test_further_attempts_that_fail_use_up_a_share_of_the_requests() -> None:
    budget, n_made = RetryBudget(), 0
    for _ in range(1000):
        budget.n_requests += 1
        while budget.has_token("a"):
            budget.charge("a")
            n_made += 1
    assert 200 <= n_made <= 204
    assert budget.has_token("b")


def test_the_budget_does_not_grow_without_bound() -> None:
    budget = RetryBudget()
    budget.charge(None)
    budget.n_requests += 1_000_000
    n_made = 0
    while budget.has_token(None):
        budget.charge(None)
        n_made += 1
    assert n_made == 10
