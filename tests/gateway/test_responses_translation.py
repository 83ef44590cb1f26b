"""A chat as a request of the Responses API and back, and a chat's answer as a response: nothing is lost."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.errors import BadRequest, InvalidField
from gateway.openai.responses import (
    ChatForm,
    ResponseShape,
    convert_to_chat,
    read_responses_request,
)
from gateway.openai.responses_answer import (
    CustomInputReader,
    ResponseBuilder,
    ResponseWriter,
    read_custom_input,
)
from gateway.openai.responses_tools import ToolName
from gateway.openai.translation import Translation
from gateway.requests.parsing import parse_body

SHAPE = ResponseShape("m", {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}, {})
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
Chat = dict[str, Any]

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
words = texts.filter(bool)
names = st.text("abcdefgh_-0123", min_size=1, max_size=12)


# -- requests: a chat as a client of the Responses API would write it


def write_request(chat: Chat) -> Chat:
    """The request of the Responses API that says what a chat says."""
    said = {name: value for name, value in chat.items() if name not in MOVED}
    said["input"] = [item for message in chat["messages"] for item in write_items(message)]
    for name, (section, key) in SECTIONS.items():
        if name in chat:
            said.setdefault(section, {})[key] = chat[name]
    if "max_completion_tokens" in chat:
        said["max_output_tokens"] = chat["max_completion_tokens"]
    if "tools" in chat:
        said["tools"] = [{"type": "function", **tool["function"]} for tool in chat["tools"]]
    if isinstance(chat.get("tool_choice"), dict):
        said["tool_choice"] = {"type": "function", **chat["tool_choice"]["function"]}
    if "response_format" in chat:
        form = chat["response_format"]
        flat = {"type": form["type"], **form.get("json_schema", {})}
        said.setdefault("text", {})["format"] = flat
    return said


MOVED = ("messages", "max_completion_tokens", "response_format", "verbosity", "reasoning_effort", "logprobs")
SECTIONS = {"verbosity": ("text", "verbosity"), "reasoning_effort": ("reasoning", "effort")}


def write_items(message: Chat) -> list[Chat]:
    role: str = message["role"]
    content: Any = message.get("content")
    if role == "tool":
        call_id = message["tool_call_id"]
        return [{"type": "function_call_output", "call_id": call_id, "output": content}]
    items: list[Chat] = []
    if role == "assistant":
        parts = [{"type": "output_text", "text": content, "annotations": []}] if content is not None else []
        if message.get("refusal"):
            parts.append({"type": "refusal", "refusal": message["refusal"]})
        if parts:
            items.append({"type": "message", "role": role, "content": parts, "status": "completed"})
        for call in message.get("tool_calls", ()):
            items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
        return items
    return [
        {"role": role, "content": content if isinstance(content, str) else list(map(write_part, content))}
    ]


def write_part(part: Chat) -> Chat:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    if part["type"] == "image_url":
        picture = part["image_url"]
        return {"type": "input_image", **picture, "image_url": picture["url"]} | (
            {"detail": picture["detail"]} if "detail" in picture else {}
        )
    if part["type"] == "input_audio":
        return part
    return {"type": "input_file", **part["file"]}


def convert(request: Chat, **options: Any) -> ChatForm:
    fields = parse_body(json.dumps(request).encode())
    return convert_to_chat(read_responses_request(fields), **options)


def read_chat(form: ChatForm) -> Chat:
    """The chat, as an expert gets it that takes what experts thought."""
    writer = ResponseWriter(ResponseBuilder(form.shape, "resp_1"), None)
    translation = Translation("responses", form.fields, None, writer, reasoning=form.reasoning)
    fields = translation.add_reasoning(form.fields)
    return {name: json.loads(bytes(value)) for name, value in fields.items()}


pictures = st.fixed_dictionaries(
    {"url": st.just("data:image/png;base64,AAAA")}, optional={"detail": st.sampled_from(["low", "high"])}
)
parts = st.one_of(
    texts.map(lambda text: {"type": "text", "text": text}),
    pictures.map(lambda picture: {"type": "image_url", "image_url": picture}),
    st.just({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    st.just({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}}),
)
# One text alone is the same as a text without its list.
user_turns = st.one_of(texts, st.lists(parts, min_size=2, max_size=4)).map(
    lambda content: [{"role": "user", "content": content}]
)
calls = st.lists(st.tuples(names, texts), min_size=1, max_size=3, unique_by=lambda call: call[0])


@st.composite
def assistant_turns(draw: Callable[[st.SearchStrategy[Any]], Any]) -> list[Chat]:
    kind = draw(st.sampled_from(["text", "refusal", "calls", "both"]))
    message: Chat = {"role": "assistant", "content": draw(words) if kind in ("text", "both") else None}
    if kind == "refusal":
        message["refusal"] = draw(words)
    if kind not in ("calls", "both"):
        return [message]
    made = [(f"call_{n}", name, text) for n, (name, text) in enumerate(draw(calls))]
    message["tool_calls"] = [
        {"id": ident, "type": "function", "function": {"name": name, "arguments": text}}
        for ident, name, text in made
    ]
    return [message, *({"role": "tool", "tool_call_id": one[0], "content": draw(texts)} for one in made)]


tools = st.lists(names, min_size=1, max_size=3, unique=True).map(
    lambda given: [
        {"type": "function", "function": {"name": n, "parameters": {"type": "object"}, "strict": True}}
        for n in given
    ]
)
schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
plain_fields = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "user": words,
    "safety_identifier": words,
    "prompt_cache_key": words,
    "service_tier": st.sampled_from(["auto", "default", "flex", "priority"]),
    "max_completion_tokens": st.integers(16, 10_000),
    "verbosity": st.sampled_from(["low", "medium", "high"]),
    "reasoning_effort": st.sampled_from(["minimal", "low", "medium", "high"]),
    "response_format": st.sampled_from(
        [{"type": "json_object"}, {"type": "json_schema", "json_schema": schema}]
    ),
    "router": st.just({"exclude": ["x"]}),
    "top_k": st.integers(1, 100),
}


@st.composite
def chats(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Chat:
    chat: Chat = {"model": "auto", **draw(st.fixed_dictionaries({}, optional=plain_fields))}
    system = draw(st.one_of(st.none(), texts))
    turns = draw(st.lists(st.one_of(user_turns, assistant_turns()), max_size=5))
    chat["messages"] = [{"role": "system", "content": system}] if system is not None else []
    chat["messages"] += draw(user_turns)
    for turn in turns:
        # An answer's text and its calls are items of their own: two messages in a row would be one.
        if {turn[0]["role"], chat["messages"][-1]["role"]} != {"assistant"}:
            chat["messages"] += turn
    if draw(st.booleans()):
        chat["tools"] = draw(tools)
        named = {"type": "function", "function": {"name": chat["tools"][0]["function"]["name"]}}
        chat["tool_choice"] = draw(st.sampled_from(["auto", "none", "required", named]))
        chat["parallel_tool_calls"] = draw(st.booleans())
    if n := draw(st.integers(0, 20)):
        chat |= {"logprobs": True, "top_logprobs": n}
    return chat


@given(chats())
@settings(deadline=None)
def test_a_chat_is_the_same_after_it_was_a_request_of_the_responses_api(chat: Chat) -> None:
    form = convert(write_request(chat))
    assert read_chat(form) == chat
    assert form.warnings == ()


@given(words, st.lists(words, min_size=1, max_size=3))
def test_instructions_and_developer_messages_are_one_message_of_the_system(
    instructions: str, asked: list[str]
) -> None:
    items = [{"role": "developer", "content": [{"type": "input_text", "text": text}]} for text in asked]
    given = {"model": "m", "instructions": instructions, "input": [*items, {"role": "user", "content": "x"}]}
    system, user = read_chat(convert(given))["messages"]
    assert system == {"role": "system", "content": "\n\n".join([instructions, *asked])}
    assert user == {"role": "user", "content": "x"}


def test_a_request_of_codex() -> None:
    call = {
        "type": "function_call",
        "name": "stop",
        "namespace": "agents",
        "call_id": "c1",
        "arguments": "{}",
    }
    patch = {"type": "custom_tool_call", "name": "apply_patch", "call_id": "c2", "input": "*** Begin"}
    picture = [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]
    request = {
        "model": "m",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "look"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            call,
            {"type": "function_call_output", "call_id": "c1", "output": picture},
            patch,
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
        ],
        "tools": [
            {
                "type": "namespace",
                "name": "agents",
                "description": "",
                "tools": [{"type": "function", "name": "stop"}],
            },
            {"type": "custom", "name": "apply_patch", "description": "Patch.", "format": GRAMMAR},
            {"type": "web_search", "external_web_access": True},
        ],
        "include": ["reasoning.encrypted_content"],
        "client_metadata": {"turn_id": "1"},
    }
    form = convert(request, drops_hosted_tools=True)
    chat = read_chat(form)
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["agents__stop", "apply_patch"]
    assert "start: x" in chat["tools"][1]["function"]["description"]
    user, first, output, media, second, patched = chat["messages"]
    assert user == {"role": "user", "content": "look"}
    assert first["reasoning_content"] == "Hm."
    assert first["tool_calls"][0]["function"] == {"name": "agents__stop", "arguments": "{}"}
    assert (output["role"], output["tool_call_id"]) == ("tool", "c1")
    assert media["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    assert json.loads(second["tool_calls"][0]["function"]["arguments"]) == {"input": "*** Begin"}
    assert patched == {"role": "tool", "tool_call_id": "c2", "content": "done"}
    assert [warning.partition(":")[0] for warning in form.warnings] == [
        "tool web_search",
        "include reasoning.encrypted_content",
        "client_metadata",
    ]


def test_tools_that_the_client_finds_can_be_called_from_then_on() -> None:
    search = {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}}
    request: Chat = {"model": "m", "input": "x", "tools": [search]}
    form = convert(request)
    assert [tool["function"]["name"] for tool in read_chat(form)["tools"]] == ["tool_search"]
    call = {"id": "c", "function": {"name": "tool_search", "arguments": '{"query": "mail"}'}}
    events = stream(write_chunks({"tool_calls": [call]}, "tool_calls", [3]), form.shape)
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["execution"], item["arguments"]) == (
        "tool_search_call",
        "client",
        {"query": "mail"},
    )
    found = {
        "type": "namespace",
        "name": "mail",
        "description": "",
        "tools": [{"type": "function", "name": "send"}],
    }
    output = {"type": "tool_search_output", "call_id": "c", "execution": "client", "tools": [found]}
    # A conversation may have found the same tools twice.
    again = [{**item, "call_id": "d"}, {**output, "call_id": "d"}]
    chat = read_chat(convert({**request, "input": [{"role": "user", "content": "x"}, item, output, *again]}))
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["tool_search", "mail__send"]
    assert json.loads(chat["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"query": "mail"}
    assert json.loads(chat["messages"][2]["content"]) == [found]


GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: x"}


def test_reasoning_is_sent_back_within_its_turn_under_its_own_name() -> None:
    def think(ident: str, text: str) -> Chat:
        return {
            "type": "reasoning",
            "id": ident,
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}],
        }

    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    items = [
        {"role": "user", "content": "1"},
        think("rs_1", "old"),
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
        think("rsn_2", "new"),
        {**call, "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "4"},
    ]
    form = convert({"model": "m", "input": items})
    messages = read_chat(form)["messages"]
    assert b"reasoning" not in bytes(form.fields["messages"])
    assert [message.get("reasoning_content") for message in messages] == [None] * 5
    assert [message.get("reasoning") for message in messages] == [None, None, None, "new", None]


def test_what_is_said_after_a_call_is_of_the_same_answer() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items = [
        {"role": "user", "content": "1"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        call,
        {"role": "assistant", "content": "I call it."},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
    ]
    _, answer, output = read_chat(convert({"model": "m", "input": items}))["messages"]
    assert (answer["content"], answer["reasoning_content"], len(answer["tool_calls"])) == (
        "I call it.",
        "Hm.",
        1,
    )
    assert output["role"] == "tool"


def test_allowed_tools_are_those_that_are_sent() -> None:
    given = [{"type": "function", "name": name} for name in ("a", "b", "c")]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [given[0], given[2]]}
    chat = read_chat(convert({"model": "m", "input": "x", "tools": given, "tool_choice": choice}))
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["a", "c"]
    assert chat["tool_choice"] == "required"


def test_what_earlier_responses_and_references_hold_comes_before_the_input() -> None:
    history = [Raw(b'{"role":"user","content":"1"}'), Raw(b'{"role":"assistant","content":"2"}')]
    request = {
        "model": "m",
        "input": [{"type": "item_reference", "id": "msg_1"}, {"role": "user", "content": "4"}],
    }
    fields = parse_body(json.dumps(request).encode())
    read = read_responses_request(fields)
    assert read.references == ["msg_1"]
    form = convert_to_chat(read, history, {"msg_1": Raw(b'{"role":"assistant","content":"3"}')})
    assert [message["content"] for message in read_chat(form)["messages"]] == ["1", "2", "3", "4"]
    with pytest.raises(InvalidField, match="msg_1"):
        convert_to_chat(read)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "computer_call", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "tool_search_call", "call_id": "c"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference", "id": "msg_9"}]}, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f"}] * 2}, "tools[1].name"),
        (
            {"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "web_search"}},
            "tool_choice",
        ),
        ({"text": {"format": {"type": "yaml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"text": 5}, "text"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"truncation": "some"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"instructions": 5}, "instructions"),
        ({"previous_response_id": 5}, "previous_response_id"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(fields: Chat, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        convert({"model": "m", "input": "x", **fields})
    assert refused.value.param == param
    assert refused.value.status == 400


# -- answers


def build_answer(message: Chat, finish: str = "stop", usage: Chat | None = None) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps({"model": "real", "choices": [choice], "usage": usage}).encode()


def read_events(data: bytes) -> list[Chat]:
    """The events of a stream, each of which OpenAI's own types accept as it is."""
    events = []
    for event in data.decode().split("\n\n")[:-1]:
        kind, payload = event.split("\n")
        read = json.loads(payload.removeprefix("data: "))
        assert kind == f"event: {read['type']}"
        EVENTS.validate_python(read)
        events.append(read)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def stream(chunks: Sequence[bytes], shape: ResponseShape = SHAPE) -> list[Chat]:
    builder = ResponseBuilder(shape, "resp_1")
    said = builder.begin() + b"".join(map(builder.feed, chunks)) + builder.finish()
    return read_events(said + builder.close(builder.to_response()))


