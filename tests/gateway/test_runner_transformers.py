"""The engine `transformers`, with a tiny model of random weights and the real library."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.openai.error_words import read_word_fault
from gateway.runners import Lease, Runners, RunnerSettings, RunnerSettingsError
from gateway.runners.engines.transformers_child import RefusedError, refuse_unheeded

CONTEXT = 64


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RunnerSettingsError, match=r"experts\.a\.runner\.engine: .*pip install torch"):
        Runners({"a": RunnerSettings("transformers", "x")}).check()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights over a vocabulary of a hundred words."""
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    library = pytest.importorskip("transformers", reason="needs the extra `train`")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: n for n, word in enumerate(["<s>", "</s>", "<unk>", *(f"w{n}" for n in range(97))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    torch.manual_seed(0)
    config = library.LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = library.LlamaForCausalLM(config)
    model.generation_config.eos_token_id = 1
    model.lm_head.weight.data[1] = 0  # answers do not end by themselves
    path = tmp_path_factory.mktemp("tiny")
    fast.save_pretrained(path)
    model.save_pretrained(path)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lease(folder: Path) -> AsyncIterator[Lease]:
    runners = Runners({"tiny": RunnerSettings("transformers", str(folder), CONTEXT, n_parallel=4)})
    await runners.start()
    async with runners.lease("tiny", wait_s=120) as lease:
        yield lease
    await runners.stop()


async def ask(lease: Lease, path: str = "chat/completions", **fields: Any) -> tuple[int, str]:
    body = {"model": lease.alias, "temperature": 0, "max_tokens": 8, **fields}
    if path == "chat/completions":
        body.setdefault("messages", [{"role": "user", "content": "w1 w2"}])
    url = f"{lease.url}/{path}"
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=lease.headers) as response:
        return response.status, await response.text()


def spell(text: str) -> str:
    return str(json.loads(text)["choices"][0]["message"]["content"])


@pytest.mark.train
@pytest.mark.asyncio(loop_scope="module")
async def test_rows_of_a_batch_are_answered_as_they_would_be_alone(lease: Lease) -> None:
    prompts = [[{"role": "user", "content": " ".join(f"w{n + k}" for k in range(n + 1))}] for n in range(4)]
    lengths = [3, 5, 8, 12]
    wishes: list[dict[str, Any]] = [
        {"messages": p, "max_tokens": n} for p, n in zip(prompts, lengths, strict=True)
    ]
    alone = [await ask(lease, **wish) for wish in wishes]
    together = await asyncio.gather(*(ask(lease, **wish) for wish in wishes))
    assert [spell(text) for _, text in together] == [spell(text) for _, text in alone]
    record = [json.loads(text) for _, text in alone]
    assert [t["usage"]["completion_tokens"] for t in record] == lengths
    assert {t["choices"][0]["finish_reason"] for t in record} == {"length"}
    assert {t["model"] for t in record} == {"tiny"}


@pytest.mark.train
@pytest.mark.asyncio(loop_scope="module")
async def test_a_stream_says_what_the_whole_answer_says(lease: Lease) -> None:
    _, whole = await ask(lease)
    _, text = await ask(lease, stream=True, stream_options={"include_usage": True})
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    deltas = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    assert "".join(deltas) == spell(whole)
    assert len([delta for delta in deltas if delta]) > 1
    assert chunks[-1]["usage"]["completion_tokens"] == 8


@pytest.mark.train
@pytest.mark.asyncio(loop_scope="module")
async def test_stop_words_end_an_answer_before_them_and_completions_are_text(lease: Lease) -> None:
    _, whole = await ask(lease)
    words = spell(whole).split()
    _, text = await ask(lease, stop=words[3])
    assert spell(text).split() == words[: words.index(words[3])]
    assert json.loads(text)["choices"][0]["finish_reason"] == "stop"
    status, text = await ask(lease, "completions", prompt="w1 w2")
    assert (status, json.loads(text)["choices"][0]["text"].split()) == (200, words)


@pytest.mark.train
@pytest.mark.asyncio(loop_scope="module")
async def test_temperature_draws_and_what_cannot_be_answered_is_refused(lease: Lease) -> None:
    drawn = {spell((await ask(lease, temperature=1.5, top_p=0.9))[1]) for _ in range(4)}
    assert len(drawn) > 1
    status, text = await ask(lease, messages=[{"role": "user", "content": "w1 " * CONTEXT}])
    assert (status, json.loads(text)["error"]["code"]) == (400, "context_length_exceeded")
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert (await ask(lease, messages=image))[0] == 400
    assert (await ask(lease, messages=[{"content": "no role"}]))[0] == 400
    async with aiohttp.ClientSession() as http, http.post(f"{lease.url}/completions", json={}) as response:
        assert response.status == 401


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("seed", 7),
        ("seed", 0),
        ("logprobs", True),
        ("logprobs", 1),
        ("top_logprobs", 2),
        ("logit_bias", {"5": -100}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("n", 2),
        ("echo", True),
        ("top_k", 40),
        ("guided_json", {"type": "object"}),
        ("a_field_of_tomorrow", "x"),
        ("messages", [{"role": "tool", "content": "4", "tool_call_id": "c"}]),
        ("messages", [{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}]),
    ],
)
def test_a_wish_that_would_be_dropped_is_refused_so_that_a_plan_moves_on(field: str, value: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        refuse_unheeded({"model": "m", "messages": [{"role": "user", "content": "Hi"}], field: value})
    assert caught.value.param == field
    assert read_word_fault(caught.value.code) == "unsupported"


def test_what_is_done_anyway_is_no_wish() -> None:
    turn = {"role": "user", "content": "Hi"}
    sampling = {"temperature": 0, "top_p": 0.5, "stop": ["x"], "max_tokens": 5, "n": 1, "seed": None}
    nothing = {
        "tools": [],
        "tool_choice": "auto",
        "logprobs": False,
        "frequency_penalty": 0,
        "logit_bias": {},
    }
    said = {"response_format": {"type": "text"}, "user": "u", "metadata": {"a": "b"}, "stream": True}
    refuse_unheeded({"messages": [turn], **sampling, **nothing, **said})
