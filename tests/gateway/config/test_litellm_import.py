"""LiteLLM's configuration becomes ours; what cannot come along is listed by name."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.app import build_services
from gateway.config import Config, parse_config
from gateway.config.importers import ImportedConfig, ImportFailedError, import_litellm
from gateway.config.importers.result import PLACEHOLDER, AnyVariable, ImportNotes, finish, make_name
from gateway.config.providers import find_receiver
from gateway.experts.http_client import Transport
from gateway.experts.litellm import load_litellm
from gateway.experts.profiles import price_table, profiles
from policies import Engine, Fleet
from routers import Forecaster, Query

FORTY = Path(__file__).parent / "data" / "litellm-forty.yaml"
KEY = "sk-7f3a9c1e5b2d8046"

KEPT = {
    "reasoner": "openai/o4-mini",
    "editor": "anthropic/claude-sonnet-4-20250514",
    "retired": "anthropic/claude-2.1",
    "planner": "vertex_ai/gemini-2.5-pro",
    "cohere": "cohere_chat/command-a-03-2025",
    "fast-llama": "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "mixed-up": "anthropic/claude-haiku-4-5",
    "mixed-up-2": "openai/gpt-4.1",
    "mixed-up-3": "openai/llama-3.3-70b",
    "groq-by-openai": "openai/llama-3.3-70b",
    "large-openai": "openai/gpt-4.1",
    "town": "azure/gpt-4o-west",
    "small-openai": "openai/gpt-4o-mini",
    "small-azure": "azure/mini",
    "open-Qwen3-8B": "hosted_vllm/Qwen/Qwen3-8B",
    "open-gemma-3-12b-it": "hosted_vllm/google/gemma-3-12b-it",
    "vectors": "openai/text-embedding-3-small",
    "house-vectors": "ollama/nomic-embed-text",
    "Llama-3.1-8B-house": "openai/llama3.1:8b",
    "pruefer": "openai/pruefer",
    "internal": "ollama_chat/mistral:7b",
    "expert-auto": "openai/gpt-4.1-mini",
    "expert-minilm": "openai/all-minilm",
    "vertex": "vertex_ai/gemini-2.5-flash",
    "bedrock": "bedrock/eu.anthropic.claude-sonnet-4-20250514-v1:0",
    "priced": "openai/priced",
    "thinking": "openai/qwq",
    "credential": "azure/gpt-4.1-house",
    "openai/gpt-4.1-nano": "openai/gpt-4.1-nano",
}
ALIASES = {
    "small": "auto:small",
    "open": "auto:open",
    "Llama 3.1 8B (house)": "Llama-3.1-8B-house",
    "prüfer": "pruefer",
    "_internal": "internal",
    "gpt-4": "auto:large",
    "gpt-4o": "town",
    "cheap": "auto:small",
    "best": "auto:large",
    "large": "auto:large",
    "nano": "openai/gpt-4.1-nano",
}
LOST = (
    "nameless (line 13): LiteLLM knows no provider for 'our-own-model'",
    "mixed-up: its api_key OPENAI_API_KEY is not anthropic's",
    "mixed-up-2: its api_key ANTHROPIC_API_KEY is not openai's",
    "mixed-up-3: its api_key OPENAI_API_KEY is not groq's",
    "town: model_info.id",
    "small: litellm_params.weight",
    "painter (line 42): 'openai/dall-e-3' is for image_generation",
    "scribe (line 43): 'openai/whisper-1' is for audio_transcription",
    "reader (line 44): 'openai/kokoro-tts' is for audio_speech",
    "sorter (line 45): 'cohere/rerank-english-v3.0' is for rerank",
    "house-sorter (line 46): 'hosted_vllm/bge-reranker-v2' is for rerank",
    "instruct (line 47): 'text-completion-openai/gpt-3.5-turbo-instruct' is for completion",
    "deep (line 48): 'openai/o3-pro' is for responses",
    "priced: model_info.team",
    "elsewhere (line 61): its api_base '${BASE…}' is not a reference here",
    "line 62: the wildcard 'openai/*', except 'openai/gpt-4.1-nano', which this file names",
    "large-openai: params of a further deployment (line 21) differs from the first's",
    "the alias 'gpt-4o' is hidden",
    "the alias 'lost': there is no model 'nothing-here'",
    "the alias 'auto': it is the name of a model as well",
    "general_settings.database_url",
    "router_settings.routing_strategy",
    "router_settings.num_retries",
    "litellm_settings.drop_params",
    "litellm_settings.cache",
    "environment_variables.CLOUD_PROJECT",
    "include: more.yaml",
)


def convert(data: Any) -> ImportedConfig:
    text = data if isinstance(data, str) else json.dumps(data)
    return import_litellm(text, "proxy.yaml", price_table(), load_litellm)


@cache
def convert_forty() -> tuple[ImportedConfig, Config]:
    made = convert(FORTY.read_text())
    return made, parse_config(made.text, env=AnyVariable())


def one(params: dict[str, Any], **more: Any) -> tuple[ImportedConfig, Config]:
    """A file with one entry, imported."""
    made = convert({"model_list": [{"model_name": "it", "litellm_params": params, **more}]})
    return made, parse_config(made.text, env=AnyVariable())


def test_forty_entries_keep_their_models() -> None:
    made, config = convert_forty()
    assert {expert.name: expert.model for expert in config.experts} == KEPT
    assert (made.n_experts, made.n_aliases) == (len(KEPT), len(ALIASES))


def test_what_is_dropped_has_no_line_of_what_changed() -> None:
    models = {
        "vectors": {"model": "text-embedding-3-small", "api_base": "nowhere"},
        "large": {"model": "gpt-5", "api_base": "nowhere"},
        "kept": {"model": "gpt-5"},
    }
    made = convert({"model_list": [{"model_name": n, "litellm_params": p} for n, p in models.items()]})
    assert made.notes.changed == ["kept: 'gpt-5' is 'openai/gpt-5' by its name, as LiteLLM reads it"]
    assert made.n_experts == 1


def test_what_our_own_check_takes_out_has_no_line_of_what_changed() -> None:
    notes = ImportNotes(changed=["my model: read", "'my model' is now 'my-model'", "my-model-2: read"])
    good = {"name": "my-model-2", "model": "openai/x"}
    sections = {
        "experts": [{"name": "my-model", "model": "openai/x", "rpm": 0}, good],
        "aliases": {"my model": "my-model"},
    }
    made = finish(sections, notes, "proxy.yaml", "import-litellm")
    assert (made.n_experts, made.n_aliases) == (1, 0)
    assert made.notes.changed == ["my-model-2: read"]


def test_forty_entries_keep_their_names_as_aliases() -> None:
    _, config = convert_forty()
    assert config.aliases == ALIASES
    assert config.policies["small"].require.models == ("small-openai", "small-azure")
    assert config.policies["open"].default == "open-Qwen3-8B"


def test_what_forty_entries_lose_is_listed_and_nothing_else() -> None:
    made, _ = convert_forty()
    unlisted = [line for line in LOST if not any(lost.startswith(line) for lost in made.notes.lost)]
    unexpected = [lost for lost in made.notes.lost if not lost.startswith(LOST)]
    assert (unlisted, unexpected) == ([], [])
    assert made.text.count("# not carried over: ") == len(made.notes.lost)
    assert made.text.count("# changed: ") == len(made.notes.changed)


def test_forty_entries_keep_addresses_keys_limits_and_times() -> None:
    _, config = convert_forty()
    experts = {expert.name: expert for expert in config.experts}
    large, town, priced = experts["large-openai"], experts["town"], experts["priced"]
    assert [(place.max_parallel, place.rpm, place.tpm) for place in large.deployments] == [
        (8, 500, 90000),
        (None, None, None),
    ]
    assert set(large.deployments[1].headers) == {"OpenAI-Organization"}
    assert [(place.model, place.settings.api_version) for place in town.deployments] == [
        (None, "2024-10-21"),
        ("gpt-4o-north", "2024-10-21"),
    ]
    assert town.timeouts is not None
    assert (town.timeouts.first_token_s, town.timeouts.total_s) == (45, 300)
    assert town.input_cost_per_token == 2.5e-06  # of its base model
    assert (priced.input_cost_per_token, priced.output_cost_per_token) == (1e-05, 2e-05)
    assert (priced.context_window, sorted(priced.abilities or ())) == (32768, ["vision"])
    assert experts["Llama-3.1-8B-house"].params == {"seed": 7, "temperature": 0.2}
    assert experts["thinking"].params == {"chat_template_kwargs": {"enable_thinking": True}}
    assert experts["vertex"].settings.vertex_location == "europe-west4"
    assert experts["bedrock"].settings.as_arguments() == {
        "aws_region_name": "eu-central-1",
        "aws_role_name": "press",
    }
    assert experts["credential"].settings.api_version == "2024-10-21"
    assert [name for name, expert in experts.items() if expert.embeds] == [
        *("vectors", "house-vectors", "expert-minilm")
    ]
    assert (config.timeouts.total_s, config.policies["auto"].default) == (120, "large-openai")
    assert config.policies["auto"].n_fallbacks == 3


@pytest.mark.parametrize(
    ("model", "ours"),
    [
        ("gpt-5-mini", "openai/gpt-5-mini"),
        ("o3", "openai/o3"),
        ("claude-opus-4-1", "anthropic/claude-opus-4-1"),
        ("claude-instant-1.2", "anthropic/claude-instant-1.2"),
        ("command-r-plus", "cohere_chat/command-r-plus"),
        ("gemini-1.5-pro", "vertex_ai/gemini-1.5-pro"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "bedrock/anthropic.claude-3-haiku-20240307-v1:0"),
        ("ft:gpt-4o-mini:us::x", "openai/ft:gpt-4o-mini:us::x"),
        ("gemini/gemini-2.5-pro", "gemini/gemini-2.5-pro"),
        ("veniceai/qwen3", "veniceai/qwen3"),
    ],
)
def test_the_provider_of_a_name_is_litellms(model: str, ours: str) -> None:
    _, config = one({"model": model})
    assert config.experts[0].model == ours


@pytest.mark.parametrize("model", ["mistral-large-latest", "house-model", "meta-llama/Llama-3-8B", ""])
def test_a_name_that_litellm_does_not_know_is_left_out_and_not_guessed(model: str) -> None:
    made = convert({"model_list": [{"model_name": "it", "litellm_params": {"model": model}}]})
    assert made.n_experts == 0
    assert f"LiteLLM knows no provider for '{model}'" in made.notes.lost[0]


def test_an_address_says_whose_a_model_is() -> None:
    base = "https://api.groq.com/openai/v1"
    assert one({"model": "llama-3.1-8b-instant", "api_base": base})[1].experts[0].provider == "groq"
    assert one({"model": "claude-mine", "api_base": "http://box/v1"})[0].n_experts == 0


def test_the_provider_can_be_named_beside_the_model() -> None:
    _, config = one({"model": "gpt-4o", "custom_llm_provider": "azure", "api_base": "https://x.example"})
    assert config.experts[0].model == "azure/gpt-4o"


@pytest.mark.parametrize(
    ("variable", "provider", "base", "receiver"),
    [
        ("OPENAI_API_KEY", "anthropic", None, "anthropic"),
        ("ANTHROPIC_API_KEY", "openai", None, "openai"),
        ("AZURE_HOUSE_KEY", "openai", None, "openai"),
        ("OPENAI_API_KEY", "azure", "https://x.openai.azure.com", "azure"),
        ("OPENAI_API_KEY", "openai", "https://x.openai.azure.com/v1", "azure"),
        ("OPENAI_API_KEY", "openai", "https://api.deepseek.com/v1", "deepseek"),
        ("OPENAI_API_KEY", "openai", None, None),
        ("OPENAI_KEY_2", "openai", "https://eu.gateway.example/v1", None),
        ("GEMINI_API_KEY", "vertex_ai", None, None),
        ("AZURE_OPENAI_KEY", "azure", "os.environ/BASE", None),
        ("DEEPSEEK_API_KEY", "openai", "https://api.deepseek.com/v1", None),
        ("ANTHROPIC_API_KEY", "openai", "https://api.anthropic.com/v1", None),
        ("OPENAI_API_KEY", "hosted_vllm", "http://box:8000/v1", None),
        ("TEAM_KEY", "anthropic", None, None),
        ("OPENAI_ORGANIZATION", "anthropic", None, None),
    ],
)
def test_a_key_goes_to_its_own_provider_alone(
    variable: str, provider: str, base: str | None, receiver: str | None
) -> None:
    assert find_receiver(variable, provider, base) == receiver


@pytest.mark.parametrize(
    "key", ["${OPENAI_KEY:-none}", "$OPENAI_KEY", "os.environ['OPENAI_KEY']", "{{ OPENAI_KEY }}"]
)
def test_a_key_by_a_reference_that_is_not_understood_is_left_out(key: str) -> None:
    made, config = one({"model": "openai/gpt-5", "api_key": key})
    assert config.experts[0].api_key is None
    assert made.notes.lost == [
        "it: its api_key looks like a reference of another tool; write os.environ/NAME"
    ]


@pytest.mark.parametrize(
    "base", ["localhost:8000", "https://me:secret-word@box/v1", "ftp://x", "http://$HOST/v1"]
)
def test_an_entry_whose_address_cannot_be_called_is_left_out_with_its_key(base: str) -> None:
    made = convert(
        {"model_list": [{"model_name": "it", "litellm_params": {"model": "openai/x", "api_base": base}}]}
    )
    assert made.n_experts == 0
    assert "secret-word" not in made.text
    assert "its api_base" in made.notes.lost[0]


@pytest.mark.parametrize(
    ("model", "info", "kind"),
    [
        ("openai/text-embedding-3-large", {}, "embeds"),
        ("azure/my-embeddings", {"base_model": "text-embedding-3-large"}, "embeds"),
        ("hosted_vllm/BAAI/bge-m3", {}, "embeds"),
        ("openai/anything", {"mode": "embedding"}, "embeds"),
        ("openai/my-embedding-writer", {"mode": "chat"}, "chat"),
        ("azure/responses/gpt-5-pro", {}, "chat"),
        ("openai/responses/gpt-5-pro", {}, "responses"),
        ("openai/gpt-image-1", {}, "image_generation"),
        ("openai/tts-1-hd", {}, "audio_speech"),
        ("groq/whisper-large-v3", {}, "audio_transcription"),
        ("openai/omni-moderation-latest", {}, "moderation"),
        ("jina_ai/jina-reranker-v2", {}, "rerank"),
        ("openai/x", {"mode": "video_generation"}, "video_generation"),
        ("openai/x", {"mode": "realtime"}, "realtime"),
        ("openai/gpt-4o-realtime-of-tomorrow", {}, "realtime"),
        ("azure/our-sora", {}, "video_generation"),
    ],
)
def test_only_chat_models_become_candidates(model: str, info: dict[str, str], kind: str) -> None:
    entry = {"model_name": "it", "litellm_params": {"model": model}, "model_info": info}
    made = convert({"model_list": [entry]})
    if kind in ("chat", "embeds"):
        (expert,) = parse_config(made.text, env=AnyVariable()).experts
        assert expert.embeds is (kind == "embeds")
        assert any("embedding model" in line for line in made.notes.changed) is expert.embeds
    else:
        assert made.n_experts == 0
        assert f"is for {kind}" in made.notes.lost[0]


@pytest.mark.parametrize("model", ["ollama/mistral", "ollama_chat/mistral", "ollama/codellama"])
def test_what_litellms_table_calls_completion_answers_chats_on_ollama(model: str) -> None:
    made, config = one({"model": model})
    assert [expert.name for expert in config.experts] == ["it"]
    assert "answers no chat" not in made.text


def entries(*models: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "model_list": [{"model_name": "it", "litellm_params": {"model": m, **more}} for m, more in models]
    }


def test_one_model_at_several_places_is_one_expert() -> None:
    made = convert(
        entries(
            ("bedrock/us.anthropic.claude-sonnet-4-20250514-v1:0", {"aws_region_name": "us-east-1"}),
            ("bedrock/eu.anthropic.claude-sonnet-4-20250514-v1:0", {"aws_region_name": "eu-west-1"}),
        )
    )
    (expert,) = parse_config(made.text, env={}).experts
    assert (expert.name, len(expert.deployments)) == ("it", 2)
    assert expert.deployments[1].model == "eu.anthropic.claude-sonnet-4-20250514-v1:0"


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (("openai/gpt-4o", "openai/gpt-4o-mini"), ["it-gpt-4o", "it-gpt-4o-mini"]),
        (("openai/gpt-4o", "azure/gpt-4o"), ["it-openai", "it-azure"]),
        (("openai/gpt-4o", "openai/gpt-4o", "anthropic/claude-opus-4-1"), ["it-openai", "it-anthropic"]),
        (("azure/gpt-4o", "azure/gpt-4o-mini"), ["it-gpt-4o", "it-gpt-4o-mini"]),
        (("openai/a/x", "openai/b/x"), ["it-x", "it-x-2"]),
        (("openai/gpt-4o", "openai/text-embedding-3-small"), ["it-openai", "it-openai-embedding"]),
    ],
)
def test_several_models_under_one_name_become_experts_of_a_policy(
    models: tuple[str, ...], names: list[str]
) -> None:
    made = convert(entries(*((model, {}) for model in models)))
    config = parse_config(made.text, env={})
    assert [expert.name for expert in config.experts] == names
    assert config.aliases == {"it": "auto:it"}
    chats = tuple(expert.name for expert in config.experts if not expert.embeds)
    assert config.policies["it"].require.models == chats
    assert any("'it' names several models" in line for line in made.notes.changed)


def test_several_embedding_models_under_one_name_mean_the_first() -> None:
    made = convert(entries(("openai/text-embedding-3-small", {}), ("openai/text-embedding-3-large", {})))
    assert parse_config(made.text, env={}).aliases == {"it": "it-text-embedding-3-small"}


@pytest.mark.parametrize(
    ("name", "ours", "is_alias"),
    [
        ("Llama 3 (fast)", "Llama-3-fast", True),
        ("größe", "groesse", True),
        ("naïve", "naive", True),
        ("_x", "x", True),
        ("日本語", "expert", True),
        ("a" * 200, "a" * 100, True),
        ("auto", "expert-auto", False),
        ("auto:fast", "expert-auto-fast", False),
        ("minilm", "expert-minilm", False),
        ("team/eu/gpt-4o@2024", "team/eu/gpt-4o@2024", False),
        ("1e5", "1e5", False),
        ("no", "no", False),
        ("2024-10-21", "2024-10-21", False),
    ],
)
def test_names_that_are_not_allowed_change_and_stay_usable(name: str, ours: str, is_alias: bool) -> None:
    made = convert({"model_list": [{"model_name": name, "litellm_params": {"model": "openai/x"}}]})
    config = parse_config(made.text, env={})
    assert config.experts[0].name == ours == make_name(name)
    assert config.aliases == ({name: ours} if is_alias else {})
    assert bool(made.notes.changed) is (name != ours)


@pytest.mark.parametrize("name", ["a\nb", " ", "a" * 300])
def test_a_name_that_no_alias_can_be_changes_all_the_same(name: str) -> None:
    made = convert({"model_list": [{"model_name": name, "litellm_params": {"model": "openai/x"}}]})
    assert (made.n_experts, made.n_aliases, made.notes.lost) == (1, 0, [])
    assert "is now" in made.notes.changed[0]
    assert "alias" not in made.notes.changed[0]


def test_names_that_would_become_equal_stay_different() -> None:
    names = ["prüfer", "pruefer", "prüfer!", "expert-auto", "auto"]
    made = convert(
        {"model_list": [{"model_name": name, "litellm_params": {"model": "openai/x"}} for name in names]}
    )
    config = parse_config(made.text, env={})
    assert [expert.name for expert in config.experts] == [
        *("pruefer-2", "pruefer", "pruefer-3", "expert-auto", "expert-auto-2")
    ]
    assert config.aliases == {"prüfer": "pruefer-2", "prüfer!": "pruefer-3"}


@pytest.mark.parametrize("value", ["0.00001", 0.00001, "1e-5"])
def test_quoted_numbers_are_numbers(value: Any) -> None:
    _, config = one({"model": "openai/x", "input_cost_per_token": value, "max_parallel_requests": "3"})
    assert config.experts[0].input_cost_per_token == 1e-5
    assert config.experts[0].max_parallel == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_cost_per_token", "cheap"),
        ("output_cost_per_token", -1),
        ("max_parallel_requests", 0),
        ("rpm", "many"),
        ("tpm", -5),
        ("timeout", "os.environ/TIMEOUT"),
        ("stream_timeout", "soon"),
    ],
)
def test_a_number_that_is_none_is_listed(key: str, value: Any) -> None:
    made, config = one({"model": "openai/x", key: value})
    assert made.notes.lost[0].startswith(f"it: {key} is not a number")
    assert config.experts[0].timeouts is None


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({"timeout": 300}, (300, 300, 300)),
        ({"timeout": 300, "stream_timeout": 60}, (60, 60, 300)),
        ({"stream_timeout": 5}, (5, 5, 600)),
        ({"timeout": 10, "stream_timeout": 60}, (60, 60, 60)),
    ],
)
def test_times_are_kept(given: dict[str, float], limits: tuple[float, ...]) -> None:
    times = one({"model": "openai/x", **given})[1].experts[0].timeouts
    assert times is not None
    assert (times.first_token_s, times.between_tokens_s, times.total_s) == limits


def test_own_times_stand_beside_those_of_the_whole_file() -> None:
    data = entries(("openai/x", {"stream_timeout": 7}))
    made = convert({**data, "router_settings": {"timeout": 90}})
    config = parse_config(made.text, env={})
    assert (config.timeouts.total_s, config.timeouts.first_token_s) == (90, 90)
    assert config.experts[0].timeouts is not None
    assert (config.experts[0].timeouts.total_s, config.experts[0].timeouts.first_token_s) == (90, 7)


def test_settings_that_say_nothing_to_a_provider_are_listed() -> None:
    made, _ = one({"model": "azure/x", "api_base": "https://x.example", "vertex_project": "p"})
    assert made.notes.lost == ["it: litellm_params.vertex_project says nothing to azure"]
    assert one({"model": "openai/x", "api_version": "v1"})[0].notes.lost == [
        "it: litellm_params.api_version says nothing to openai"
    ]


def test_settings_by_their_second_name_are_kept() -> None:
    _, config = one(
        {"model": "vertex_ai/gemini-2.5-pro", "vertex_ai_project": "p", "vertex_ai_location": "l"}
    )
    assert config.experts[0].settings.as_arguments() == {"vertex_project": "p", "vertex_location": "l"}


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("oci/xai.grok-4", "oci_region"),
        ("watsonx/ibm/granite-3", "watsonx_region_name"),
        ("snowflake/mistral-large2", "snowflake_account_id"),
        ("azure/x", "azure_username"),
    ],
)
def test_settings_that_are_named_after_a_provider_are_kept(model: str, key: str) -> None:
    made, config = one({"model": model, "api_base": "https://x.example", key: "os.environ/SECRET"})
    assert made.notes.lost == []
    assert config.experts[0].settings.as_arguments() == {key: PLACEHOLDER}


@pytest.mark.parametrize(("model", "is_kept"), [("hosted_vllm/x", True), ("azure/x", False)])
def test_fields_of_single_servers_go_to_those_alone(model: str, is_kept: bool) -> None:
    made, config = one({"model": model, "api_base": "https://x.example", "min_p": "0.1"})
    assert config.experts[0].params == ({"min_p": 0.1} if is_kept else {})
    assert made.notes.lost == ([] if is_kept else ["it: litellm_params.min_p"])


def test_forty_entries_build_a_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = convert_forty()[0].text + "journal: {enabled: false}\n"
    services = build_services(parse_config(text, env=AnyVariable()), Transport())
    services.store.close()
    assert list(services.experts) == list(KEPT)


def test_a_provider_without_an_address_takes_it_from_litellms_variable() -> None:
    made, config = one({"model": "hosted_vllm/x"})
    assert "os.environ/HOSTED_VLLM_API_BASE" in made.text
    assert config.experts[0].api_base is not None


def test_a_wildcard_keeps_what_the_file_names() -> None:
    made = convert(
        {
            "model_list": [
                {"model_name": "anthropic/*", "litellm_params": {"model": "anthropic/*"}},
                {"model_name": "*", "litellm_params": {"model": "openai/*"}},
            ],
            "router_settings": {
                "model_group_alias": {"clever": "anthropic/claude-opus-4-1"},
                "fallbacks": [{"gpt-4.1": ["anthropic/claude-opus-4-1"]}],
            },
        }
    )
    config = parse_config(made.text, env={})
    assert {expert.name: expert.model for expert in config.experts} == {
        "anthropic/claude-opus-4-1": "anthropic/claude-opus-4-1",
        "gpt-4.1-openai": "openai/gpt-4.1",
    }
    assert config.aliases == {"clever": "anthropic/claude-opus-4-1", "gpt-4.1": "auto:gpt-4.1"}
    assert sum("the wildcard" in line for line in made.notes.lost) == 2


def import_chain(*fallbacks: dict[str, list[str]], **models: str) -> tuple[ImportedConfig, Config]:
    """A file with these models and lists of fallbacks, imported."""
    listed = [
        {"model_name": name.replace("_", "-"), "litellm_params": {"model": model}}
        for name, model in models.items()
    ]
    settings = {"fallbacks": list(fallbacks), "model_group_alias": {"quick": "small"}}
    made = convert({"model_list": listed, "litellm_settings": {"fallbacks": []}, "router_settings": settings})
    return made, parse_config(made.text, env=AnyVariable())


TRIO = {"large": "openai/gpt-5", "small": "openai/gpt-5-mini", "haiku": "anthropic/claude-haiku-4-5"}


def test_fallbacks_of_a_model_become_a_policy_that_asks_in_their_order() -> None:
    made, config = import_chain({"large": ["haiku", "quick", "gone"]}, **TRIO)
    assert config.aliases == {"large": "auto:large", "quick": "small"}
    policy = config.policies_by_name()["large"]
    assert (policy.require.models, policy.n_fallbacks) == (frozenset({"large-openai", "haiku", "small"}), 2)
    # For every prompt these are asked in this order.
    pool = profiles(config)
    engine = Engine(pool)
    prior = Forecaster(pool, None).predict([Query("x", 9)], None)
    (decision,) = engine.decide(policy, [Query("x", 9)], prior, Fleet.idle(3))
    assert decision.plan.experts == ("large-openai", "haiku", "small")
    assert "it asks large-openai, and where that fails haiku, small" in made.notes.changed[0]
    assert "fallback large -> haiku, quick, gone: there is no chat model 'gone' here" in made.notes.lost


def test_fallbacks_of_fallbacks_follow_and_circles_end() -> None:
    _, config = import_chain({"large": ["small"]}, {"small": ["haiku", "large"]}, **TRIO)
    assert config.policies["large"].mapping == {"general": ("large-openai", "small-openai", "haiku")}
    assert config.policies["small"].mapping == {"general": ("small-openai", "haiku", "large-openai")}


def test_the_experts_of_a_divided_name_follow_one_by_one() -> None:
    entries = [("large", "openai/gpt-5"), ("two", "openai/gpt-5-mini"), ("two", "anthropic/claude-haiku-4-5")]
    listed = [{"model_name": name, "litellm_params": {"model": model}} for name, model in entries]
    made = convert({"model_list": listed, "router_settings": {"fallbacks": [{"large": ["two"]}]}})
    mapping = parse_config(made.text, env=AnyVariable()).policies["large"].mapping
    assert mapping == {"general": ("large-openai", "two-openai", "two-anthropic")}


@pytest.mark.parametrize(
    ("fallbacks", "said"),
    [
        ({"gone": ["small"]}, "fallback gone -> small: there is no model 'gone' here"),
        ({"large": ["gone"]}, "fallback large -> gone: no chat model of this file is left to follow"),
        ({"*": ["small"]}, "fallback * -> small: there is no model '*' here"),
        ({"vectors": ["small"]}, "fallback vectors -> small: no chat model of this file is left"),
    ],
)
def test_fallbacks_that_no_policy_can_say_are_listed(fallbacks: dict[str, list[str]], said: str) -> None:
    made, config = import_chain(fallbacks, vectors="openai/text-embedding-3-small", **TRIO)
    assert [lost for lost in made.notes.lost if lost.startswith(said)]
    assert {"large", "small", "haiku", "vectors"} == {expert.name for expert in config.experts}


def test_a_catch_all_for_one_model_keeps_that_model() -> None:
    made = convert({"model_list": [{"model_name": "*", "litellm_params": {"model": "openai/gpt-4.1"}}]})
    assert parse_config(made.text, env={}).experts[0].name == "openai/gpt-4.1"
    assert "the wildcard '*', except 'openai/gpt-4.1'" in made.notes.lost[0]


def test_nothing_but_wildcards_makes_no_expert() -> None:
    made = convert({"model_list": [{"model_name": "openai/*", "litellm_params": {"model": "openai/*"}}]})
    assert made.n_experts == 0
    assert "the wildcard 'openai/*'" in made.notes.lost[0]


def test_references_stay_references_and_are_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_KEY", "resolved-by-mistake")
    made, _ = one({"model": "openai/x", "api_key": "os.environ/HOUSE_KEY"})
    assert "os.environ/HOUSE_KEY" in made.text
    assert "resolved-by-mistake" not in made.text


def test_a_master_key_by_reference_stays_one() -> None:
    made = convert({"model_list": [], "general_settings": {"master_key": "os.environ/MASTER"}})
    server = parse_config(made.text, env={"MASTER": KEY}).server
    assert server.master_key is not None
    assert server.master_key.reveal() == KEY


def test_a_written_out_master_key_is_not_copied() -> None:
    made = convert({"model_list": [], "general_settings": {"master_key": KEY}})
    assert KEY not in made.text + "".join(made.notes.lost)
    assert "general_settings.master_key is written out" in made.notes.lost[0]


def test_what_our_check_refuses_is_taken_out_and_listed() -> None:
    made, _ = one({"model": "x", "custom_llm_provider": "no-such-provider"})
    assert made.n_experts == 0
    assert made.notes.lost == [
        "it: model: no provider is named 'no-such-provider'; `openai/…` with api_base calls any such server"
    ]


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        {},
        {"model_name": "x"},
        {"litellm_params": {"model": "openai/x"}},
        {"model_name": "x", "litellm_params": []},
        {"model_name": "x", "litellm_params": {"model": None}},
        {"model_name": "x", "litellm_params": {"model": ["openai/x"]}},
        {"model_name": "x", "litellm_params": {"model": "openai/*"}},
        {"model_name": "x", "litellm_params": {"model": "openai/"}},
        {"model_name": 7, "litellm_params": {"model": "openai/x", "api_base": 7}},
    ],
)
def test_an_entry_that_is_none_is_listed_and_spoils_nothing(entry: Any) -> None:
    good = {"model_name": "good", "litellm_params": {"model": "openai/gpt-5"}}
    made = convert({"model_list": [entry, good]})
    assert [expert.name for expert in parse_config(made.text, env={}).experts] == ["good"]
    assert made.notes.lost


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", ":1: "),
        ("a: 1", "no 'model_list'"),
        ("- x", "no 'model_list'"),
        ("model_list: 3", "'model_list' is not a list"),
    ],
)
def test_what_is_no_litellm_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(ImportFailedError, match=said):
        convert(text)
