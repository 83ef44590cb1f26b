"""The configuration file: strict, with lines, secrets by reference."""

import json
import re
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, config_warnings, load_config, parse_config
from gateway.config.client_keys import find_weakness
from gateway.config.importers.result import AnyVariable
from gateway.config.secrets import Secret
from gateway.experts.profiles import profiles
from policies import Objective

GOOD_KEY = "sk-7f3a9c1e5b2d8046"
EXPERTS = "experts:\n  - {name: a, model: openai/x}\n  - {name: b, model: openai/y}\n"


def problems(text: str, **env: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, env=env)
    return str(caught.value).splitlines()


def expert(rest: str = "") -> str:
    return f"experts:\n  - name: a\n    model: openai/gpt-5-mini\n{rest}"


def test_an_unknown_key_names_the_nearest_known_one_and_the_line() -> None:
    text = expert("  - name: b\n    model: openai/x\n    api_bse: http://x\n")
    assert problems(text) == ["thalamus.yaml:6: experts[1]: unknown key 'api_bse'; did you mean 'api_base'?"]


def test_an_unknown_key_near_nothing_lists_what_is_known() -> None:
    (line,) = problems("journal: {zzz: 1}")
    assert line.startswith("thalamus.yaml:1: journal: unknown key 'zzz'; allowed: path, content")


def test_all_problems_are_told_at_once_in_the_order_of_lines() -> None:
    lines = problems("server:\n  port: 99999\n  hots: x\nexprets: []\n")
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4"]


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    assert problems("server: {port: 1}\nserver: {port: 2}") == [
        "thalamus.yaml:2: key 'server' appears twice (first on line 1); delete one of them"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (expert("    quality: 3\n"), "4: experts[0].quality: expected a number <= 1.0"),
        (expert("    quality: high\n"), "4: experts[0].quality: expected a number, got text"),
        (expert("    timeouts: 3\n"), "4: experts[0].timeouts: expected a mapping of keys, got a number"),
        (expert("    api_key: [1]\n"), "4: experts[0].api_key: expected text, got a list"),
        ("experts: {name: a}", "1: experts: expected a list, got a mapping"),
        ("journal:\n  content: yes", "2: journal.content: expected 'bool', got text; write true or false"),
        (
            "routing: {load_budget: of}",
            "1: routing.load_budget: 'of' is not allowed here; did you mean 'off'?",
        ),
        (
            "policies: {auto: {predictor: blendd}}",
            "1: policies.auto.predictor: 'blendd' is not allowed here; did you mean 'blend'?",
        ),
        (
            "journal: {embeddings: true}",
            "1: journal: 'embeddings' was removed: it had no effect; delete this line",
        ),
        ("experts:\n  - model: openai/x\n", "2: experts[0]: 'name' is missing"),
        ("- 1", "1: expected a mapping of keys, got a list"),
    ],
)
def test_a_wrong_value_says_what_was_expected_and_where(text: str, said: str) -> None:
    assert problems(text) == ["thalamus.yaml:" + said]


