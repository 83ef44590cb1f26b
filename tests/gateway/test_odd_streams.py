"""Streams and answers that are odd but lawful, or nearly: what they are, their bytes decide."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.openai.events import EventStream
from gateway.testing import build_chunk, build_completion, build_stream
from tests.fakes.odd_upstream import OddUpstream, Script, good_stream, json_answer
from tests.fakes.serving import HttpAnswer, LiveApp, gateway

DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def one(folder: Path, script: Script, **timeouts: float) -> AsyncIterator[tuple[LiveApp, OddUpstream]]:
    """A gateway before one expert, `x`, that answers this script."""
    async with OddUpstream({"x": script}).serve() as upstream:
        config: dict[str, Any] = {"experts": upstream.experts(), "timeouts": timeouts}
        async with gateway(config, str(folder / "journal.sqlite3"), "x") as live:
            yield live, upstream


def text_of(answer: HttpAnswer) -> str:
    """What a client reads of a stream."""
    chunks = [json.loads(event) for event in answer.events if event != b"[DONE]"]
    said = [choice.get("delta", {}).get("content") for chunk in chunks for choice in chunk.get("choices", ())]
    return "".join(part or "" for part in said)


GOOD_ENDS: dict[str, Script] = {
    "no [DONE]": Script(good_stream("a ", "b", done=False)),
    "no last line end": Script([*good_stream("a ", "b", done=False), b"data: [DONE]"]),
    "finish without a line end": Script([b"".join(good_stream("a ", "b", done=False)).rstrip()]),
    "a reset after it": Script(good_stream("a ", "b", done=False), resets=True),
    "usage after it": Script(
        [*good_stream("a ", "b", done=False), b'data: {"choices": [], "usage": {"prompt_tokens": 3}}\n\n']
    ),
    "an empty delta after it": Script([*good_stream("a ", "b", done=False), build_chunk("m", {})]),
    "half an event after it": Script([*good_stream("a ", "b", done=False), b'data: {"cho']),
    "length": Script(good_stream("a ", "b", finish="length", done=False)),
}


@pytest.mark.parametrize("end", GOOD_ENDS)
async def test_b02_an_end_by_finish_reason_is_an_end(tmp_path: Path, end: str) -> None:
    async with one(tmp_path, GOOD_ENDS[end]) as (live, upstream):
        for _ in range(6):
            answer = await live.chat("x", stream=True)
            assert (answer.status, text_of(answer), answer.events[-1]) == (200, "a b", b"[DONE]")
            assert b'"error"' not in answer.body
        state = live.services.fleet.state("x")
        assert (state["state"], state["n_failed"], upstream.n_calls["x"]) == ("closed", 0, 6)


CUTS: dict[str, Script] = {
    "after a token": Script(good_stream("a ", "b", finish=None, done=False)),
    "in an event": Script([*good_stream("a ", "b", finish=None, done=False), b'data: {"cho']),
    "by a reset": Script(good_stream("a ", "b", finish=None, done=False), resets=True),
    "one of two choices": Script(
        [
            b'data: {"choices": [{"index": 0, "delta": {"content": "a b"}}]}\n\n',
            b'data: {"choices": [{"index": 1, "delta": {"content": ""}}]}\n\n',
            b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n',
        ]
    ),
}


@pytest.mark.parametrize("cut", CUTS)
async def test_b02_a_stream_that_is_cut_before_its_finish_reason_is_an_error(
    tmp_path: Path, cut: str
) -> None:
    async with one(tmp_path, CUTS[cut]) as (live, _):
        answer = await live.chat("x", stream=True)
        assert text_of(answer) == "a b"
        assert b"stream_cut" in answer.events[-1]
        assert live.services.fleet.state("x")["n_failed"] == 1


async def test_b02_a_connection_that_stays_open_after_the_finish_reason_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.openai.events.AFTER_FINISH_S", 0.1)
    script = Script([*good_stream("a ", "b", done=False), 30.0])
    async with one(tmp_path, script) as (live, _), asyncio.timeout(5):
        answer = await live.chat("x", stream=True)
        assert (text_of(answer), answer.events[-1]) == ("a b", b"[DONE]")


LABELS = ["application/json", "text/plain; charset=utf-8", "application/octet-stream", "x/y", "", None]


@pytest.mark.parametrize("label", LABELS)
async def test_b03_a_good_stream_is_read_under_any_label(tmp_path: Path, label: str | None) -> None:
    script = Script(good_stream("a ", "b"), content_type=label)
    async with one(tmp_path, script) as (live, _):
        answer = await live.chat("x", stream=True)
        assert (answer.status, answer.body) == (200, b"".join(good_stream("a ", "b")))
        assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("label", [*LABELS, "text/event-stream"])
async def test_b03_a_whole_answer_to_a_stream_becomes_events(tmp_path: Path, label: str | None) -> None:
    script = Script([b"\n", b"\n ", build_completion("good")], content_type=label)
    async with one(tmp_path, script) as (live, _):
        answer = await live.chat("x", stream=True, stream_options={"include_usage": True})
        assert (answer.status, text_of(answer), answer.events[-1]) == (
            200,
            "Grüße aus dem Thalamus 🧠.",
            b"[DONE]",
        )
        usage = json.loads(answer.events[-2])["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (20, 5)
        assert live.services.fleet.state("x")["n_answered"] == 1


async def test_b13_calls_of_tools_in_a_converted_answer_have_their_index(tmp_path: Path) -> None:
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "u"}]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    async with one(tmp_path, json_answer(body)) as (live, _):
        answer = await live.chat("x", stream=True)
        delta = json.loads(answer.events[0])["choices"][0]["delta"]
        assert [(call["index"], call["id"]) for call in delta["tool_calls"]] == [(0, "t"), (1, "u")]


@pytest.mark.parametrize("label", ["text/event-stream", "application/json", None])
async def test_b03_a_stream_to_a_plain_request_becomes_one_answer(tmp_path: Path, label: str | None) -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
    parts = [b": hello\n\n", *good_stream("a ", "b", done=False), usage, DONE]
    async with one(tmp_path, Script(parts, content_type=label)) as (live, _):
        answer = await live.chat("x")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        body = answer.json()
        assert body["object"] == "chat.completion"
        assert body["model"] == "m"
        assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
        [choice] = body["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["message"] == {"role": "assistant", "content": "a b"}
        assert (await live.read_record(answer))["output_tokens"] == 2


async def test_b03_thinking_and_calls_of_tools_are_folded_too(tmp_path: Path) -> None:
    first = {"id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    deltas: list[Mapping[str, Any]] = [
        {"role": "assistant", "content": None, "reasoning_content": "Hm "},
        {"reasoning_content": "so.", "content": ""},
        {"tool_calls": [{"index": 0, **first}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"q":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {"tool_calls": [{**first, "id": "u"}]},
        {"tool_calls": [{"function": {"arguments": "{}"}}]},
    ]
    parts = [build_chunk("m", dict(delta)) for delta in deltas]
    async with one(tmp_path, Script([*parts, build_chunk("m", {}, "tool_calls"), DONE])) as (live, _):
        message = (await live.chat("x")).json()["choices"][0]["message"]
        assert message["reasoning_content"] == "Hm so."
        calls = [(call["id"], call["type"], call["function"]) for call in message["tool_calls"]]
        assert calls == [
            ("t", "function", {"name": "f", "arguments": '{"q":1}'}),
            ("u", "function", {"name": "f", "arguments": "{}"}),
        ]


async def test_b03_a_plain_completion_is_folded(tmp_path: Path) -> None:
    async with one(tmp_path, Script(build_stream("good", chat=False))) as (live, _):
        answer = await live.post("completions", {"model": "x", "prompt": "Hi"})
        body = answer.json()
        assert body["object"] == "text_completion"
        assert body["choices"][0]["text"] == "Grüße aus dem Thalamus 🧠."


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (good_stream("a ", finish=None, done=False), "upstream_cut"),
        ([DONE], "upstream_empty"),
        ([b": only\n\n"], "upstream_cut"),
        ([*good_stream("a ", finish=None, done=False), b"data: {x\n\n"], "upstream_bad_chunk"),
    ],
)
async def test_b03_a_broken_stream_to_a_plain_request_is_an_error(
    tmp_path: Path, parts: list[bytes], code: str
) -> None:
    async with one(tmp_path, Script(parts)) as (live, _):
        answer = await live.chat("x")
        assert (answer.status, answer.error["code"]) == (502, code)


async def test_an_error_page_without_an_end_is_read_in_part(tmp_path: Path) -> None:
    page = Script(
        [b"<title>Down</title>", *[b"x" * 100_000] * 100, 30.0], status=500, content_type="text/html"
    )
    async with one(tmp_path, page) as (live, _), asyncio.timeout(5):
        answer = await live.chat("x")
        assert (answer.status, "answered 500: Down" in answer.error["message"]) == (502, True)


SILENCE_S = 0.8
"""More than the first token may take below, in pieces that each take less."""
LIFE: dict[str, Callable[[int], bytes]] = {
    "comments": lambda n: b": PROCESSING\n\n",
    "an unknown field": lambda n: build_chunk("m", {"thinking_text": "hm "}),
    "empty deltas": lambda n: build_chunk("m", {"role": "assistant", "content": ""}),
    "pings": lambda n: b'event: ping\ndata: {"type": "ping"}\n\n',
    "blank lines": lambda n: b"\n",
    "bytes of one event": lambda n: b": hello, I am still alive"[n : n + 1],
}


@pytest.mark.parametrize("life", LIFE)
async def test_b08_any_byte_that_shows_life_moves_the_deadline(tmp_path: Path, life: str) -> None:
    parts: list[bytes | float] = []
    for n in range(8):
        parts += [LIFE[life](n), SILENCE_S / 8]
    parts += [b"\n\n", *good_stream("a ", "b")]
    async with one(tmp_path, Script(parts), first_token_s=0.4, between_tokens_s=0.4) as (live, _):
        answer = await live.chat("x", stream=True)
        assert (answer.status, text_of(answer)) == (200, "a b")


async def test_b08_a_silence_is_still_bounded(tmp_path: Path) -> None:
    script = Script([b": one\n\n", 1.0, *good_stream("late")])
    async with one(tmp_path, script, first_token_s=0.3) as (live, _):
        answer = await live.chat("x", stream=True)
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("life", ["comments", "an unknown field"])
async def test_b08_signs_of_life_do_not_move_the_total(tmp_path: Path, life: str) -> None:
    parts: list[bytes | float] = []
    for n in range(40):
        parts += [LIFE[life](n), 0.05]
    async with one(tmp_path, Script(parts), total_s=0.5) as (live, _):
        answer = await live.chat("x", stream=True)
        assert answer.status == (504 if life == "comments" else 200)
        assert "took longer in all" in json.dumps(answer.json() if life == "comments" else str(answer.body))


async def test_b08_thinking_under_an_unknown_name_reaches_the_client_at_once(tmp_path: Path) -> None:
    thought = build_chunk("m", {"thinking_text": "hm "})
    left = [thought, *good_stream("a"), b""]
    now = asyncio.get_running_loop().time()

    async def read() -> bytes:
        return left.pop(0)

    stream = EventStream(read, lambda: None, first_token_s=5, between_s=5, end_at=now + 5)
    await stream.open()
    assert len(left) == 4  # the answer was not waited for
    async with one(tmp_path, Script([thought, *good_stream("a")])) as (live, _):
        answer = await live.chat("x", stream=True)
        assert answer.body == thought + b"".join(good_stream("a"))


LOGPROBS = {
    "content": [{"token": "w", "logprob": float("-inf"), "top_logprobs": [{"logprob": float("nan")}]}]
}


async def test_b10_nan_in_an_answer_passes_as_it_came(tmp_path: Path) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "NaN"}, "logprobs": LOGPROBS}
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    body = json.dumps({"choices": [{**choice, "finish_reason": "stop"}], "usage": usage}).encode()
    async with one(tmp_path, json_answer(body)) as (live, _):
        answer = await live.chat("x", logprobs=True)
        assert (answer.status, answer.body) == (200, body)
        assert b"-Infinity" in answer.body
        assert (await live.read_record(answer))["input_tokens"] == 7
        streamed = await live.chat("x", stream=True)
        assert (streamed.status, text_of(streamed)) == (200, "NaN")


async def test_b10_nan_in_a_stream_passes_as_it_came(tmp_path: Path) -> None:
    choice = {"index": 0, "delta": {"content": "x"}, "logprobs": LOGPROBS, "finish_reason": "stop"}
    chunk = b"data: " + json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7}}).encode() + b"\n\n"
    async with one(tmp_path, Script([chunk, DONE])) as (live, _):
        answer = await live.chat("x", stream=True)
        assert (answer.status, answer.body) == (200, chunk + DONE)
        assert (await live.read_record(answer))["input_tokens"] == 7
        whole = await live.chat("x")
        assert (whole.status, whole.json()["choices"][0]["message"]["content"]) == (200, "x")


async def test_b11_blank_lines_before_the_answer_are_read(tmp_path: Path) -> None:
    blank: list[bytes | float] = [b"\n", 0.01]
    script = Script([*blank * 20, build_completion("good")], content_type="application/json")
    async with one(tmp_path, script) as (live, _):
        answer = await live.chat("x")
        assert (answer.status, answer.body.strip()) == (200, build_completion("good"))


async def test_b12_deltas_of_calls_without_an_index_pass(tmp_path: Path) -> None:
    delta = {"tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    parts = [build_chunk("m", delta), build_chunk("m", {}, "tool_calls"), DONE]
    async with one(tmp_path, Script(parts)) as (live, _):
        assert (await live.chat("x", stream=True)).body == b"".join(parts)


async def test_b16_a_page_with_status_200_is_told_and_is_no_answer(tmp_path: Path) -> None:
    page = b"<!DOCTYPE html><html><head><title>Just a moment</title></head></html>"
    for label in ("text/html", "text/event-stream"):
        async with one(tmp_path, Script([page], content_type=label)) as (live, _):
            for stream in (False, True):
                answer = await live.chat("x", stream=stream)
                assert (answer.status, answer.error["code"]) == (502, "upstream_garbage")
                assert "a page: Just a moment" in answer.error["message"]


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("/elsewhere/v1/x?key=s3cret#s3cret", "/elsewhere/v1/x: redirects are not followed"),
        ("https://user:s3cret@other.example/v1", "a redirect to https://other.example/v1:"),
        ("", "a redirect to http://127.0.0.1"),
        ("http://[", "a redirect without an address"),
        (None, "a redirect without an address"),
    ],
)
async def test_b17_a_redirect_says_where_to(tmp_path: Path, location: str | None, said: str) -> None:
    headers = {} if location is None else {"location": location}
    async with one(tmp_path, Script([], status=308, headers=headers)) as (live, upstream):
        for stream in (False, True):
            answer = await live.chat("x", stream=stream)
            assert answer.status == 502
            assert said in answer.error["message"]
            assert "s3cret" not in answer.error["message"]
        assert upstream.n_calls["x"] == 2


async def test_b18_odd_but_lawful_streams_are_read(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    whole = b": open\r\n\r\nretry: 3000\r\n\r\nevent: message\r\nid: 7\r\n"
    whole += b"".join(good_stream("Grüße ", "東京")).replace(b"\n", b"\r\n")
    pieces = [whole[n : n + 7] for n in range(0, len(whole), 7)]
    packed = zlib.compressobj(wbits=31)
    zipped = packed.compress(whole) + packed.flush()
    scripts = [
        Script(pieces),
        Script([mark, *pieces]),
        Script([mark[:1], mark[1:] + whole], content_type="text/plain"),
        Script([zipped], headers={"content-encoding": "gzip"}),
    ]
    for n, script in enumerate(scripts):
        folder = tmp_path / str(n)
        folder.mkdir()
        async with one(folder, script) as (live, _):
            answer = await live.chat("x", stream=True)
            assert (answer.status, answer.body) == (200, whole)
            assert text_of(answer) == "Grüße 東京"


@pytest.mark.parametrize("stream", [False, True])
async def test_b20_odd_counts_leave_the_answer_and_an_unknown_cost(tmp_path: Path, stream: bool) -> None:
    usage = {"prompt_tokens": "20", "completion_tokens": 5.5, "total_tokens": None}
    choice = {"index": 0, "message": {"content": "x"}, "delta": {"content": "x"}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": usage}
    script = Script([b"data: " + json.dumps(body).encode() + b"\n\n", DONE]) if stream else json_answer(body)
    async with one(tmp_path, script) as (live, _):
        answer = await live.chat("x", stream=stream)
        assert answer.status == 200
        assert (await live.read_record(answer))["cost_usd"] is None
        assert stream or answer.headers["x-thalamus-cost-usd"] == "unknown"


@pytest.mark.parametrize(
    ("status", "seen", "header"),
    [(529, 503, "7"), (503, 503, "7"), (429, 429, "7"), (500, 502, "7")],
)
async def test_b15_a_wait_is_obeyed_and_told_to_the_client(
    tmp_path: Path, status: int, seen: int, header: str
) -> None:
    script = json_answer({"error": {"message": "Overloaded"}}, status, retry_after=header)
    async with one(tmp_path, script) as (live, upstream):
        first = await live.chat("x")
        assert (first.status, first.headers["retry-after"]) == (seen, header)
        again = await live.chat("x", stream=True)
        assert (again.status, int(again.headers["retry-after"]) in (6, 7)) == (503, True)
        assert upstream.n_calls["x"] == 1


async def test_b14_a_wait_in_a_far_year_is_still_a_429(tmp_path: Path) -> None:
    script = json_answer({"error": {"message": "slow"}}, 429, retry_after="Wed, 21 Oct 99999 07:28:00 GMT")
    async with one(tmp_path, script) as (live, upstream):
        answer = await live.chat("x")
        assert (answer.status, answer.error["code"]) == (429, "upstream_status")
        assert live.services.fleet.state("x")["n_held_off"] == 1
        assert upstream.n_calls["x"] == 1


async def test_b05_the_wait_of_a_limit_inside_a_200_is_read_from_its_headers(tmp_path: Path) -> None:
    error = b'{"error": {"message": "slow", "code": 429}}'
    for n, script in enumerate([json_answer(error, retry_after="9"), Script([b"data: " + error + b"\n\n"])]):
        folder = tmp_path / str(n)
        folder.mkdir()
        script = Script(script.parts, headers={"retry-after": "9"})
        async with one(folder, script) as (live, _):
            answer = await live.chat("x", stream=bool(n))
            assert (answer.status, answer.headers["retry-after"]) == (429, "9")


@pytest.mark.parametrize("stream", [False, True])
async def test_b04_a_prompt_that_is_too_long_goes_to_a_larger_window_first(
    tmp_path: Path, stream: bool
) -> None:
    error = {"error": {"message": "maximum context length is 2048 tokens", "code": 400}}
    long = Script([b"data: " + json.dumps(error).encode() + b"\n\n", DONE]) if stream else json_answer(error)
    good = Script(good_stream("a ", "b"))
    windows = {"small": 2048, "same": 2048, "smaller": 1024, "larger": 8192}
    scripts = {"small": long, "same": good, "smaller": long, "larger": good}
    async with OddUpstream(scripts).serve() as upstream:
        experts = [{**expert, "context_window": windows[expert["name"]]} for expert in upstream.experts()]
        async with gateway({"experts": experts}, str(tmp_path / "j"), "small") as live:
            plan = {"fallbacks": ["same", "smaller", "larger"]}
            answer = await live.chat("small", stream=stream, router=plan)
            assert (answer.status, answer.expert) == (200, "larger")
            assert upstream.n_calls == {"small": 1, "larger": 1}
            # A declared window may be wrong: the others are still asked where no larger one is left.
            last = await live.chat("small", stream=stream, router={"fallbacks": ["smaller", "same"]})
            assert (last.status, last.expert) == (200, "same")
            assert upstream.n_calls == {"small": 2, "larger": 1, "smaller": 1, "same": 1}
