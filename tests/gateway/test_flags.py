"""Flags through the whole gateway: they change which expert answers, and only the router reads them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from gateway import AsyncClient, Hints
from gateway.app import build_application, build_services
from gateway.config import Config
from gateway.config.policy_schema import PolicyConfig
from gateway.errors import InvalidField
from gateway.experts.http_client import Transport
from gateway.prompts.wrappings import WrappingGrammar
from gateway.requests.options import (
    MAX_EARLIER_TURNS,
    NO_OPTIONS,
    PASTED_WARNING,
    extract_prompt_flags,
    parse_routing_options,
)
from gateway.testing import FakeUpstream
from policies import Objective, Policy, Require
from policies import RoutingHints as PolicyHints
from tests.fakes.routing import InOrder
from tests.fakes.serving import HttpAnswer, LiveApp, live, secret
from tests.fakes.serving import gateway as routed

LARGE, SMALL = "large-70b", "small-1b"
FLAG = "[Flag: Smallest model]"
GRAMMAR = WrappingGrammar()


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture
async def gateway(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[LiveApp]:
    """A gateway that routes for itself, by the operator's guesses: the larger is a little better."""
    experts = [
        {"name": name, "model": f"openai/{name}", "api_base": upstream.base_url, "quality": quality}
        for name, quality in ((LARGE, 0.71), (SMALL, 0.70))
    ]
    policies = {
        "none": {"flags": {"in_band": False}},
        "strict": {"flags": {"unknown": "refuse"}},
        "small": {"objective": {"size": 0.1}},
    }
    journal, artifact = str(tmp_path / "j.sqlite3"), str(tmp_path / "no-artifact")
    config = {
        "experts": experts,
        "policies": policies,
        "journal": {"path": journal},
        "routing": {"artifact": artifact},
    }
    transport = Transport()
    services = build_services(msgspec.convert(config, Config, dec_hook=secret), transport)
    async with (
        live(build_application(services, transport)) as address,
        aiohttp.ClientSession() as http,
    ):
        yield LiveApp(f"{address}/v1", services, http)


async def ask(gateway: LiveApp, content: Any, model: str = "auto", **headers: str) -> HttpAnswer:
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    return await gateway.post("chat/completions", body, **headers)


async def test_without_a_flag_the_larger_answers(gateway: LiveApp) -> None:
    assert (await ask(gateway, "Hi")).expert == LARGE


@pytest.mark.parametrize("text", [f"Hi {FLAG}", f"{FLAG} Hi", f"{FLAG.upper()}\n\nHi\n"])
async def test_a_flag_changes_who_answers_and_does_not_reach_the_expert(
    gateway: LiveApp, upstream: FakeUpstream, text: str
) -> None:
    answer = await ask(gateway, text)
    assert (answer.status, answer.expert) == (200, SMALL)
    assert (
        "the smallest of 2 that may be as good, as nothing is measured" in answer.headers["x-thalamus-reason"]
    )
    assert upstream.calls[-1]["messages"][0]["content"].strip() == "Hi"
    assert "flag" not in json.dumps(upstream.calls[-1]).lower()


@pytest.mark.parametrize(
    "text",
    [
        f"What does {FLAG} mean?",
        f'Translate: "Hi {FLAG}"',
        f"Fix:\n```\n{FLAG}\n```",
        f"Fix:\n```\nx\n{FLAG}",
        f"> he wrote\n> {FLAG}",
    ],
)
async def test_a_quoted_or_fenced_flag_is_text_for_the_expert(
    gateway: LiveApp, upstream: FakeUpstream, text: str
) -> None:
    answer = await ask(gateway, text)
    assert answer.expert == LARGE
    assert upstream.calls[-1]["messages"][0]["content"] == text


async def test_a_policy_may_forbid_flags_and_then_they_are_text(
    gateway: LiveApp, upstream: FakeUpstream
) -> None:
    answer = await ask(gateway, f"Hi {FLAG}", "auto:none")
    assert answer.expert == LARGE
    assert upstream.calls[-1]["messages"][0]["content"] == f"Hi {FLAG}"
    assert (await ask(gateway, "Hi", "auto:none", x_router_flags="smallest")).expert == SMALL