@pytest.mark.parametrize(
    "text", ["experts: [", "a: !!python/object:os.system x", "\t- x", "&a [*a]", "? [1]\n: 2"]
)
def test_what_is_no_plain_yaml_is_one_line(text: str) -> None:
    assert len(problems(text)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "experts:\n  - name: a\n   tool: calculator\n",
            "3: this line is indented by 3 spaces, as no block above; indent it by 4 spaces, as line 2",
        ),
        (
            "experts:\r\n  - name: a\r\n server: {}\r\n",
            "3: this line is indented by 1 space, as no block above; begin it without spaces, as line 1",
        ),
        (
            "experts:\n  - name: a\n\n     tool: calculator\n",
            "4: this line is indented deeper than line 2, which has its value already; "
            "indent it by 4 spaces, as line 2",
        ),
        (
            "experts:\n  - name: a\n- name: b\n",
            "3: this line is indented by 0 spaces, as no list above; indent it by 2 spaces, as line 2",
        ),
        (
            "experts:\n  - name: a\n  tool: calculator\n",
            "3: this line stands below the '-' of line 2, but begins with none; "
            "indent it by 4 spaces to belong to that entry, or begin it with '- '",
        ),
        ("experts:\n  - name: a\n\ttool: x\n", "3: a tab stands in the indentation; write spaces"),
        ("experts\n  - name: a\n", "1: 'experts' has no colon; write it as a key, such as `experts:`"),
        (
            "server:\nport: 1\n",
            "2: unknown key 'port'; it is a key of 'server': indent it, as all below `server:`",
        ),
        ("  experts: []\nserver: {}\n", "1: this line begins with spaces, unlike line 2; begin it without"),
        (
            "server: {}\n- a\n",
            "2: this line begins a list where keys stand above; "
            "indent it more than the key that it belongs to",
        ),
        ("server: a: b\n", "1: there are two colons in this line; put the value in quotes"),
        (
            "experts:\n  - {name: a\nserver: {}\n",
            "2: the '{' of this line has no '}' before line 3; write it",
        ),
        ("aliases: [1, 2\n", "1: the '[' of this line has no ']' before line 2; write it"),
        ("server: {port: 1 host: x}\n", "1: a ',' between two entries or a '}' at the end is missing"),
        ("server: {}}\n", "1: '}' has no partner; delete it, or write '{' before"),
        ('redis: "a\nserver: {}\n', "1: a quotation mark is never closed; close it"),
        ("aliases:\n  a: @b\n", "2: a value cannot begin with '@'; put it in quotes"),
    ],
)
def test_wrong_yaml_is_told_in_plain_words_with_the_fix(text: str, said: str) -> None:
    assert problems(text) == ["thalamus.yaml:" + said]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (expert("  - name: a\n    model: openai/y\n"), 4, "'a' is already the name of experts[0]"),
        (
            expert("  - name: minilm\n    model: openai/y\n"),
            4,
            "'minilm' is the built-in embedder",
        ),
        (expert("embeddings:\n  experts: {a: x}\n"), 5, "'a' is already the name of experts[0]"),
        ("embeddings:\n  experts: {minilm: x}\n", 2, "'minilm' is reserved"),
        ("embeddings: {experts: {'auto:x': x}}\n", 1, "'auto:x' is reserved"),
        ("experts:\n  - name: auto\n    model: openai/x\n", 2, "'auto' is reserved for policies"),
        ("experts:\n  - name: a\n", 2, "set one of 'model', 'runner' or 'tool'"),
        ("experts:\n  - name: a\n    model: gpt-5\n", 3, "write it as provider/model, such as openai/gpt-5"),
        (expert("    api_base: gpu-box:8000\n"), 4, "api_base: of 'a': not an address"),
        (expert("    api_base: http://box:99999/v1\n"), 4, "of 'a': not an address: port out of range"),
        (expert("    api_base: http://box:80a/v1\n"), 4, "its host or port cannot be read"),
        (expert("    api_base: http://[::1/v1\n"), 4, "its host or port cannot be read"),
        (expert("    api_base: http://box:0/v1\n"), 4, "port must be 1–65535"),
        (expert("    api_base: http://box /v1\n"), 4, "contains a space"),
        (expert("    deployments: [{api_base: http://box:99999}]\n"), 4, "port out of range"),
        (expert('    api_key: "sk-1\\nx"\n'), 4, "api_key: has a line break in its value"),
        (expert('    headers: {x-a: "b\\r\\nx-c: d"}\n'), 4, "headers.x-a: has a line break in its value"),
        (expert("    headers: {x a: b}\n"), 4, "x a: is not the name of a header"),
        (expert("    headers: {Content-Length: '5'}\n"), 4, "Content-Length: is set for every request"),
        (expert('    deployments: [{headers: {x: "\\0"}}]\n'), 4, "has a line break in its value"),
        ("experts:\n  - {name: a, tool: calculator, api_base: http://x}\n", 2, "runs in this gateway"),
        (expert("policies:\n  auto:\n    default: b\n"), 6, "there is no expert 'b'; experts: a"),
        (expert("policies:\n  p: {require: {models: [a, c]}}\n"), 5, "there is no expert 'c'"),
        (
            expert("  - {name: v, model: openai/v, embeds: true}\npolicies:\n  auto:\n    default: v\n"),
            7,
            "'v' makes embeddings and is called by name only",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(text: str, line: int, said: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(f"thalamus.yaml:{line}: ")
    assert said in problem


@pytest.mark.parametrize("reference", ["os.environ/OPENAI_API_KEY", "${OPENAI_API_KEY}"])
def test_a_secret_is_taken_from_the_environment(reference: str) -> None:
    config = parse_config(expert(f'    api_key: "{reference}"\n'), env={"OPENAI_API_KEY": GOOD_KEY})
    key = config.experts[0].api_key
    assert key is not None
    assert key.reveal() == GOOD_KEY
    assert config_warnings(config) == []


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_or_empty_variable_is_named(value: str | None) -> None:
    env = {} if value is None else {"NO_SUCH": value}
    assert problems(expert("    api_key: os.environ/NO_SUCH\n"), **env) == [
        "thalamus.yaml:4: experts[0].api_key: "
        "environment variable NO_SUCH is not set; set it, or delete this key"
    ]


@pytest.mark.parametrize(
    "key",
    [
        "${NOT_SET:-sk-fallback}",
        "${NOT_SET-none}",
        "${NOT_SET:?is missing}",
        "${SET:-none}",
        "${}",
        "${SET",
        "$SET",
        "$NOT_SET",
        "os.environ[SET]",
        "os.environ.get('SET')",
        "os.environ/",
        "os.environ/MY-KEY",
        "os.getenv('SET')",
        "process.env.SET",
        "{{ SET }}",
        "{env:SET}",
        "$(pass show openai)",
        "%SET%",
        "env:SET",
        "ENV[SET]",
        "<your key>",
    ],
)
def test_a_reference_that_is_not_understood_is_refused_and_never_sent(key: str) -> None:
    text = expert(f"    api_key: {json.dumps(key)}\n")
    (problem,) = problems(text, SET=GOOD_KEY, MY="x")
    assert problem.startswith("thalamus.yaml:4: experts[0].api_key: ")
    assert "write " in problem
    assert "fallback" not in problem


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("api_base: '${BASE:-http://127.0.0.1:8000/v1}'", "api_base"),
        ("api_base: 'http://$HOST:8000/v1'", "api_base"),
        ("api_base: 'http://{{HOST}}:8000/v1'", "api_base"),
        ("headers: {authorization: Bearer $TOKEN}", "headers.authorization"),
        ("deployments: [{api_key: '${A:-b}'}]", "deployments[0].api_key"),
        ("region: ${REGION:=eu}", "region"),
    ],
)
def test_references_are_checked_in_every_key(line: str, key: str) -> None:
    (problem,) = problems(expert(f"    {line}\n"))
    assert problem.startswith(f"thalamus.yaml:4: experts[0].{key}: ")


