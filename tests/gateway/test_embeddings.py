"""Embeddings from the bundled encoder and from experts that embed."""

import base64

import numpy as np
import pytest
import pytest_asyncio

from gateway.microbatch import Gatherer
from routers import HashingEmbedder
from tests.fakes.serving import Gateway, gateway
from tests.fakes.upstream import running_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory):
    async with running_upstream() as upstream:
        experts = [
            {"name": "vectors", "model": "openai/vectors", "api_base": upstream.base, "embeds": True},
            {"name": "good", "model": "openai/good", "api_base": upstream.base},
        ]
        journal = str(tmp_path_factory.mktemp("embeddings") / "j.sqlite3")
        async with gateway(
            {"experts": experts}, journal, "good", gatherer=Gatherer(HashingEmbedder())
        ) as running:
            yield running


async def test_texts_come_back_as_vectors_in_order(served: Gateway) -> None:
    texts = ["a cat", "something longer about a dog", "a cat"]
    answer = await served.post("embeddings", {"model": "minilm", "input": texts})
    vectors = [item["embedding"] for item in answer.json()["data"]]
    assert [item["index"] for item in answer.json()["data"]] == [0, 1, 2]
    assert vectors[0] == vectors[2] != vectors[1]
    assert np.allclose(vectors[1], HashingEmbedder().embed([texts[1]])[0])
    assert answer.json()["usage"]["prompt_tokens"] > 0


async def test_a_single_text_is_one_vector(served: Gateway) -> None:
    answer = await served.post("embeddings", {"model": "minilm", "input": "a cat"})
    assert len(answer.json()["data"]) == 1


async def test_base64_is_the_same_numbers(served: Gateway) -> None:
    floats = (await served.post("embeddings", {"model": "minilm", "input": "a"})).json()
    packed = (
        await served.post("embeddings", {"model": "minilm", "input": "a", "encoding_format": "base64"})
    ).json()
    unpacked = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.array_equal(unpacked, np.array(floats["data"][0]["embedding"], np.float32))


async def test_an_expert_that_embeds_is_asked(served: Gateway) -> None:
    answer = await served.post("embeddings", {"model": "vectors", "input": [[1, 2]], "dimensions": 2})
    assert (answer.status, answer.expert) == (200, "vectors")


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
        ({"input": "a", "dimensions": 64}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_the_field(
    served: Gateway, more: dict[str, object], param: str
) -> None:
    answer = await served.post("embeddings", {"model": "minilm", **more})
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_who_does_not_embed_is_refused_with_who_does(served: Gateway) -> None:
    answer = await served.post("embeddings", {"model": "none", "input": "a"})
    assert answer.status == 404
    assert "minilm, vectors" in answer.error["message"]
    assert (
        "does not embed"
        in (await served.post("embeddings", {"model": "good", "input": "a"})).error["message"]
    )


async def test_a_full_queue_is_a_503_that_leaves_nothing_waiting(served: Gateway) -> None:
    gatherer = served.machine.gatherer
    assert gatherer is not None
    n_waiting, gatherer._max_waiting = gatherer._max_waiting, 3
    try:
        answer = await served.post("embeddings", {"model": "minilm", "input": ["a", "b" * 99] * 20})
    finally:
        gatherer._max_waiting = n_waiting
    assert (answer.status, answer.error["code"]) == (503, "experts_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert gatherer.n_waiting == 0