async def test_an_unknown_flag_stays_and_is_said_or_is_refused(
    gateway: LiveApp, upstream: FakeUpstream
) -> None:
    text = f"{FLAG} Hi [Flag: red team]"
    answer = await ask(gateway, text)
    assert (answer.status, answer.expert) == (200, LARGE)
    assert answer.headers["x-thalamus-warning"].startswith("there is no flag 'red team'; there are: smallest")
    assert upstream.calls[-1]["messages"][0]["content"] == text
    refused = await ask(gateway, text, "auto:strict")
    assert (refused.status, refused.error["param"]) == (400, "messages[0].content")


async def test_an_expert_asked_for_by_name_gets_the_text_as_it_is(
    gateway: LiveApp, upstream: FakeUpstream
) -> None:
    await ask(gateway, f"Hi {FLAG}", LARGE)
    assert upstream.calls[-1]["messages"][0]["content"] == f"Hi {FLAG}"


async def test_a_weight_of_a_policy_or_of_a_request_prefers_the_smaller(gateway: LiveApp) -> None:
    assert (await ask(gateway, "Hi", "auto:small")).expert == SMALL
    assert (await gateway.chat("auto", router={"weights": {"size": 0.1}})).expert == SMALL
    assert (await gateway.chat("auto", router={"weights": {"size": 0.005}})).expert == LARGE


@pytest.mark.parametrize(
    "router",
    [
        {"flags": ["Smallest model"]},
        {"flags": {"smallest": True}},
        {"flags": {"smallest": 0.05}},
        {"flags": ["size = high"]},
        {"flags": {"size": "high"}},
    ],
)
async def test_flags_beside_the_text_do_the_same(gateway: LiveApp, router: dict[str, Any]) -> None:
    assert (await gateway.chat("auto", router=router)).expert == SMALL


async def test_the_clients_hints_carry_flags(gateway: LiveApp) -> None:
    async with AsyncClient(gateway.base, "unused", max_retries=0) as client:
        assert (await client.chat("Hi", router=Hints(flags=["Smallest model"]))).expert == SMALL
        assert (await client.route("Hi", router=Hints(flags=["smallest = 0.001"]))).expert == LARGE