@pytest.mark.parametrize("value", ["${OTHER}", "$OTHER", "os.environ/OTHER", "${OTHER:-x}", "%OTHER%"])
def test_a_variable_that_holds_a_reference_is_refused(value: str) -> None:
    (problem,) = problems(expert("    api_key: ${KEY}\n"), KEY=value)
    assert "variable KEY holds a reference instead of a value" in problem


@pytest.mark.parametrize("key", ["sk-$5-and-more-1234", "pa$$word-77-long", "p%20ss-99", "us$er-12345678"])
def test_a_dollar_inside_a_key_is_no_reference(key: str) -> None:
    config = parse_config(expert(f"    api_key: {json.dumps(key)}\n"))
    assert config.experts[0].api_key == Secret(key)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("anthropc/claude-haiku-4-5", "did you mean 'anthropic/'?"),
        ("OpenAI/gpt-5", "did you mean 'openai/'?"),
        ("vertexai/gemini-2.5-pro", "did you mean 'vertex_ai/'?"),
        ("meta-llama/Llama-3-8b", "no provider is named 'meta-llama'"),
        ("zzzzqqq/x", "`openai/…` with api_base calls any such server"),
    ],
)
def test_a_provider_that_does_not_exist_is_refused_with_the_nearest(model: str, said: str) -> None:
    (problem,) = problems(f"experts: [{{name: a, model: {model}}}]")
    assert problem.startswith("thalamus.yaml:1: experts[0].model: ")
    assert said in problem


