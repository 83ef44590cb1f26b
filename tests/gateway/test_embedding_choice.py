"""The embedder chosen for each query: several in one request, the offline object's choice, the same bits."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import pytest_asyncio

from gateway import AsyncClient
from gateway.asgi.application import PIECE_BYTES
from gateway.config import EmbeddingsConfig, parse_config
from gateway.embedding import EmbedderPool
from gateway.endpoints.monitoring import list_degraded
from gateway.server import application
from routers import ArtifactError, EmbedderError, EmbeddingSelection, OnnxEmbedder
from tests.fakes.embedders import expert_folder, selection_on
from tests.fakes.serving import LiveApp, gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

LAW = [
    f"Is a {what} binding without a {thing}?" for what in ("contract", "will") for thing in ("seal", "date")
]
FOOD = [f"How long do I {verb} {what}?" for verb in ("bake", "boil") for what in ("bread", "carrots")]
STARS = [f"How far away is the {what}?" for what in ("moon", "nearest star", "Andromeda galaxy")]
MIXED = ["Is an oral contract binding?", "How long do I boil an egg?", "How far away is Jupiter?"]
QUERIES = [f"{text} ({n})" for n in range(10) for text in (*LAW, *FOOD, *STARS)][:100]


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A selection whose experts have one and two of the encoder's layers; graphs are built beside them."""
    folder = tmp_path_factory.mktemp("embedders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THALAMUS_CACHE", str(folder / "cache"))
        sources = {
            "base": "minilm",
            "law": expert_folder(folder / "law", 1),
            "food": expert_folder(folder / "food", 2),
        }
        made = selection_on({"law": LAW, "food": FOOD, "base": STARS}, sources)
        made.save(folder / "selection")
        yield folder / "selection"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(selection: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveApp]:
    config = {"embeddings": {"selection": str(selection)}}
    async with gateway(config, str(tmp_path_factory.mktemp("choice") / "j.sqlite3")) as running:
        yield running


def embedders(selection: Path) -> dict[str, OnnxEmbedder]:
    sources = EmbeddingSelection.load(selection).sources
    return {"minilm" if name == "base" else name: OnnxEmbedder(source) for name, source in sources.items()}


async def ask(live: LiveApp, texts: list[str], **more: object) -> tuple[list[str], np.ndarray]:
    answer = await live.post("embeddings", {"model": "auto", "input": texts, "input_type": "query", **more})
    data = answer.json()["data"]
    return [item["embedder"] for item in data], np.array([item["embedding"] for item in data], np.float32)


async def test_queries_of_one_request_are_read_by_different_embedders_bit_for_bit(
    live: LiveApp, selection: Path
) -> None:
    by, vectors = await ask(live, MIXED)
    assert by == ["law", "food", "minilm"]
    offline = embedders(selection)
    for name, text, vector in zip(by, MIXED, vectors, strict=True):
        assert np.array_equal(vector, offline[name].embed([text])[0])


@pytest.mark.parametrize("policy", ["improved", "paper"])
async def test_a_hundred_queries_go_where_the_offline_object_sends_them(
    live: LiveApp, selection: Path, policy: str
) -> None:
    offline = EmbeddingSelection.load(selection)
    chosen = offline.choose(OnnxEmbedder().embed(QUERIES), policy)  # type: ignore[arg-type]
    by, vectors = await ask(live, QUERIES, model=f"auto:{policy}")
    assert by == ["minilm" if e == 0 else offline.experts[e] for e in chosen]
    assert len(set(by)) == 3
    readers = embedders(selection)
    wanted = [readers[name].embed([text])[0] for name, text in zip(by, QUERIES, strict=True)]
    assert np.array_equal(vectors, wanted)


@pytest.mark.parametrize("more", [{}, {"input_type": None}, {"input_type": "document"}])
@pytest.mark.parametrize("model", ["auto", "auto:paper"])
async def test_documents_are_the_bases_and_so_is_a_text_of_which_nothing_is_said(
    live: LiveApp, model: str, more: dict[str, object]
) -> None:
    answer = await live.post("embeddings", {"model": model, "input": MIXED, **more})
    assert [item["embedder"] for item in answer.json()["data"]] == ["minilm"] * 3
    vectors = np.array([item["embedding"] for item in answer.json()["data"]], np.float32)
    assert np.array_equal(vectors, OnnxEmbedder().embed(MIXED))


