"""The splitter and the stream around it: bytes in, the same bytes out, and what they tell."""

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import AnswerLimits
from gateway.experts.types import UpstreamError
from gateway.openai.events import EventSplitter, EventStream, event_payload
from gateway.testing import build_chunk, build_stream

SPOKEN = build_chunk("m", {"content": "Grüße 🧠"})
ROLE = build_chunk("m", {"role": "assistant", "content": ""})
DONE = b"data: [DONE]\n\n"


def fed(*parts: bytes) -> tuple[bytes, EventSplitter]:
    splitter = EventSplitter()
    return b"".join(splitter.feed(part) for part in parts), splitter


@given(cuts=st.lists(st.integers(0, 900), max_size=40), crlf=st.booleans())
def test_bytes_come_out_as_they_went_in_however_they_were_cut(cuts: list[int], crlf: bool) -> None:
    whole = b"".join(build_stream("crlf" if crlf else "good"))
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    out, splitter = fed(*(whole[a:b] for a, b in pairwise(edges)))
    assert (out + splitter.done).strip() == whole.strip()
    assert splitter.spoke
    assert splitter.failure is None


class Read(bytes):
    """Bytes that count what is copied to put them behind others."""

    n_copied = 0

    def __radd__(self, before: bytes) -> bytes:
        Read.n_copied += len(before)
        return before + bytes(self)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_a_huge_event_in_small_reads_is_not_copied_with_each(
    monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    monkeypatch.setattr(Read, "n_copied", 0)
    huge = build_chunk("m", {"content": "x" * 100_000}).rstrip() + end
    splitter = EventSplitter()
    out = [splitter.feed(Read(huge[start : start + 101])) for start in range(0, len(huge), 101)]
    assert b"".join(out) == huge
    assert splitter.spoke
    assert Read.n_copied < len(huge)


@pytest.mark.parametrize("n_read", [1, 7, 1000])
def test_an_event_without_an_end_is_refused_however_it_is_read(n_read: int) -> None:
    splitter = EventSplitter(AnswerLimits(max_event_bytes=500))
    out = [splitter.feed(data) for data in (SPOKEN, *[b"x" * n_read] * (1 + 500 // n_read))]
    assert b"".join(out) == SPOKEN
    assert splitter.failure is not None
    assert splitter.failure.message == "sent an event without an end"


def test_an_event_waits_for_its_end() -> None:
    out, splitter = fed(SPOKEN[:-1])
    assert (out, splitter.spoke) == (b"", False)
    assert splitter.feed(SPOKEN[-1:]) == SPOKEN
    assert splitter.spoke


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"tool_calls": [{"index": 0}]},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"function_call": {"name": "f"}},
        {"thinking_text": "x"},
        {"annotations": [{"type": "url"}]},
    ],
)
def test_any_kind_of_delta_is_a_first_token(delta: dict[str, object]) -> None:
    assert fed(build_chunk("m", delta))[1].spoke


@pytest.mark.parametrize("more", [{}, {"content": None}, {"thinking_text": ""}, {"provider": "x", "id": "1"}])
def test_a_role_alone_is_no_first_token(more: dict[str, object]) -> None:
    assert not fed(ROLE)[1].spoke
    assert not fed(build_chunk("m", {"role": "assistant", **more}))[1].spoke


def test_a_finish_without_a_word_is_an_answer() -> None:
    assert fed(build_chunk("m", {}, "stop"))[1].spoke


def test_text_of_a_plain_completion_is_a_first_token() -> None:
    assert fed(build_chunk("m", {"content": "x"}, chat=False))[1].spoke


@pytest.mark.parametrize(
    "bad", [b'data: {"not\n\n', b"data: hello\n\n", b"data: {} {}\n\n", b'data: {"a":1\n\n']
)
def test_good_events_before_a_bad_one_are_not_lost(bad: bytes) -> None:
    out, splitter = fed(SPOKEN + bad + SPOKEN)
    assert out == SPOKEN
    assert splitter.failure is not None
    assert splitter.failure.kind == "bad_chunk"


def test_json_of_an_unknown_shape_passes() -> None:
    odd = b'data: {"choices": "none", "usage": 3}\n\n'
    out, splitter = fed(odd)
    assert (out, splitter.failure) == (odd, None)


def test_what_a_chunk_says_counts_however_odd_its_usage() -> None:
    odd = json.dumps(
        {"model": "m", "choices": [{"delta": {"content": "x"}}], "usage": {"prompt_tokens": 1.5}}
    )
    _, splitter = fed(b"data: " + odd.encode() + b"\n\n")
    assert (splitter.spoke, splitter.model, splitter.usage) == (True, "m", None)


def test_comments_and_other_fields_pass() -> None:
    out, splitter = fed(b": keep-alive\n\nevent: ping\nid: 3\n\n" + SPOKEN)
    assert out == b": keep-alive\n\nevent: ping\nid: 3\n\n" + SPOKEN
    assert splitter.spoke


def test_data_over_several_lines_is_one_payload() -> None:
    assert event_payload(b'event: x\ndata: {"a":\ndata: 1}\n\n') == b'{"a":\n1}'


def test_nothing_counts_after_done() -> None:
    out, splitter = fed(SPOKEN + DONE + SPOKEN)
    assert (out, splitter.done) == (SPOKEN, DONE)


def test_usage_is_kept_from_the_last_chunk() -> None:
    tail = (
        b"data: "
        + json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}).encode()
    )
    usage = fed(SPOKEN + tail + b"\n\n")[1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 2)


def test_an_error_in_the_stream_is_a_failure() -> None:
    failure = fed(b'data: {"error": {"message": "over"}}\n\n')[1].failure
    assert failure is not None
    assert (failure.kind, "over" in failure.message) == ("error_event", True)


def stream_of(*parts: bytes, closed: list[bool] | None = None) -> EventStream:
    left = list(parts)

    async def read() -> bytes:
        await asyncio.sleep(0)
        return left.pop(0) if left else b""

    now = asyncio.get_running_loop().time()
    return EventStream(
        read,
        lambda: closed.append(True) if closed is not None else None,
        first_token_s=5,
        between_s=5,
        end_at=now + 10,
    )


async def test_what_came_before_the_first_token_is_held_and_then_given() -> None:
    stream = stream_of(b": hello\n\n", ROLE, SPOKEN, DONE)
    await stream.open()
    assert [part async for part in stream] == [b": hello\n\n" + ROLE + SPOKEN]
    assert stream.events.done == DONE


@pytest.mark.parametrize(
    ("parts", "kind"),
    [((ROLE,), "cut"), ((DONE,), "empty"), ((ROLE, DONE), "empty"), ((b"data: x\n\n",), "bad_chunk")],
)
async def test_opening_fails_when_nobody_speaks(parts: tuple[bytes, ...], kind: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        await stream_of(*parts).open()
    assert caught.value.kind == kind


async def test_a_stream_is_closed_once() -> None:
    closed: list[bool] = []
    stream = stream_of(SPOKEN, DONE, closed=closed)
    await stream.open()
    await stream.drain()
    stream.close()
    assert closed == [True]
