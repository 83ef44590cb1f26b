"""What is sent for each call, and what is read from its answer."""

import inspect
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

import gateway
from gateway import AsyncClient, Candidate, Client, Hints, PlanSummary, ToolCall, Usage
from tests.fakes.scripted_gateway import ScriptedGateway, json_answer

from .conftest import Connect, Flavour

CHAT: dict[str, Any] = {
    "model": "smollm2",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}
ROUTED: dict[str, Any] = {
    "x_thalamus_decision_id": "dec-1",
    "x_thalamus_expert": "house",
    "x_thalamus_policy": "auto",
    "x_thalamus_plan": "single",
    "x_thalamus_reason": "best utility",
    "x_thalamus_cost_usd": "0.00012",
    "x_thalamus_overhead_ms": "1.5",
    "x_request_id": "req-1",
}
DECISION: dict[str, Any] = {
    "id": "dec-1",
    "policy": "auto",
    "expert": "house",
    "plan": {"kind": "single", "experts": ["house", "big"]},
    "tier": "static",
    "reason": "best utility",
    "margin": None,
    "propensity": 1.0,
    "candidates": [
        {"expert": "house", "quality": 0.7, "eligible": True, "evidence": True, "a_newer_field": 1},
        {"expert": "big", "quality": 0.9, "cost_usd": None, "eligible": False, "reason": "no price"},
    ],
}


