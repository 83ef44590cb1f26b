"""What routing sees of a request."""

import json
from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidField
from gateway.prompts.lists import CleanText
from gateway.prompts.wrappings import WrappingGrammar
from gateway.requests.query import (
    CONTEXT_CHARS,
    TOKENS_PER_ATTACHMENT,
    build_routing_text,
    parse_chat_query,
    parse_completion_query,
)
from routers import Query, estimate_tokens, query_of

LONG = "Refactor the parser so that it reports the line of every error, and add tests for it. " * 3


def raw(body: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}


def chat(*messages: Any, **fields: Any) -> Query:
    return parse_chat_query(raw({"messages": messages, **fields})).query


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "ok") -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    "prompt",
    [
        "What is 4817*392?",
        "def f(x):\n    return x\n",
        "Wie heißt du, und woher kommst du?",
        "",
        " a  b ",
        "1 < 2 > 0",
        LONG * 50,
    ],
)
def test_a_lone_user_message_is_the_query_of_its_text(prompt: str) -> None:
    assert chat(user(prompt)) == query_of(prompt)
    assert chat(user([{"type": "text", "text": prompt}])) == query_of(prompt)
    assert parse_completion_query(raw({"prompt": prompt})).query == query_of(prompt)


def test_a_short_last_turn_is_read_in_the_light_of_what_was_asked_before() -> None:
    text = chat(user(LONG), assistant(), user("commit it")).text
    assert text.startswith("commit it\n\n")
    assert LONG[:200] in text


def test_the_last_turn_leads_and_weighs_most() -> None:
    earlier = "Tell me about the history of Rome, its kings and its consuls. " * 20
    text = chat(user(earlier), assistant(), user(LONG)).text
    assert text.startswith(LONG)
    assert len(LONG) > 2 * (len(text) - len(LONG) - 10)


def test_context_is_bounded_however_long_the_conversation() -> None:
    turns = [user(f"{n} {LONG}") for n in range(200)]
    assert len(chat(*turns, user("go on")).text) < CONTEXT_CHARS + 100


def test_assistants_tools_and_systems_do_not_speak_for_the_user() -> None:
    query = chat(
        {"role": "system", "content": "You are a PIRATE."},
        user("Sort this list."),
        assistant("ARR"),
        {"role": "tool", "tool_call_id": "1", "content": "SECRET OUTPUT"},
        {"role": "developer", "content": "Be BRIEF."},
    )
    assert query.text == "Sort this list."


def test_tokens_are_those_of_the_whole_request() -> None:
    tool_output = "x" * 40_000
    query = chat(user("Sort this list."), {"role": "tool", "content": tool_output})
    assert query.n_input_tokens >= estimate_tokens(tool_output)


@pytest.mark.parametrize(
    "output",
    [
        "[execute_command for 'ls -la'] Result:\ntotal 0",
        "EXECUTION RESULT of [run]:\n1",
        "OBSERVATION:\n4 files",
    ],
)
def test_a_turn_that_is_a_tools_output_is_no_turn(output: str) -> None:
    assert chat(user("List my files, please, and count them."), assistant(), user(output)).text == (
        "List my files, please, and count them."
    )


def test_a_tool_result_among_the_parts_is_not_the_ask() -> None:
    parts = [{"type": "tool_result", "content": "LOTS"}, {"type": "text", "text": "Go on."}]
    assert chat(user("Sort the list."), user(parts)).text == "Go on.\n\nSort the list."


def test_a_conversation_without_a_users_word_is_routed_by_what_there_is() -> None:
    assert chat({"role": "system", "content": "Greet the world."}).text == "Greet the world."
    assert chat(user(None)).text == ""


@pytest.mark.parametrize("kind", ["image_url", "input_image"])
def test_images_are_seen_and_counted(kind: str) -> None:
    query = chat(
        user(
            [
                {"type": "text", "text": "What is this?"},
                {"type": kind, kind: {"url": "data:image/png;base64,AAAA"}},
            ]
        )
    )
    assert query.needs == {"vision"}
    assert query.text == "What is this?"
    assert query.n_input_tokens == query_of("What is this?").n_input_tokens + TOKENS_PER_ATTACHMENT


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_tools_are_seen_and_counted(field: str) -> None:
    query = chat(user("Hi"), **{field: [{"type": "function", "function": {"name": "f" * 400}}]})
    assert query.has_tools
    assert query.n_input_tokens > 100


@pytest.mark.parametrize("value", [b"null", b"[]", b"[ ]", b"[\n\t]", b"{}", b"{ }", b"[" + b" " * 99 + b"]"])
def test_an_empty_list_of_tools_is_no_tools(value: bytes) -> None:
    fields = {**raw({"messages": [user("Hi")]}), "tools": msgspec.Raw(value)}
    assert not parse_chat_query(fields).query.has_tools


@pytest.mark.parametrize(
    ("kind", "expected"), [("json_object", True), ("json_schema", True), ("text", False)]
)
def test_a_wish_for_json_is_seen(kind: str, expected: bool) -> None:
    assert chat(user("Hi"), response_format={"type": kind}).wants_json is expected


def test_the_limit_of_the_answer_is_read_newer_name_first() -> None:
    assert chat(user("Hi"), max_tokens=5).max_output_tokens == 5
    assert chat(user("Hi"), max_tokens=5, max_completion_tokens=7).max_output_tokens == 7
    assert chat(user("Hi"), max_tokens=None).max_output_tokens is None


