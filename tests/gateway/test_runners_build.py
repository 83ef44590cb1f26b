"""From `runner:` and `runners:` of the configuration to what the pool is asked for."""

import json
import re

import pytest

from gateway.config import ConfigError, parse_config, split_command
from gateway.runners.build import build_pool_rule, build_runner_settings, give_all_cores
from gateway.runners.launchers import count_usable_cores

WHOLE = """
experts:
  - name: mine
    runner:
      engine: command
      model: served-name
      cmd: 'serve --port ${PORT} --key "${API_KEY}" --dir ${MODELS}'
      env: {TOKEN: "${HF}"}
      health_path: /up
      device: cuda:1
      memory: 2GiB
      ttl: 60
      pinned: true
      n_parallel: 8
  - name: vectors
    embeds: true
    runner: {model: bundled/smollm2-135m, n_gpu_layers: 0, llama_cpp: {pooling: mean, loras: [a, b]}}
  - name: any
    runner: {model: bundled/smollm2-135m, canary: false}
runners:
  memory: {cpu: 500MB, "cuda:1": 40GiB}
  evict: lru
  max_wait_s: 5
  logs: logs
"""


def test_a_command_keeps_what_is_filled_in_when_it_starts() -> None:
    config = parse_config(WHOLE, env={"MODELS": "/m", "HF": "hush-hush"})
    settings = build_runner_settings(config)
    mine = settings["mine"]
    assert mine.command == ("serve", "--port", "${PORT}", "--key", "${API_KEY}", "--dir", "/m")
    assert mine.env == (("TOKEN", "hush-hush"),)
    assert "hush" not in repr(mine)
    assert (mine.health_path, mine.device, mine.memory_bytes) == ("/up", "cuda:1", 2 * 2**30)
    assert (mine.ttl_s, mine.pinned, mine.n_parallel) == (60, True, 8)
    assert [settings[name].canary for name in settings] == ["chat", "embeddings", "none"]
    assert settings["vectors"].options == (("pooling", "mean"), ("loras", ("a", "b")))
    assert [(one.n_parallel, one.embeds) for one in settings.values()] == [
        (8, False),
        (None, True),
        (None, False),
    ]


def test_memory_is_shared_as_the_configuration_says() -> None:
    rule = build_pool_rule(parse_config(WHOLE, env={"MODELS": "/m", "HF": "x"}))
    assert (rule.memory, rule.each) == ({"cpu": 500_000_000, "cuda:1": 40 * 2**30}, None)
    assert (rule.residency.evict, rule.residency.turns.max_wait_s) == ("lru", 5)
    assert str(rule.log_folder) == "logs"
    assert build_pool_rule(parse_config("runners: {memory: 16GiB}")).each == 16 * 2**30


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("runners: {memory: plenty}", "runners.memory"),
        ("runners: {memory: {gpu: 1GiB}}", "runners.memory"),
        ("runners: {evict: random}", "runners.evict"),
        ("experts: [{name: a, runner: {model: x, memory: 2 lots}}]", "experts[0].runner.memory"),
        ("experts: [{name: a, runner: {model: x, engine: vlm}}]", "experts[0].runner.engine"),
        ("experts: [{name: a, runner: {model: x, engine: command}}]", "experts[0].runner"),
        ("experts: [{name: a, runner: {model: x, cmd: 'x ${PORT}'}}]", "experts[0].runner.cmd"),
        ("experts: [{name: a, runner: {model: x, sleep: 0}}]", "experts[0].runner.sleep"),
        ("experts: [{name: a, runner: {model: x, n_parallel: 0}}]", "experts[0].runner.n_parallel"),
        (
            "experts: [{name: a, runner: {model: x, llama_cpp: {kv_type: q9}}}]",
            "experts[0].runner.llama_cpp.kv_type",
        ),
        (
            "experts: [{name: a, runner: {model: x, llama_cpp: {mmprj: y}}}]",
            "experts[0].runner.llama_cpp",
        ),
        (
            "experts: [{name: a, runner: {model: x, engine: vllm, llama_cpp: {kv_type: q8_0}}}]",
            "experts[0].runner.llama_cpp",
        ),
        ("experts: [{name: a, runner: {model: x, sleep: 3, engine: vllm}}]", "experts[0].runner.sleep"),
    ],
)
def test_what_cannot_be_is_named_with_its_field(text: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("cmd", "words"),
    [
        ("serve --port ${PORT}\n# three layers more\n--fast\n", ("serve", "--port", "${PORT}", "--fast")),
        ("serve \\\n  -ngl 99 \\\n  --x", ("serve", "-ngl", "99", "--x")),
        ("serve \\  \n  -ngl 99\\", ("serve", "-ngl", "99")),
        ("serve \\\r\n  -ngl 99\r\n", ("serve", "-ngl", "99")),
        ("serve # the port follows, it's free\n--port 1", ("serve", "--port", "1")),
        (
            'serve --json \'{"a": true}\' --name "Q 27B"',
            ("serve", "--json", '{"a": true}', "--name", "Q 27B"),
        ),
        ("serve model#2 '# kept' \"# kept\" \\#", ("serve", "model#2", "# kept", "# kept", "#")),
        ("serve 'two\n# lines'", ("serve", "two\n# lines")),
        (r'serve --t "blk\.(2[0-9])=CPU" "a\"b"', ("serve", "--t", r"blk\.(2[0-9])=CPU", 'a"b')),
        ("\n# first a comment\n\nserve", ("serve",)),
    ],
)
def test_a_command_is_read_as_a_shell_reads_it(cmd: str, words: tuple[str, ...]) -> None:
    assert split_command(cmd) == words


@pytest.mark.parametrize(
    ("cmd", "said"),
    [
        ("serve 'open", "a quotation mark has no partner"),
        ("# only a comment", "needs the key 'cmd'"),
        ("serve ${MODEL:-x}", "defaults are not supported"),
        ("serve --key $KEY", "looks like a reference of another tool"),
        (["serve", "${NOT_SET}"], "environment variable NOT_SET is not set"),
    ],
)
def test_a_command_that_cannot_run_is_refused_by_the_check(cmd: object, said: str) -> None:
    runner = {"engine": "command", "model": "m", "cmd": cmd}
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_config(json.dumps({"experts": [{"name": "a", "runner": runner}]}), env={})


def test_a_shell_in_a_command_keeps_its_variables_and_templates() -> None:
    script = "exec serve --home $HOME ${ROOM:-8} --t '{{ messages }}' --port ${PORT} --dir ${DIR}"
    cmd = ["/bin/bash", "-c", script]
    runner = {"engine": "command", "model": "m", "cmd": cmd}
    config = parse_config(json.dumps({"experts": [{"name": "a", "runner": runner}]}), env={"DIR": "/m"})
    settings = build_runner_settings(config)["a"]
    assert (
        settings.command[2]
        == "exec serve --home $HOME ${ROOM:-8} --t '{{ messages }}' --port ${PORT} --dir /m"
    )


def test_without_a_server_engines_have_all_cores_that_no_number_of_threads_forbids() -> None:
    local = "{name: a, runner: {model: x}}, {name: b, runner: {model: x, n_threads: 1}}"
    text = f"experts: [{local}, {{name: c, model: openai/c}}]"
    settings = build_runner_settings(give_all_cores(parse_config(text)))
    assert {name: one.n_threads for name, one in settings.items()} == {"a": count_usable_cores(), "b": 1}
