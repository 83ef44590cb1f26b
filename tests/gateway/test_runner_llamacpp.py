"""The real llama.cpp with the real SmolLM2, in real processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import aiohttp
import pytest

from gateway.config.expert_schema import LlamaCppConfig
from gateway.runners import (
    Patience,
    PoolRule,
    Runner,
    RunnerFailed,
    Runners,
    RunnerSettings,
    RunnerSettingsError,
)
from gateway.runners.engines.llamacpp_child import set_option

pytest.importorskip("xllamacpp")

ROOT = Path(__file__).parents[2]
SETTINGS = RunnerSettings("llama.cpp", "bundled/smollm2-135m", context_tokens=512)
CAPITAL = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
LONG = [{"role": "user", "content": "Write a long story about a fox."}]


@pytest.fixture
async def runners() -> AsyncIterator[Runners]:
    pool = Runners({"smollm2": SETTINGS})
    await pool.start()
    await pool["smollm2"].wait_ready(60)
    yield pool
    await pool.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def ask(http: aiohttp.ClientSession, runner: Runner, **fields: Any) -> tuple[int, str]:
    body = {"model": "any", "temperature": 0, "max_tokens": 16, "messages": CAPITAL, **fields}
    url = f"{await runner.wait_ready(60)}/chat/completions"
    async with http.post(url, json=body, headers=runner.headers) as response:
        return response.status, await response.text()


def is_gone(pid: int, within_s: float = 10) -> bool:
    """Whether the process is no more, or only a zombie that is not collected yet."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


async def test_answers_under_the_name_of_its_expert(runners: Runners, http: aiohttp.ClientSession) -> None:
    status, text = await ask(http, runners["smollm2"])
    answer = json.loads(text)
    assert status == 200
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "smollm2"
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_streams_with_usage_and_log_probabilities_and_never_shows_a_path(
    runners: Runners, http: aiohttp.ClientSession
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 1}
    _, text = await ask(http, runners["smollm2"], **options)
    assert ".gguf" not in text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {"smollm2"}
    deltas = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "Paris" in "".join(delta["delta"].get("content") or "" for delta in deltas)
    assert all(entry["logprob"] <= 0 for d in deltas if "logprobs" in d for entry in d["logprobs"]["content"])
    assert chunks[-1]["usage"]["total_tokens"] > chunks[-1]["usage"]["completion_tokens"] > 0


async def test_at_temperature_zero_the_answer_is_the_same_alone_and_in_company(
    runners: Runners, http: aiohttp.ClientSession
) -> None:
    alone = [json.loads((await ask(http, runners["smollm2"], messages=m))[1]) for m in (CAPITAL, LONG)]
    together = await asyncio.gather(*(ask(http, runners["smollm2"], messages=m) for m in (CAPITAL, LONG)))
    contents = [answer["choices"][0]["message"]["content"] for answer in alone]
    assert [json.loads(text)["choices"][0]["message"]["content"] for _, text in together] == contents


async def test_a_prompt_beyond_the_window_is_refused_with_its_own_error_type(
    runners: Runners, http: aiohttp.ClientSession
) -> None:
    status, text = await ask(
        http, runners["smollm2"], messages=[{"role": "user", "content": "hello " * 2000}]
    )
    assert status == 400
    assert json.loads(text)["error"]["type"] == "exceed_context_size_error"


async def test_a_request_without_the_runners_key_is_refused(
    runners: Runners, http: aiohttp.ClientSession
) -> None:
    async with http.post(f"{runners['smollm2'].base_url}/chat/completions", json={"messages": CAPITAL}) as r:
        assert r.status == 401


async def test_a_child_killed_under_load_serves_again_and_nobody_hangs(
    runners: Runners, http: aiohttp.ClientSession
) -> None:
    runner = runners["smollm2"]
    old_url, old_pid = runner.base_url, runner.pid
    assert old_pid is not None
    calls = [asyncio.create_task(ask(http, runner, messages=LONG, max_tokens=400)) for _ in range(6)]
    await asyncio.sleep(0.3)
    os.kill(old_pid, signal.SIGKILL)
    async with asyncio.timeout(40):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, aiohttp.ClientError) for outcome in outcomes)
        assert await runner.wait_ready(40, other_than=old_url) != old_url
        status, text = await ask(http, runner)
    assert status == 200
    assert "Paris" in text
    assert runner.pid != old_pid
    assert runner.status().n_restarts == 1
    assert "SIGKILL" in (runner.status().last_error or "")