def test_unknown_fields_and_roles_are_nobodys_business() -> None:
    query = chat(
        {"role": "user", "content": "Hi", "name": "n", "x": {"y": [1]}},
        {"role": "wizard", "content": "!"},
        zz=1,
    )
    assert query.text == "Hi"


def test_several_prompts_are_routed_by_the_first_and_counted_all() -> None:
    query = parse_completion_query(raw({"prompt": ["one", "two" * 100]})).query
    assert query.text == "one"
    assert query.n_input_tokens > 70


@pytest.mark.parametrize(("value", "n_tokens"), [([1, 2, 3], 3), ([[1, 2], [3]], 3)])
def test_token_ids_cannot_be_read_but_are_counted(value: object, n_tokens: int) -> None:
    query = parse_completion_query(raw({"prompt": value})).query
    assert (query.text, query.n_input_tokens) == ("", n_tokens)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
    ],
)
def test_a_conversation_without_a_message_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_chat_query(raw(body))
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["one", "two"], "one\ntwo"),
        ({"type": "text", "text": "one"}, "one"),
        ([{"text": "one"}], "one"),
        ([{"type": "text", "text": None}], ""),
        ([{"type": "text", "text": 7}, {"type": "text", "text": "one"}], "one"),
        ([None, 3, [], {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "one"}], "one"),
        (3, ""),
        ({}, ""),
    ],
)
def test_content_of_any_shape_is_read_as_far_as_it_is_text(content: Any, text: str) -> None:
    query = chat(user(content))
    assert (query.text, query.needs) == (text, frozenset())


@pytest.mark.parametrize("message", ["Hi", None, 3, [], {"content": "b"}, {"role": 5, "content": "b"}])
def test_a_message_of_another_format_is_left_to_the_expert(message: Any) -> None:
    assert chat(message, user("Sort the list.")).text == "Sort the list."


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1, None),
        (4096.0, 4096),
        (6000.5, 6001),
        ("512", 512),
        (None, None),
        (0, 0),
        ("many", None),
        ([], None),
        (True, None),
        (10**30, None),
    ],
)
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_the_answer_is_read_as_clients_write_it(name: str, value: Any, expected: Any) -> None:
    fields = {**raw({"messages": [user("x")]}), name: msgspec.Raw(json.dumps(value).encode())}
    assert parse_chat_query(fields).query.max_output_tokens == expected


@pytest.mark.parametrize("value", ["json", 3, None, {"type": 5}, []])
def test_a_format_of_another_kind_is_left_to_the_expert(value: Any) -> None:
    assert not chat(user("Hi"), response_format=value).wants_json


@pytest.mark.parametrize(
    ("value", "text"), [([], ""), (3, ""), ({"a": 1}, ""), (["a", 1], "a"), ([True], "")]
)
def test_a_prompt_of_another_kind_is_left_to_the_expert(value: object, text: str) -> None:
    assert parse_completion_query(raw({"prompt": value})).query.text == text


@pytest.mark.parametrize(
    ("kind", "ability"),
    [
        ("image_url", "vision"),
        ("input_audio", "audio"),
        ("audio_url", "audio"),
        ("file", "files"),
        ("input_file", "files"),
        ("document", "files"),
        ("video_url", "video"),
        ("hologram", "hologram"),
    ],
)
def test_a_part_that_is_no_text_needs_an_ability(kind: str, ability: str) -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {"data": "AAAA"}}]
    query = chat(user(parts))
    assert (query.text, set(query.needs)) == ("What is this?", {ability})
    assert query.n_input_tokens == query_of("What is this?").n_input_tokens + TOKENS_PER_ATTACHMENT


def test_a_picture_that_a_tool_gave_needs_the_ability_too() -> None:
    result = {
        "type": "tool_result",
        "content": [{"type": "text", "text": "x"}, {"type": "image", "source": {}}],
    }
    assert chat(user("Hi"), user([result, {"type": "text", "text": "Go on."}])).needs == {"vision"}
    assert not chat(user("Hi"), user([{"type": "tool_result", "content": "text"}])).needs
    message = {
        "role": "tool",
        "tool_call_id": "1",
        "content": [{"type": "image_url", "image_url": {"url": "x"}}],
    }
    assert chat(user("Hi"), message).needs == {"vision"}


def test_of_a_long_conversation_only_the_end_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar, cleaned = WrappingGrammar(), 0
    clean = grammar.clean

    def count(text: str) -> CleanText:
        nonlocal cleaned
        cleaned += 1
        return clean(text)

    monkeypatch.setattr(grammar, "clean", count)
    messages = [turn for n in range(300) for turn in (user(f"{n} {LONG}"), assistant())]
    query = parse_chat_query(raw({"messages": [*messages, user("commit it")]}), grammar).query
    assert query.text.startswith("commit it\n\n299 Refactor")
    assert cleaned < 5


def test_an_answer_in_more_than_text_needs_an_ability() -> None:
    assert chat(user("Hi"), modalities=["text", "audio"]).needs == {"audio_output"}
    assert not chat(user("Hi"), modalities=["text"]).needs
    assert not chat(user("Hi"), modalities=None).needs


def test_no_turns_make_no_text() -> None:
    assert build_routing_text([]) == ""


def test_a_message_without_content_bears_no_image() -> None:
    assert not chat(user("Hi"), assistant(None), user("Go on")).needs
    assert not chat(user("Hi"), assistant([]), user("Go on")).needs
