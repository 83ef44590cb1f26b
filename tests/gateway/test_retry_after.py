"""How long an upstream asks to wait, in every form it is said in."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.openai.failures import read_failure
from gateway.openai.retry_after import read_rate_reset_s, read_retry_after_s, read_wait_s

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("7s", 7.0),
        ("30 seconds", 30.0),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("250ms", 0.25),
        ("1h", 3600.0),
        ("1 hour, 1 minute", 3600.0),
        ("3601", 3600.0),
        ("1e300", 3600.0),
        (formatdate(NOW + 4, usegmt=True), 4.0),
        (formatdate(NOW + 7200, usegmt=True), 3600.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("2027-01-15T08:00:09Z", 9.0),
        ("2027-01-15T08:00:09", 9.0),
        ("1800000010", 10.0),
        ("1800000010000", 10.0),
        ("-5", None),
        ("-5s", None),
        ("nan", None),
        ("inf", None),
        ("9" * 400, 3600.0),
        ("", None),
        ("soon", None),
        ("5 apples", None),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("9999-99-99T99:99:99Z", None),
        (formatdate(NOW - 60, usegmt=True), None),
    ],
)
def test_b14_a_wait_is_read_in_every_form_and_bounded_by_an_hour(value: str, seconds: float | None) -> None:
    assert read_wait_s(value, NOW) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=200))
def test_b14_no_value_raises(value: str) -> None:
    wait_s = read_wait_s(value)
    assert wait_s is None or 0 <= wait_s <= 3600


def test_b14_milliseconds_win_over_seconds() -> None:
    assert read_retry_after_s({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert read_retry_after_s({"retry-after-ms": "x", "retry-after": "9"}) == 9.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 1.0),
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-requests": "10",
                "x-ratelimit-remaining-tokens": "0",
            },
            360.0,
        ),
        ({"X-RateLimit-Reset": "1800000012000"}, 12.0),
        ({"anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:09Z"}, 9.0),
        ({"x-ratelimit-reset": "never"}, None),
        ({"content-type": "application/json"}, None),
    ],
)
def test_b14_a_renewed_limit_is_a_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert read_rate_reset_s(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (b'{"error": {"message": "Please try again in 1m2.5s. Visit x"}}', {}, 62.5),
        (b'{"error": {"message": "Please retry in 34.07s."}}', {}, 34.07),
        (b'{"error": {"message": "retry after 30 seconds"}}', {}, 30.0),
        (b'[{"error": {"message": "x", "details": [{"retryDelay": "34s"}]}}]', {}, 34.0),
        (b'{"error": {"message": "x", "metadata": {"headers": {"Retry-After": "8"}}}}', {}, 8.0),
        (b'{"error": {"message": "try again in 9s"}}', {"retry-after": "3"}, 3.0),
        (b"<html>slow down</html>", {"x-ratelimit-reset": "5"}, 5.0),
        (b'{"error": {"message": "try again in 5 days"}}', {}, 3600.0),
        (b'{"error": {"message": "try again later"}}', {"retry-after": "later"}, None),
    ],
)
def test_b14_the_wait_of_a_429_is_read_from_headers_and_words(
    body: bytes, headers: dict[str, str], seconds: float | None
) -> None:
    assert read_failure(429, body, headers).retry_after_s == seconds


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_b15_every_status_that_may_pass_is_waited_for(status: int) -> None:
    failure = read_failure(status, b"", {"retry-after": "7"})
    assert (failure.retry_after_s, failure.can_succeed_later) == (7.0, True)


def test_the_limits_of_a_good_rate_are_no_wait() -> None:
    assert read_failure(500, b"", {"x-ratelimit-reset-requests": "1s"}).retry_after_s is None
    assert read_failure(400, b"", {"retry-after": "7"}).retry_after_s is None