@pytest.mark.parametrize("provider", ["openai", "anthropic", "azure", "ollama_chat", "vertex_ai", "veniceai"])
def test_providers_of_litellm_are_known_without_importing_it(provider: str) -> None:
    assert parse_config(f"experts: [{{name: a, model: {provider}/x}}]").experts[0].provider == provider


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        ("model: claude-sonnet-4", "such as anthropic/claude-sonnet-4"),
        ("model: gpt-5", "such as openai/gpt-5"),
        ("model: mine", "such as openai/mine"),
        ("model: openai/", "'openai/' names no model after its provider"),
        ("model: hosted_vllm/x", "api_base is missing: hosted_vllm has no address of its own"),
        (
            "model: hosted_vllm/x, deployments: [{api_base: 'http://a/v1'}, {region: eu}]",
            "api_base is missing",
        ),
    ],
)
def test_a_model_that_cannot_be_called_is_refused_with_the_fix(expert: str, said: str) -> None:
    (problem,) = problems(f"experts: [{{name: a, {expert}}}]")
    assert said in problem


@pytest.mark.parametrize(
    ("expert", "warned"),
    [
        ("model: anthropic/claude-haiku-4-5, api_key: os.environ/OPENAI_API_KEY", True),
        ("model: openai/gpt-5, api_key: '${ANTHROPIC_KEY_2}'", True),
        ("model: openai/gpt-5, deployments: [{api_key: os.environ/AZURE_KEY}]", True),
        ("model: openai/gpt-5, api_key: os.environ/OPENAI_API_KEY", False),
        ("model: openai/x, api_base: 'https://api.groq.com/openai/v1', api_key: '${GROQ_API_KEY}'", False),
        ("model: openai/x, api_base: 'http://box/v1', api_key: os.environ/HOUSE_KEY", False),
    ],
)
def test_a_key_that_would_go_to_another_provider_is_warned_of(expert: str, warned: bool) -> None:
    config = parse_config(f"experts: [{{name: a, {expert}}}]", env=AnyVariable())
    warnings = config_warnings(config)
    assert len(warnings) == int(warned)
    assert not warned or "another provider's key" in warnings[0]


def test_a_runner_may_load_a_model_of_any_name() -> None:
    assert parse_config("experts: [{name: a, runner: {engine: vllm, model: nobodys/model}}]").experts


def test_a_literal_secret_is_allowed_and_warned_of_without_being_shown() -> None:
    config = parse_config(expert(f"    api_key: {GOOD_KEY}\n"))
    (warning,) = config_warnings(config)
    assert "'a'" in warning
    assert GOOD_KEY not in warning


def test_secrets_never_show_in_a_repr_or_in_an_error() -> None:
    config = parse_config(
        expert(f"    api_key: {GOOD_KEY}\n    headers: {{Authorization: Bearer {GOOD_KEY}}}\n")
    )
    assert GOOD_KEY not in repr(config) + str(config) + f"{config.experts[0].api_key}"
    assert GOOD_KEY not in "\n".join(problems(f"server: {{master_key: {GOOD_KEY}, port: {GOOD_KEY}}}"))


@pytest.mark.parametrize("who", ["me:hunter2-hunter2", ":hunter2-hunter2", "hunter2-hunter2"])
@pytest.mark.parametrize("port", ["", ":443", ":hunter2-hunter2"])
def test_a_password_in_an_address_is_refused_without_being_shown(who: str, port: str) -> None:
    (problem,) = problems(expert(f"    api_base: https://{who}@box{port}/v1\n"))
    assert problem.startswith("thalamus.yaml:4: experts[0].api_base: of 'a': ")
    assert "hunter2" not in problem