async def test_an_expert_asked_for_by_name_reads_queries_and_never_documents(
    live: LiveApp,
) -> None:
    for input_type, reader in ((None, "food"), ("query", "food"), ("document", "minilm")):
        answer = await live.post("embeddings", {"model": "food", "input": MIXED[0], "input_type": input_type})
        assert (answer.json()["data"][0]["embedder"], answer.json()["model"]) == (reader, reader)
        assert answer.headers["x-thalamus-policy"] == ("improved" if reader == "minilm" else "named")


async def test_the_official_client_gets_the_vectors_and_who_made_them(live: LiveApp) -> None:
    by, vectors = await ask(live, MIXED)
    async with openai.AsyncOpenAI(base_url=live.base, api_key="x", max_retries=0) as client:
        answer = await client.embeddings.create(model="auto", input=MIXED, extra_body={"input_type": "query"})
        plain = await client.embeddings.create(model="auto", input=MIXED)
    assert [(item.model_extra or {})["embedder"] for item in answer.data] == by
    assert np.array_equal(np.array([item.embedding for item in answer.data], np.float32), vectors)
    assert (answer.model, plain.model) == ("auto", "minilm")
    assert answer.usage.total_tokens == plain.usage.total_tokens > 20


async def test_our_own_client_gets_them_too(live: LiveApp) -> None:
    by, vectors = await ask(live, MIXED)
    async with AsyncClient(live.base, "x") as client:
        answer = await client.embeddings(MIXED, input_type="query")
        record = await client.decision(answer.decision_id or "")
        narrowed = await client.embeddings(MIXED, input_type="query", router={"models": ["food"]})
    assert answer.embedders == tuple(by)
    assert {candidate.expert for candidate in record.candidates} == {"minilm", "law", "food"}
    assert np.array_equal(np.array(answer.vectors, np.float32), vectors)
    assert (narrowed.model, narrowed.expert, narrowed.policy) == ("food", "food", "improved")


@pytest.mark.parametrize(
    ("router", "by"),
    [
        ({"exclude": ["law"]}, {"food", "minilm"}),
        ({"models": ["food", "law"]}, {"food", "law"}),
        ({"models": ["food"]}, {"food"}),
        ({"models": ["food", "law"], "exclude": ["food", "unknown"]}, {"law"}),
    ],
)
async def test_a_request_may_narrow_the_choice(
    live: LiveApp, router: dict[str, object], by: set[str]
) -> None:
    assert set((await ask(live, QUERIES[:30], router=router))[0]) == by


async def test_the_policy_is_the_requests_or_the_configurations(live: LiveApp) -> None:
    body = {"model": "auto", "input": MIXED, "input_type": "query"}
    for router, policy in (
        ({}, "improved"),
        ({"policy": "paper"}, "paper"),
        ({"policy": "auto"}, "improved"),
    ):
        answer = await live.post("embeddings", {**body, "router": router})
        assert answer.headers["x-thalamus-policy"] == policy


async def test_the_choice_is_on_the_headers_in_the_journal_and_without_reading(
    live: LiveApp,
) -> None:
    texts = [*MIXED, "Is a will binding?"]
    body = {"model": "auto", "input": texts, "input_type": "query"}
    answer = await live.post("embeddings", body, x_thalamus_debug="true")
    assert answer.expert == "law"
    assert answer.headers["x-thalamus-reason"] == "for each text: 2 by law, 1 by food, 1 by minilm"
    assert json.loads(answer.headers["x-thalamus-decision"])["candidates"][0]["texts"] == 2
    record = await live.read_record(answer)
    assert record["decision"]["plan"] == {"kind": "single", "experts": ["law", "food", "minilm"]}
    assert [attempt["expert"] for attempt in record["attempts"]] == ["law", "food", "minilm"]
    dry = (await live.post("route", body)).json()
    assert dry["embedders"] == [item["embedder"] for item in answer.json()["data"]]
    assert dry["candidates"] == record["decision"]["candidates"]
    await asyncio.sleep(0.3)  # by now it is in the database
    assert await live.read_record(answer) == record