def test_a_plain_prompt_is_sent_as_a_users_message_to_auto(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(json_answer(CHAT))
    flavour.ask(
        "chat", "Bonjour, ça va? 北京 🙂", temperature=0.5, extra_body={"provider_extra": {"kept": True}}
    )
    request = server.received[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.body == {
        "model": "auto",
        "messages": [{"role": "user", "content": "Bonjour, ça va? 北京 🙂"}],
        "temperature": 0.5,
        "provider_extra": {"kept": True},
    }


def test_a_conversation_is_sent_as_it_is(server: ScriptedGateway, flavour: Flavour) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": [{"type": "text"}]}]
    server.will(json_answer(CHAT))
    flavour.ask("chat", messages, "auto:best")
    assert server.received[0].body == {"model": "auto:best", "messages": messages}


def test_an_answer_says_who_gave_it_and_what_it_cost(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(json_answer(CHAT, **ROUTED))
    chat = flavour.ask("chat", "Capital of France?")
    assert (chat.text, chat.model, chat.finish_reason) == ("Paris", "smollm2", "stop")
    assert (chat.expert, chat.policy, chat.decision_id, chat.cost_usd) == ("house", "auto", "dec-1", 0.00012)
    assert (chat.routed.plan, chat.routed.reason) == ("single", "best utility")
    assert (chat.routed.overhead_ms, chat.routed.request_id) == (1.5, "req-1")
    assert chat.usage == Usage(input_tokens=7, output_tokens=2)
    assert chat.raw == CHAT


@pytest.mark.parametrize("header", [{}, {"x_thalamus_cost_usd": "unknown"}, {"x_thalamus_cost_usd": "nan"}])
def test_an_unknown_cost_is_none_not_zero(
    server: ScriptedGateway, flavour: Flavour, header: dict[str, Any]
) -> None:
    server.will(json_answer(CHAT, **header))
    assert flavour.ask("chat", "hi").cost_usd is None


def test_tool_calls_are_read_and_leave_the_text_empty(server: ScriptedGateway, flavour: Flavour) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    server.will(json_answer({"model": "m", "choices": [{"message": message, "finish_reason": "tool_calls"}]}))
    chat = flavour.ask("chat", "weather?", tools=[{"type": "function"}])
    assert chat.tool_calls == (ToolCall("c1", "weather", '{"city": "Paris"}'),)
    assert (chat.text, chat.usage) == ("", None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("max_cost", "there is no hint 'max_cost'; did you mean 'max_cost_usd'?"),
        ("colour", "there is no hint 'colour'; there are: policy, flags, weights, max_cost_usd"),
    ],
)
def test_an_unknown_hint_is_told_with_the_nearest_name(name: str, said: str) -> None:
    given: dict[str, Any] = {name: 0.1}
    with pytest.raises(TypeError, match=re.escape(said)):
        Hints(**given)
    assert replace(Hints(policy="best"), max_cost_usd=1.0) == Hints("best", max_cost_usd=1.0)


def test_hints_travel_in_the_body_and_only_those_given(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will([json_answer(CHAT), json_answer(CHAT)])
    hints = Hints(weights={"cost": 0.3}, max_latency_ms=0.0, exclude=("big",), session_id="s")
    flavour.ask("chat", "hi", router=hints)
    flavour.ask("chat", "hi", router={"policy": "best", "flags": ["Smallest model"]})
    assert server.received[0].body["router"] == {
        "weights": {"cost": 0.3},
        "max_latency_ms": 0.0,
        "exclude": ["big"],
        "session_id": "s",
    }
    assert server.received[1].body["router"] == {"policy": "best", "flags": ["Smallest model"]}


def test_embeddings_come_in_the_order_of_the_texts(server: ScriptedGateway, flavour: Flavour) -> None:
    rows = [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0.5], "embedder": "law"}]
    server.will(json_answer({"model": "minilm", "data": rows, "usage": {"prompt_tokens": 3}}, **ROUTED))
    embeddings = flavour.ask("embeddings", ("a", "b"), model="minilm", dimensions=2)
    assert server.received[0].path == "/v1/embeddings"
    assert server.received[0].body == {"model": "minilm", "input": ["a", "b"], "dimensions": 2}
    assert embeddings.vectors == ((1, 0.5), (0, 1))
    assert embeddings.embedders == ("law", None)
    assert (embeddings.model, embeddings.expert, embeddings.usage) == ("minilm", "house", Usage(3, 0))


def test_what_the_texts_are_and_who_may_read_them_is_sent(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(json_answer({"model": "m", "data": [{"index": 0, "embedding": [1.0]}]}))
    flavour.ask("embeddings", "abc", input_type="query", router=Hints(exclude=["law"]))
    body = {"model": "auto", "input": "abc", "input_type": "query", "router": {"exclude": ["law"]}}
    assert server.received[0].body == body


def test_one_text_to_embed_is_not_split_into_letters(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(json_answer({"model": "m", "data": [{"index": 0, "embedding": [1.0]}]}))
    flavour.ask("embeddings", "abc")
    assert server.received[0].body == {"model": "auto", "input": "abc"}


def test_route_asks_what_chat_would_and_gives_every_candidate(
    server: ScriptedGateway, flavour: Flavour
) -> None:
    server.will([json_answer({"decision": DECISION}), json_answer(CHAT)])
    decision = flavour.ask("route", "hi", "auto:best", router=Hints(min_quality=0.5), max_tokens=5)
    flavour.ask("chat", "hi", "auto:best", router=Hints(min_quality=0.5), max_tokens=5)
    assert server.received[0].path == "/v1/route"
    assert server.received[0].body == server.received[1].body
    assert decision.plan == PlanSummary("single", ("house", "big"))
    assert (decision.expert, decision.tier, decision.margin, decision.propensity) == (
        "house",
        "static",
        None,
        1.0,
    )
    assert decision.candidates == (
        Candidate("house", quality=0.7, eligible=True, evidence=True),
        Candidate("big", quality=0.9, eligible=False, reason="no price"),
    )
    assert decision.raw == {"decision": DECISION}


@pytest.mark.parametrize("payload", [DECISION, {"decision": DECISION}], ids=["bare", "wrapped"])
def test_a_past_decision_is_fetched_by_its_id(
    server: ScriptedGateway, flavour: Flavour, payload: dict[str, Any]
) -> None:
    server.will(json_answer(payload))
    assert flavour.ask("decision", "dec/1?x").id == "dec-1"
    assert (server.received[0].method, server.received[0].path) == ("GET", "/v1/decisions/dec%2F1%3Fx")


def test_models_lists_what_may_be_asked_for(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will(json_answer({"object": "list", "data": [{"id": "auto", "owned_by": "t"}, {"id": "house"}]}))
    assert [(model.id, model.owned_by) for model in flavour.ask("models")] == [("auto", "t"), ("house", None)]
    assert (server.received[0].method, server.received[0].path) == ("GET", "/v1/models?type=all")


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False)])
def test_a_gateway_that_is_not_ready_is_an_answer_not_an_error(
    server: ScriptedGateway, flavour: Flavour, status: int, ready: bool
) -> None:
    server.will(json_answer({"status": "something"}, status))
    health = flavour.ask("health")
    assert (health.ready, health.raw) == (ready, {"status": "something"})
    assert [request.path for request in server.received] == ["/health/ready"]


def test_connections_are_kept_between_calls(server: ScriptedGateway, flavour: Flavour) -> None:
    server.will([json_answer(CHAT)] * 3)
    for _ in range(3):
        flavour.ask("chat", "hi")
    assert server.n_connections == 1


def test_the_key_comes_from_the_argument_else_the_environment(
    server: ScriptedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", "sk-environment\n")
    server.will([json_answer(CHAT)] * 3)
    for key in ("sk-argument", None, ""):
        connect(api_key=key).ask("chat", "hi")
    sent = [request.headers.get("authorization") for request in server.received]
    assert sent == ["Bearer sk-argument", "Bearer sk-environment", None]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_as_other_clients_want_it(
    server: ScriptedGateway, connect: Connect, suffix: str
) -> None:
    server.will([json_answer(CHAT), json_answer(CHAT)])
    connect(server.url + suffix).ask("chat", "hi")
    connect(server.url + "/under/path" + suffix).ask("chat", "hi")
    assert [request.path for request in server.received] == [
        "/v1/chat/completions",
        "/under/path/v1/chat/completions",
    ]


def test_a_proxy_in_the_environment_is_not_asked_for_a_loopback_gateway(
    server: ScriptedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    server.will(json_answer(CHAT))
    assert connect().ask("chat", "hi").text == "Paris"


def test_both_clients_offer_the_same_calls_with_the_same_arguments() -> None:
    def calls(client: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {
            name.removeprefix("a"): list(inspect.signature(method).parameters)
            for name, method in methods
            if not name.startswith("_") or name == "__init__"
        }

    assert calls(Client) == calls(AsyncClient)


def test_every_public_name_is_there_and_listed() -> None:
    assert all(getattr(gateway, name) for name in gateway.__all__)
    assert set(gateway.__all__) <= set(dir(gateway))
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        getattr(gateway, "Clinet")  # noqa: B009


def test_importing_the_package_loads_no_server_and_the_client_only_httpx() -> None:
    script = (
        "import sys, gateway; assert 'httpx' not in sys.modules\n"
        "from gateway import RateLimited, Hints; assert 'httpx' not in sys.modules\n"
        "from gateway import Client, AsyncClient; assert 'httpx' in sys.modules\n"
        "print([m for m in sys.modules if m.startswith('gateway.') and not m.startswith('gateway.client')])\n"
        "print([m for m in ('starlette', 'numpy', 'routers', 'policies', 'yaml') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.stderr, ran.stdout) == ("", "[]\n[]\n")
