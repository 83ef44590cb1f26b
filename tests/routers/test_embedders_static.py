"""The distilled table and its embedder; distilling itself runs on a small vocabulary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers import EmbedderError, Floats32, Ints, StaticEmbedder
from routers.embedders import distillation as distill
from routers.embedders.model_files import find_source

TEXTS = ["How tall is the tower?", "What is 17 * 23?", "Sort a list in Python.", "How high is the spire?", ""]


@pytest.fixture(scope="module")
def static() -> StaticEmbedder:
    return StaticEmbedder()


def test_rows_are_unit_vectors(static: StaticEmbedder) -> None:
    found = static.embed(TEXTS)
    assert found.shape == (5, 256)
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_no_text_gives_no_rows(static: StaticEmbedder) -> None:
    assert static.embed([]).shape == (0, 256)


def test_a_batch_equals_its_singles_to_the_bit(static: StaticEmbedder) -> None:
    batch = static.embed(TEXTS)
    assert np.array_equal(batch, np.concatenate([static.embed([text]) for text in TEXTS]))
    assert np.array_equal(static.embed(TEXTS[::-1]), batch[::-1])


def test_like_texts_are_nearer_than_unlike_ones(static: StaticEmbedder) -> None:
    tower, product, sort, spire, _ = static.embed(TEXTS)
    assert tower @ spire > max(tower @ product, tower @ sort) + 0.2


def test_rare_words_outweigh_common_ones(static: StaticEmbedder) -> None:
    full, rare, common = static.embed(["the of and , photosynthesis .", "photosynthesis", "the of and , ."])
    assert full @ rare > full @ common


def test_long_texts_keep_head_and_tail() -> None:
    short = StaticEmbedder(max_tokens=8)
    assert np.array_equal(short.embed(["a b c d e f g h i j k l"]), short.embed(["a b c d e f k l"]))


@pytest.mark.parametrize("junk", ["\ud800", "\x00\x07", "\u200d" * 30, "🙂", "y" * 100_000])
def test_junk_gives_unit_rows(static: StaticEmbedder, junk: str) -> None:
    assert np.linalg.norm(static.embed([junk])) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("settings", [{"dim": 0}, {"dim": 385}, {"max_tokens": 0}])
def test_settings_out_of_bounds_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(EmbedderError, match=next(iter(settings))):
        StaticEmbedder(**settings)


def test_fingerprints_name_dimensions_and_limit(static: StaticEmbedder) -> None:
    assert static.fingerprint == StaticEmbedder().fingerprint
    assert static.fingerprint != StaticEmbedder(max_tokens=64).fingerprint
    assert "d256" in static.fingerprint


def test_distilling_reports_progress_and_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_CACHE", str(tmp_path))
    monkeypatch.setattr(distill, "_token_vectors", lambda source, progress: few_vectors(progress))
    heard: list[tuple[int, int]] = []
    path = distill.table_path(find_source("minilm"), 8, lambda done, total: heard.append((done, total)))
    assert np.load(path).shape == (30_522, 8)
    assert heard == [(300, 300)]
    assert distill.table_path(find_source("minilm"), 8, None) == path
    assert len(heard) == 1


def few_vectors(progress: Callable[[int, int], object]) -> Floats32:
    progress(300, 300)
    scales = np.linspace(2, 1, 24)
    return (np.random.default_rng(1).normal(size=(30_522, 24)) * scales).astype(np.float32)


def test_each_token_is_encoded_between_the_special_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = SumGraph()
    monkeypatch.setattr(distill, "EncoderGraph", lambda source, precision, n_threads: graph)
    source = find_source("minilm")
    monkeypatch.setitem(source.config, "vocab_size", 300)
    heard: list[tuple[int, int]] = []
    vectors = distill._token_vectors(source, lambda done, total: heard.append((done, total)))
    assert np.array_equal(vectors[:, 0], np.arange(300))
    assert np.array_equal(vectors[:, 1], np.full(300, 101 * 1000 + 102))
    assert heard == [(128, 300), (256, 300), (300, 300)]


class SumGraph:
    dim = 2

    def run(self, ids: Ints) -> Floats32:
        return np.stack([ids[:, 1], ids[:, 0] * 1000 + ids[:, 2]], axis=1).astype(np.float32)


def test_principal_components_do_not_depend_on_the_sign_the_solver_chose() -> None:
    vectors = few_vectors(lambda done, total: None)
    found = distill.principal(vectors, 24)
    assert found.var(axis=0).argsort()[::-1].tolist() == list(range(24))
    mirrored = distill.principal(-vectors, 24)
    assert np.allclose(np.abs(found), np.abs(mirrored))
    assert np.allclose(found, -mirrored)


def test_weights_grow_with_rank_and_approach_one() -> None:
    weights = distill.rarity(["[PAD]", "!", "a", "the", "of", *(f"w{n}" for n in range(30_000))])
    assert (np.diff(weights[3:]) > 0).all()
    assert weights[0] == weights[2] == weights[3] < 0.01
    assert 0.9 < weights[-1] < 1


def test_the_vocabulary_is_as_large_as_the_table(static: StaticEmbedder) -> None:
    vocabulary = static.tokenizer.vocabulary()
    assert len(vocabulary) == find_source("minilm").config["vocab_size"]
    assert vocabulary[static.tokenizer.id_of("[UNK]")] == "[UNK]"