async def test_two_that_do_not_fit_take_turns_in_memory(http: aiohttp.ClientSession) -> None:
    other = replace(SETTINGS, context_tokens=1024)
    pool = Runners({"a": SETTINGS, "b": other}, rule=PoolRule(each=300 * 10**6))
    await pool.start()
    pids = []
    for name in ("a", "b"):
        async with pool.lease(name, wait_s=60) as lease:
            pids.append(pool[name].pid)
            body = {"model": lease.alias, "temperature": 0, "max_tokens": 8, "messages": CAPITAL}
            async with http.post(f"{lease.url}/chat/completions", json=body, headers=lease.headers) as answer:
                assert "Paris" in await answer.text()
    assert (pool["a"].state, pool["b"].state, pool.n_evictions) == ("stopped", "ready", 1)
    assert pids[0] is not None
    assert is_gone(pids[0], within_s=0.1)
    assert 100 * 10**6 < (pool["b"].memory_bytes or 0) < 600 * 10**6
    await pool.stop()


async def test_stop_leaves_no_process() -> None:
    pool = Runners({"a": SETTINGS, "b": SETTINGS})
    await pool.start()
    await pool["a"].wait_ready(60)
    pids = {pool["a"].pid, pool["b"].pid}
    assert len(pids) == 1
    await pool.stop()
    assert all(pid is not None and is_gone(pid, within_s=0.1) for pid in pids)
    assert pool["a"].base_url is None


PARENT = """
import asyncio
from gateway.runners import Runners, RunnerSettings

async def main():
    runners = Runners({"a": RunnerSettings("llama.cpp", "bundled/smollm2-135m", context_tokens=512)})
    await runners.start()
    await runners["a"].wait_ready(60)
    print(runners["a"].pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_parent_that_dies_leaves_no_orphan(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        assert not is_gone(child_pid, within_s=0.05)
        parent.send_signal(number)
        parent.wait(20)
        assert is_gone(child_pid)


async def test_the_end_of_the_control_socket_alone_ends_the_child() -> None:
    """What other systems than Linux rely on: no signal is sent, the parent's end is closed."""
    runner = Runner(SETTINGS, "a")
    await runner.start()
    await runner.wait_ready(60)
    child = runner._child
    assert child is not None
    child._control.shutdown(2)
    async with asyncio.timeout(20):
        assert await child.wait() == "exit status 0"
    await runner.stop()


async def test_weights_that_are_no_weights_end_in_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")
    runner = Runner(RunnerSettings("llama.cpp", str(path)), "broken", patience=Patience(n_failed_starts=1))
    await runner.start()
    with pytest.raises(RunnerFailed, match="gave up after 1 failed starts") as caught:
        await runner.wait_ready(60)
    assert "\n" not in str(caught.value)
    await runner.stop()


def set_up(options: dict[str, Any]) -> Any:
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    for name, value in options.items():
        set_option(xllamacpp, params, name, value)
    return params


READ: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "draft_model": ("d.gguf", lambda p: p.speculative.draft.mparams.path, "d.gguf"),
    "draft_tokens": (5, lambda p: p.speculative.draft.n_max, 5),
    "draft_gpu_layers": (7, lambda p: p.speculative.draft.n_gpu_layers, 7),
    "mmproj": ("m.gguf", lambda p: p.mmproj.path, "m.gguf"),
    "kv_type": ("q8_0", lambda p: (p.cache_type_k.name, p.cache_type_v.name), ("GGML_TYPE_Q8_0",) * 2),
    "flash_attention": (True, lambda p: p.flash_attn_type.name, "LLAMA_FLASH_ATTN_TYPE_ENABLED"),
    "grammar": ('root ::= "x"', lambda p: p.sampling.grammar.grammar, 'root ::= "x"'),
    "pooling": ("mean", lambda p: p.pooling_type.name, "LLAMA_POOLING_TYPE_MEAN"),
    "chat_template": ("{{ x }}", lambda p: p.chat_template, "{{ x }}"),
    "reasoning": ("none", lambda p: p.reasoning_format.name, "COMMON_REASONING_FORMAT_NONE"),
    "loras": (
        [["a", 1.0], ["b", 0.0]],
        lambda p: [(one.path, one.scale) for one in p.lora_adapters],
        [("a", 1.0), ("b", 0.0)],
    ),
    "batch_tokens": (512, lambda p: p.n_batch, 512),
    "ubatch_tokens": (128, lambda p: p.n_ubatch, 128),
    "rope_freq_base": (1e6, lambda p: p.rope_freq_base, 1e6),
    "rope_freq_scale": (0.5, lambda p: p.rope_freq_scale, 0.5),
    "context_shift": (True, lambda p: p.ctx_shift, True),
    "kv_on_gpu": (False, lambda p: p.no_kv_offload, True),
    "split_mode": ("row", lambda p: p.split_mode.name, "LLAMA_SPLIT_MODE_ROW"),
    "tensor_split": ([3.0, 1.0], lambda p: list(p.tensor_split)[:3], [3.0, 1.0, 0.0]),
}


