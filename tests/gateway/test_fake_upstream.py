"""The fake upstream that users test with, in a synchronous test."""

import httpx
import pytest

from gateway.testing import FakeUpstream

BODY = {"model": "good", "messages": [{"role": "user", "content": "hi"}]}


def test_it_answers_a_synchronous_test_and_counts_the_call() -> None:
    with FakeUpstream().in_thread() as upstream:
        response = httpx.post(f"{upstream.base_url}/chat/completions", json=BODY)
        assert response.json()["model"] == "good"
        assert upstream.n_calls("good") == 1


def test_its_port_is_closed_after_a_body_that_raises() -> None:
    upstream = FakeUpstream()
    with pytest.raises(KeyError), upstream.in_thread():
        raise KeyError
    with pytest.raises(httpx.ConnectError):
        httpx.post(f"{upstream.base_url}/chat/completions", json=BODY)
