"""The fuzzer: it finds no fault, and it would."""

import pytest

pytest.importorskip("tools.fuzz")  # the wheel has no tools

from tools.fuzz import HANG_S, KINDS, FuzzReport, fuzz

pytestmark = pytest.mark.source


async def test_odd_bodies_uploads_heads_and_upstreams_bring_no_fault() -> None:
    report = await fuzz(KINDS, n_cases=60, seconds=30, seed=7)
    assert report.faults == []
    assert {kind for kind, _ in report.statuses} == set(KINDS)
    # Also what works is among them: a fuzzer whose cases are all refused at once tests nothing behind.
    assert {(kind, "200") for kind in KINDS} <= report.statuses.keys()
    assert report.n_odd > 20


@pytest.mark.parametrize(
    ("kind", "answer", "seconds", "fault"),
    [
        ("body", b"HTTP/1.1 500 Oh\r\n\r\n{}", 0.1, "status 500"),
        ("body", b'HTTP/1.1 502 Oh\r\n\r\n{"error": {"message": "m"}}', 0.1, "status 502"),
        ("head", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 Oh\r\n\r\n{}", 0.1, "status 500"),
        ("upstream", b"HTTP/1.1 500 Oh\r\n\r\n{}", 0.1, "status 500"),
        ("upstream", b"HTTP/1.1 502 Oh\r\n\r\nno", 0.1, "status 502 without an error object"),
        ("upstream", b'HTTP/1.1 502 Oh\r\n\r\n{"error": {"message": "m"}}', 0.1, ""),
        ("head", b"HTTP/1.1 400 Oh\r\n\r\n<html>", 0.1, "status 400 without an error object"),
        ("form", b"HTTP/1.1 200 OK\r\n\r\n", HANG_S, "no end"),
        (
            "form",
            b'HTTP/1.1 400 Oh\r\ncontent-length: 28\r\n\r\n{"error": {"message": "m"} }HTTP/1.1',
            0.1,
            "",
        ),
    ],
)
def test_what_counts_as_a_fault(kind: str, answer: bytes, seconds: float, fault: str) -> None:
    report = FuzzReport()
    report.add(kind, 1, b"POST / HTTP/1.1", answer, seconds)
    assert [line.partition(": ")[2].partition("\n")[0] for line in report.faults] == (
        [fault] if fault else []
    )