def build_chunk(delta: Chat, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"model": "real", "choices": [choice]}).encode() + b"\n\n"


answers = st.fixed_dictionaries(
    {},
    optional={
        "reasoning_content": words,
        "content": words,
        "refusal": words,
        "tool_calls": calls.map(
            lambda made: [
                {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": text or "{}"}}
                for n, (name, text) in enumerate(made)
            ]
        ),
    },
)
finishes = st.sampled_from(["stop", "tool_calls", "length", "content_filter"])


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(ends)]


def write_chunks(message: Chat, finish: str, places: Sequence[int]) -> list[bytes]:
    deltas: list[Chat] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "content", "refusal"):
        deltas += [{name: piece} for piece in cut(message.get(name, ""), places)]
    for n, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        deltas.append({"tool_calls": [{**call, "index": n, "function": {**function, "arguments": ""}}]})
        for piece in cut(function["arguments"], places):
            deltas.append({"tool_calls": [{"index": n, "function": {"arguments": piece}}]})
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
    return [*map(build_chunk, deltas), build_chunk({}, finish), usage, b"data: [DONE]\n\n"]


def drop_ids(output: Sequence[Chat]) -> list[Chat]:
    return [{name: value for name, value in item.items() if name != "id"} for item in output]


@given(answers, finishes, st.lists(st.integers(0, 50), max_size=4))
@settings(deadline=None)
def test_a_stream_tells_what_the_whole_answer_tells(message: Chat, finish: str, places: list[int]) -> None:
    whole = ResponseBuilder(SHAPE, "resp_1").build(build_answer(message, finish))
    events = stream(write_chunks(message, finish, places))
    last = events[-1]["response"]
    assert drop_ids(last["output"]) == drop_ids(whole["output"])
    assert (last["status"], last["incomplete_details"]) == (whole["status"], whole["incomplete_details"])
    assert events[-1]["type"] == f"response.{last['status']}"
    assert last["usage"]["total_tokens"] == 5
    # What begins ends, once, and is what the last event holds.
    done = [event for event in events if event["type"] == "response.output_item.done"]
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert sorted(event["output_index"] for event in added) == list(range(len(last["output"])))
    assert {event["output_index"]: event["item"] for event in done} == dict(enumerate(last["output"]))
    assert_deltas_make_up(events)