async def test_where_an_expert_fails_the_base_reads_and_says_so(live: LiveApp) -> None:
    pool = live.services.embedders
    assert pool is not None
    whole = pool._embedders
    pool._embedders = {**whole, "law": None}  # type: ignore[dict-item]
    try:
        answer = await live.post("embeddings", {"model": "auto", "input": MIXED, "input_type": "query"})
        assert [item["embedder"] for item in answer.json()["data"]] == ["minilm", "food", "minilm"]
        assert answer.headers["x-thalamus-warning"] == "law failed: minilm embedded 1 of its texts"
        named = await live.post("embeddings", {"model": "law", "input": "a"})
        assert (named.status, named.error["message"]) == (503, "embedder law failed")
        assert list(list_degraded(live.services)) == ["embeddings: embedder law failed"]
    finally:
        pool._embedders = whole
    await ask(live, MIXED)
    assert pool.degraded is None


async def test_models_tell_who_embeds_and_which_vectors_belong_together(live: LiveApp) -> None:
    async with live.http.get(f"{live.base}/models?type=embedding") as response:
        listed = {model["id"]: model["thalamus"] for model in (await response.json())["data"]}
    assert {listed[name]["index"] for name in ("minilm", "law", "food")} == {OnnxEmbedder().fingerprint}
    assert listed["law"]["reads"] == ["query"]
    assert (listed["minilm"]["dimensions"], listed["minilm"]["max_tokens"]) == (384, 256)


async def test_queries_may_be_what_nothing_said_means(selection: Path, tmp_path: Path) -> None:
    config = {"embeddings": {"selection": str(selection), "input_type": "query", "policy": "paper"}}
    async with gateway(config, str(tmp_path / "j.sqlite3")) as running:
        answer = await running.post("embeddings", {"model": "auto", "input": MIXED})
        assert [item["embedder"] for item in answer.json()["data"]] == ["law", "food", "minilm"]
        assert answer.headers["x-thalamus-policy"] == "paper"


async def test_an_expert_without_pilots_is_served_by_name_alone(selection: Path, tmp_path: Path) -> None:
    law = EmbeddingSelection.load(selection).sources["law"]
    async with gateway({"embeddings": {"experts": {"own": law}}}, str(tmp_path / "j.sqlite3")) as running:
        assert set((await ask(running, MIXED))[0]) == {"minilm"}
        assert set((await ask(running, MIXED, model="own"))[0]) == {"own"}


async def test_an_expert_that_moved_is_found_where_the_configuration_says(
    selection: Path, tmp_path: Path
) -> None:
    here = EmbeddingSelection.load(selection)
    EmbeddingSelection(here.fingerprint, {**here.sources, "law": "/gone"}, here.library).save(tmp_path / "s")
    with pytest.raises(EmbedderError, match="embedding expert 'law': /gone has no config"):
        EmbedderPool(EmbeddingsConfig(selection=str(tmp_path / "s")))
    pool = EmbedderPool(EmbeddingsConfig(selection=str(tmp_path / "s"), experts={"law": here.sources["law"]}))
    assert pool.names == ("minilm", "law", "food")
    pool.close()


async def test_a_selection_on_another_base_is_refused(selection: Path, tmp_path: Path) -> None:
    here = EmbeddingSelection.load(selection)
    EmbeddingSelection("another", here.sources, here.library).save(tmp_path / "s")
    with pytest.raises(ArtifactError, match="made for another, minilm is onnx-"):
        EmbedderPool(EmbeddingsConfig(selection=str(tmp_path / "s")))


async def test_an_expert_and_an_embedder_of_one_name_are_refused(selection: Path) -> None:
    config = parse_config(
        "experts:\n  - {name: law, tool: calculator}\njournal: {enabled: false}\n"
        f"embeddings: {{selection: '{selection}'}}\n"
    )
    with pytest.raises(ValueError, match="'law' is an expert and an embedder"):
        application(config)


async def test_a_large_answer_arrives_whole(live: LiveApp) -> None:
    texts = [f"word {n}" for n in range(300)]
    by, vectors = await ask(live, texts)
    assert (len(by), vectors.shape) == (300, (300, 384))
    answer = await live.post("embeddings", {"model": "auto", "input": texts})
    assert int(answer.headers["content-length"]) == len(answer.body) > 4 * PIECE_BYTES
