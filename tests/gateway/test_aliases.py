"""Aliases: further names for experts, policies and embedders, served wherever a model is named."""

import json
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from gateway.config import ConfigError, parse_config
from gateway.requests.parsing import SPECS, ToPolicy, parse_body
from gateway.testing import FakeUpstream
from tests.fakes.serving import LiveApp, gateway

in_module = pytest.mark.asyncio(loop_scope="module")
ALIASES = {
    "gpt-4o": "auto",
    "cheap": "auto:frugal",
    "Llama 3.1 8B (house)": "small",
    "prüfer": "small",
    "openai/large": "small",
    "text-embedding-3-small": "minilm",
    "text-embedding-ada-002": "vectors",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    async with FakeUpstream() as upstream:
        at = {"api_base": upstream.base_url}
        experts = [
            {"name": "small", "model": "openai/good", **at},
            {"name": "large", "model": "openai/large", "deployments": [{**at, "model": "good"}]},
            {"name": "vectors", "model": "openai/vectors", "embeds": True, **at},
        ]
        config = {
            "experts": experts,
            "aliases": ALIASES,
            "policies": {"auto": {"default": "large"}, "frugal": {"require": {"models": ["small"]}}},
        }
        journal = str(tmp_path_factory.mktemp("aliases") / "j.sqlite3")
        async with gateway(config, journal, "large", "small") as running:
            yield running


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("alias", "expert", "policy"),
    [
        ("gpt-4o", "large", "auto"),
        ("cheap", "large", "frugal"),  # this router takes its order and leaves constraints alone
        ("Llama 3.1 8B (house)", "small", None),
        ("prüfer", "small", None),
        ("openai/large", "small", None),
    ],
)
@in_module
async def test_a_chat_by_an_alias_is_answered_by_what_it_stands_for(
    live: LiveApp, alias: str, expert: str, policy: str | None, stream: bool
) -> None:
    answer = await live.chat(alias, stream=stream)
    assert (answer.status, answer.expert) == (200, expert)
    if policy:
        assert answer.headers["x-thalamus-policy"] == policy


@in_module
async def test_completions_take_aliases(live: LiveApp) -> None:
    answer = await live.post("completions", {"model": "cheap", "prompt": "Once"})
    assert (answer.status, answer.headers["x-thalamus-policy"]) == (200, "frugal")


@pytest.mark.parametrize(
    ("alias", "n_dimensions"), [("text-embedding-3-small", 384), ("text-embedding-ada-002", 2)]
)
@in_module
async def test_embeddings_take_aliases_of_embedders_and_of_experts(
    live: LiveApp, alias: str, n_dimensions: int
) -> None:
    answer = await live.post("embeddings", {"model": alias, "input": "a"})
    assert answer.status == 200
    assert len(answer.json()["data"][0]["embedding"]) == n_dimensions


@in_module
async def test_a_dry_run_takes_an_alias(live: LiveApp) -> None:
    answer = await live.post("route", {"model": "cheap", "messages": [{"role": "user", "content": "Hi"}]})
    assert answer.json()["policy"] == "frugal"


@in_module
async def test_fallbacks_take_aliases(live: LiveApp) -> None:
    answer = await live.chat("large", router={"fallbacks": ["prüfer"]})
    assert answer.status == 200
    assert (await live.chat("large", router={"fallbacks": ["gone"]})).error["param"] == "router.fallbacks"


@in_module
async def test_aliases_are_listed_and_found_by_name(live: LiveApp) -> None:
    async with live.http.get(f"{live.base}/models?type=all") as response:
        models = {model["id"]: model for model in (await response.json())["data"]}
    assert {name: models[name]["thalamus"]["stands_for"] for name in ALIASES} == ALIASES
    async with live.http.get(f"{live.base}/models/gpt-4o") as response:
        assert (await response.json())["thalamus"] == {"kind": "alias", "stands_for": "auto"}


@in_module
async def test_the_refusal_of_an_unknown_model_lists_the_aliases(live: LiveApp) -> None:
    assert "gpt-4o" in (await live.chat("gpt-9")).error["message"]


@in_module
async def test_the_parser_that_batches_use_takes_an_alias(live: LiveApp) -> None:
    body = {"model": "cheap", "messages": [{"role": "user", "content": "Hi"}]}
    parsed = live.services.parser.parse(
        SPECS["/v1/chat/completions"], parse_body(msgspec.json.encode(body)), {}
    )
    assert isinstance(parsed, ToPolicy)
    assert parsed.policy.name == "frugal"


def check(aliases: dict[str, str], **more: object) -> str:
    experts = [{"name": "small", "model": "openai/x"}]
    with pytest.raises(ConfigError) as caught:
        parse_config(json.dumps({"experts": experts, "aliases": aliases, **more}))
    return str(caught.value)


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        ({"a": "smal"}, "aliases.a: there is no expert or policy 'smal'; did you mean 'small'?"),
        ({"a": "zzzzzz"}, "there are: auto, auto:auto, minilm, small"),
        ({"a": "auto:frugal"}, "there is no expert or policy 'auto:frugal'"),
        ({"small": "auto"}, "there is an expert of this name already"),
        ({"minilm": "small"}, "there is an embedder of this name already"),
        ({"auto": "small"}, "'auto' is reserved"),
        ({"auto:x": "small"}, "'auto' is reserved"),
        ({"a": "b", "b": "small"}, "'b' is an alias itself; write what it stands for: small"),
        ({"a": "a"}, "'a' is an alias itself"),
        ({"": "small"}, "cannot be a name"),
        ({"a\nb": "small"}, "cannot be a name"),
        ({"a": ""}, "there is no expert or policy ''"),
    ],
)
def test_an_alias_that_cannot_work_is_refused(aliases: dict[str, str], said: str) -> None:
    assert said in check(aliases)


def test_names_of_policies_are_checked_too() -> None:
    assert "'a b' cannot be a name; allowed: letters, digits" in check({}, policies={"a b": {}})
