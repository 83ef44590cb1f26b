import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import AdmissionRule, Admitted, QueueState, Rejected, admit


def test_an_expert_with_a_free_slot_takes_a_request_at_once() -> None:
    assert admit(QueueState(0, 1, 2, service_s=3.0), AdmissionRule()) == Admitted(0.0)


def test_who_comes_into_a_line_is_told_how_long_it_is() -> None:
    assert admit(QueueState(3, 2, 2, service_s=4.0, ahead_s=10.0), AdmissionRule()) == Admitted(18.0)


def test_a_full_line_says_when_it_has_room_again() -> None:
    full = QueueState(10, 2, 2, service_s=4.0, ahead_s=5.0)
    assert admit(full, AdmissionRule(max_waiting=10)) == Rejected(7.0)


def test_a_line_too_slow_says_when_it_will_be_short_enough() -> None:
    slow = QueueState(10, 2, 2, service_s=4.0)
    assert admit(slow, AdmissionRule(max_wait_s=15.0)) == Rejected(7.0)


@given(
    st.builds(
        QueueState, *[st.integers(0, 500)] * 2, st.integers(1, 64), st.floats(0, 60), st.floats(0, 300)
    ),
    st.builds(AdmissionRule, st.integers(1, 300), st.floats(0, 300)),
)
def test_nobody_is_admitted_past_either_bound_and_nobody_told_to_come_back_at_once(
    line: QueueState, rule: AdmissionRule
) -> None:
    admission = admit(line, rule)
    if isinstance(admission, Admitted):
        assert admission.wait_s <= rule.max_wait_s
        assert line.n_waiting < rule.max_waiting
    else:
        assert admission.retry_after_s >= 1.0


@pytest.mark.parametrize(("n_waiting", "admission"), [(9, Admitted(20.0)), (10, Rejected(2.0))])
def test_the_last_place_of_a_line_is_given_away(n_waiting: int, admission: Admitted | Rejected) -> None:
    queue = QueueState(n_waiting, 1, 1, service_s=2.0)
    assert admit(queue, AdmissionRule(max_waiting=10)) == admission


@pytest.mark.parametrize(("max_wait_s", "admission"), [(12.0, Admitted(12.0)), (10.0, Rejected(2.0))])
def test_a_wait_as_long_as_allowed_is_allowed(max_wait_s: float, admission: Admitted | Rejected) -> None:
    queue = QueueState(2, 1, 1, service_s=4.0)
    assert admit(queue, AdmissionRule(max_wait_s=max_wait_s)) == admission


def test_the_first_request_too_many_starts_after_one_answer() -> None:
    assert QueueState(0, 2, 2, service_s=3.0).wait_s() == 1.5


def test_a_queue_is_expected_to_answer_at_once_where_nothing_is_said() -> None:
    assert QueueState(0, 0, 1, service_s=3.0).ahead_s == 0.0


def test_a_line_with_a_place_left_is_not_waited_for_but_its_length() -> None:
    queue = QueueState(9, 1, 1, service_s=2.0, ahead_s=50.0)
    assert admit(queue, AdmissionRule(max_waiting=10, max_wait_s=67.0)) == Rejected(3.0)


def test_a_line_over_its_length_by_two_is_waited_for_twice() -> None:
    queue = QueueState(11, 1, 1, service_s=2.0, ahead_s=50.0)
    assert admit(queue, AdmissionRule(max_waiting=10)) == Rejected(54.0)


def test_no_client_is_told_to_return_within_a_second() -> None:
    queue = QueueState(10, 1, 1, service_s=0.1)
    assert admit(queue, AdmissionRule(max_waiting=10)) == Rejected(1.0)
