"""Embeddings from experts that embed, and from the base embedder alone."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from gateway.testing import FakeUpstream
from routers import OnnxEmbedder
from tests.fakes.serving import LiveApp, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
MANY = ["a text about a cat that sat on a mat " * 4] * 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    async with FakeUpstream() as upstream:
        experts = [
            {"name": "vectors", "model": "openai/vectors", "api_base": upstream.base_url, "embeds": True},
            {"name": "good", "model": "openai/good", "api_base": upstream.base_url},
        ]
        journal = str(tmp_path_factory.mktemp("embeddings") / "j.sqlite3")
        async with gateway({"experts": experts}, journal, "good") as running:
            yield running


@pytest.mark.parametrize("model", ["minilm", "auto", "auto:paper"])
@pytest.mark.parametrize("input_type", [None, "query", "document"])
async def test_texts_come_back_as_the_base_embedders_vectors_in_order(
    live: LiveApp, model: str, input_type: str | None
) -> None:
    texts = ["a cat", "something longer about a dog", "a cat"]
    answer = await live.post("embeddings", {"model": model, "input": texts, "input_type": input_type})
    record = answer.json()
    assert [(item["index"], item["embedder"]) for item in record["data"]] == [(n, "minilm") for n in range(3)]
    vectors = np.array([item["embedding"] for item in record["data"]], np.float32)
    assert np.array_equal(vectors, OnnxEmbedder().embed(texts))
    assert (record["model"], answer.expert, answer.headers["x-thalamus-cost-usd"]) == (
        "minilm",
        "minilm",
        "0",
    )


async def test_a_single_text_is_one_vector_and_its_tokens_are_counted(live: LiveApp) -> None:
    answer = await live.post("embeddings", {"model": "minilm", "input": "a cat"})
    assert len(answer.json()["data"]) == 1
    assert answer.json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}


async def test_base64_is_the_same_numbers(live: LiveApp) -> None:
    floats = (await live.post("embeddings", {"model": "minilm", "input": "a"})).json()
    packed = (
        await live.post("embeddings", {"model": "minilm", "input": "a", "encoding_format": "base64"})
    ).json()
    unpacked = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.array_equal(unpacked, np.array(floats["data"][0]["embedding"], np.float32))


async def test_an_expert_that_embeds_is_asked_with_every_field(live: LiveApp) -> None:
    body = {"model": "vectors", "input": [[1, 2]], "dimensions": 2, "input_type": "passage"}
    answer = await live.post("embeddings", body)
    assert (answer.status, answer.expert) == (200, "vectors")


@pytest.mark.parametrize("model", ["vectors", "openai/vectors", "minilm"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("completions", {"prompt": "hi"}),
    ],
)
async def test_a_prompt_to_a_model_that_only_embeds_is_refused(
    live: LiveApp, path: str, body: dict[str, Any], model: str
) -> None:
    answer = await live.post(path, {"model": model, **body})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert answer.error["message"].startswith(
        f"'{model}' makes embeddings and answers no prompt; send it to /v1"
    )


async def test_a_model_that_only_embeds_is_no_fallback(live: LiveApp) -> None:
    answer = await live.chat("good", router={"fallbacks": ["vectors"]})
    assert (answer.status, answer.error["param"]) == (400, "router.fallbacks")
    assert "'vectors' makes embeddings" in answer.error["message"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a", "b " * 20_000]}, "input"),
        ({"input": "a", "dimensions": 64}, "dimensions"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "encoding_format": 8}, "encoding_format"),
        ({"input": "a", "input_type": "passage"}, "input_type"),
        ({"input": "a", "router": {"policy": "best"}}, "router.policy"),
        ({"input": "a", "router": {"min_quality": 0.5}}, "router.min_quality"),
        ({"input": "a", "router": {"max_latency_ms": 5}}, "router.max_latency_ms"),
        ({"input": "a", "router": {"exclude": ["minilm"]}}, "router"),
        ({"input": "a", "router": {"models": ["other"]}, "input_type": "query"}, "router"),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_the_field(
    live: LiveApp, more: dict[str, object], param: str
) -> None:
    answer = await live.post("embeddings", {"model": "auto", **more})
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_texts_that_are_too_long_together_are_refused(
    live: LiveApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.requests.embedding.MAX_TOKENS", 10)
    answer = await live.post("embeddings", {"model": "auto", "input": ["a" * 21, "b" * 21]})
    assert (answer.status, answer.error["param"]) == (400, "input")
    assert "about 12 tokens; 10 are the most" in answer.error["message"]


async def test_the_one_size_there_is_may_be_asked_for(live: LiveApp) -> None:
    for dimensions in (384, None):
        body = {"model": "minilm", "input": "a", "dimensions": dimensions, "user": "u"}
        assert (await live.post("embeddings", body)).status == 200


async def test_a_text_that_is_not_read_whole_is_told(live: LiveApp) -> None:
    answer = await live.post("embeddings", {"model": "auto", "input": ["word " * 300, "word " * 254]})
    assert answer.json()["usage"]["prompt_tokens"] == 302 + 256
    assert answer.headers["x-thalamus-warning"].startswith("1 of 2 texts have more than 256 tokens")


async def test_what_chooses_no_embedder_is_told(live: LiveApp) -> None:
    answer = await live.post(
        "embeddings", {"model": "auto", "input": "a", "router": {"weights": {"cost": 1}}}
    )
    assert "are ignored for embedding models" in answer.headers["x-thalamus-warning"]


async def test_who_does_not_embed_is_refused_with_who_does(live: LiveApp) -> None:
    for model in ("none", "auto:best"):
        answer = await live.post("embeddings", {"model": model, "input": "a"})
        assert answer.status == 404
        assert "auto, minilm, vectors" in answer.error["message"]
    answer = await live.post("embeddings", {"model": "good", "input": "a"})
    assert "is not an embedding model" in answer.error["message"]


async def test_a_full_queue_is_a_429_that_leaves_nothing_waiting(live: LiveApp) -> None:
    pool = live.services.embedders
    assert pool is not None
    n_waiting, pool.turns._max_waiting = pool.turns._max_waiting, 3
    try:
        answer = await live.post("embeddings", {"model": "minilm", "input": ["a", "b" * 99] * 20})
    finally:
        pool.turns._max_waiting = n_waiting
    assert (answer.status, answer.error["code"]) == (429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert pool.turns.n_waiting == 0


async def test_a_client_that_goes_away_is_read_no_further(live: LiveApp) -> None:
    pool = live.services.embedders
    assert pool is not None
    before = pool.turns.n_read
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(live.post("embeddings", {"model": "auto", "input": MANY}), 0.2)
    # The server learns of it when the connection's end arrives; a turn that a thread has begun ends.
    async with asyncio.timeout(30):
        while pool.turns.n_waiting or pool.turns.n_busy:  # noqa: ASYNC110 (nothing tells)
            await asyncio.sleep(0.02)
    assert pool.turns.n_read < before + len(MANY)


async def test_one_text_does_not_wait_for_anothers_hundred(live: LiveApp) -> None:
    many = asyncio.create_task(live.post("embeddings", {"model": "auto", "input": MANY}))
    await asyncio.sleep(0.05)
    assert (await live.post("embeddings", {"model": "auto", "input": "a cat"})).status == 200
    assert not many.done()
    assert (await many).status == 200


async def test_the_event_loop_goes_on_while_texts_are_read(live: LiveApp) -> None:
    many = asyncio.create_task(live.post("embeddings", {"model": "auto", "input": MANY}))
    n_answered = 0
    while not many.done():
        assert (await live.chat("good")).status == 200
        n_answered += 1
    assert n_answered > 10


async def test_the_journal_keeps_who_read_and_not_what(live: LiveApp) -> None:
    answer = await live.post("embeddings", {"model": "auto", "input": ["a secret"]})
    record = await live.read_record(answer)
    assert (record["endpoint"], record["expert_answered"], record["status"]) == ("embeddings", "minilm", 200)
    assert record["decision"]["reason"] == answer.headers["x-thalamus-reason"]
    assert "no input_type" in record["decision"]["reason"]
    assert "a secret" not in json.dumps(record)
    await asyncio.sleep(0.3)  # by now it is in the database
    assert await live.read_record(answer) == record


async def test_without_embedders_there_are_only_experts(tmp_path_factory: pytest.TempPathFactory) -> None:
    journal = str(tmp_path_factory.mktemp("none") / "j.sqlite3")
    async with gateway({"embeddings": {"enabled": False}}, journal) as running:
        answer = await running.post("embeddings", {"model": "auto", "input": "a"})
        assert (answer.status, "there are: none" in answer.error["message"]) == (404, True)
        assert (await running.post("route", {"input": "a"})).status == 404
