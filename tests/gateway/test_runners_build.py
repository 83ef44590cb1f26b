"""From `runner:` and `runners:` of the configuration to what the pool is asked for."""

import pytest

from gateway.config import ConfigError, parse_config
from gateway.runners.build import build_pool_rule, build_runner_settings

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
    runner: {model: bundled/smollm2-135m, n_gpu_layers: 0}
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
        ("experts: [{name: a, runner: {model: x, sleep: 3, engine: vllm}}]", "experts[0].runner.sleep"),
    ],
)
def test_what_cannot_be_is_named_with_its_field(text: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert caught.value.field == field
