"""What a request asks of its answer, and what an expert must read of it, decide who answers it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from gateway.app import build_application, build_services
from gateway.config import Config
from gateway.experts.http_client import Transport
from gateway.testing import FakeUpstream
from tests.fakes.serving import HttpAnswer, LiveApp, live, secret

SUM = "What is 17*23?"
REMINDER = "<system-reminder>\nThe branch is main.\n</system-reminder>\n"


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest_asyncio.fixture
async def thalamus(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[LiveApp]:
    """The gateway with its own router: by the operator's guesses the calculator is best, then `plain`."""

    def expert(name: str, quality: float, **more: Any) -> dict[str, Any]:
        own = {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url, "quality": quality}
        return {**own, **more}

    config = {
        "experts": [
            {"name": "calculator", "tool": "calculator", "quality": 1.0},
            expert("plain", 0.9, abilities=[]),
            expert("sees", 0.6, abilities=["vision"]),
            expert("hears", 0.5, abilities=["audio", "audio_output"], content_parts=["hologram"]),
            expert("house", 0.1),
        ],
        "policies": {
            "auto": {"require": {"exclude": ["house"]}},
            "all": {},
            "readers": {"require": {"models": ["plain"]}},
        },
        "routing": {
            "artifact": str(tmp_path / "none"),
            "wrappings": {"request": ["MyAsk"], "context": ["ticker_tape"], "openings": ["Greetings from"]},
        },
        "embeddings": {"enabled": False},
        "journal": {"path": str(tmp_path / "journal.sqlite3")},
    }
    transport = Transport()
    services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
    async with (
        live(build_application(services, transport)) as address,
        aiohttp.ClientSession() as http,
    ):
        yield LiveApp(f"{address}/v1", services, http)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def system(content: Any) -> dict[str, Any]:
    return {"role": "system", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


async def ask(thalamus: LiveApp, *messages: Any, model: str = "auto", **fields: Any) -> HttpAnswer:
    return await thalamus.post("chat/completions", {"model": model, "messages": messages, **fields})


async def why_not(thalamus: LiveApp, name: str, *messages: Any, **fields: Any) -> str:
    """Why an expert is not eligible, as the decision says it."""
    answer = await thalamus.post("route", {"messages": messages, **fields})
    assert answer.status == 200, answer.body
    reasons = {one["expert"]: one["reason"] for one in answer.json()["candidates"] if not one["eligible"]}
    return str(reasons[name])


@pytest.mark.parametrize(
    "messages",
    [
        [user(SUM)],
        [user(f"{REMINDER}{SUM}")],
        [user([{"type": "text", "text": REMINDER}, {"type": "text", "text": SUM}])],
        [user(f"<user_query>\n{SUM}\n</user_query>")],
        [system("You are a helpful assistant."), user(SUM)],
        [system("You are ChatGPT, a large language model trained by OpenAI."), user(SUM)],
        [system(""), user(SUM)],
        [{"role": "developer", "content": [{"type": "text", "text": "Be concise."}]}, user(SUM)],
        [user("What is 2+2?"), assistant("4"), user(SUM)],
    ],
)
async def test_a_tool_answers_where_nothing_asks_for_more_than_its_result(
    thalamus: LiveApp, messages: Any
) -> None:
    answer = await ask(
        thalamus, *messages, temperature=0, max_tokens=40, repeat_penalty=1.1, stop=[], n=1, tools=[]
    )
    assert answer.expert == "calculator"
    assert answer.json()["choices"][0]["message"]["content"] == "391"


@pytest.mark.parametrize(
    "instruction",
    [
        "You are a translator. Translate every user message into German. Never answer or solve it.",
        'Reply only with JSON of the form {"answer": number}.',
        "You are a maths tutor. Never give the result; ask a guiding question instead.",
        "You moderate a forum. Reply SAFE or UNSAFE.",
        "Antworte auf Deutsch.",
        "Do not answer.",
        [
            {"type": "text", "text": "You are a helpful assistant."},
            {"type": "text", "text": "Speak in rhymes."},
        ],
    ],
)
@pytest.mark.parametrize("role", ["system", "developer"])
async def test_a_system_prompt_that_says_how_to_answer_needs_a_language_model(
    thalamus: LiveApp, upstream: FakeUpstream, role: str, instruction: Any
) -> None:
    message = {"role": role, "content": instruction}
    for order in ([message, user(SUM)], [user(SUM), message]):
        assert (await ask(thalamus, *order)).expert == "plain"
        assert upstream.calls[-1]["messages"] == order
    why = await why_not(thalamus, "calculator", message, user(SUM))
    assert why == "is a tool that gives a bare result: a system prompt says how to answer"


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([user("From now on translate what I write."), assistant("D'accord."), user(SUM)], "earlier turns"),
        ([user("2+2"), assistant('{"answer": 4}'), user(SUM)], "earlier answers are of another kind"),
        ([user("2+2"), user(SUM)], "an earlier turn waits"),
        ([user(SUM), assistant("The answer is")], "earlier answers are of another kind"),
        ([assistant("I only speak French."), user(SUM)], "earlier answers are of another kind"),
        ([user(SUM), {"role": "tool", "tool_call_id": "1", "content": "x"}], "a turn of role 'tool'"),
        ([user([{"type": "text", "text": SUM}, {"type": "hologram"}])], "reads parts"),
        ([user(f"<custom_rules>\nRhyme.\n</custom_rules>\n{SUM}")], "instructions around the question"),
        (
            [user(f"<system-reminder>\nAlways answer in French.\n</system-reminder>\n{SUM}")],
            "instructions around the question",
        ),
        ([user(f"Translate this.\n<user_query>\n{SUM}\n</user_query>")], "instructions around the question"),
        ([user(f"Context: the exam is oral.\n\nQuestion: {SUM}")], "instructions around the question"),
    ],
)
async def test_what_the_rest_of_a_conversation_asks_needs_a_language_model(
    thalamus: LiveApp, messages: Any, why: str
) -> None:
    answer = await ask(thalamus, *messages, model="auto:all")
    assert (answer.status, answer.expert != "calculator") == (200, True)
    if why != "reads parts":
        assert why in await why_not(thalamus, "calculator", *messages)


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"stop": ["3"]},
        {"modalities": ["text", "hologram"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"logit_bias": {"50256": -100}},
        {"guided_choice": ["odd", "even"]},
        {"verbosity": "high"},
        {"web_search_options": {"search_context_size": "low"}},
        {"a_field_of_tomorrow": "x"},
        {"max_tokens": 0},
    ],
)
async def test_a_field_that_asks_for_more_than_a_result_needs_a_language_model(
    thalamus: LiveApp, upstream: FakeUpstream, field: dict[str, Any]
) -> None:
    answer = await ask(thalamus, user(SUM), model="auto:all", **field)
    assert answer.expert in ("plain", "house")
    name, value = next(iter(field.items()))
    assert upstream.calls[-1][name] == value
    if name != "modalities":
        why = await why_not(thalamus, "calculator", user(SUM), **field)
        assert why.startswith("is a tool that gives a bare result: ")
        assert f"'{name}'" in why


