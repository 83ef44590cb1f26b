"""Conversations: what prompt caches hold is priced, tools stay with their expert, stalled agents move."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.config import parse_config
from gateway.config.expert_schema import PromptCacheConfig
from gateway.config.schema import SessionsConfig
from gateway.openai.answers import InputDetails, Usage
from gateway.requests.parsing import CHAT, RequestParser, ToPolicy
from gateway.requests.query import Conversation, read_conversation
from gateway.routing.sessions import AUTOMATIC, SessionAnswer, SessionTable, build_sessions
from gateway.testing import FakeUpstream
from policies import Session
from tests.fakes.serving import LiveApp, gateway

over_http = pytest.mark.asyncio(loop_scope="module")
LONG = "Explain how the old mill was built, and why it stood where the river bends. " * 80
Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def call_tool(name: str, arguments: str, id_: str = "c1") -> Message:
    call = {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result(text: str, id_: str = "c1") -> Message:
    return {"role": "tool", "tool_call_id": id_, "content": text}


def read(*messages: Message) -> Conversation:
    found = read_conversation(msgspec.Raw(msgspec.json.encode(messages)))
    assert found is not None
    return found


# -- reading a conversation


def test_a_later_turn_names_the_digest_of_the_turns_before_it() -> None:
    first = read(user("Hi"))
    second = read(user("Hi"), assistant("Hello."), user("And now?"))
    third = read(user("Hi"), assistant("Hello."), user("And now?"), assistant("Yes."), user("Good."))
    assert first.before == ()
    assert second.before == (first.whole,)
    assert third.before == (first.whole, second.whole)


def test_another_first_turn_is_another_conversation() -> None:
    assert read(user("Hi"), assistant("a"), user("b")).before != (read(user("Ho")).whole,)


def test_a_mark_for_prompt_caches_may_move() -> None:
    part = {"type": "text", "text": "Hi"}
    marked = [{"role": "user", "content": [{**part, "cache_control": {"type": "ephemeral"}}]}]
    plain = [{"role": "user", "content": [part]}]
    assert read(*marked).whole == read(*plain).whole


@pytest.mark.parametrize("messages", [b"{}", b'["a"]', b'[{"role": 1}]', b"[1]"])
def test_turns_of_another_shape_have_no_conversation(messages: bytes) -> None:
    assert read_conversation(msgspec.Raw(messages)) is None


def test_results_of_tools_after_the_last_answer_make_a_loop() -> None:
    assert read(user("Read it"), call_tool("read", "{}"), result("text")).is_tool_loop
    # Agents add reminders behind the results.
    assert read(user("Read it"), call_tool("read", "{}"), result("text"), user("(reminder)")).is_tool_loop
    assert not read(
        user("Read it"), call_tool("read", "{}"), result("text"), assistant("So."), user("Go on")
    ).is_tool_loop


def repeat(n: int, answer: str, arguments: tuple[str, ...] = ("{}",)) -> Conversation:
    turns = [user("Do it")]
    for number in range(n):
        turns += [
            call_tool("run", arguments[number % len(arguments)], f"c{number}"),
            result(answer, f"c{number}"),
        ]
    return read(*turns)


def test_the_same_call_with_the_same_result_three_times_is_stalled() -> None:
    assert repeat(3, "ok").is_stalled
    assert not repeat(2, "ok").is_stalled
    assert not repeat(3, "ok", ("{}", '{"a":1}')).is_stalled
    assert repeat(3, "Error: no such file", ("{}", '{"a":1}', '{"a":2}')).is_stalled


# -- what is remembered


class SteppedClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def usage(n: int, cached: int = 0, written: int = 0) -> Usage:
    return Usage(n, 10, n + 10, InputDetails(cached, cache_creation_tokens=written or None))


class Talk:
    """A conversation of one client with a table of sessions."""

    def __init__(self, table: SessionTable, owner: str | None = "a", client_id: str | None = None) -> None:
        self.table = table
        self.owner = owner
        self.client_id = client_id
        self.turns: list[Message] = []
        config = parse_config("experts: [{name: x, model: openai/x}, {name: y, model: anthropic/y}]")
        self.parser = RequestParser(config, config.policies_by_name(), {"x": object(), "y": object()}, None)  # type: ignore[dict-item]

    def ask(self, text: str) -> ToPolicy:
        self.turns.append(user(text))
        body: dict[str, Any] = {"model": "auto", "messages": self.turns}
        if self.client_id:
            body["router"] = {"session_id": self.client_id}
        fields = msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw])
        parsed = self.parser.parse(CHAT, fields, {})
        assert isinstance(parsed, ToPolicy)
        self.asked = self.table.attach(parsed, self.owner)
        return self.asked

    def answer(self, expert: str, counted: Usage | None) -> None:
        parsed = self.asked
        assert parsed.conversation is not None
        session = parsed.hints.session if parsed.hints else None
        at_s, client_id = self.table.clock(), parsed.options.session_id
        self.table.answers.append(
            SessionAnswer(self.owner, parsed.conversation, client_id, session, expert, counted, at_s)
        )
        self.turns.append(assistant(f"Answer of {expert}."))


def find_session(parsed: ToPolicy) -> Session | None:
    return parsed.hints.session if parsed.hints else None


def session_of(parsed: ToPolicy) -> Session:
    session = find_session(parsed)
    assert session is not None
    return session


def read_cached(parsed: ToPolicy) -> dict[str, int]:
    return dict(session_of(parsed).cached_tokens)


def table(**more: Any) -> SessionTable:
    return SessionTable({"x": AUTOMATIC, "y": None}, clock=more.pop("clock", SteppedClock()), **more)


def test_a_second_turn_finds_who_answered_and_what_its_cache_holds() -> None:
    talk = Talk(table())
    assert talk.ask("Hi").hints is None
    talk.answer("x", usage(1500))
    second = talk.ask("Go on")
    session = session_of(second)
    assert (session.previous, session.n_answers) == ("x", 1)
    assert read_cached(second) == {"x": 1408}  # 11 steps of 128
    talk.answer("x", usage(1600, cached=1408))
    third = talk.ask("On")
    assert (session_of(third).id, session_of(third).n_answers) == (session.id, 2)


def test_tokens_that_were_counted_stand_for_the_estimate() -> None:
    talk = Talk(table())
    talk.ask("Hi")
    talk.answer("x", usage(5000))
    assert talk.ask("Go on").query.n_input_tokens == 5010


def test_a_prompt_cache_ends() -> None:
    clock = SteppedClock()
    talk = Talk(table(clock=clock))
    talk.ask("Hi")
    talk.answer("x", usage(1500))
    clock.now += AUTOMATIC.lifetime_s + 1
    assert read_cached(talk.ask("Go on")) == {}


def test_short_prompts_are_not_cached() -> None:
    talk = Talk(table())
    talk.ask("Hi")
    talk.answer("x", usage(900))
    assert read_cached(talk.ask("Go on")) == {}


def test_the_caches_of_two_experts_are_known_beside_each_other() -> None:
    talk = Talk(table())
    talk.table.n_read["y"] = 0  # it was seen to read its cache
    for expert, n in (("x", 1500), ("y", 1600), ("x", 1700)):
        talk.ask("Go on")
        talk.answer(expert, usage(n, cached=1408))
    assert read_cached(talk.ask("Go on")) == {"x": 1664, "y": 1536}


def test_an_unknown_provider_is_believed_once_it_is_seen_to_read_its_cache() -> None:
    talk = Talk(table())
    talk.ask("Hi")
    talk.answer("y", usage(1500))
    assert read_cached(talk.ask("Go on")) == {}
    talk.answer("y", usage(1600, cached=1500))
    assert read_cached(talk.ask("Go on")) == {"y": 1536}


def test_an_expert_whose_cache_is_missed_twice_is_not_believed_until_it_is_read_again() -> None:
    talk = Talk(table())
    talk.ask("Hi")
    talk.answer("x", usage(1500))
    for _ in range(2):
        assert read_cached(talk.ask("Go on"))
        talk.answer("x", usage(1600))
    assert read_cached(talk.ask("Go on")) == {}
    talk.answer("x", usage(1700, cached=1536))
    assert read_cached(talk.ask("Go on")) == {"x": 1664}
    assert (talk.table.n_expected, talk.table.n_read) == ({"x": 2}, {"x": 0})


def test_a_provider_that_keeps_what_is_marked_says_how_much() -> None:
    talk = Talk(SessionTable({"y": AUTOMATIC}, frozenset({"y"}), clock=SteppedClock()))
    talk.ask("Hi")
    talk.answer("y", usage(9000, written=2048))
    assert read_cached(talk.ask("Go on")) == {"y": 2048}
    talk.answer("y", usage(9100))
    assert read_cached(talk.ask("Go on")) == {}


def test_one_key_does_not_see_the_sessions_of_another() -> None:
    mine = Talk(table())
    mine.ask("Hi")
    mine.answer("x", usage(1500))
    theirs = Talk(mine.table, owner="b")
    theirs.turns = list(mine.turns)
    assert theirs.ask("Go on").hints is None


def test_a_client_that_rewrites_its_history_is_known_by_its_id_and_has_no_cache() -> None:
    talk = Talk(table(), client_id="s-1")
    talk.ask("Hi")
    talk.answer("x", usage(1500))
    talk.turns = [user("(summary of all)"), assistant("I see.")]
    second = talk.ask("Go on")
    assert (session_of(second).id, session_of(second).previous) == ("s-1", "x")
    assert read_cached(second) == {}


def test_two_agents_under_one_id_have_a_session_each() -> None:
    main = Talk(table(), client_id="s-1")
    main.ask("Hi")
    main.answer("x", usage(1500))
    helper = Talk(main.table, client_id="s-1")
    assert find_session(helper.ask("Summarise this")) is None
    helper.answer("y", usage(300))
    assert session_of(main.ask("Go on")).previous == "x"


def test_turns_are_bounded_in_number_and_age() -> None:
    clock = SteppedClock()
    talks = [Talk(table(limits=SessionsConfig(max_turns=2, ttl_s=1000.0), clock=clock))]
    talks += [Talk(talks[0].table) for _ in range(2)]
    for n, talk in enumerate(talks):
        talk.ask(f"Hi {n}")
        talk.answer("x", None)
    assert talks[0].ask("Go on").hints is None
    assert talks[2].ask("Go on").hints is not None
    clock.now += 1001
    assert talks[1].ask("Go on").hints is None


def test_the_rules_of_providers_are_those_of_the_configuration() -> None:
    config = parse_config(
        "experts:\n"
        "- {name: a, model: openai/a}\n"
        "- {name: b, model: groq/b}\n"
        "- {name: c, model: groq/c, prompt_cache: {lifetime_s: 60, least_tokens: 10, step_tokens: 2}}\n"
        "- {name: d, model: anthropic/d}\n"
    )
    built = build_sessions(config)
    assert built._rules["a"] == AUTOMATIC
    assert built._rules["b"] is None
    assert built._rules["c"] == PromptCacheConfig(lifetime_s=60, least_tokens=10, step_tokens=2)
    assert built._marking == {"d"}


# -- over HTTP


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    folder: Path = tmp_path_factory.mktemp("sessions")
    prices = {
        "input_cost_per_token": 2e-6,
        "cached_input_cost_per_token": 2e-7,
        "output_cost_per_token": 2e-6,
    }
    config = {
        "experts": [
            {
                "name": "one",
                "model": "openai/caches-one",
                "api_base": upstream.base_url,
                **prices,
                "quality": 0.8,
            },
            # A little cheaper, and as good: a conversation begins there.
            {
                "name": "two",
                "model": "openai/caches-two",
                "api_base": upstream.base_url,
                "quality": 0.8,
                **prices,
                "input_cost_per_token": 1.8e-6,
                "cached_input_cost_per_token": 1.8e-7,
            },
            {"name": "tools", "model": "openai/tools", "api_base": upstream.base_url, "quality": 0.1},
        ],
        "policies": {
            "auto": {"objective": {"cost": 0.2}, "encoder": "never"},
            "alone": {"objective": {"cost": 0.2}, "encoder": "never", "affinity": False},
        },
        "routing": {"artifact": str(folder / "none")},
        "embeddings": {"enabled": False},
    }
    async with gateway(config, str(folder / "journal.sqlite3"), decides=True) as running:
        yield running


async def ask(live: LiveApp, model: str, messages: list[Message], **more: Any) -> Any:
    answer = await live.post("chat/completions", {"model": model, "messages": messages, **more})
    assert answer.status == 200, answer.body
    return answer


@over_http
async def test_a_conversation_stays_where_its_cache_is(live: LiveApp) -> None:
    talk = [user(LONG)]
    first = await ask(live, "auto", talk, router={"exclude": ["two"]})
    assert first.expert == "one"
    talk += [assistant(first.json()["choices"][0]["message"]["content"]), user("Go on.")]
    second = await ask(live, "auto", talk)
    assert second.expert == "one"
    record = await live.read_record(second)
    session = record["decision"]["session"]
    assert (session["previous"], session["n_answers"]) == ("one", 1)
    n_cached = session["cached_tokens"]["one"]
    assert n_cached >= 1024
    assert session["switch_usd"] == pytest.approx(n_cached * 1.8e-6, rel=1e-3)
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= n_cached
    # Without affinity the cheaper expert is asked, and reads the whole conversation anew.
    alone = await ask(live, "auto:alone", talk)
    assert alone.expert == "two"


@over_http
async def test_results_of_tools_go_to_the_expert_that_called_them(live: LiveApp) -> None:
    talk = [user("Look it up, please.")]
    first = await ask(live, "auto", talk, router={"models": ["tools"]})
    assert first.expert == "tools"
    talk += [call_tool("f", '{"a":1}', "t"), result("42", "t")]
    second = await ask(live, "auto", talk)
    assert second.expert == "tools"
    reason = (await live.read_record(second))["decision"]["reason"]
    assert reason == "tools called the tools and reads their results"
    talk += [assistant("It is 42."), user("Thanks. And what does it mean?")]
    assert (await ask(live, "auto", talk)).expert == "two"


@over_http
async def test_a_stalled_agent_gets_another_expert(live: LiveApp) -> None:
    talk = [user("Fix it, please.")]
    await ask(live, "auto", talk, router={"models": ["tools"]})
    for n in range(3):
        talk += [call_tool("run", "{}", f"r{n}"), result("Error: it is broken", f"r{n}")]
        answer = await ask(live, "auto", talk)
        assert answer.expert == ("tools" if n < 2 else "two"), n
    assert (await live.read_record(answer))["decision"]["session"]["is_stalled"]


@over_http
async def test_a_dry_run_tells_the_session_too(live: LiveApp) -> None:
    talk = [user(LONG + "Now.")]
    first = await ask(live, "auto", talk)
    talk += [assistant("So."), user("On.")]
    answer = await live.post("route", {"messages": talk})
    assert answer.json()["session"]["previous"] == first.expert


@over_http
async def test_metrics_count_what_was_expected_and_read(live: LiveApp) -> None:
    async with live.http.get(f"{live.base.removesuffix('/v1')}/metrics") as response:
        text = await response.text()
    assert 'thalamus_prompt_cache_expected_total{expert="one"} 1.0' in text
    assert 'thalamus_prompt_cache_read_total{expert="one"} 1.0' in text
