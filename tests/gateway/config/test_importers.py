"""LiteLLM's configuration becomes ours; what cannot come along is listed."""

import pytest

from gateway.config import parse_config
from gateway.config.importers import ImportFailedError, import_litellm

KEY = "sk-7f3a9c1e5b2d8046"
THEIRS = """\
model_list:
  - model_name: gpt
    litellm_params:
      model: azure/gpt-eu
      api_base: os.environ/AZURE_EU
      api_key: os.environ/AZURE_KEY
      rpm: 6
  - model_name: gpt
    litellm_params: {model: azure/gpt-us, api_base: https://us.example, api_key: os.environ/AZURE_KEY}
  - model_name: small
    litellm_params: {model: gpt-4o-mini, api_key: os.environ/OPENAI_KEY, temperature: 0.2, max_tokens: 100}
    model_info: {input_cost_per_token: 0.0000001}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*"}
  - model_name: vectors
    litellm_params: {model: text-embedding-3-small}
    model_info: {mode: embedding}
  - model_name: broken
general_settings: {master_key: os.environ/MASTER, database_url: postgres://x}
litellm_settings: {drop_params: true, fallbacks: [{gpt: [small]}]}
router_settings: {routing_strategy: least-busy}
environment_variables: {X: y}
"""
ENV = {"AZURE_EU": "https://eu.example", "AZURE_KEY": "k" * 9, "OPENAI_KEY": "o" * 9, "MASTER": KEY}


def test_the_result_is_a_configuration_of_ours() -> None:
    text, _ = import_litellm(THEIRS, "proxy.yaml")
    config = parse_config(text, env=ENV)
    assert [expert.name for expert in config.experts] == ["gpt", "small", "vectors"]
    small, vectors = config.experts[1:]
    assert (small.model, small.params, small.input_cost_per_token) == (
        "openai/gpt-4o-mini",
        {"temperature": 0.2, "max_tokens": 100},
        1e-7,
    )
    assert vectors.embeds
    assert config.server.master_key is not None
    assert config.server.master_key.reveal() == KEY


def test_entries_of_one_name_become_deployments_of_one_expert() -> None:
    text, _ = import_litellm(THEIRS, "proxy.yaml")
    gpt = parse_config(text, env=ENV).experts[0]
    assert [(p.api_base, p.model) for p in gpt.effective_deployments()] == [
        ("https://eu.example", None),
        ("https://us.example", "gpt-us"),
    ]


def test_references_stay_references_and_are_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_KEY", "resolved-by-mistake")
    text, _ = import_litellm(THEIRS, "proxy.yaml")
    assert "os.environ/AZURE_KEY" in text
    assert "os.environ/MASTER" in text
    assert "resolved-by-mistake" not in text


@pytest.mark.parametrize(
    "lost",
    [
        "gpt: litellm_params.rpm",
        "line 13: the wildcard anthropic/*; name each model",
        "line 18: model_list[5] has no litellm_params",
        "general_settings.database_url",
        "litellm_settings.drop_params",
        "router_settings.routing_strategy",
        "environment_variables",
        "fallback gpt -> small: `auto` ranks the fallbacks of each prompt anew",
    ],
)
def test_what_could_not_come_along_is_listed(lost: str) -> None:
    text, dropped = import_litellm(THEIRS, "proxy.yaml")
    assert lost in dropped
    assert f"# not carried over: {lost}\n" in text


def test_a_written_out_master_key_is_not_copied() -> None:
    text, dropped = import_litellm(f"model_list: []\ngeneral_settings: {{master_key: {KEY}}}", "p.yaml")
    assert KEY not in text + "".join(dropped)
    assert "os.environ/THALAMUS_MASTER_KEY" in text


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", ":1: "), ("a: 1", "no 'model_list'"), ("- x", "no 'model_list'")]
)
def test_what_is_no_litellm_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(ImportFailedError, match=said):
        import_litellm(text, "p.yaml")
