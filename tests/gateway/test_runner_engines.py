"""Engines other than llama.cpp, against fakes that speak their real routes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import ExpertConfig, TimeoutConfig
from gateway.experts.http_client import Transport
from gateway.experts.local import LocalExpert
from gateway.experts.types import Call
from gateway.runners import (
    Adapter,
    Patience,
    PoolRule,
    RunnerFailed,
    Runners,
    RunnerSettings,
    RunnerSettingsError,
)
from gateway.runners.checks import ask
from gateway.runners.launchers import VLLM_WAKE_STEPS
from tests.fakes.ollama_daemon import KNOWN, OllamaDaemon

VLLM = Path(__file__).parents[1] / "fakes" / "vllm_server.py"
MB = 1_000_000
QUICK = Patience(
    load_timeout_s=20,
    wake_timeout_s=2,
    sleep_timeout_s=2,
    canary_timeout_s=5,
    probe_every_s=0.1,
    grace_s=1,
    first_pause_s=0.01,
    max_pause_s=0.05,
    n_failed_starts=2,
)


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vllm"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{VLLM}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.fixture
def daemon() -> Iterator[OllamaDaemon]:
    fake = OllamaDaemon()
    yield fake
    fake.close()


def on_vllm(**settings: Any) -> RunnerSettings:
    return RunnerSettings("vllm", "org/model", memory_bytes=100 * MB, **settings)


@contextlib.asynccontextmanager
async def pool_of(room: int = 100, **experts: RunnerSettings) -> AsyncIterator[Runners]:
    runners = Runners(experts, QUICK, PoolRule(each=room * MB))
    await runners.start()
    try:
        async with asyncio.timeout(60):
            yield runners
    finally:
        await runners.stop()


async def chat(runners: Runners, expert: str) -> bytes:
    async with runners.lease(expert, wait_s=20) as lease:
        body = {"model": lease.alias, "messages": [{"role": "user", "content": "Hi"}]}
        root, _, _ = lease.url.rpartition("/v1")
        status, answer = await ask(root, "/v1/chat/completions", body, lease.headers)
        assert status == 200
        return answer


def walk_states(runners: Runners, expert: str) -> list[str]:
    return [line for line in runners[expert].log_tail if line.startswith("/")]


@pytest.mark.parametrize(
    ("level", "steps"),
    [
        (1, ["/sleep?level=1", "/wake_up"]),
        (
            2,
            [
                "/sleep?level=2",
                "/wake_up?tags=weights",
                "/collective_rpc reload_weights",
                "/wake_up?tags=kv_cache",
                "/reset_prefix_cache",
            ],
        ),
    ],
)
@pytest.mark.usefixtures("vllm")
async def test_vllm_makes_room_by_sleeping_and_wakes_sound(level: int, steps: list[str]) -> None:
    async with pool_of(a=on_vllm(sleep_level=level), b=on_vllm(n_parallel=3)) as runners:
        assert b"Paris." in await chat(runners, "a")
        pid = runners["a"].pid
        assert b"Paris." in await chat(runners, "b")
        assert (runners["a"].state, runners["a"].base_url) == ("sleeping", None)
        assert b"Paris." in await chat(runners, "a")
        assert (runners["a"].state, runners["a"].pid, runners["b"].state) == ("ready", pid, "sleeping")
        assert walk_states(runners, "a") == steps
        assert "serving org/model on GPU 0" in runners["a"].log_tail


@pytest.mark.parametrize(("fault", "why"), [("bad-wake", "garbage"), ("other-wake", "after waking")])
@pytest.mark.usefixtures("vllm")
async def test_vllm_that_wakes_up_another_is_started_anew(fault: str, why: str) -> None:
    async with pool_of(a=on_vllm(args=("--fault", fault))) as runners:
        await chat(runners, "a")
        pid = runners["a"].pid
        await runners.unload("a")
        assert runners["a"].state == "sleeping"
        assert b"Paris." in await chat(runners, "a")
        assert runners["a"].pid != pid
        assert why in (runners["a"].status().last_error or "")


@pytest.mark.usefixtures("vllm")
async def test_weights_that_are_not_put_back_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = tuple(step for step in VLLM_WAKE_STEPS[2] if step.path != "/collective_rpc")
    monkeypatch.setitem(VLLM_WAKE_STEPS, 2, lazy)
    async with pool_of(a=on_vllm(sleep_level=2)) as runners:
        await chat(runners, "a")
        await runners.unload("a")
        assert b"Paris." in await chat(runners, "a")
        assert "garbage" in (runners["a"].status().last_error or "")


@pytest.mark.usefixtures("vllm")
async def test_vllm_that_does_not_wake_in_time_is_started_anew() -> None:
    async with pool_of(a=on_vllm(args=("--fault", "slow-wake"))) as runners:
        await chat(runners, "a")
        await runners.unload("a")
        assert b"Paris." in await chat(runners, "a")
        assert "did not wake up within 2 s" in (runners["a"].status().last_error or "")


@pytest.mark.usefixtures("vllm")
async def test_vllm_that_does_not_sleep_is_ended_instead() -> None:
    async with pool_of(a=on_vllm(args=("--fault", "no-sleep")), b=on_vllm(n_parallel=3)) as runners:
        await chat(runners, "a")
        await chat(runners, "b")
        assert runners["a"].state == "stopped"


@pytest.mark.usefixtures("vllm")
async def test_vllm_that_dies_in_its_sleep_is_there_when_asked() -> None:
    async with pool_of(a=on_vllm()) as runners:
        await chat(runners, "a")
        await runners.unload("a")
        pid = runners["a"].pid
        assert pid is not None
        os.killpg(pid, signal.SIGKILL)
        assert b"Paris." in await chat(runners, "a")


@pytest.mark.usefixtures("vllm")
async def test_vllm_without_sleep_is_ended_to_make_room() -> None:
    async with pool_of(a=on_vllm(sleep_level=0)) as runners:
        await chat(runners, "a")
        await runners.unload("a")
        assert runners["a"].state == "stopped"


def make_peft_adapter(folder: Path, rank: int = 8) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    return folder


def with_adapters(tmp_path: Path, **settings: Any) -> dict[str, RunnerSettings]:
    """A model and two adapters of it: one in a folder, one in a repository."""
    legal = tmp_path / "legal-lora"
    if not legal.exists():
        make_peft_adapter(legal, rank=24)
    adapters = (Adapter("legal", str(legal)), Adapter("poet", "org/poet-lora"))
    return dict.fromkeys(("house", "legal", "poet"), on_vllm(adapters=adapters, **settings))


@pytest.mark.usefixtures("vllm")
async def test_vllm_answers_with_the_adapter_of_each_expert_and_loads_once(tmp_path: Path) -> None:
    async with pool_of(100, **with_adapters(tmp_path)) as runners:
        transport = Transport()
        await transport.open()
        said = {}
        for name in runners:
            runner = {"engine": "vllm", "model": "org/model", "adapters": {"legal": "x", "poet": "y"}}
            config = msgspec.convert({"name": name, "runner": runner}, ExpertConfig)
            expert = LocalExpert(config, TimeoutConfig(load_s=20), transport, runners)
            reply = await expert.call(Call("chat/completions", {"messages": msgspec.Raw(b"[]")}))
            answer = json.loads(reply.body or b"")
            said[name] = (answer["model"], answer["choices"][0]["message"]["content"])
        await transport.close()
        assert said == {
            "house": ("house", "Paris."),
            "legal": ("legal", "I am legal."),
            "poet": ("poet", "I am poet."),
        }
        assert runners["legal"] is runners["house"]
        assert runners["house"].n_loads == 1
        argv: Any = runners["house"].plan().message["argv"]
        flags = (
            f"--max-loras 2 --max-cpu-loras 2 --max-lora-rank 32 --lora-modules legal={tmp_path}/legal-lora"
        )
        assert f"--enable-lora {flags} poet=org/poet-lora --enable-sleep-mode" in " ".join(argv)


@pytest.mark.usefixtures("vllm")
async def test_vllm_that_wakes_without_its_adapters_is_started_anew(tmp_path: Path) -> None:
    faulty = with_adapters(tmp_path, args=("--fault", "lost-adapters"))
    async with pool_of(100, **faulty) as runners:
        await chat(runners, "house")
        pid = runners["house"].pid
        await runners.unload("legal")
        assert runners["house"].state == "sleeping"
        await chat(runners, "poet")
        assert runners["house"].pid != pid
        assert "adapter legal: answers 'Paris.' after waking" in (runners["house"].status().last_error or "")


@pytest.mark.usefixtures("vllm")
def test_an_adapter_that_vllm_cannot_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    odd = make_peft_adapter(tmp_path / "odd")
    (odd / "adapter_config.json").write_text("[1")
    for path, said in {
        "/none/lora": "is no folder; name the folder of a PEFT adapter",
        "lora": "is no folder",
        str(tmp_path / "empty"): 'has no "adapter_config.json"; name the folder',
        str(odd): 'gives no rank "r"; name a LoRA adapter',
        "lora.gguf": "is a GGUF file; name the folder of a PEFT adapter",
        "a=b": "has = or , in it; rename the folder",
    }.items():
        with pytest.raises(RunnerSettingsError) as caught:
            Runners({"a": on_vllm(adapters=(Adapter("x", path),))}).check()
        assert str(caught.value).startswith("experts.a.runner.adapters.x: ")
        assert said in str(caught.value)


def test_vllm_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunnerSettingsError, match=r"experts\.a\.runner\.engine: .*pip install vllm"):
        Runners({"a": on_vllm()}).check()


def on_ollama(daemon: OllamaDaemon, model: str = KNOWN, **settings: Any) -> RunnerSettings:
    return RunnerSettings("ollama", model, url=daemon.url, **settings)


async def test_a_model_of_ollama_is_loaded_asked_and_let_go(daemon: OllamaDaemon) -> None:
    async with pool_of(a=on_ollama(daemon)) as runners:
        assert b"Paris." in await chat(runners, "a")
        assert daemon.loaded == {KNOWN: 300}
        assert runners["a"].memory_bytes == 9_000_000
        await runners.unload("a")
        assert daemon.loaded == {}
        assert b"Paris." in await chat(runners, "a")
    assert daemon.loaded == {}


async def test_a_model_that_the_daemon_dropped_is_loaded_again(daemon: OllamaDaemon) -> None:
    async with pool_of(a=on_ollama(daemon)) as runners:
        await runners.wait_settled()
        daemon.loaded.clear()
        while not daemon.loaded:  # noqa: ASYNC110 (another process changes it)
            await asyncio.sleep(0.05)
        assert b"Paris." in await chat(runners, "a")
        # What an engine says once it serves may quote a prompt: the error for all names its log.
        assert "its log may say why" in (runners["a"].status().last_error or "")
        assert any("not loaded any more" in line for line in runners["a"].log_tail)


async def test_a_model_that_ollama_does_not_know_is_one_line(daemon: OllamaDaemon) -> None:
    async with pool_of(a=on_ollama(daemon, "gpt-9")) as runners:
        with pytest.raises(RunnerFailed, match=r"ollama at http.*404.*model 'gpt-9' not found"):
            await runners.take("a", wait_s=20)


@pytest.mark.parametrize("url", ["https://here:1", "127.0.0.1:11434", "http://here/api"])
def test_an_address_of_ollama_that_is_none_is_named(url: str) -> None:
    with pytest.raises(RunnerSettingsError, match=r"experts\.a\.runner\.url: must be as"):
        Runners({"a": RunnerSettings("ollama", "m", url=url)}).check()


def plan_argv(settings: RunnerSettings) -> list[str]:
    runners = Runners({"a": settings})
    return list(runners["a"].plan().message["argv"])


@pytest.mark.parametrize(
    ("given", "flag", "n_slots"),
    [
        ({}, None, 256),
        ({"n_parallel": 12}, "12", 12),
        ({"args": ("--max-num-seqs", "64")}, "64", 64),
        ({"args": ("--max-num-seqs=64",)}, None, 64),
    ],
)
@pytest.mark.usefixtures("vllm")
def test_vllm_keeps_its_own_limit_of_requests(given: dict[str, Any], flag: str | None, n_slots: int) -> None:
    settings = on_vllm(**given)
    argv = plan_argv(settings)
    found = argv[argv.index("--max-num-seqs") + 1] if "--max-num-seqs" in argv else None
    assert (found, Runners({"a": settings}).count_slots("a")) == (flag, n_slots)


@pytest.mark.parametrize(
    ("command", "n_slots"),
    [
        ("true --port ${PORT}", 4),
        ("true --port ${PORT} -np 3", 3),
        ("true --parallel=6 --port ${PORT}", 6),
        ("true --max-num-seqs 128 --port ${PORT}", 128),
        ("true --no-parallel --port ${PORT} -np ${N}", 4),
    ],
)
def test_a_command_is_sent_as_many_requests_as_it_says(command: str, n_slots: int) -> None:
    settings = RunnerSettings("command", "m", command=tuple(command.split()))
    assert Runners({"a": settings}).count_slots("a") == n_slots


@pytest.mark.parametrize(("said", "n_slots"), [(None, 4), ("2", 2), ("many", 4), ("0", 4)])
def test_ollama_is_sent_as_many_requests_as_its_environment_says(
    said: str | None, n_slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_NUM_PARALLEL", raising=False)
    if said is not None:
        monkeypatch.setenv("OLLAMA_NUM_PARALLEL", said)
    assert Runners({"a": RunnerSettings("ollama", "m")}).count_slots("a") == n_slots
    assert Runners({"a": RunnerSettings("ollama", "m", n_parallel=7)}).count_slots("a") == 7
