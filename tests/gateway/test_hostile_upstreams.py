"""What an upstream sends is bounded, checked, and given to no call but the one that asked for it."""

import asyncio
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from gateway.config import ExpertConfig, TimeoutConfig
from gateway.execution.executor import ExecutionTrace
from gateway.experts.http_client import REST_S, Transport
from gateway.experts.openai_compatible import openai_expert
from gateway.experts.types import Call, UpstreamError
from gateway.openai.events import MAX_CONTENT_BYTES, read_sent_text
from tests.fakes.odd_upstream import RawUpstream, http_bytes, one_chunk, stream_head
from tests.fakes.serving import LiveApp, gateway

GOOD: dict[str, Any] = {
    "id": "good",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
EVENTS = "text/event-stream"
LIMITS = {
    "max_bytes": 100_000,
    "max_error_bytes": 10_000,
    "max_header_bytes": 2000,
    "max_event_bytes": 20_000,
    "max_bytes_before_token": 50_000,
    "max_events_before_token": 500,
    "max_stream_bytes": 200_000,
}


def good(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


Parts = Iterable[bytes | float]


@asynccontextmanager
async def serve(
    folder: Path, cases: Mapping[str, Parts], **config: Any
) -> AsyncIterator[tuple[LiveApp, RawUpstream]]:
    """A gateway before an expert for each case, which sends these bytes, and `fine`, which answers."""

    def answer(body: dict[str, Any]) -> Parts:
        if body["model"] in cases:
            return cases[body["model"]]
        if body.get("stream"):
            return [stream_head(EVENTS), one_chunk(WORD + END), b"0\r\n\r\n"]
        return [http_bytes(good())]

    async with RawUpstream(answer).serve() as upstream:
        prices = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
        experts = [
            {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url, **prices}
            for name in (*cases, "fine")
        ]
        whole = {"experts": experts, "answers": LIMITS, "embeddings": {"enabled": False}, **config}
        async with gateway(whole, str(folder / "journal.sqlite3"), *cases, "fine") as live:
            yield live, upstream


@asynccontextmanager
async def open_transport() -> AsyncIterator[Transport]:
    transport = Transport()
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


def squeeze(body: bytes, kind: str) -> bytes:
    made = zlib.compressobj(9, wbits={"gzip": 31, "deflate": 15}[kind])
    return made.compress(body) + made.flush()


LONG = b'{"choices":[{"index":0,"message":{"content":"' + b"x" * 300_000 + b'"}}]}'
BOMBS: dict[str, list[bytes | float]] = {
    "gzip": [http_bytes(squeeze(LONG, "gzip"), content_encoding="gzip")],
    "deflate": [http_bytes(squeeze(LONG, "deflate"), content_encoding="deflate")],
    "length": [http_bytes(LONG)],
    "no-end": [stream_head(), *[one_chunk(b" " * 50_000)] * 5, 60.0],
    "error-without-an-end": [stream_head(status=500), *[one_chunk(b"<p>" * 5000)] * 5, 60.0],
    "one-header": [http_bytes(good(), x_long="y" * 3000)],
    "many-headers": [http_bytes(good(), **dict[str, Any]({f"x_{n}": "y" for n in range(200)}))],
    "interim": [b"HTTP/1.1 102 Wait\r\n\r\n" * 100, http_bytes(good())],
    "events-without-an-end": [stream_head(EVENTS), *[one_chunk(WORD * 500)] * 10, 60.0],
    "a-stream-of-comments": [stream_head(EVENTS), *[one_chunk(b": wait\n\n" * 100)] * 200, 60.0],
    "an-unknown-encoding": [http_bytes(b"\x1b\x2f\x00", content_encoding="br")],
}


@pytest.mark.parametrize("stream", [False, True])
async def test_too_much_of_an_answer_moves_on(tmp_path: Path, stream: bool) -> None:
    async with serve(tmp_path, BOMBS) as (live, _), asyncio.timeout(60):
        # A stream of words is a stream: its own bound ends it after the first token.
        for bomb in BOMBS.keys() - ({"events-without-an-end"} if stream else set()):
            answer = await live.chat(bomb, stream=stream, router={"fallbacks": ["fine"]})
            assert (bomb, answer.status, answer.expert) == (bomb, 200, "fine")
            attempt = (await live.read_record(answer))["attempts"][0]
            assert (attempt["expert"], attempt["verdict"]) == (bomb, "moved_on")
            assert live.services.fleet.state(bomb)["n_failed"] == 1


async def test_many_small_choices_are_no_harm(tmp_path: Path) -> None:
    body = b'{"choices":[' + b"{}," * 600_000 + b'{}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    async with serve(tmp_path, {"x": [http_bytes(body)]}, answers={}) as (live, _):
        tracemalloc.start()
        answer = await live.chat("x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (answer.status, answer.body) == (200, body)
        assert peak < 10 * len(body)  # each as an object: thirty times


SILENT = b'data: {"choices":[]}\n\n'
LATE_BOMBS: dict[str, list[bytes | float]] = {
    "comments": [one_chunk(b": wait\n\n" * 200)] * 5,
    "events-without-a-word": [one_chunk(SILENT * 100)] * 8,
    "one-line": [one_chunk(b"data: " + b"x" * 10_000)] * 5,
    "bytes": [one_chunk(b":" + b"x" * 15_000 + b"\n\n")] * 5,
    "gzip": [],
}


async def test_too_much_before_the_first_token_moves_on(tmp_path: Path) -> None:
    cases = {name: [stream_head(EVENTS), *parts, 60.0] for name, parts in LATE_BOMBS.items()}
    squeezed = squeeze(b": wait\n\n" * 100_000, "gzip")
    cases["gzip"] = [http_bytes(squeezed, mime=EVENTS, content_encoding="gzip")]
    async with serve(tmp_path, cases) as (live, _), asyncio.timeout(60):
        for bomb in cases:
            answer = await live.chat(bomb, stream=True, router={"fallbacks": ["fine"]})
            assert (bomb, answer.status, answer.expert, b"word " in answer.body) == (bomb, 200, "fine", True)


EARLY: dict[str, list[bytes | float]] = {
    "garbage": [*[one_chunk(WORD * 100)] * 60, 60.0],
    "bad_chunk": [one_chunk(WORD), *[one_chunk(b"data: " + b"x" * 10_000)] * 5, 60.0],
    "cut": [one_chunk(WORD), one_chunk(b'data: {"choices":[' + b"[]," * 6000 + b"[]]}\n\n"), b"0\r\n\r\n"],
}


async def test_too_much_after_it_ends_with_an_error_event(tmp_path: Path) -> None:
    cases = {name: [stream_head(EVENTS), *parts] for name, parts in EARLY.items()}
    async with serve(tmp_path, cases) as (live, _), asyncio.timeout(60):
        for bomb in cases:
            answer = await live.chat(bomb, stream=True)
            assert (answer.status, json.loads(answer.events[-1])["error"]["code"]) == (200, f"stream_{bomb}")


async def test_large_answers_share_a_bound(tmp_path: Path) -> None:
    body = b'{"choices":[{"index":0,"message":{"content":"' + b"x" * 2_000_000 + b'"}}]}'

    def answer(asked: dict[str, Any]) -> list[bytes | float]:
        return [http_bytes(body)[:-10], 0.3, body[-10:]]

    async with RawUpstream(answer).serve() as upstream:
        config = {
            "experts": [{"name": "x", "model": "openai/x", "api_base": upstream.base_url}],
            "answers": {"max_bytes_in_all": 3_000_000},
        }
        async with gateway(config, str(tmp_path / "journal.sqlite3"), "x") as live:
            answers = await asyncio.gather(*(live.chat("x") for _ in range(3)))
            assert sorted(answer.status for answer in answers) == [200, 503, 503]
            assert live.services.fleet.state("x")["n_failed"] == 0  # the gateway's own lack
            assert (await live.chat("x")).status == 200


COUNTS = ["9223372036854775808", "1e30", "-5", "12.5", "NaN", '"12"', "true", "[1]", "99999999999"]


@pytest.mark.parametrize("stream", [False, True])
async def test_counts_that_none_can_be_cost_nothing_known(tmp_path: Path, stream: bool) -> None:
    cases: dict[str, list[bytes | float]] = {}
    for n, count in enumerate(COUNTS):
        for field, other in (("prompt", "completion"), ("completion", "prompt")):
            usage = b'{"%s_tokens":%s,"%s_tokens":2}' % (field.encode(), count.encode(), other.encode())
            whole = good().replace(json.dumps(GOOD["usage"]).encode(), usage)
            last = b'data: {"choices":[],"usage":' + usage + b"}\n\n"
            streamed: list[bytes | float] = [stream_head(EVENTS), one_chunk(WORD + last + END), b"0\r\n\r\n"]
            cases[f"{field}-{n}"] = streamed if stream else [http_bytes(whole)]
    async with serve(tmp_path, cases) as (live, _):
        for case in cases:
            answer = await live.chat(case, stream=stream)
            assert (case, answer.status, b"error" in answer.body) == (case, 200, False)
            record = await live.read_record(answer)
            counted = {record["cost_usd"], record["input_tokens"], record["output_tokens"]}
            if stream:  # as for a stream without counts: an estimate
                assert (case, record["attempts"][-1]["tokens_estimated"]) == (case, True)
                assert (case, all(0 <= number < 100 for number in counted)) == (case, True)
            else:
                assert (case, counted) == (case, {None})
        # The journal goes on: the next request is written too.
        fine = await live.read_record(await live.chat("fine"))
        assert fine["cost_usd"] == pytest.approx(7e-6 + 6e-6)


DOUBLES: dict[str, list[bytes | float]] = {
    "two at once": [b"1", b"1"],
    "in one write": [b"11"],
    "late by 1 ms": [b"1", 0.001, b"1"],
    "late by 10 ms": [b"1", 0.01, b"1"],
    "length too short": [b"s"],
    "garbage after": [b"1", 0.001, b"garbage\r\n"],
    "chunks, then garbage": [b"c", b"5\r\nhello\r\n"],
    "chunks, then an answer": [b"c", 0.002, b"1"],
    "cut in the middle": [b"h", 0.002, b"t1"],
}


@pytest.mark.parametrize("at_once", [1, 8])
async def test_surplus_bytes_reach_no_other_client(tmp_path: Path, at_once: int) -> None:
    def answer(body: dict[str, Any]) -> Iterator[bytes | float]:
        whole = good(id=body["messages"][0]["content"])
        one = http_bytes(whole)
        pieces = {
            b"1": one,
            b"11": one + one,
            b"s": one + one[:40],
            b"c": stream_head() + one_chunk(whole) + b"0\r\n\r\n",
            b"h": one[:-20],
            b"t1": one[-20:] + one,
        }
        for part in DOUBLES[body["model"]]:
            yield part if isinstance(part, float) else pieces.get(part, part)

    async def run(double: str) -> tuple[bool, bool]:
        """Whether a client got another one's answer, and whether surplus came while its connection rested."""
        async with RawUpstream(answer).serve() as upstream, open_transport() as transport:
            config = msgspec.convert(
                {"name": "x", "model": f"openai/{double}", "api_base": upstream.base_url}, ExpertConfig
            )
            expert = openai_expert(config, TimeoutConfig(), transport)
            room = asyncio.Semaphore(at_once)

            async def ask(n: int) -> str:
                async with room:
                    fields = {
                        "messages": Raw(json.dumps([{"role": "user", "content": f"client {n}"}]).encode())
                    }
                    try:
                        reply = await expert.call(Call("chat/completions", fields))
                    except UpstreamError:
                        return "none"
                    return "own" if json.loads(reply.body)["id"] == f"client {n}" else "foreign"

            got = (
                [await ask(n) for n in range(20)]
                if at_once == 1
                else await asyncio.gather(*map(ask, range(40)))
            )
            return "foreign" in got, upstream.overslept_s < REST_S / 2

    for double in DOUBLES:
        # What a busy machine sends after a connection's rest is an answer by the letter of HTTP: again then.
        for _ in range(10):
            is_foreign, was_in_time = await run(double)
            if was_in_time:
                break
        else:
            pytest.skip("this machine is too busy to send surplus bytes in time")
        assert (double, is_foreign) == (double, False)


async def test_after_a_burst_few_connections_serve_and_the_others_may_end(tmp_path: Path) -> None:
    async with serve(tmp_path, {"slow": [0.05, http_bytes(good())]}) as (live, upstream):
        await asyncio.gather(*(live.chat("slow") for _ in range(8)))
        assert len(set(upstream.served_by)) == 8
        await asyncio.sleep(2 * REST_S)
        for _ in range(8):
            assert (await live.chat("fine")).status == 200
        assert len(set(upstream.served_by[8:])) == 1


async def test_a_good_upstream_keeps_its_connections(tmp_path: Path) -> None:
    async with serve(tmp_path, {}) as (live, upstream):
        await live.chat("fine")
        await asyncio.sleep(0.05)  # a new connection rests once
        for _ in range(20):
            assert (await live.chat("fine")).status == 200
        assert upstream.n_connections == 1


HEAD_PARTS: dict[str, Parts] = {
    "in-the-status-line": [http_bytes(good())[:12], 0.01, http_bytes(good())[12:]],
    "in-a-header": [http_bytes(good())[:30], 0.01, http_bytes(good())[30:]],
    "of-a-stream": [
        stream_head(EVENTS)[:30],
        0.01,
        stream_head(EVENTS)[30:],
        one_chunk(WORD + END),
        b"0\r\n\r\n",
    ],
}


async def test_a_head_that_comes_in_two_parts_is_no_surplus(tmp_path: Path) -> None:
    async with serve(tmp_path, HEAD_PARTS) as (live, upstream):
        await live.chat("fine")
        await asyncio.sleep(2 * REST_S)
        for case in HEAD_PARTS:
            answer = await live.chat(case, stream=case == "of-a-stream")
            assert (case, answer.status, b"error" in answer.body) == (case, 200, False)
        assert upstream.n_connections == 1


async def test_a_stream_that_is_read_slowly_leaves_its_connection_trusted() -> None:
    """All of it has come and another call has the connection when its reader takes the rest."""

    def answer(body: dict[str, Any]) -> Parts:
        if body.get("stream"):
            return [stream_head(EVENTS) + one_chunk(WORD * 500) + one_chunk(END) + b"0\r\n\r\n"]
        return [0.05, http_bytes(good())]

    async with RawUpstream(answer).serve() as upstream, open_transport() as transport:
        config = msgspec.convert(
            {"name": "x", "model": "openai/x", "api_base": upstream.base_url}, ExpertConfig
        )
        expert = openai_expert(config, TimeoutConfig(), transport)
        fields = {"messages": Raw(b"[]")}
        await expert.call(Call("chat/completions", fields))
        await asyncio.sleep(2 * REST_S)
        reply = await expert.call(Call("chat/completions", {**fields, "stream": Raw(b"true")}, stream=True))
        assert reply.events is not None
        await asyncio.sleep(0.05)
        other = asyncio.create_task(expert.call(Call("chat/completions", fields)))
        await asyncio.sleep(0.02)
        n = sum([part.count(b"word") async for part in reply.events])
        assert (n, json.loads((await other).body)["id"]) == (500, "good")
        await expert.call(Call("chat/completions", fields))
        assert upstream.n_connections == 1


@pytest.mark.filterwarnings("ignore")
async def test_what_litellm_reads_is_bounded(tmp_path: Path) -> None:
    text = json.dumps({"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [
        {"type": "text", "text": "x" * 300_000}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 5}}).encode()  # fmt: skip
    bombs: dict[str, Parts] = {
        "gzip": [http_bytes(squeeze(text, "gzip"), content_encoding="gzip")],
        "length": [http_bytes(text)],
        "brotli": [http_bytes(b"\x1b\x2f\x00", content_encoding="br")],
        "error": [
            http_bytes(
                squeeze(b"<p>" * 5_000_000, "gzip"), status=500, mime="text/html", content_encoding="gzip"
            )
        ],
    }
    small = text.replace(b"x" * 300_000, b"small")
    good_ones = {"fine": [http_bytes(squeeze(small, "gzip"), content_encoding="gzip")]}
    async with RawUpstream(lambda body: {**bombs, **good_ones}[body["model"]]).serve() as upstream:
        experts = [
            {"name": name, "model": f"anthropic/{name}", "api_base": upstream.base_url, "api_key": "k"}
            for name in (*bombs, *good_ones)
        ]
        config = {"experts": experts, "answers": LIMITS, "embeddings": {"enabled": False}}
        async with gateway(config, str(tmp_path / "j"), *bombs) as live:
            for name in bombs:
                answer = await live.chat(name)
                assert (name, answer.status) == (name, 502)
                if name != "error":
                    assert answer.error["code"] == "upstream_garbage"
            answer = await live.chat("fine")
            assert answer.json()["choices"][0]["message"]["content"] == "small"


@pytest.mark.filterwarnings("ignore")
async def test_surplus_bytes_reach_no_other_client_of_litellm(tmp_path: Path) -> None:
    def whole(text: str) -> bytes:
        said = {"id": "m", "type": "message", "role": "assistant", "model": "m",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
                "usage": {"input_tokens": 3, "output_tokens": 5}}  # fmt: skip
        return http_bytes(json.dumps(said).encode())

    def answer(body: dict[str, Any]) -> list[bytes | float]:
        own = body["messages"][0]["content"]
        text = own if isinstance(own, str) else own[0]["text"]
        return [whole(text), 0.002, whole(f"surplus of {text}")]

    async with RawUpstream(answer).serve() as upstream:
        expert = {"name": "x", "model": "anthropic/x", "api_base": upstream.base_url, "api_key": "k"}
        async with gateway({"experts": [expert]}, str(tmp_path / "j"), "x") as live:
            for n in range(5):
                said = await live.chat("x", messages=[{"role": "user", "content": f"client {n}"}])
                assert said.json()["choices"][0]["message"]["content"] == f"client {n}"
                await asyncio.sleep(2 * REST_S)
        assert len(set(upstream.served_by)) == 5


def test_of_a_long_stream_only_what_the_journal_keeps_is_held() -> None:
    trace = ExecutionTrace("dec_1")
    for _ in range(100):
        trace.keep(WORD * 1000)
    assert sum(map(len, trace.answer_parts)) < MAX_CONTENT_BYTES + len(WORD) * 1000
    assert (read_sent_text(trace.answer_parts, streamed=True) or "").startswith("word word ")