def test_prompts_keep_what_looks_like_a_reference() -> None:
    config = parse_config(expert("    system: say ${HOME}\n"), env={})
    assert config.experts[0].system == "say ${HOME}"


@pytest.mark.parametrize(
    "key",
    ["sk-1234", "changeme", "short", "a" * 40, "sk-aaaaabbbbbbbbbbbb", "sk-0123456789012345", "password"],
)
def test_a_weak_master_key_is_refused(key: str) -> None:
    (problem,) = problems(f"server:\n  master_key: {key}\n")
    assert problem.startswith("thalamus.yaml:2: server.master_key: this key ")
    assert not re.search(rf"\b{re.escape(key)}\b", problem.partition("this key")[2])


def test_a_good_master_key_is_not_weak() -> None:
    assert find_weakness(GOOD_KEY) is None


def test_words_that_yaml_1_1_takes_for_booleans_and_numbers_stay_words() -> None:
    config = parse_config(
        expert("    region: no\n    labels: {since: 2024-01-01}\nrouting: {load_budget: off}\n")
    )
    assert config.experts[0].region == "no"
    assert config.experts[0].labels == {"since": "2024-01-01"}
    assert config.routing.load_budget == "off"


def test_small_prices_may_be_written_with_an_exponent() -> None:
    assert parse_config(expert("    input_cost_per_token: 1e-7\n")).experts[0].input_cost_per_token == 1e-7


def test_anchors_and_merges_work() -> None:
    config = parse_config(
        "experts:\n  - &e {name: a, model: openai/x, region: eu}\n  - {<<: *e, name: b}\n", env={}
    )
    assert [(e.name, e.region) for e in config.experts] == [("a", "eu"), ("b", "eu")]


def test_an_empty_file_is_a_configuration_without_experts() -> None:
    config = parse_config("")
    assert config == Config()
    assert config_warnings(config) == ["no experts are configured; `thalamus init` finds some"]


def test_auto_is_a_policy_even_when_the_file_says_nothing_of_it() -> None:
    assert list(parse_config("policies: {best: {}}").policies_by_name()) == ["auto", "best"]


def test_a_policy_requires_labels_in_the_words_of_policies() -> None:
    policy = parse_config(
        "policies: {private: {require: {local: true, region: eu, labels: {tier: gold}, max_cost_usd: 0.1}}}"
    ).policies_by_name()["private"]
    assert policy.require.labels == {("local", "true"), ("region", "eu"), ("tier", "gold")}
    assert policy.require.max_cost_usd == 0.1


def test_deployments_inherit_what_they_do_not_say() -> None:
    (a,) = parse_config(
        expert(
            "    api_key: ${K}\n    region: us\n    deployments:\n"
            "      - {api_base: http://one/v1}\n"
            "      - {api_base: http://two/v1, region: eu, api_key: '${L}'}\n"
        ),
        env={"K": "k", "L": "l"},
    ).experts
    effective_deployments = a.effective_deployments()
    assert [(p.api_base, p.region, p.api_key) for p in effective_deployments] == [
        ("http://one/v1", "us", Secret("k")),
        ("http://two/v1", "eu", Secret("l")),
    ]


def test_runners_and_tools_get_their_model_from_what_they_are() -> None:
    config = parse_config(
        "experts:\n  - {name: s, runner: {model: bundled/x}}\n  - {name: c, tool: calculator}\n"
    )
    assert [e.model for e in config.experts] == ["bundled/x", "tool/calculator"]


def test_a_missing_file_says_which_command_writes_one(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="no such file; `thalamus init` writes one"):
        load_config(f"{tmp_path}/none.yaml")


def test_a_key_with_nothing_under_it_is_as_good_as_none() -> None:
    assert parse_config("experts:\n  # none yet\npolicies:\nserver:\n") == Config()