async def test_tools_and_functions_need_a_language_model(thalamus: LiveApp) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert (await ask(thalamus, user(SUM), model="auto:all", tools=[tool])).expert == "house"
    assert (await ask(thalamus, user(SUM), model="auto:all", functions=[tool["function"]])).expert == "house"


@pytest.mark.parametrize(
    ("body", "expert"),
    [
        ({"prompt": SUM}, "calculator"),
        ({"prompt": f"{REMINDER}{SUM}", "max_tokens": 16, "echo": False}, "calculator"),
        ({"prompt": SUM, "echo": True}, "plain"),
        ({"prompt": SUM, "suffix": "."}, "plain"),
        ({"prompt": SUM, "best_of": 2}, "plain"),
        ({"prompt": SUM, "logprobs": 0}, "calculator"),
        ({"prompt": [SUM, SUM]}, "plain"),
    ],
)
async def test_a_plain_completion_is_read_whole_too(
    thalamus: LiveApp, body: dict[str, Any], expert: str
) -> None:
    assert (await thalamus.post("completions", {"model": "auto", **body})).expert == expert


async def test_a_tool_that_the_client_names_answers_the_question(thalamus: LiveApp) -> None:
    answer = await ask(thalamus, system("Translate."), user(f"{REMINDER}{SUM}"), model="calculator")
    assert answer.json()["choices"][0]["message"]["content"] == "391"


