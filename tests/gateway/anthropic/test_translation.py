"""Requests and answers in Anthropic's form say the same as in OpenAI's, whole and streamed."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.anthropic.answers import MessageWriter
from gateway.anthropic.requests import translate_request
from gateway.errors import BadRequest, ExpertFailed, InvalidField
from gateway.openai.translation import Translation
from gateway.requests.parsing import parse_body
from gateway.requests.query import parse_chat_query
from tests.fakes.strict_chat import ChatTurn, build_chat_answer, check_body, list_calls

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAME = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
ARGUMENTS = st.dictionaries(NAME, st.one_of(st.integers(-99, 99), TEXT, st.none()), max_size=3)
TEXT_PART = WORDS.map(lambda text: {"type": "text", "text": text})
URL = st.sampled_from(["data:image/png;base64,iVBORw0KGgo=", "https://pictures.example/a.png"])
IMAGE_PART = URL.map(lambda url: {"type": "image_url", "image_url": {"url": url}})
PDF = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
FILE_PART = st.just({"type": "file", "file": PDF})
PARTS = st.lists(st.one_of(TEXT_PART, IMAGE_PART, FILE_PART), min_size=2, max_size=4)
USER = st.one_of(TEXT, PARTS, IMAGE_PART.map(lambda part: [part]))
CALL = st.tuples(NAME, ARGUMENTS)


@st.composite
def chat_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Chat requests that use what both formats have, in the form that a translation gives."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXT)})
    for turn in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(USER)})
        if not draw(st.booleans()):
            continue
        text, calls = draw(TEXT), draw(st.lists(CALL, max_size=3))
        listed = list_calls(ChatTurn(calls=calls, number=turn))
        answer = {"role": "assistant", "content": text or (None if listed else "")}
        messages.append({**answer, "tool_calls": listed} if listed else answer)
        messages += ({"role": "tool", "tool_call_id": call["id"], "content": draw(TEXT)} for call in listed)
    messages.append({"role": "user", "content": draw(USER)})
    body: dict[str, Any] = {"model": "auto", "messages": messages, "max_tokens": draw(st.integers(1, 9999))}
    if draw(st.booleans()):
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        names = draw(st.lists(NAME, min_size=1, max_size=2, unique=True))
        functions = [{"name": name, "description": draw(TEXT), "parameters": schema} for name in names]
        body["tools"] = [{"type": "function", "function": function} for function in functions]
        named = {"type": "function", "function": {"name": names[0]}}
        if (choice := draw(st.sampled_from([None, "auto", "required", "none", named]))) is not None:
            body["tool_choice"] = choice
            if draw(st.booleans()):
                body["parallel_tool_calls"] = draw(st.booleans())
    numbers = {"temperature": st.floats(0, 1), "top_p": st.floats(0, 1), "top_k": st.integers(1, 99)}
    for name, values in numbers.items():
        if draw(st.booleans()):
            body[name] = draw(values)
    if draw(st.booleans()):
        body["stop"] = draw(st.lists(WORDS, min_size=1, max_size=3))
    if draw(st.booleans()):
        body["user"] = draw(WORDS)
    if draw(st.booleans()):
        body["stream"] = draw(st.booleans())
    if draw(st.booleans()):
        body["reasoning_effort"] = draw(st.sampled_from(["low", "medium", "high"]))
    return body


def to_messages(chat: dict[str, Any]) -> dict[str, Any]:
    """The same request as Anthropic's reference says it: the other way round than the gateway."""
    body: dict[str, Any] = {
        name: chat[name]
        for name in ("model", "max_tokens", "temperature", "top_p", "top_k", "stream")
        if name in chat
    }
    turns: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for message in chat["messages"]:
        content = message["content"]
        if message["role"] == "system":
            body["system"] = content
        elif message["role"] == "tool":
            results.append(
                {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}
            )
        elif message["role"] == "assistant":
            blocks = [{"type": "text", "text": content}] if content else []
            calls = message.get("tool_calls", [])
            blocks += (
                {
                    "type": "tool_use",
                    "id": call["id"],
                    "name": call["function"]["name"],
                    "input": json.loads(call["function"]["arguments"]),
                }
                for call in calls
            )
            turns.append({"role": "assistant", "content": blocks if calls else content})
        else:
            parts = (
                [{"type": "text", "text": content}] if isinstance(content, str) else [*map(to_block, content)]
            )
            turns.append(
                {"role": "user", "content": [*results, *parts] if results else content_of(content, parts)}
            )
            results = []
    body["messages"] = turns
    if "tools" in chat:
        functions = [tool["function"] for tool in chat["tools"]]
        body["tools"] = [{**f, "input_schema": f["parameters"]} for f in functions]
        for tool in body["tools"]:
            del tool["parameters"]
    if "tool_choice" in chat:
        choice = chat["tool_choice"]
        named = {"type": "tool", "name": choice["function"]["name"]} if isinstance(choice, dict) else None
        body["tool_choice"] = named or {"type": {"required": "any"}.get(choice, choice)}
        if "parallel_tool_calls" in chat:
            body["tool_choice"]["disable_parallel_tool_use"] = not chat["parallel_tool_calls"]
    if "stop" in chat:
        body["stop_sequences"] = chat["stop"]
    if "user" in chat:
        body["metadata"] = {"user_id": chat["user"]}
    if "reasoning_effort" in chat:
        body["output_config"] = {"effort": chat["reasoning_effort"]}
    return body


