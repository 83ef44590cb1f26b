"""llama-swap's configuration becomes ours; what cannot come along is listed by name."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.app import build_services
from gateway.config import Config, parse_config
from gateway.config.importers import ImportedConfig, ImportFailedError, import_llama_swap
from gateway.config.importers.result import PLACEHOLDER, AnyVariable
from gateway.experts.http_client import Transport
from gateway.runners.build import build_runner_settings

TEN = Path(__file__).parent / "data" / "llama-swap-ten.yaml"
SERVER = ("/opt/llama/llama-server", "--host", "127.0.0.1", "--port", "${PORT}")
COMMANDS = {
    "qwen-coder": (
        *SERVER,
        *("--ctx-size", "65536", "--jinja", "--alias", "qwen-coder"),
        *("-m", f"{PLACEHOLDER}/gguf/qwen-coder-30b.gguf"),
        *("--override-tensor", r"blk\.(2[0-9])\.ffn=CPU"),
        *("--chat-template-kwargs", '{"preserve_thinking": true}'),
    ),
    "gemma-3-12B-vision": (
        *SERVER,
        *("--ctx-size", "16384", "--jinja", "--alias", "gemma", "3", "12B", "(vision)"),
        *("-m", f"{PLACEHOLDER}/gguf/gemma-3-12b.gguf", "-np", "2"),
    ),
    "vllm-llama": (
        *("vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct", "--port", "${PORT}"),
        *("--max-model-len=8192", "--max-num-seqs", "16"),
    ),
    "boxed": (
        *("docker", "run", "--name", "boxed", "--rm", "-p", "${PORT}:8000", "--gpus", '"device=1"'),
        *("vllm/vllm-openai", "--model", "google/gemma-3-4b-it"),
    ),
    "fixed": ("tabby-server", "--listen", "127.0.0.1:${PORT}", "--model", "exl2"),
    "nomic-embed": (*SERVER, "-m", f"{PLACEHOLDER}/gguf/nomic.gguf", "--embedding", "-c", "2048"),
}
LOST = (
    "qwen-coder: filters.stripParams: temperature, top_p",
    "gemma 3 12B (vision): unlisted",
    "vllm-llama: timeouts.idleConn",
    "boxed: cmdStop",
    "boxed: metadata",
    "whisper (line 53): it is for audio_transcription",
    "ranker (line 55): it is for rerank",
    "far (line 57): its server runs elsewhere (192.168.7.3)",
    "broken (line 60): the macro '${serevr}' is not defined",
    "groups.small (swap, exclusive, persistent) of nomic-embed, boxed",
    "groups.large (swap) of qwen-coder, gemma 3 12B (vision)",
    "hooks.on_startup.preload: qwen-coder: `pinned: true`",
    "hooks.on_startup.preload: there is no model 'gone'",
    "logLevel",
    "startPort",
)
CHANGED = (
    "'gemma 3 12B (vision)' is now 'gemma-3-12B-vision'; the old name is kept as an alias",
    "boxed: its cmd sets no context size",
    "fixed: its cmd sets no context size",
    "fixed: the port 8999 in its cmd is ${PORT} now",
    "fixed: checkEndpoint none: the server is ready when /v1/models answers",
    "nomic-embed: an embedding model",
    "models are loaded at the start as far as memory allows",
    "nomic-embed: preloaded and persistent, it is pinned",
)


def convert(data: Any) -> ImportedConfig:
    return import_llama_swap(data if isinstance(data, str) else json.dumps(data), "config.yaml")


@cache
def convert_ten() -> tuple[ImportedConfig, Config]:
    made = convert(TEN.read_text())
    return made, parse_config(made.text, env=AnyVariable())


def one(model: dict[str, Any], **more: Any) -> tuple[ImportedConfig, Config]:
    made = convert({"models": {"it": model}, **more})
    return made, parse_config(made.text, env=AnyVariable())


def command_of(cmd: str, **more: Any) -> tuple[str, ...]:
    _, config = one({"cmd": cmd}, **more)
    return build_runner_settings(config)["it"].command


def refusal_of(model: dict[str, Any], **more: Any) -> str:
    """Why a model is left out."""
    made = convert({"models": {"it": model}, **more})
    assert made.n_experts == 0
    return made.notes.lost[0]


def test_ten_models_keep_their_commands() -> None:
    made, config = convert_ten()
    settings = build_runner_settings(config)
    assert {name: found.command for name, found in settings.items()} == COMMANDS
    assert made.n_experts == len(COMMANDS) + 1


def test_ten_models_keep_names_times_and_environments() -> None:
    _, config = convert_ten()
    assert config.aliases == {
        "gpt-4o": "qwen-coder",
        "coder": "qwen-coder",
        "gemma 3 12B (vision)": "gemma-3-12B-vision",
        "vision": "gemma-3-12B-vision",
        "text-embedding-3-small": "nomic-embed",
    }
    runners = {expert.name: expert.runner for expert in config.experts if expert.runner}
    assert {name: runner.ttl for name, runner in runners.items()} == {
        **dict.fromkeys(COMMANDS, 1800),
        "qwen-coder": 300,
        "gemma-3-12B-vision": None,
    }
    coder, vllm = runners["qwen-coder"], runners["vllm-llama"]
    assert {name: value.reveal() for name, value in coder.env.items()} == {
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_TOKEN": PLACEHOLDER,
    }
    assert (coder.device, vllm.device) == ("cuda:0", None)
    assert (vllm.model, vllm.health_path) == ("meta-llama/Llama-3.1-8B-Instruct", "/health/ready")
    assert {name: (r.context_tokens, r.n_parallel) for name, r in runners.items()} == {
        "qwen-coder": (65536, None),
        "gemma-3-12B-vision": (8192, 2),
        "vllm-llama": (8192, 8),
        "boxed": (4096, None),
        "fixed": (4096, None),
        "nomic-embed": (2048, None),
    }
    assert [name for name, runner in runners.items() if runner.pinned] == ["nomic-embed"]
    assert [expert.name for expert in config.experts if expert.embeds] == ["nomic-embed"]
    assert config.experts[0].override_params == {"top_k": 20, "stop": ["qwen-coder"]}
    assert config.timeouts.load_s == 300


def test_ten_models_build_a_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = convert_ten()[0].text + "journal: {enabled: false}\n"
    services = build_services(parse_config(text, env=AnyVariable()), Transport())
    services.store.close()
    assert list(services.experts) == [*COMMANDS, "deepseek-r1"]


def test_models_of_peers_are_remote_experts() -> None:
    made, config = convert_ten()
    peer = config.experts[-1]
    assert (peer.name, peer.model, peer.api_base) == (
        "deepseek-r1",
        "openai/deepseek-r1",
        "http://lab:8080/v1",
    )
    assert peer.override_params == {"seed": 1}
    assert "api_key: ${LAB_KEY}" in made.text
    assert "master_key: os.environ/SWAP_KEY" in made.text


def test_what_ten_models_lose_is_listed_and_nothing_else() -> None:
    notes = convert_ten()[0].notes
    for listed, expected in ((notes.lost, LOST), (notes.changed, CHANGED)):
        assert [line for line in expected if not any(said.startswith(line) for said in listed)] == []
        assert [said for said in listed if not said.startswith(expected)] == []


@pytest.mark.parametrize(
    ("cmd", "words"),
    [
        ("serve --port ${PORT}\n# a comment\n--fast", ("serve", "--port", "${PORT}", "--fast")),
        ("serve \\\n --port ${PORT} \\\n  --fast \\", ("serve", "--port", "${PORT}", "--fast")),
        ('serve ${PORT} \'a b\' "c\\"d"', ("serve", "${PORT}", "a b", 'c"d')),
        ("${A} ${PORT}", ("serve", "--name", "it", "${PORT}")),
        ("${B} ${PORT}", ("serve", "--name", "it", "--n", "3", "true", "${PORT}")),
        ("serve ${PORT} ${env.HOME}/x", ("serve", "${PORT}", f"{PLACEHOLDER}/x")),
        ("bash -c 'serve ${PORT} ${N_GPU:-1}'", ("bash", "-c", "serve ${PORT} ${N_GPU:-1}")),
        ("serve ${PORT} --t '{{ messages }}'", ("serve", "${PORT}", "--t", "{{ messages }}")),
        (
            "docker run -p ${PORT}:1 x sh -c 'a $X'",
            ("docker", "run", "-p", "${PORT}:1", "x", "sh", "-c", "a $X"),
        ),
    ],
)
def test_macros_and_lines_are_read_as_llama_swap_and_a_shell_read_them(
    cmd: str, words: tuple[str, ...]
) -> None:
    macros = {"N": 3, "YES": True, "A": "serve --name ${MODEL_ID}", "B": "${A} --n ${N}\n${YES}"}
    assert command_of(cmd, macros=macros) == words


def test_macros_of_a_model_replace_those_of_the_file_inside_others() -> None:
    model = {"cmd": "serve ${PORT} ${args}", "macros": {"size": 2}}
    _, config = one(model, macros={"size": 1, "args": "--size ${size}"})
    assert build_runner_settings(config)["it"].command == ("serve", "${PORT}", "--size", "2")


def test_a_macro_that_is_all_of_a_parameter_keeps_its_type() -> None:
    model = {"cmd": "serve ${PORT}", "filters": {"setParams": {"temperature": "${t}", "user": "u-${t}"}}}
    _, config = one(model, macros={"t": 0.7})
    assert config.experts[0].override_params == {"temperature": 0.7, "user": "u-0.7"}


@pytest.mark.parametrize(
    ("cmd", "proxy", "words"),
    [
        ("s --port 9001", "http://127.0.0.1:9001", ("s", "--port", "${PORT}")),
        ("s --port=9001", "http://localhost:9001/", ("s", "--port=${PORT}")),
        ("docker run -p 9001:8080 x", "http://127.0.0.1:9001", ("docker", "run", "-p", "${PORT}:8080", "x")),
        ("s --port ${PORT}", "http://localhost:${PORT}", ("s", "--port", "${PORT}")),
    ],
)
def test_a_port_of_its_own_becomes_a_free_one(cmd: str, proxy: str, words: tuple[str, ...]) -> None:
    _, config = one({"cmd": cmd, "proxy": proxy})
    assert build_runner_settings(config)["it"].command == words


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"cmd": "s --port 9001"}, "has no ${PORT}, and its proxy names no port"),
        ({"cmd": "s", "proxy": "http://127.0.0.1:9001"}, "does not say once where port 9001 is"),
        ({"cmd": "s 9001 9001", "proxy": "http://127.0.0.1:9001"}, "does not say once where port 9001 is"),
        ({"cmd": "s ${PORT}", "proxy": "http://box:${PORT}"}, "its server runs elsewhere (box)"),
        ({"cmd": "s ${PORT} 'open"}, "a quotation mark in its cmd has no partner"),
        ({"cmd": "# nothing"}, "it has no cmd"),
        ({}, "it has no cmd"),
        ({"cmd": "s ${PORT} -k $KEY"}, "cmd: looks like a reference of another tool"),
        ({"cmd": "s ${PORT} ${KEY:-none}"}, "cmd: '${KEY…}' is not a reference here"),
        ({"cmd": "s ${PORT} ${no-such}"}, "the macro '${no-such}' is not defined"),
        ({"cmd": "/usr/bin/whisper-server --port ${PORT}"}, "it is for audio_transcription"),
        ({"cmd": "llama-server --port ${PORT} --rerank"}, "it is for rerank"),
        ({"cmd": "sd-server --port ${PORT}"}, "it is for image_generation"),
    ],
)
def test_a_model_that_cannot_run_here_is_left_out_with_the_reason(model: dict[str, Any], said: str) -> None:
    assert said in refusal_of(model)


def test_a_model_may_be_left_out_and_the_rest_stay() -> None:
    made = convert({"models": {"bad": {"cmd": "s"}, "worse": None, "good": {"cmd": "s ${PORT}"}}})
    assert [expert.name for expert in parse_config(made.text, env={}).experts] == ["good"]


@pytest.mark.parametrize(
    ("ttl", "whole", "ours"), [(None, 60, 60), (-1, 60, 60), (0, 60, None), (5, 60, 5), (None, None, None)]
)
def test_ttl_is_the_models_or_the_files(ttl: int | None, whole: int | None, ours: int | None) -> None:
    model = {"cmd": "s ${PORT}", **({} if ttl is None else {"ttl": ttl})}
    _, config = one(model, **({} if whole is None else {"globalTTL": whole}))
    assert config.experts[0].runner is not None
    assert config.experts[0].runner.ttl == ours


def test_an_alias_of_two_models_stays_with_the_first() -> None:
    models = {name: {"cmd": "s ${PORT}", "aliases": ["x", "auto", "b"]} for name in "ab"}
    made = convert({"models": models})
    assert parse_config(made.text, env={}).aliases == {"x": "a"}
    assert [line for line in made.notes.lost if "alias" in line] == [
        "a: the alias 'auto', which has a meaning of its own here",
        "a: the alias 'b', which another model has",
        "b: the alias 'x', which another model has",
        "b: the alias 'auto', which has a meaning of its own here",
        "b: the alias 'b', which another model has",
    ]


def test_forms_that_llama_swap_does_not_take_spoil_nothing() -> None:
    model = {"cmd": "s ${PORT}", "env": {"A": 1}, "aliases": "x", "filters": 3, "timeouts": [], "ttl": "5"}
    more = {"groups": {"g": {"members": "it"}}, "hooks": {"on_startup": {"preload": "it"}}, "peers": []}
    _, config = one({**model, "macros": []}, macros=None, **more)
    runner = config.experts[0].runner
    assert runner is not None
    assert (runner.ttl, runner.env["A"].reveal(), config.aliases) == (5, "1", {"x": "it"})


def test_keys_that_are_written_out_are_not_copied() -> None:
    made, config = one({"cmd": "s ${PORT}"}, apiKeys=["sk-7f3a9c1e5b2d8046"])
    assert "sk-7f3a" not in made.text
    assert config.server.master_key is None
    assert "`server: {keys: {NAME: os.environ/VARIABLE}}`" in made.notes.lost[0]


def test_groups_of_the_newer_form_are_listed_too() -> None:
    router = {"router": {"use": "group", "settings": {"groups": {"g": {"swap": True, "members": ["it"]}}}}}
    made, _ = one({"cmd": "s ${PORT}"}, routing=router, matrix={"sets": {}})
    assert made.notes.lost[0].startswith("groups.g (swap) of it: ")
    assert "matrix" in made.notes.lost


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", ":1: "), ("a: 1", "no 'models'"), ("- x", "no 'models'")]
)
def test_what_is_no_llama_swap_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(ImportFailedError, match=said):
        convert(text)