def test_an_empty_secret_is_no_secret() -> None:
    assert problems("server:\n  master_key:\n") == [
        "thalamus.yaml:2: server.master_key: is empty; write os.environ/NAME, or delete the key"
    ]


def test_attributes_of_experts_and_weights_on_them_are_read() -> None:
    config = parse_config(
        "experts:\n"
        "  - {name: a, model: openai/x-8b, released: 2024-07-18, ratings: {security: 3}}\n"
        "  - {name: b, model: openai/x-8b, parameters_b: 9}\n"
        "policies: {auto: {objective: {size: 0.1, cost: 0.2, first: [latest]}, flags: {in_band: false}}}\n"
    )
    a, b = profiles(config)
    assert (a.parameters_b, a.released, a.ratings) == (8, "2024-07-18", frozenset({("security", 3.0)}))
    assert (b.parameters_b, b.released, b.ratings) == (9, None, frozenset())
    assert (a.prefix_tokens, a.max_output_tokens) == (0, None)
    auto = config.policies_by_name()["auto"]
    assert auto.objective == Objective(cost=0.2, goals=(("size", 0.1),), first=("latest",))
    assert not auto.in_band_flags


def test_a_profile_counts_what_stands_before_every_conversation_and_knows_the_longest_answer() -> None:
    text = expert(
        f"    system: {'s' * 4000}\n    max_output_tokens: 60\n"
        f"    examples: [{{user: {'u' * 400}, assistant: {'a' * 40}}}]\n"
    )
    (profile,) = profiles(parse_config(text))
    assert 1110 <= profile.prefix_tokens <= 1125
    assert profile.max_output_tokens == 60


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("experts: [{name: a, model: openai/x, released: 2024-02-30}]", "is not a valid date"),
        ("experts: [{name: a, model: openai/x, released: July}]", "experts[0].released"),
        ("experts: [{name: a, model: openai/x, parameters_b: 0}]", "experts[0].parameters_b"),
        ("experts: [{name: a, model: openai/x, ratings: {security: 1, beauty: 2}}]", "unknown key 'beauty'"),
        ("policies: {auto: {objective: {sise: 0.1}}}", "did you mean 'size'?"),
        ("policies: {auto: {objective: {first: [smalest]}}}", "did you mean 'smallest'?"),
        ("policies: {auto: {flags: {unknown: ignore}}}", "allowed: refuse, warn"),
        (
            "policies: {auto: {objective: {cost: 0.1, target_quality: 0.5}}}",
            "keep either the weight or the target",
        ),
    ],
)
def test_wrong_attributes_and_weights_are_refused_with_their_place(line: str, complaint: str) -> None:
    (said,) = problems(line + "\n")
    assert said.startswith("thalamus.yaml:1: ")
    assert complaint in said


def test_a_policys_mapping_keeps_the_order_of_experts() -> None:
    config = parse_config(
        EXPERTS + "policies:\n  coe:\n    mapping:\n      maths: [b, a]\n      general: [a]\n"
    )
    by_name = config.policies_by_name()
    assert by_name["coe"].mapping == {"maths": ("b", "a"), "general": ("a",)}
    assert by_name["auto"].mapping is None


def test_an_expert_that_is_not_there_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(EXPERTS + "policies:\n  coe:\n    mapping:\n      maths: [b, c]\n")
    assert "thalamus.yaml:7: policies.coe.mapping.maths: there is no expert 'c'" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "thalamus.yaml"
    path.write_bytes(EXPERTS.replace("name: a", "name: gpt").encode(encoding))
    assert load_config(path).experts[0].name == "gpt"


def test_a_file_in_another_encoding_is_refused_with_place_and_fix(tmp_path: Path) -> None:
    path = tmp_path / "thalamus.yaml"
    path.write_bytes(f"# Größe\n{EXPERTS}".encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read: byte 0xf6 in line 1 is not UTF-8; save the file"):
        load_config(path)