@pytest.mark.parametrize("name", LlamaCppConfig.__struct_fields__)
def test_every_setting_of_llama_cpp_reaches_its_parameter(name: str) -> None:
    value, read, expected = READ[name]
    assert read(set_up({name: value})) == expected


def test_a_draft_model_is_used() -> None:
    (kind,) = set_up({"draft_model": "d.gguf"}).speculative.types
    assert kind.name == "COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE"


@pytest.mark.parametrize("key", ["kv_type", "pooling", "reasoning", "split_mode"])
def test_every_value_that_the_configuration_knows_is_one_of_llama_cpp(key: str) -> None:
    kinds = get_args(get_type_hints(LlamaCppConfig)[key])[0]
    for value in get_args(kinds):
        set_up({key: value})


async def test_grammar_draft_model_and_small_contexts_serve(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    grammar = tmp_path / "city.gbnf"
    grammar.write_text('root ::= "Rome" | "Oslo"')
    own = {
        "grammar": str(grammar),
        "draft_model": SETTINGS.model,
        "draft_tokens": 4,
        "kv_type": "q8_0",
        "flash_attention": True,
    }
    settings = replace(SETTINGS, context_tokens=256, n_parallel=1, canary="none", options=tuple(own.items()))
    pool = Runners({"a": settings})
    await pool.start()
    try:
        status, text = await ask(http, pool["a"])
        assert status == 200
        assert json.loads(text)["choices"][0]["message"]["content"] in ("Rome", "Oslo")
        assert json.loads(text)["timings"]["draft_n"] > 0
    finally:
        await pool.stop()


async def test_an_embedding_model_embeds_and_the_others_do_not(http: aiohttp.ClientSession) -> None:
    settings = replace(SETTINGS, context_tokens=1024, n_parallel=1, embeds=True, canary="embeddings")
    pool = Runners({"a": replace(settings, options=(("pooling", "mean"),))})
    await pool.start()
    try:
        url = f"{await pool['a'].wait_ready(60)}/embeddings"
        text = "Paris " * 700  # more tokens than llama.cpp computes at once by default
        async with http.post(url, json={"model": "a", "input": text}, headers=pool["a"].headers) as response:
            assert response.status == 200
            assert len((await response.json())["data"][0]["embedding"]) == 576
    finally:
        await pool.stop()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("mmproj", "/none/m.gguf", "there is no file"),
        ("draft_model", "/none/d.gguf", "there is no file"),
        ("draft_model", "org/repo", "neither a .gguf file"),
        ("grammar", "/none/g.gbnf", "there is no file"),
        ("loras", ("/none/l.gguf",), "there is no file"),
        ("draft_tokens", 3, "without a draft_model"),
    ],
)
def test_a_setting_of_llama_cpp_that_cannot_work_is_one_line(option: str, value: Any, said: str) -> None:
    settings = replace(SETTINGS, options=((option, value),))
    with pytest.raises(RunnerSettingsError, match=rf"runner\.llama_cpp\.{option}: .*{said}"):
        Runners({"a": settings}).check()


def test_slots_follow_memory() -> None:
    def n_slots(**changes: Any) -> int:
        return Runners({"a": replace(SETTINGS, **changes)}).count_slots("a")

    assert n_slots(context_tokens=4096) == 4
    assert n_slots(context_tokens=32_768) == 1
    assert n_slots(context_tokens=32_768, options=(("kv_type", "q4_0"),)) > 1
    assert n_slots(context_tokens=32_768, memory_bytes=2 * 2**30) == 4
    assert n_slots(context_tokens=512, device="cuda:0") == 8
    assert n_slots(context_tokens=32_768, n_parallel=3) == 3