async def test_the_dry_run_reads_the_same_flags(gateway: LiveApp) -> None:
    body = {"messages": [{"role": "user", "content": f"Hi {FLAG}"}]}
    record = (await gateway.post("route", body)).json()
    assert (record["expert"], record["query"]["text"], record["warnings"]) == (SMALL, "Hi", [])


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_routed_by_bears_no_flag(upstream: FakeUpstream, tmp_path: Path, stream: bool) -> None:
    config = {"experts": [{"name": "good", "model": "openai/good", "api_base": upstream.base_url}]}
    turns = [("user", f"Is it so? {FLAG}"), ("assistant", "Yes."), ("user", f"{FLAG} Why?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    async with routed(config, str(tmp_path / "j.sqlite3"), "good") as gateway:
        answer = await gateway.chat("auto", messages=messages, stream=stream)
        assert answer.status == 200
        query = cast("InOrder", gateway.services.router).asked[-1].query
    assert (query.text, query.n_input_tokens) == ("Why?\n\nIs it so?", 13)


async def test_a_wrong_flag_beside_the_text_is_refused_by_name(gateway: LiveApp) -> None:
    for router in ({"flags": ["red team"]}, {"flags": {"size": 2}}):
        refused = await gateway.chat("auto", router=router)
        assert (refused.status, refused.error["param"]) == (400, "router.flags")


async def test_a_message_of_flags_alone_is_refused(gateway: LiveApp) -> None:
    refused = await ask(gateway, FLAG)
    assert (refused.status, refused.error["param"]) == (400, "messages[0].content")


def raw(messages: str) -> dict[str, msgspec.Raw]:
    return {"messages": msgspec.Raw(messages.encode()), "x": msgspec.Raw(b"[ 1.50 ]")}


def rewritten(messages: str) -> str:
    return bytes(
        extract_prompt_flags(raw(messages), NO_OPTIONS, Policy("p"), GRAMMAR).fields["messages"]
    ).decode()


def test_only_a_message_that_bears_a_flag_is_written_anew() -> None:
    first = '{"role":  "user", "content": "[Flag: red team] before"}'
    last = '{"role": "user",  "name": "z",  "content": "now [Flag: Smallest model]"}'
    after = '{"role": "assistant", "content": null,  "tool_calls": [ ]}'
    whole = rewritten(f"[{first}, {last}, {after}]")
    assert first in whole
    assert after in whole
    assert json.loads(whole)[1] == {"role": "user", "name": "z", "content": "now"}
    untouched = f"[{first}, " + '{"role": "user", "content": "now"}]'
    fields = raw(untouched)
    assert extract_prompt_flags(fields, NO_OPTIONS, Policy("p"), GRAMMAR).fields is fields


@pytest.mark.parametrize("last", ["now", "now [Flag: latest]", "now [Flag: red team]"])
def test_a_flag_of_an_earlier_turn_is_not_followed_and_reaches_nobody(last: str) -> None:
    turns = [("user", f"{FLAG} before"), ("assistant", f"well {FLAG}"), ("user", last)]
    record = extract_prompt_flags(
        raw(json.dumps([{"role": role, "content": text} for role, text in turns])),
        NO_OPTIONS,
        Policy("p"),
        GRAMMAR,
    )
    contents = [message["content"] for message in json.loads(bytes(record.fields["messages"]))]
    assert contents == ["before", f"well {FLAG}", last.removesuffix(" [Flag: latest]")]
    first = record.hints.objective.first if record.hints and record.hints.objective else ()
    assert first == (("latest",) if "latest" in last else ())


@pytest.mark.parametrize(
    ("parts", "left"),
    [
        ([("text", f"{FLAG} a"), ("image_url", None), ("text", "b")], ["a", None, "b"]),
        ([("text", "a"), ("image_url", None), ("text", f"b {FLAG}")], ["a", None, "b"]),
        ([("text", FLAG), ("image_url", None)], [None]),
        ([("image_url", None), ("text", f"b {FLAG}")], [None, "b"]),
    ],
)
def test_parts_bear_flags_at_the_ends_of_the_message(parts: list[Any], left: list[str | None]) -> None:
    content = [
        {"type": kind, **({"text": text} if text else {"image_url": {"url": "u"}})} for kind, text in parts
    ]
    (message,) = json.loads(rewritten(json.dumps([{"role": "user", "content": content}])))
    assert [part.get("text") for part in message["content"]] == left


@pytest.mark.parametrize(
    "parts",
    [
        [("text", f"a {FLAG}"), ("text", "b")],
        [("text", "a"), ("text", f"{FLAG} b"), ("text", "c")],
        [("text", "a"), ("text", f"{FLAG} b")],
        [("text", f"OBSERVATION:\na {FLAG}")],
    ],
)
def test_flags_inside_a_message_of_parts_or_in_a_tools_output_are_text(parts: list[Any]) -> None:
    content = [{"type": kind, "text": text} for kind, text in parts]
    messages = json.dumps([{"role": "user", "content": content}])
    assert rewritten(messages) == messages


def test_what_the_request_says_beside_its_text_wins_and_constraints_add_up() -> None:
    text = '[{"role": "user", "content": "Hi [Flag: Smallest model] [Flag: security = eu]"}]'
    policy = Policy("p", Objective(cost=0.2))
    require = Require(labels=frozenset({("security", "eu")}))
    plain = extract_prompt_flags(raw(text), NO_OPTIONS, policy, GRAMMAR)
    assert plain.hints == PolicyHints(require, Objective(cost=0.2, first=("smallest",)))
    for router, objective in (
        ({"flags": ["latest"]}, Objective(cost=0.2, first=("latest",))),
        ({"weights": {"cost": 0.5}}, Objective(cost=0.5)),
        ({"weights": {"cost": 0.5}, "flags": ["latest"]}, Objective(cost=0.5, first=("latest",))),
    ):
        asked = parse_routing_options({"router": msgspec.Raw(msgspec.json.encode(router))}, {})
        assert extract_prompt_flags(raw(text), asked, policy, GRAMMAR).hints == PolicyHints(
            require, objective
        )
    asked = parse_routing_options({}, {b"x-router-flags": b"latest, size = 0.3"})
    hints = extract_prompt_flags(raw(text), asked, policy, GRAMMAR).hints
    assert hints is not None
    assert hints.objective == Objective(cost=0.2, first=("latest",), goals=(("size", 0.3),))


@pytest.mark.parametrize(
    "messages",
    [
        '[{"role": "system", "content": "[Flag: x] y"}]',
        '["[Flag: x]"]',
        '[{"role": "user", "content": 3, "name": "[Flag: x]"}]',
        '[{"role": "user", "content": ["[Flag: x]"]}]',
        '[{"role": "user", "content": [{"type": "text", "text": ["[Flag: x]"]}]}]',
        '[{"role": "user", "content": null, "name": "[Flag: x]"}]',
        '[{"role": "user", "content": [], "name": "[Flag: x]"}]',
        '[{"role": 3, "content": "[Flag: x]"}]',
        '["[Flag: x]", ',
        "3",
        "[Flag",
    ],
)
def test_messages_without_a_user_or_malformed_are_left_to_whoever_reads_the_query(messages: str) -> None:
    assert rewritten(messages) == messages


def test_a_wrong_value_in_the_text_is_refused_where_the_policy_is_strict() -> None:
    with pytest.raises(InvalidField, match=r"messages\[0\]\.content: the flag 'size' takes a number"):
        extract_prompt_flags(
            raw('[{"role": "user", "content": "Hi [Flag: size = 3]"}]'),
            NO_OPTIONS,
            Policy("p", unknown_flags="refuse"),
            GRAMMAR,
        )


def strip(content: Any, **options: Any) -> tuple[Any, int, tuple[str, ...]]:
    """What is left of a message, how many flags are followed, and the warnings."""
    body = raw(json.dumps([{"role": "user", "content": content}]))
    found = extract_prompt_flags(body, NO_OPTIONS, Policy("p", **options), GRAMMAR)
    objective = found.hints.objective if found.hints else None
    (message,) = json.loads(bytes(found.fields["messages"]))
    return message["content"], len(objective.first) if objective else 0, found.warnings


@pytest.mark.parametrize(
    "before",
    [
        "Summarise this mail:\n\nDear Bob,\nall is well.\n\n",
        "Summarise.\n\n---\nall is well ",
        "Summarise <mail>\n<mail>\nall is well\n",
        "Hi\n<system-reminder>\nBranch main.\n",
        "word " * 900,
        "word " * 60_000,
    ],
)
def test_a_flag_at_the_end_of_a_pasted_text_is_text_with_a_warning(before: str) -> None:
    text = f"{before}{FLAG}"
    left, n_followed, warnings = strip(text)
    assert (left, n_followed) == (text, 0)
    # The end of a very long text is not looked at, hence nothing is said of it.
    assert len(warnings) == (len(text) < 200_000)
    assert strip(f"{FLAG} {before}")[1] == 1


def test_a_policy_may_allow_flags_at_the_end_of_pasted_texts() -> None:
    assert strip(f"Sum up:\n\nDear Bob\n\n{FLAG}", pasted_flags=True) == ("Sum up:\n\nDear Bob", 1, ())
    config = msgspec.convert({"flags": {"pasted": True}}, PolicyConfig)
    assert config.policy("p").pasted_flags
    assert not PolicyConfig().policy("p").pasted_flags


@pytest.mark.parametrize(
    "text",
    [
        f"Context:\nIron rusts.\n\nQuestion: Why? {FLAG}",
        f"<context>\n{'Iron rusts. ' * 500}\n</context>\nWhy? {FLAG}",
        f"<user_query>\nWhy?\n</user_query>\n{FLAG}",
        f"Explain:\n```\nx = 1\n```\n{FLAG}",
    ],
)
def test_a_flag_after_the_request_of_a_template_or_after_closed_material_counts(text: str) -> None:
    left, n_followed, warnings = strip(text)
    assert (left, n_followed, warnings) == (text.removesuffix(FLAG).rstrip(), 1, ())


def test_a_pasted_part_after_the_request_bears_no_flag() -> None:
    parts = [{"type": "text", "text": "Sum up this:"}, {"type": "text", "text": f"Dear Bob {FLAG}"}]
    assert strip(parts) == (parts, 0, (PASTED_WARNING,))


def test_flags_of_many_earlier_turns_are_taken_out_up_to_a_bound() -> None:
    turns = [{"role": "user", "content": f"{n} {FLAG}"} for n in range(200)]
    contents = [turn["content"] for turn in json.loads(rewritten(json.dumps(turns)))]
    assert contents[-MAX_EARLIER_TURNS - 1 :] == [str(n) for n in range(199 - MAX_EARLIER_TURNS, 200)]
    assert contents[: -MAX_EARLIER_TURNS - 1] == [turn["content"] for turn in turns[: -MAX_EARLIER_TURNS - 1]]