AUDIO = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
PDF = {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
CLIP = {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}
HOLOGRAM = {"type": "hologram", "hologram": {"data": "AAAA"}}


@pytest.mark.parametrize(
    ("part", "expert", "why"),
    [
        (PICTURE, "sees", "cannot see images"),
        (AUDIO, "hears", "cannot hear audio"),
        (HOLOGRAM, "hears", "is not known to read parts of the type 'hologram'"),
    ],
)
async def test_a_part_goes_to_an_expert_that_reads_it(
    thalamus: LiveApp, upstream: FakeUpstream, part: Any, expert: str, why: str
) -> None:
    message = user([{"type": "text", "text": "What is in this?"}, part])
    for messages in ([message], [message, assistant("A dog."), user("Of which breed?")]):
        assert (await ask(thalamus, *messages)).expert == expert
        assert upstream.calls[-1]["messages"] == messages
        assert await why_not(thalamus, "plain", *messages) == why
    # A picture is no reason to leave the earlier turn out, nor one to answer its text alone.
    assert (await ask(thalamus, user("Draw a plan"), assistant("Of what?"), user([part]))).expert == expert


@pytest.mark.parametrize(
    ("part", "why"),
    [(PDF, "cannot read files"), (CLIP, "cannot watch video"), ({"type": "x"}, "of the type 'x'")],
)
async def test_a_part_that_no_expert_reads_is_a_400_with_the_fix(
    thalamus: LiveApp, part: Any, why: str
) -> None:
    message = user([{"type": "text", "text": "What is in this?"}, part])
    refused = await ask(thalamus, message)
    assert (refused.status, refused.error["param"]) == (400, "messages")
    assert f"plain: {why}" in refused.error["message"] or why in refused.error["message"]
    assert "abilities" in refused.error["message"] or "content_parts" in refused.error["message"]
    # An expert of unknown abilities may be able to, and an expert that is named is never judged.
    assert (await ask(thalamus, message, model="auto:all")).expert == "house"
    assert (await ask(thalamus, message, model="plain")).expert == "plain"


async def test_an_answer_in_audio_needs_an_expert_that_gives_it(thalamus: LiveApp) -> None:
    fields: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    assert (await ask(thalamus, user("Say hello."), **fields)).expert == "hears"
    assert await why_not(thalamus, "plain", user("Say hello."), **fields) == "cannot answer in audio"


async def test_an_empty_list_of_tools_is_none_however_it_is_written(thalamus: LiveApp) -> None:
    for tools in (b"[]", b"[ ]", b"[\n]", b"null"):
        body = b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "tools": ' + tools + b"}"
        assert (await thalamus.post("chat/completions", body)).expert == "plain"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": -1},
        {"max_tokens": 4096.0},
        {"max_tokens": 6000.5},
        {"max_tokens": "512"},
        {"max_tokens": None},
        {"max_tokens": True},
        {"max_completion_tokens": {}},
        {"max_tokens": 10**12},
        {"temperature": "0.5"},
        {"response_format": "json"},
        {"modalities": "text"},
        {"messages": [user(["one", "two"])]},
        {"messages": [user({"type": "text", "text": "hi"})]},
        {"messages": [user([{"type": "text", "text": None}])]},
        {"messages": [user([])]},
        {"messages": [user(3)]},
        {"messages": ["hi"]},
        {"messages": [{"content": "hi"}]},
    ],
)
async def test_auto_lets_through_what_a_named_expert_lets_through(
    thalamus: LiveApp, upstream: FakeUpstream, fields: dict[str, Any]
) -> None:
    body = {"messages": [user("hi")], **fields}
    for model in ("plain", "auto"):
        answer = await thalamus.post("chat/completions", {"model": model, **body})
        assert (answer.status, answer.expert) == (200, "plain")
        assert upstream.calls[-1] == {"model": "plain", **body}


@pytest.mark.parametrize(
    "text",
    [
        f"<MyAsk>\n{SUM}\n</MyAsk>",
        f"<my_ask>{SUM}</my_ask>",
        f"<ticker_tape>\nACME +3\n</ticker_tape>\n{SUM}",
        f"Greetings from the build server.\n\n{SUM}",
    ],
)
async def test_the_configuration_adds_wrappings(thalamus: LiveApp, text: str) -> None:
    answer = await thalamus.post("route", {"messages": [user(text)]})
    assert (answer.json()["expert"], answer.json()["query"]["text"]) == ("calculator", SUM)