def content_of(content: Any, parts: list[dict[str, Any]]) -> Any:
    return content if isinstance(content, str) else parts


def to_block(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    if part["type"] == "file":
        data = part["file"]["file_data"].partition("base64,")[2]
        source = {"type": "base64", "media_type": "application/pdf", "data": data}
        return {"type": "document", "title": part["file"]["filename"], "source": source}
    url = part["image_url"]["url"]
    head, _, data = url.partition(";base64,")
    if not data:
        return {"type": "image", "source": {"type": "url", "url": url}}
    source = {"type": "base64", "media_type": head.removeprefix("data:"), "data": data}
    return {"type": "image", "source": source}


def translate(body: dict[str, Any]) -> Translation:
    return translate_request(parse_body(msgspec.json.encode(body)))


def as_chat(translation: Translation) -> dict[str, Any]:
    chat: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(translation.fields))
    for message in chat["messages"]:
        for call in message.get("tool_calls", []):
            arguments = json.loads(call["function"]["arguments"])
            call["function"]["arguments"] = json.dumps(arguments)
    return chat


@given(chat_bodies())
def test_a_chat_request_said_as_messages_is_the_same_chat_request(chat: dict[str, Any]) -> None:
    translation = translate(to_messages(chat))
    assert as_chat(translation) == chat
    assert (translation.warnings, translation.native_only) == ((), ())


@given(chat_bodies())
def test_what_is_sent_keeps_to_the_rules_of_chat(chat: dict[str, Any]) -> None:
    sent = as_chat(translate(to_messages(chat)))
    sent.pop("top_k", None)  # servers of open models have it; where it is refused it is left out and told
    check_body(sent)


@given(chat_bodies())
def test_the_router_reads_the_same_of_both(chat: dict[str, Any]) -> None:
    translation = translate(to_messages(chat))
    assert parse_chat_query(translation.fields) == parse_chat_query(parse_body(msgspec.json.encode(chat)))


TURNS = st.builds(
    ChatTurn,
    text=TEXT,
    calls=st.lists(CALL, max_size=3),
    thinking=TEXT,
    usage=st.sampled_from(
        [
            {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49},
            {
                "prompt_tokens": 40,
                "completion_tokens": 9,
                "total_tokens": 49,
                "prompt_tokens_details": {"cached_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
        ]
    ),
)


@given(TURNS)
def test_a_whole_answer_keeps_all_that_both_have(turn: ChatTurn) -> None:
    body = json.dumps(build_chat_answer("m", turn)).encode()
    message = json.loads(MessageWriter(shows_thinking=True).write_answer(body))
    blocks = message["content"]
    assert "".join(block["text"] for block in blocks if block["type"] == "text") == turn.text
    assert "".join(block["thinking"] for block in blocks if block["type"] == "thinking") == turn.thinking
    calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    assert calls == turn.calls
    assert (message["model"], message["role"], message["type"]) == ("m", "assistant", "message")
    assert message["stop_reason"] == ("tool_use" if turn.calls else "end_turn")
    usage, counted = message["usage"], turn.usage
    assert counted is not None
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == counted["prompt_tokens"]
    assert usage["output_tokens"] == counted["completion_tokens"]


@st.composite
def streams(draw: st.DrawFn) -> tuple[ChatTurn, list[bytes]]:
    """An answer, and its events: calls begin in their order, and their further pieces come mixed."""
    turn = draw(TURNS)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    deltas: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in cut(draw, turn.thinking)]
    deltas += ({"content": piece} for piece in cut(draw, turn.text))
    queues: list[list[dict[str, Any]]] = []
    for index, call in enumerate(list_calls(turn)):
        function = call["function"]
        begin = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
        pieces = ({"index": index, "function": {"arguments": p}} for p in cut(draw, function["arguments"]))
        queues.append([begin, *pieces])
    begun: list[list[dict[str, Any]]] = []
    while queues or any(begun):
        ready = [queue for queue in begun if queue] + queues[:1]
        queue = draw(st.sampled_from(ready))
        if queues and queue is queues[0]:
            begun.append(queues.pop(0))
        deltas.append({"tool_calls": [queue.pop(0)]})
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": turn.finish_reason}]})
    chunks.append({**head, "choices": [], "usage": turn.usage})
    return turn, [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]


def cut(draw: st.DrawFn, text: str) -> Iterator[str]:
    while text:
        n = draw(st.integers(1, len(text)))
        yield text[:n]
        text = text[n:]


def fold(events: bytes) -> dict[str, Any]:
    """The message that a stream tells; fails where its events are not in Anthropic's order."""
    message: dict[str, Any] = {}
    block: dict[str, Any] | None = None
    ended = False
    for event in events.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        assert not ended
        match value["type"]:
            case "message_start":
                assert not message
                message = value["message"]
            case "content_block_start":
                assert block is None
                assert value["index"] == len(message["content"])
                block = {**value["content_block"], "pieces": []}
                message["content"].append(block)
            case "content_block_delta":
                assert block is not None
                assert value["index"] == len(message["content"]) - 1
                block["pieces"].append(value["delta"])
            case "content_block_stop":
                assert block is not None
                end_block(block)
                block = None
            case "message_delta":
                assert block is None
                message |= value["delta"]
                message["usage"] |= value["usage"]
            case "message_stop":
                ended = True
            case other:
                assert other == "ping"
    assert ended
    return message


def end_block(block: dict[str, Any]) -> None:
    names = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}
    whole = "".join(piece.get(names[block["type"]], "") for piece in block["pieces"])
    signature = "".join(piece.get("signature", "") for piece in block.pop("pieces"))
    if block["type"] == "tool_use":
        block["input"] = json.loads(whole or "{}")
    else:
        block[block["type"]] = whole
    if block["type"] == "thinking":
        block["signature"] = signature


