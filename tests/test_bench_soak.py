"""What the soak counts: each answer is whole and belongs to its question, or it is told."""

import json

import pytest

pytest.importorskip("benchmarks.soak")  # the wheel has no benchmarks

from benchmarks.soak import (
    EVENTS,
    MARK,
    WHOLE,
    AnswerParser,
    SoakAnswer,
    SoakRequest,
    build_request,
    find_fault,
    frame,
    judge,
)

EXPERTS = ["large", "medium", "steady"]
HEAD = b"HTTP/1.1 200 OK\r\nX-Thalamus-Expert: large\r\n"
STREAM = b"".join(EVENTS)


def question(stream: bool = False, expert: str = "auto") -> SoakRequest:
    return SoakRequest(7, b"", expert, stream, False, None)


def answer(body: bytes, number: bytes = b"7", head: bytes = HEAD) -> SoakAnswer:
    return SoakAnswer(head.lower(), body.replace(MARK, number))


@pytest.mark.parametrize(("stream", "body"), [(False, WHOLE), (True, STREAM)])
def test_an_answer_counts_for_its_own_question_only(stream: bool, body: bytes) -> None:
    assert judge(question(stream), answer(body)) == "answered"
    assert judge(question(stream), answer(body, b"8")).startswith("WRONG")
    assert judge(question(stream), answer(body[:-30])).startswith("WRONG")
    assert judge(question(stream), answer(b"")).startswith("WRONG")


def test_an_answer_of_another_expert_is_one_of_a_fallback() -> None:
    assert judge(question(expert="large"), answer(WHOLE)) == "answered"
    assert judge(question(expert="steady"), answer(WHOLE)) == "answered by a fallback"
    reason = HEAD + b"X-Thalamus-Reason: best; fallback: medium failed\r\n"
    assert judge(question(), answer(WHOLE, head=reason)) == "answered by a fallback"


def test_errors_come_with_an_object() -> None:
    error = json.dumps({"error": {"message": "no"}}).encode()
    refused = b"HTTP/1.1 502 Bad Gateway"
    assert judge(question(), answer(error, head=refused)) == "error 502"
    assert judge(question(), answer(b"<html>", head=refused)).startswith("WRONG")
    broken = EVENTS[0] + b"data: " + error + b"\n\n" + EVENTS[-1]
    assert judge(question(stream=True), answer(broken)) == "error in a stream"


def test_answers_are_read_however_they_arrive() -> None:
    chunks = HEAD + b"transfer-encoding: chunked\r\n\r\n" + frame(*EVENTS) + b"0\r\n\r\n"
    whole = HEAD + b"content-length: %d\r\n\r\n" % len(WHOLE) + WHOLE
    for n in (1, 7, 100_000):
        parser, found = AnswerParser(), []
        for data in (chunks, whole):
            parts = [parser.feed(data[at : at + n]) for at in range(0, len(data), n)]
            found += [one.body for one in parts if one is not None]
        assert found == [STREAM, WHOLE]
        assert parser.is_empty


def test_requests_and_faults_follow_from_their_numbers() -> None:
    requests = [build_request(n, EXPERTS) for n in range(2000)]
    assert requests == [build_request(n, EXPERTS) for n in range(2000)]
    assert {one.expert for one in requests} == {"auto", *EXPERTS}
    assert any(one.is_long for one in requests)
    assert sum(one.leave_s is not None for one in requests) == pytest.approx(40, abs=20)
    faults = [find_fault("large", n) for n in range(2000)]
    assert sum(fault is not None for fault in faults) == pytest.approx(240, abs=60)
