"""A stream gives its pieces as they come, and never ends silently before the answer is complete."""

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import AsyncClient, Client, StreamError, Usage
from gateway.client.exchange import EventDecoder
from tests.fakes.scripted_gateway import Scripted, ScriptedGateway, delta, events, json_answer

from .conftest import Connect, Flavour

HEADERS = {
    "content-type": "text/event-stream",
    "x-thalamus-expert": "house",
    "x-thalamus-decision-id": "dec-1",
}


def make_stream(*blocks: bytes, ending: Any = "whole") -> Scripted:
    return Scripted(200, HEADERS, blocks, ending)


def texts(data: bytes, *cuts: int) -> list[str]:
    """The data of the events in `data`, fed in pieces cut at the given places."""
    decoder = EventDecoder()
    edges = [0, *sorted(cuts), len(data)]
    pieces = (data[start:end] for start, end in itertools.pairwise(edges))
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_chunks_come_one_by_one_and_say_who_speaks(server: ScriptedGateway, flavour: Flavour) -> None:
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    server.will(make_stream(events(delta("Pa"), done=False), events(delta("ris"), last, usage)))
    chunks, error, routed = flavour.stream("hi")
    assert error is None
    assert server.received[0].body["stream"] is True
    assert [chunk.text for chunk in chunks] == ["Pa", "ris", "", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop", None]
    assert chunks[-1].usage == Usage(3, 2)
    assert chunks[0].raw == delta("Pa")
    assert (routed.expert, routed.decision_id) == ("house", "dec-1")


def test_text_cut_within_a_character_is_whole_again(server: ScriptedGateway, flavour: Flavour) -> None:
    body = events(delta("é北🙂"), delta("\u2028 stays one line"))
    server.will(make_stream(*(body[n : n + 1] for n in range(len(body)))))
    chunks, error, _ = flavour.stream("hi")
    assert error is None
    assert [chunk.text for chunk in chunks] == ["é北🙂", "\u2028 stays one line"]


@pytest.mark.parametrize(
    "message", [{"message": "expert died", "type": "upstream", "code": "cut"}, "expert died"]
)
def test_a_failure_told_within_the_stream_is_raised_after_what_came(
    server: ScriptedGateway, flavour: Flavour, message: Any
) -> None:
    server.will(make_stream(events(delta("Pa"), {"error": message}, done=False)))
    chunks, error, _ = flavour.stream("hi")
    assert [chunk.text for chunk in chunks] == ["Pa"]
    assert isinstance(error, StreamError)
    assert str(error) == "expert died"
    assert (error.type, error.code) == (("upstream", "cut") if isinstance(message, dict) else (None, None))


@pytest.mark.parametrize("ending", ["whole", "cut"])
def test_a_stream_that_ends_without_done_raises(
    server: ScriptedGateway, flavour: Flavour, ending: str
) -> None:
    server.will(
        [make_stream(events(delta("Pa"), done=False), ending=ending), make_stream(events(delta("again")))]
    )
    chunks, error, _ = flavour.stream("hi")
    assert [chunk.text for chunk in chunks] == ["Pa"]
    assert isinstance(error, StreamError)
    assert "before the answer was complete" in str(error)
    assert len(server.received) == 1


def test_an_empty_stream_raises(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(make_stream())
    assert isinstance(flavour.stream("hi")[1], StreamError)


def test_a_stream_that_falls_silent_raises_and_cancels(server: ScriptedGateway, connect: Connect) -> None:
    server.will(make_stream(events(delta("Pa"), done=False), ending="hold"))
    chunks, error, _ = connect(timeout=0.2).stream("hi")
    assert [chunk.text for chunk in chunks] == ["Pa"]
    assert isinstance(error, StreamError)
    assert "within the timeout" in str(error)
    assert server.left.wait(5)


@pytest.mark.parametrize("junk", [b"data: {broken\n\n", b"data: 17\n\n", b'data: {"choices": [3]}\n\n'])
def test_an_event_that_is_no_chunk_raises(server: ScriptedGateway, flavour: Flavour, junk: bytes) -> None:
    server.will(make_stream(events(delta("Pa"), done=False) + junk + events(delta("ris"))))
    chunks, error, _ = flavour.stream("hi")
    assert [chunk.text for chunk in chunks] == ["Pa"]
    assert isinstance(error, StreamError)


def test_leaving_early_cancels_upstream(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(make_stream(events(delta("Pa"), done=False), ending="hold"))
    assert flavour.leave_after_one("hi").text == "Pa"
    assert server.left.wait(5)


async def test_a_stream_never_read_is_cancelled_too(server: ScriptedGateway) -> None:
    server.will([make_stream(events(delta("Pa"), done=False), ending="hold")] * 2)
    with Client(server.url) as client:
        with client.chat("hi", stream=True):
            assert not server.left.is_set()
        assert server.left.wait(5)
    server.left.clear()
    async with AsyncClient(server.url) as async_client:
        async with await async_client.chat("hi", stream=True):
            assert not server.left.is_set()
        assert await asyncio.to_thread(server.left.wait, 5)


async def test_cancelling_the_task_cancels_upstream(server: ScriptedGateway) -> None:
    server.will(
        [Scripted(status=0, ending="hold"), make_stream(events(delta("Pa"), done=False), ending="hold")]
    )
    client = AsyncClient(server.url)

    async def read() -> None:
        async with await client.chat("hi", stream=True) as stream:
            async for _ in stream:
                pass

    for question in (client.chat("hi"), read()):
        task = asyncio.ensure_future(question)
        assert await asyncio.to_thread(server.held.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.left.wait, 5)
        server.held.clear()
        server.left.clear()
    await client.aclose()


def test_a_finished_stream_gives_its_connection_back(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(
        [make_stream(events(delta("a"))), make_stream(events(delta("b"), done=False), b"data: [DONE]\n\n")]
        * 2
    )
    for _ in range(4):
        assert flavour.stream("hi")[1] is None
    assert server.n_connections == 1


def test_a_stream_reads_nothing_after_it_was_closed(server: ScriptedGateway) -> None:
    server.will(make_stream(events(delta("a"), delta("b"))))
    with Client(server.url) as client:
        stream = client.chat("hi", stream=True)
        next(stream)
        stream.close()
        assert list(stream) == []


def test_a_gateway_that_ignores_stream_is_noticed(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(json_answer({"choices": []}))
    assert isinstance(flavour.stream("hi")[1], StreamError)


@given(
    st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1), min_size=1),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(
    payloads: list[str], newline: str, cuts: list[int]
) -> None:
    lines = [
        [": a comment", "event: chunk", f"data: {json.dumps(text, ensure_ascii=False)}", ""]
        for text in payloads
    ]
    data = "".join(line + newline for event in lines for line in event).encode()
    assert [json.loads(event) for event in texts(data, *(min(cut, len(data)) for cut in cuts))] == payloads


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_a_line_end_cut_in_two_ends_one_line(newline: bytes) -> None:
    data = newline.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])
    assert all(texts(data, cut) == ["a\nb", "c"] for cut in range(len(data)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data:a\n\ndata:  b\n\n", ["a", " b"]),
        (b":\n\n: keep-alive\r\n\r\ndata: a\r\n\r\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"id: 1\nretry: 5\ndatum: x\n\ndata: a\n\n", ["a"]),
        (b"data: half an event\n", []),
        (b"data\n\n", [""]),
    ],
)
def test_the_event_format_is_read_as_browsers_read_it(data: bytes, expected: list[str]) -> None:
    assert texts(data) == expected
