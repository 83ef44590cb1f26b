"""Prices, windows and abilities: from LiteLLM's table, unknown where it does not say."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gateway.config import parse_config
from gateway.experts import profiles as prices
from gateway.experts.profiles import ModelFacts, facts_of, price_table, profiles


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, msgspec.Raw]:
    entries: dict[str, msgspec.Raw] = {}
    monkeypatch.setattr(prices, "price_table", lambda: entries)
    return entries


def put(table: dict[str, msgspec.Raw], name: str, **entry: object) -> None:
    table[name] = msgspec.Raw(msgspec.json.encode({"litellm_provider": "openai", **entry}))


def test_a_known_model_has_price_window_and_abilities() -> None:
    facts = facts_of("openai/gpt-4o-mini")
    assert facts is not None
    assert facts.input_usd_per_token is not None
    assert facts.output_usd_per_token is not None
    assert 0 < facts.input_usd_per_token < facts.output_usd_per_token < 1e-4
    assert facts.context_tokens is not None
    assert facts.context_tokens >= 100_000
    assert facts.abilities == frozenset({"vision", "tools", "json", "files"})


def test_another_provider_of_the_same_model_has_its_own_price(table: dict[str, msgspec.Raw]) -> None:
    put(table, "m", input_cost_per_token=1e-6)
    assert facts_of("openai/m") is not None
    assert facts_of("groq/m") is None


def test_an_unknown_model_is_unknown() -> None:
    assert facts_of("openai/no-such-model-at-all") is None


@pytest.mark.parametrize("price", [-1, "1e-6", None, True, 3.0, [1]])
def test_a_price_that_cannot_be_is_unknown_and_not_zero(table: dict[str, msgspec.Raw], price: object) -> None:
    put(table, "m", input_cost_per_token=price, output_cost_per_token=1e-6, max_input_tokens="many")
    assert facts_of("openai/m") == ModelFacts(output_usd_per_token=1e-6)


def test_a_damaged_table_leaves_prices_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.json").write_text("{")
    monkeypatch.setattr(prices, "table_path", lambda: tmp_path / "table.json")
    price_table.cache_clear()
    try:
        assert facts_of("openai/gpt-4o-mini") is None
    finally:
        price_table.cache_clear()


def test_prices_are_read_without_importing_litellm() -> None:
    code = (
        "import sys; from gateway.experts.profiles import facts_of; assert facts_of('openai/gpt-4o-mini'); "
        "assert 'litellm' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_the_table_is_left_alone_when_no_expert_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "price_table", lambda: pytest.fail("the table was read"))
    (a, b) = profiles(
        parse_config("experts:\n  - {name: s, runner: {model: bundled/x}}\n  - {name: c, tool: calculator}\n")
    )
    assert (a.input_usd_per_token, b.output_usd_per_token) == (0.0, 0.0)
    assert a.abilities == frozenset()


def test_what_the_configuration_says_wins_over_the_table(table: dict[str, msgspec.Raw]) -> None:
    put(
        table,
        "m",
        input_cost_per_token=1e-6,
        output_cost_per_token=2e-6,
        max_input_tokens=1000,
        supports_vision=True,
    )
    (profile,) = profiles(
        parse_config(
            "experts:\n"
            "  - {name: a, model: openai/m, input_cost_per_token: 0, context_window: 5, abilities: [tools]}"
        )
    )
    assert (profile.input_usd_per_token, profile.output_usd_per_token) == (0.0, 2e-6)
    assert profile.context_tokens == 5
    assert profile.abilities == frozenset({"tools"})


def test_a_model_served_elsewhere_under_an_unknown_name_has_no_price() -> None:
    (profile,) = profiles(
        parse_config(
            "experts:\n  - {name: a, model: openai/llama-3.1-8b-house, api_base: http://gpu-box:8000/v1}"
        )
    )
    assert profile.input_usd_per_token is None
    assert ("local", "false") in profile.labels


def test_only_what_is_declared_local_is_local_and_free() -> None:
    (profile,) = profiles(
        parse_config(
            "experts:\n  - {name: a, model: openai/x, api_base: http://127.0.0.1:11434/v1, local: true}"
        )
    )
    assert ("local", "true") in profile.labels
    assert profile.input_usd_per_token == 0.0


def test_deployments_in_two_regions_bear_no_region() -> None:
    (profile,) = profiles(
        parse_config(
            "experts:\n  - {name: a, model: openai/x, deployments: [{api_base: http://a, region: eu}, "
            "{api_base: http://b, region: us}]}"
        )
    )
    assert not [value for key, value in profile.labels if key == "region"]


def test_embedding_models_are_not_in_the_pool() -> None:
    assert (
        profiles(parse_config("experts:\n  - {name: e, model: openai/text-embedding-3-small, embeds: true}"))
        == ()
    )