def assert_deltas_make_up(events: Sequence[Chat]) -> None:
    """The pieces of each text are what its last event says."""
    said: dict[tuple[str, str, object], str] = {}
    for event in events:
        kind, _, end = event["type"].rpartition(".")
        part = event.get("content_index", event.get("summary_index"))
        if end == "delta":
            key = (kind, event["item_id"], part)
            said[key] = said.get(key, "") + event["delta"]
        elif end == "done" and (kind, event.get("item_id"), part) in said:
            text = next(event[name] for name in ("text", "refusal", "arguments", "input") if name in event)
            assert said[kind, event["item_id"], part] == text


@given(answers)
@settings(deadline=None)
def test_an_answer_is_the_same_when_its_items_are_sent_back(message: Chat) -> None:
    response = ResponseBuilder(SHAPE, "resp_1").build(build_answer(message))
    items = [{"role": "user", "content": "x"}, *response["output"]]
    back = read_chat(convert({"model": "m", "input": items}))["messages"][1:]
    expected = {"role": "assistant", "content": None, **message}
    if not message:
        expected["content"] = ""
    # Thinking alone is no message.
    assert back == ([] if message.keys() == {"reasoning_content"} else [expected])


def test_the_response_is_one_that_openais_types_accept() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "total_tokens": 110,
        "prompt_tokens_details": {"cached_tokens": 60},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    request = {"model": "m", "input": "x", "instructions": "y", "metadata": {"a": "b"}}
    shape = convert(request).shape
    built = ResponseBuilder(shape, "resp_1").build(build_answer({"content": "Hi"}, usage=usage))
    response = Response.model_validate(
        json.loads(json.dumps(built, default=lambda raw: json.loads(bytes(raw))))
    )
    assert response.output_text == "Hi"
    assert (response.model, response.status, response.instructions) == ("real", "completed", "y")
    assert response.metadata == {"a": "b"}
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 60
    assert response.usage.output_tokens_details.reasoning_tokens == 4