@given(streams())
def test_a_stream_tells_what_the_whole_answer_tells(made: tuple[ChatTurn, list[bytes]]) -> None:
    turn, events = made
    writer = MessageWriter(shows_thinking=True)
    streamed = fold(b"".join(map(writer.write_events, events)) + writer.end_events(b"data: [DONE]\n\n"))
    body = json.dumps({**build_chat_answer("m", turn), "id": "chatcmpl-1"}).encode()
    assert streamed == json.loads(MessageWriter(shows_thinking=True).write_answer(body))


def chunk(delta: dict[str, Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, **more}]}).encode() + b"\n\n"


def test_calls_that_follow_one_another_are_not_kept_back() -> None:
    writer = MessageWriter()
    first = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}
    second = {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y'}}
    writer.write_events(chunk({"tool_calls": [first]}))
    assert b'"partial_json":"{\\"y"' in writer.write_events(chunk({"tool_calls": [second]}))


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
    ],
)
def test_reasons_to_stop(finish: str, reason: str) -> None:
    body = json.dumps(build_chat_answer("m", ChatTurn("x", finish=finish))).encode()
    assert json.loads(MessageWriter().write_answer(body))["stop_reason"] == reason


def test_a_refusal_and_a_stop_sequence_are_told_where_the_server_tells_them() -> None:
    refused = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    message = json.loads(MessageWriter().write_answer(json.dumps(refused).encode()))
    assert (message["stop_reason"], message["content"]) == ("refusal", [{"type": "text", "text": "No."}])
    stopped = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop", "stop_reason": "END"}]}
    message = json.loads(MessageWriter().write_answer(json.dumps(stopped).encode()))
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


def test_a_call_whose_server_says_stop_is_a_call_all_the_same() -> None:
    body = json.dumps(build_chat_answer("m", ChatTurn(calls=[("f", {})], finish="stop"))).encode()
    assert json.loads(MessageWriter().write_answer(body))["stop_reason"] == "tool_use"


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"choices":[]}', b'{"choices":[{"message":3}]}', b"no"])
def test_an_answer_without_a_message_is_the_experts_failure(body: bytes) -> None:
    with pytest.raises(ExpertFailed):
        MessageWriter().write_answer(body)


