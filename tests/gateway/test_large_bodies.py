"""Large and hostile bodies: the work they take is counted, what is right is kept, the rest is refused."""

import base64
import json
import random
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from gateway.config import Config
from gateway.errors import BodyTooLarge, GatewayError, InvalidField, InvalidJson
from gateway.openai import messages
from gateway.prompts.lists import CleanText
from gateway.prompts.wrappings import MAX_CHARS, MAX_LINES, WrappingGrammar
from gateway.requests import bodies, embedding, query
from gateway.requests.bodies import shorten
from gateway.requests.embedding import parse_embedding_input
from gateway.requests.options import NO_OPTIONS, extract_prompt_flags
from gateway.requests.parsing import CHAT, RequestParser, ToPolicy, parse_body
from gateway.requests.query import parse_chat_query, parse_completion_query
from gateway.testing import FakeUpstream
from policies import Policy
from routers import query_of
from tests.fakes.serving import LiveApp
from tests.fakes.serving import gateway as serve

GRAMMAR = WrappingGrammar()
PICTURE = base64.b64encode(random.Random(0).randbytes(90_000)).decode()
decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


def chat(content: Any, **fields: Any) -> bytes:
    body = {"model": "auto", "messages": [{"role": "user", "content": content}], **fields}
    return json.dumps(body, ensure_ascii=False).encode()


def count_calls(work: Callable[[], object]) -> int:
    """Calls of functions, of Python and of C, that a piece of work takes; its refusal is an end like any."""
    n_calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal n_calls
        n_calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    except GatewayError:
        pass
    finally:
        sys.setprofile(None)
    return n_calls


def read_whole(body: bytes) -> None:
    """All that is read of a body before a decision."""
    fields = parse_body(body)
    if "input" in fields:
        parse_embedding_input("auto", fields, NO_OPTIONS, ("minilm",))
    elif "prompt" in fields:
        parse_completion_query(fields, GRAMMAR)
    else:
        found = extract_prompt_flags(fields, NO_OPTIONS, Policy("p"), GRAMMAR)
        parse_chat_query(found.fields, GRAMMAR, found.short)