def test_a_summary_is_what_clients_get_who_ask_for_one() -> None:
    shape = convert({"model": "m", "input": "x", "reasoning": {"summary": "auto"}}).shape
    chunks = [build_chunk({"reasoning": "Hm."}), build_chunk({"content": "So."}, "stop")]
    events = stream(chunks, shape)
    assert "response.reasoning_summary_text.delta" in [event["type"] for event in events]
    (reasoning, message) = events[-1]["response"]["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert reasoning["id"].startswith("rsn_")
    assert message["content"][0]["text"] == "So."


def test_calls_whose_pieces_come_in_turn_are_kept_apart() -> None:
    def piece(n: int, text: str, **more: Any) -> Chat:
        return {
            "tool_calls": [{"index": n, **more, "function": {"arguments": text, **more.pop("function", {})}}]
        }

    chunks = [
        build_chunk(piece(0, "", id="a", function={"name": "f"})),
        build_chunk(piece(1, "[", id="b", function={"name": "g"})),
        build_chunk(piece(0, "{")),
        build_chunk(piece(1, "]")),
        build_chunk(piece(0, "}"), "tool_calls"),
    ]
    output = stream(chunks)[-1]["response"]["output"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output] == [
        ("a", "f", "{}"),
        ("b", "g", "[]"),
    ]


def test_calls_of_custom_tools_and_of_namespaces_get_their_own_names_back() -> None:
    names = {"agents__stop": ToolName("stop", "agents"), "patch": ToolName("patch", kind="custom")}
    shape = ResponseShape("m", SHAPE.echo, names)
    calls = [
        {"id": "a", "function": {"name": "agents__stop", "arguments": "{}"}},
        {"id": "b", "function": {"name": "patch", "arguments": '{"input": "*** \\ud83e\\udde0\\n"}'}},
    ]
    whole = ResponseBuilder(shape, "resp_1").build(build_answer({"tool_calls": calls}))
    assert drop_ids(whole["output"]) == [
        {"type": "function_call", "status": "completed", "call_id": "a", "name": "stop", "arguments": "{}"}
        | {"namespace": "agents"},
        {
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "b",
            "name": "patch",
            "input": "*** 🧠\n",
        },
    ]
    events = stream(write_chunks({"tool_calls": calls}, "tool_calls", range(40)), shape)
    assert drop_ids(events[-1]["response"]["output"]) == drop_ids(whole["output"])
    deltas = [one["delta"] for one in events if one["type"] == "response.custom_tool_call_input.delta"]
    assert len(deltas) > 2
    assert "".join(deltas) == "*** 🧠\n"


@given(texts, st.lists(st.integers(0, 80), max_size=6), st.booleans())
def test_the_input_of_a_custom_tool_is_read_as_it_comes(
    text: str, places: list[int], ascii_only: bool
) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    reader = CustomInputReader()
    assert "".join(map(reader.feed, cut(arguments, places))) == text
    assert read_custom_input(arguments) == text


def test_arguments_of_another_form_are_the_input_themselves() -> None:
    assert read_custom_input("*** Begin Patch") == "*** Begin Patch"
    assert read_custom_input('{"patch": "x"}') == '{"patch": "x"}'


def test_an_expert_that_fails_in_a_stream_is_told() -> None:
    error = {"error": {"message": "cut", "type": "upstream_error", "param": None, "code": "stream_cut"}}
    failed = b"data: " + json.dumps(error).encode() + b"\n\n"
    events = stream([build_chunk({"content": "Hi"}), failed])
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert events[-2]["code"] == "stream_cut"
    response = events[-1]["response"]
    assert (response["status"], response["error"]["message"]) == ("failed", "cut")
    assert response["output"][0]["status"] == "incomplete"


def test_an_answer_that_alternates_without_end_is_bounded() -> None:
    chunks = [build_chunk({"reasoning": "a", "content": "b", "refusal": "c"})] * 3000
    builder = ResponseBuilder(SHAPE, "resp_1")
    builder.begin()
    for chunk in chunks:
        builder.feed(chunk)
    builder.finish()
    output = builder.to_response()["output"]
    assert len(output) <= 1025
    assert sum(len(item.get("content", ())) for item in output) < 5000
    # What was said is there.
    said = [part.get("text", part.get("refusal")) for item in output for part in item["content"]]
    assert "".join(said).count("b") == 3000


def test_the_facts_of_the_gateway_are_on_the_last_event() -> None:
    facts = b'data: {"choices":[],"thalamus":{"expert":"x"}}\n\n'
    events = stream([build_chunk({"content": "Hi"}, "stop"), facts])
    assert events[-1]["response"]["thalamus"] == {"expert": "x"}


def test_annotations_and_log_probabilities_are_kept() -> None:
    cited = {
        "type": "url_citation",
        "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1},
    }
    probability = {"token": "Hi", "bytes": [72, 105], "logprob": -0.1, "top_logprobs": []}
    message = {"role": "assistant", "content": "Hi", "annotations": [cited]}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": [probability]}}
    shape = convert({"model": "m", "input": "x", "top_logprobs": 1}).shape
    body = json.dumps({"choices": [choice]}).encode()
    (item,) = ResponseBuilder(shape, "resp_1").build(body)["output"]
    (part,) = item["content"]
    assert part["annotations"] == [{"type": "url_citation", **cited["url_citation"]}]  # type: ignore[dict-item]
    assert part["logprobs"] == [probability]


def test_a_long_conversation_is_read_in_one_pass() -> None:
    def count_calls(n_turns: int) -> int:
        thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
        turn = [{"role": "user", "content": "1"}, thought, {"role": "assistant", "content": "2"}]
        fields = parse_body(json.dumps({"model": "m", "input": turn * n_turns}).encode())
        n_calls = 0

        def note(*_: object) -> None:
            nonlocal n_calls
            n_calls += 1

        sys.setprofile(note)
        try:
            convert_to_chat(read_responses_request(fields))
        finally:
            sys.setprofile(None)
        return n_calls

    assert count_calls(400) < 5 * count_calls(100)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(-9, 9), texts),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
        max_leaves=12,
    ),
    st.sampled_from(
        ["input", "tools", "text", "reasoning", "instructions", "tool_choice", "include", "metadata"]
    ),
)
@settings(deadline=None)
def test_odd_values_are_refused_and_bring_no_fault(value: Any, name: str) -> None:
    given: Mapping[str, Any] = {"model": "m", "input": "x", "tools": [{"type": "function", "name": "f"}]}
    try:
        convert({**given, name: value})
    except BadRequest as refused:
        assert refused.param is not None  # noqa: PT017