def test_arguments_that_are_no_object_stay_readable() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{oh"}}
    body = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    (block,) = json.loads(MessageWriter().write_answer(json.dumps(body).encode()))["content"]
    assert block["input"] == {"arguments": "{oh"}


def test_numbers_of_a_call_stay_as_they_were_written() -> None:
    arguments = '{"id": 123456789012345678901234567890, "x": 1.50}'
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    assert arguments.encode() in MessageWriter().write_answer(json.dumps(body).encode())


def test_counts_are_estimated_where_the_server_has_none() -> None:
    body = json.dumps({**build_chat_answer("m", ChatTurn("x" * 40)), "usage": None}).encode()
    usage = json.loads(MessageWriter(17).write_answer(body))["usage"]
    assert usage == {"input_tokens": 17, "output_tokens": 10}


ASKED: dict[str, Any] = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": 3}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]},
            "messages.0.content.0.source.data",
        ),
        ({"system": 3}, "system"),
        ({"system": [{"type": "image"}]}, "system.0"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"name": "f"}], "tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"metadata": {"user_id": 3}}, "metadata.user_id"),
        ({"thinking": {"type": "enabled", "budget_tokens": "much"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": 3}}, "output_config.effort"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        translate({**ASKED, **change})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0 (bash_20250124)"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"inference_geo": "us"}, "inference_geo"),
        (
            {"messages": [{"role": "user", "content": [{"type": "search_result"}]}]},
            "messages.0.content.0 (search_result)",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
            "messages.0.content.0 (image from file)",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
            "messages.0.content.0 (server_tool_use)",
        ),
    ],
)
def test_what_only_anthropics_servers_do_is_kept_for_them(change: dict[str, Any], part: str) -> None:
    assert translate({**ASKED, **change}).native_only == (part,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cache_control": {"type": "ephemeral"}}, "cache_control"),
        ({"context_management": {}}, "context_management"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"messages": [*ASKED["messages"], {"role": "assistant", "content": "I"}]}, "the last turn"),
        ({"thinking": {"type": "enabled", "budget_tokens": 20000}}, "reasoning_effort 'high'"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "thinking", "thinking": "h", "signature": "s"}],
                    },
                    {"role": "user", "content": "x"},
                ]
            },
            "thinking of earlier turns",
        ),
    ],
)
def test_what_chat_has_no_place_for_is_told(change: dict[str, Any], said: str) -> None:
    assert any(said in warning for warning in translate({**ASKED, **change}).warnings)


def test_a_long_user_is_sent_as_its_hash() -> None:
    users = [
        as_chat(translate({**ASKED, "metadata": {"user_id": user * 40}}))["user"] for user in ("ab", "ac")
    ]
    assert [len(user) for user in users] == [64, 64]
    assert users[0] != users[1]


def test_pictures_of_a_result_follow_it_in_the_turn_of_the_user() -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "text", "text": "seen"}, picture],
    }
    chat = as_chat(translate({**ASKED, "messages": [{"role": "user", "content": [result]}]}))
    tool, user = chat["messages"]
    assert (tool["role"], tool["content"]) == ("tool", "seen")
    assert user["content"][1] == {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}


def test_structured_output_is_asked_for() -> None:
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "schema": schema}
    for change in ({"output_config": {"format": form}}, {"output_format": form}):
        wish = as_chat(translate({**ASKED, **change}))["response_format"]
        assert (wish["type"], wish["json_schema"]["schema"]) == ("json_schema", schema)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), TEXT),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "text", "content", "source", "role", "name", "input"]),
                inner,
                max_size=4,
            )
        ),
    ),
    st.sampled_from(["messages", "system", "tools", "tool_choice", "thinking", "metadata", "output_config"]),
)
def test_odd_values_are_refused_and_break_nothing(value: Any, name: str) -> None:
    with contextlib.suppress(BadRequest):
        translate({**ASKED, name: value})


NAMES = [
    "choices",
    "delta",
    "message",
    "content",
    "tool_calls",
    "function",
    "arguments",
    "name",
    "id",
    "index",
]
NAMES += ["usage", "prompt_tokens", "error", "finish_reason", "reasoning_content", "model", "refusal", "type"]
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT)
ODD = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
)
ODD_CHOICES = st.lists(st.dictionaries(st.sampled_from(NAMES), ODD, max_size=4), max_size=2)
ODD_CHUNK = st.fixed_dictionaries({"choices": ODD_CHOICES}, optional={"usage": ODD, "error": ODD, "id": ODD})


@given(st.lists(ODD_CHUNK, max_size=5))
def test_an_odd_stream_breaks_nothing(chunks: list[Any]) -> None:
    writer = MessageWriter(shows_thinking=True)
    for value in chunks:
        writer.write_events(b"data: " + json.dumps(value).encode() + b"\n\n")
    assert writer.end_events(b"data: [DONE]\n\n").endswith(b'data: {"type":"message_stop"}\n\n')


@given(ODD_CHUNK, st.integers(400, 599))
def test_an_odd_answer_is_a_message_or_the_experts_failure(value: Any, status: int) -> None:
    body = json.dumps(value).encode()
    with contextlib.suppress(ExpertFailed):
        assert json.loads(MessageWriter().write_answer(body))["type"] == "message"
    error = json.loads(MessageWriter().write_error(status, body, "req_1"))
    assert (error["type"], error["request_id"]) == ("error", "req_1")