FLAGS = " [Flag: Smallest model]" * 16
SHAPES: dict[str, Callable[[int], bytes]] = {
    "flags in every turn": lambda n: json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": f"{FLAGS} hi {FLAGS}"}] * (n // 800)}
    ).encode(),
    "flags in one turn": lambda n: chat("[Flag: latest] " * (n // 15)),
    "distinct fields": lambda n: json.dumps({f"f{i}": i for i in range(n // 15)}).encode(),
    "one field many times": lambda n: b'{"model":"auto",' + b'"a":1,' * (n // 6) + b'"messages":[]}',
    "token ids": lambda n: json.dumps({"model": "auto", "input": [7] * (n // 3)}).encode(),
    "lists of token ids": lambda n: json.dumps({"model": "auto", "input": [[7, 8]] * (n // 8)}).encode(),
    "many texts": lambda n: json.dumps({"model": "auto", "input": ["a"] * (n // 5)}).encode(),
    "texts without words": lambda n: b'{"model":"auto","input":[' + b'"",' * (n // 3) + b'""]}',
    "prompts of ids": lambda n: json.dumps({"model": "auto", "prompt": [7] * (n // 3)}).encode(),
    "one long text": lambda n: chat("word " * (n // 5)),
    "escapes": lambda n: json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": "Ж\n" * (n // 8)}]}
    ).encode(),
    "quotes": lambda n: chat('"' * (n // 2)),
    "backslashes": lambda n: chat("\\" * (n // 2)),
    "emoji": lambda n: chat("😀" * (n // 4)),
    "parts": lambda n: chat([{"type": "text", "text": "a"}] * (n // 30)),
    "turns": lambda n: json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": "<a_b>"}] * (n // 40)}
    ).encode(),
    "depth": lambda n: b'{"model":"auto","messages":' + b"[" * n,
    "depth of objects": lambda n: b'{"model":"auto","messages":' + b'{"a":' * (n // 5),
    "digits": lambda n: b'{"model":"auto","messages":[{}],"max_tokens":' + b"9" * n + b"}",
    "tools": lambda n: chat("Hi", tools=[{"type": "function", "function": {"name": "f"}}] * (n // 60)),
    "schema": lambda n: chat("Hi", response_format={"type": "json_schema", "c": [1] * (n // 3)}),
    "stop": lambda n: chat("Hi", stop=["a"] * (n // 5)),
    "picture": lambda n: chat([{"type": "image_url", "image_url": {"url": "data:," + "iVBO" * (n // 4)}}]),
    "tags": lambda n: chat("<a_b>" * (n // 5)),
    "tags, closed": lambda n: chat("<a_b>x</a_b>\n" * (n // 13)),
    "angles": lambda n: chat("<" * n),
    "brackets": lambda n: chat("[" * n),
    "braces": lambda n: chat("{" * n),
    "templates": lambda n: chat("Context:\nQuestion: a\n" * (n // 21)),
    "fences": lambda n: chat("```\n" * (n // 4)),
    "blank lines": lambda n: chat("\n" * (n // 2)),
    "facts": lambda n: chat("Open files: a\n\n" * (n // 16)),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_linear_in_the_size_of_a_body_and_bounded(shape: str) -> None:
    build = SHAPES[shape]
    small, large = (count_calls(partial(read_whole, build(n))) for n in (250_000, 500_000))
    assert large <= 2.3 * small + 2000
    # Routing reads some ten thousand characters; the rest is passed over in pieces of 64 kB.
    assert large < 120_000


def test_a_longer_body_takes_no_more_than_its_pieces() -> None:
    small, large = (count_calls(partial(read_whole, chat("word " * n))) for n in (400_000, 1_600_000))
    n_pieces = 1_200_000 * 5 // bodies.PIECE_BYTES
    assert large - small < 100 * n_pieces


def test_a_picture_is_never_decoded_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = 0
    decode = messages.decode_list

    def count(raw: Raw | memoryview) -> list[Raw]:
        nonlocal n_bytes
        n_bytes += len(memoryview(raw))
        return decode(raw)

    monkeypatch.setattr(query, "decode_list", count)
    url = "data:image/png;base64," + PICTURE * 20
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    read = parse_chat_query(parse_body(chat(parts)), GRAMMAR)
    assert (read.query.text, sorted(read.query.needs)) == ("What is this?", ["vision"])
    assert read.query.n_input_tokens < 1000
    assert n_bytes < 10_000


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_every_field_of_a_large_body_keeps_its_bytes(data: st.DataObject) -> None:
    texts = st.text(
        alphabet=st.sampled_from(["a", "é", "漢", "😀", "\\", '"', "\n", " ", "{", ",", "]"]), max_size=40
    )
    long = st.builds(lambda text, n: text * n, texts, st.integers(0, 60))
    files = st.builds(lambda seed, n: base64.b64encode(random.Random(seed).randbytes(n)).decode(),
                      st.integers(0, 99), st.integers(0, 2000))  # fmt: skip
    values = st.one_of(long, files, st.lists(long, max_size=3), st.dictionaries(texts, long, max_size=3))
    body = json.dumps(
        data.draw(st.dictionaries(texts, values, max_size=5)), ensure_ascii=data.draw(st.booleans())
    ).encode()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_STEPS.items():
            patch.setattr(bodies, name, value)
        patch.setattr("gateway.requests.parsing.INLINE_BYTES", 0)
        found = parse_body(body)
        short = shorten(body, {})
    assert {name: bytes(value) for name, value in found.items()} == {
        name: bytes(value) for name, value in decode_fields(body).items()
    }
    json.loads(bytes(short.data))


SMALL_STEPS = {
    "PIECE_BYTES": 61,
    "MIN_ATTACHMENT_BYTES": 200,
    "ATTACHMENT_HEAD_BYTES": 150,
    "MAX_STRING_BYTES": 800,
}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.integers(0, 255), st.booleans())
def test_a_damaged_body_is_refused_wherever_the_damage_is(place: int, byte: int, is_ascii: bool) -> None:
    text = 'Ж\n"q" \\ 😀 ' * 200
    body = bytearray(json.dumps({"model": "x", "a": text, "b": [text]}, ensure_ascii=is_ascii).encode())
    body[place % len(body)] = byte
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_STEPS.items():
            patch.setattr(bodies, name, value)
        expected = _try_parse(bytes(body))
        patch.setattr("gateway.requests.parsing.INLINE_BYTES", 0)
        assert _try_parse(bytes(body)) == expected


def _try_parse(body: bytes) -> dict[str, bytes] | type[GatewayError]:
    try:
        return {name: bytes(value) for name, value in parse_body(body).items()}
    except GatewayError as error:
        return type(error)


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (b',"x": }', "not valid JSON: object values must be|not valid JSON"),
        (b',"x":"\\ud83d"}', "lone surrogate"),
        (b',"x":"\xff"}', "not UTF-8"),
    ],
)
def test_a_fault_behind_a_picture_is_named_by_its_own_place(tail: bytes, said: str) -> None:
    head = b'{"model":"auto","file":{"data":"' + PICTURE.encode() + b'"}'
    with pytest.raises(InvalidJson, match=said) as caught:
        parse_body(head + tail)
    place = int("".join(filter(str.isdigit, str(caught.value).rpartition("byte ")[2])))
    assert 0 <= place - len(head) <= len(tail)


@pytest.mark.parametrize("fault", [b"\x01", b"\\q", b"\\u12G4", b"\\ud83d."])
def test_a_fault_in_the_middle_of_a_long_text_is_refused(fault: bytes) -> None:
    text = b"word " * 300_000
    middle = len(text) * 3 // 4
    body = b'{"model":"auto","a":"' + text[:middle] + b"\n"[:0] + fault + text[middle:] + b'"}'
    with pytest.raises(InvalidJson):
        parse_body(body)


def test_more_fields_than_any_client_sends_are_refused() -> None:
    for n in (1001, 100_000):
        with pytest.raises(InvalidField, match="1000"):
            parse_body(json.dumps({f"f{i}": 1 for i in range(n)}).encode())
    assert len(parse_body(json.dumps({f"f{i}": 1 for i in range(1000)}).encode())) == 1000


def test_more_values_than_any_window_has_tokens_are_refused() -> None:
    with pytest.raises(InvalidField, match="1000000 values"):
        parse_body(b'{"model":"auto","prompt":[' + b"7," * 1_000_000 + b"7]}")


def test_messages_are_cut_once_for_flags_and_query(monkeypatch: pytest.MonkeyPatch) -> None:
    n_cut = 0
    cut = bodies.shorten

    def count(*arguments: Any, **options: Any) -> bodies.ShortJson:
        nonlocal n_cut
        n_cut += 1
        return cut(*arguments, **options)

    for module in ("parsing", "options", "query"):
        monkeypatch.setattr(f"gateway.requests.{module}.shorten", count)
    config = msgspec.convert({"experts": []}, Config)
    parser = RequestParser(config, config.policies_by_name(), {}, None)
    parser.parse(CHAT, parse_body(chat("word " * 10_000)), {})
    assert n_cut == 2  # the body, and its messages


@pytest.mark.parametrize(
    ("content", "param"),
    [([{"type": "text", "text": "a"}] * 10_001, "messages"), (None, "messages")],
)
def test_more_parts_or_turns_than_any_expert_takes_are_refused_where_they_are_read(
    content: Any, param: str
) -> None:
    body = chat(content) if content else json.dumps({"model": "auto", "messages": [{}] * 10_001}).encode()
    fields = parse_body(body)  # a named expert may have them
    with pytest.raises(InvalidField) as caught:
        parse_chat_query(fields, GRAMMAR)
    assert caught.value.param == param


def test_text_beside_attachments_is_bounded_and_pictures_are_not() -> None:
    parts = [{"type": "input_audio", "input_audio": {"data": PICTURE}}] * 20
    assert len(bytes(parse_body(chat(parts), 100_000)["messages"])) > 2_000_000
    with pytest.raises(BodyTooLarge, match="max_text_bytes"):
        parse_body(chat(["word " * 10_000] * 5), 100_000)


def test_a_long_conversation_counts_as_it_did_and_is_routed_by_its_last_turn() -> None:
    turns = [
        {"role": r, "content": f"{i} " + "word " * 200} for i in range(40) for r in ("user", "assistant")
    ]
    turns.append({"role": "user", "content": "And now? " + "why " * 20})
    fields = parse_body(json.dumps({"model": "auto", "messages": turns}).encode())
    large = parse_chat_query(fields, GRAMMAR).query
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query, "INLINE_BYTES", 10**9)
        assert parse_chat_query(fields, GRAMMAR).query == large
    assert large.text.startswith("And now?")


def test_tokens_that_are_left_out_of_a_long_text_count() -> None:
    text = "word " * 1_000_000
    read = parse_chat_query(parse_body(chat(text)), GRAMMAR).query
    assert read.n_input_tokens == pytest.approx(len(text) / 4, rel=0.01)
    assert len(read.text) < 110_000


def test_pictures_in_a_tools_result_need_sight_in_a_large_body_too() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PICTURE}}
    parts = [{"type": "tool_result", "content": [image]}, {"type": "text", "text": "Hm?"}]
    assert parse_chat_query(parse_body(chat(parts)), GRAMMAR).query.needs == {"vision"}


def test_routing_keeps_head_and_tail_of_a_very_long_text() -> None:
    text = "a" * 90_000 + "b" * 90_000
    found = query_of(text)
    assert (len(found.text), found.n_input_tokens) == (100_001, 45_000)
    assert found.text[:75_000] == text[:75_000]
    assert found.text[-25_000:] == text[-25_000:]


@pytest.mark.parametrize("line", ["\n", "Ж\n", "Context:\n", "# a\n", "User: a\n", "<a_b>\n", "```\n"])
def test_rules_see_head_and_tail_of_a_turn_of_many_lines(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    n_lines: list[int] = []
    clean = WrappingGrammar._clean

    def count(grammar: WrappingGrammar, text: str, depth: int) -> CleanText:
        n_lines.append(text.count("\n"))
        return clean(grammar, text, depth)

    monkeypatch.setattr(WrappingGrammar, "_clean", count)
    text = f"<system-reminder>\nx\n</system-reminder>\nWhy?\n{line * 20_000}Is it so?"
    found = WrappingGrammar().clean(text).text
    assert "Is it so?" in found
    assert "reminder" not in found or found == text
    assert max(n_lines) <= MAX_LINES
    # Where no rule applies nothing is lost.
    plain = "one\n" * 20_000
    assert WrappingGrammar().clean(plain).text == plain


def test_turns_of_wrappings_are_read_up_to_a_bound() -> None:
    noise = "<system-reminder>\n" + "x" * 30_000 + "\n</system-reminder>"
    read: list[int] = []

    class Counting(WrappingGrammar):
        def join(self, parts: Any) -> Any:
            read.append(sum(map(len, parts)))
            return super().join(parts)

    turns = [{"role": "user", "content": noise}] * 100
    parse_chat_query(parse_body(json.dumps({"model": "auto", "messages": turns}).encode()), Counting())
    assert sum(read) <= query.MAX_READ_CHARS + MAX_CHARS


def test_outputs_of_tools_as_turns_do_not_hide_the_request_before_them() -> None:
    outputs = [{"role": "user", "content": f"OBSERVATION:\n{n} " + "x" * 30_000} for n in range(30)]
    messages = [{"role": "user", "content": "Mend the parser."}, *outputs]
    found = parse_chat_query(
        parse_body(json.dumps({"model": "auto", "messages": messages}).encode()), GRAMMAR
    )
    assert found.query.text == "Mend the parser."


@pytest.mark.parametrize("value", [[1, 2], [[1, 2]], [-1], "[ [ 1", None])
def test_token_ids_are_refused_by_their_first_bytes(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    class Refusing:
        def decode(self, _raw: Raw) -> None:
            raise AssertionError("decoded")

    monkeypatch.setattr(embedding, "_input", Refusing())
    if value is None:  # too long to be read at all
        raw = Raw(b'"' + b"a" * embedding.MAX_INPUT_BYTES + b'"')
    else:
        raw = Raw(value.encode() if isinstance(value, str) else json.dumps(value).encode())
    with pytest.raises(InvalidField) as caught:
        parse_embedding_input("auto", {"input": raw}, NO_OPTIONS, ("minilm",))
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["a", 1], r"input\[1\] must be a string"),
        (["a", ["b"]], r"input\[1\] must be a string"),
        (["a", ""], r"input\[1\] is empty"),
        (["a"] * 2049, "2048 are the most"),
        (3, "must be a string or a list of strings"),
        ([], "non-empty"),
        ({"a": 1}, "must be a string or a list of strings"),
    ],
)
def test_inputs_that_are_no_texts_are_named(value: Any, said: str) -> None:
    with pytest.raises(InvalidField, match=said):
        parse_embedding_input("auto", {"input": Raw(json.dumps(value).encode())}, NO_OPTIONS, ("minilm",))


def test_flags_of_a_message_with_a_picture_are_taken_and_the_picture_stays() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PICTURE}}
    body = chat([picture, {"type": "text", "text": "What is it? [Flag: latest]"}])
    found = extract_prompt_flags(parse_body(body), NO_OPTIONS, Policy("p"), GRAMMAR)
    (message,) = json.loads(bytes(found.fields["messages"]))
    assert message["content"] == [picture, {"type": "text", "text": "What is it?"}]
    assert found.hints is not None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<a_b>", "</a_b>", "<system-reminder>", "</system-reminder>", "<task>", "</task>", "```", "\n",
             "\n\n", "[user]", "Question: ", "Context:", "# My request:", "<|im_start|>user", "x y", "---",
             "Open files: a", "{{context}}", "[INST]", "hook: a", ">", "<", "(note: sent by a bot)"]
        ),
        max_size=40,
    )
)  # fmt: skip
def test_a_turn_without_wrappings_is_made_of_its_own_words(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = GRAMMAR.clean(text).text
    assert not Counter("".join(found.split())) - Counter(text)
    assert len(found) <= len(text) + 2


@pytest_asyncio.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveApp]:
    async with FakeUpstream() as upstream:
        config = {
            "experts": [{"name": "good", "model": "openai/good", "api_base": upstream.base_url}],
            "server": {"max_text_bytes": 500_000},
            "embeddings": {"enabled": False},
        }
        async with serve(config, str(tmp_path / "journal.sqlite3"), "good") as running:
            yield running


async def test_a_large_body_is_read_outside_of_the_event_loop(live: LiveApp) -> None:
    parse = RequestParser.parse
    threads: list[str] = []

    def note(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return parse(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RequestParser, "parse", note)
        for path in ("chat/completions", "route"):
            assert (await live.post(path, chat("word " * 4000))).status == 200
        assert (await live.post("chat/completions", chat("Hi"))).status == 200
    assert [name.startswith("bodies") for name in threads] == [True, True, False]


class AnyWith(str):
    """Equal to every text that holds this one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self in str(other)

    __hash__ = str.__hash__


async def test_refusals_of_large_bodies_are_clear(live: LiveApp) -> None:
    for body, status, said in (
        (chat(["word " * 1000] * 200), 413, "max_text_bytes"),
        (SHAPES["distinct fields"](100_000), 400, "fields"),
        (SHAPES["parts"](700_000), 413, "max_text_bytes"),
        (chat([{"type": "text"}] * 10_001), 400, "parts"),
        (b'{"model":' + b"[" * 300_000, 400, "nested too deeply"),
    ):
        answer = await live.post("chat/completions", body)
        assert (answer.status, answer.error["message"]) == (status, AnyWith(said))


async def test_feedback_and_batches_take_small_bodies_only(live: LiveApp) -> None:
    for path in ("feedback", "batches"):
        assert (await live.post(path, b'{"a":"' + b"a" * 400_000 + b'"}')).status == 413


def test_a_parsed_large_request_is_that_of_a_small_one() -> None:
    """The whole parser, with steps so small that every body is a large one."""
    config = msgspec.convert({"experts": []}, Config)
    parser = RequestParser(config, config.policies_by_name(), {}, None)
    body = chat([{"type": "text", "text": "Sum up. [Flag: latest]"}, {"type": "image_url"}], temperature=1)

    def parse() -> ToPolicy:
        parsed = parser.parse(CHAT, parse_body(body), {})
        assert isinstance(parsed, ToPolicy)
        return parsed

    small = parse()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("parsing", "query", "options"):
            patch.setattr(f"gateway.requests.{module}.INLINE_BYTES", 0)
        large = parse()
    assert (large.query, large.hints, large.warnings) == (small.query, small.hints, small.warnings)
    assert {name: bytes(value) for name, value in large.call.fields.items()} == {
        name: bytes(value) for name, value in small.call.fields.items()
    }
