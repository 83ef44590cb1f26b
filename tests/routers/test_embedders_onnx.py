"""The encoder against reference vectors of sentence-transformers, and the promises of `OnnxEmbedder`."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers import EmbedderError, Floats32
from routers.embedders import OnnxEmbedder, SentenceTransformerEmbedder
from routers.embedders.model_files import find_source
from routers.embedders.tokens import CHARS_PER_TOKEN, Tokenizer

HERE = Path(__file__).parent
TEXTS: list[str] = json.loads((HERE / "minilm_reference.json").read_text("utf-8"))
REFERENCE = np.load(HERE / "minilm_reference.npy")
"""fp32 vectors of TEXTS, made with sentence-transformers."""


@pytest.fixture(scope="module")
def fp32() -> OnnxEmbedder:
    return OnnxEmbedder(precision="fp32")


@pytest.fixture(scope="module")
def int8() -> OnnxEmbedder:
    return OnnxEmbedder()


def cosines(a: Floats32, b: Floats32) -> Floats32:
    return np.asarray((a * b).sum(axis=1))


def test_fp32_equals_the_vectors_of_sentence_transformers(fp32: OnnxEmbedder) -> None:
    assert cosines(fp32.embed(TEXTS), REFERENCE).min() >= 0.9999


@pytest.mark.train
def test_fp32_equals_sentence_transformers_run_here(fp32: OnnxEmbedder) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    other = SentenceTransformerEmbedder(str(find_source("minilm").folder))
    assert cosines(fp32.embed(TEXTS), other.embed(TEXTS)).min() >= 0.999
    assert other.embed([]).shape == (0, other.dim)


def test_int8_stays_close_to_fp32(int8: OnnxEmbedder) -> None:
    found = cosines(int8.embed(TEXTS), REFERENCE)
    assert found.min() >= 0.97
    assert found.mean() >= 0.985


def test_int8_keeps_who_is_nearest_to_whom(int8: OnnxEmbedder) -> None:
    near, far = "How tall is the tower?", "Write a sorting function in Python."
    query, a, b = int8.embed(["What is the height of the tower?", near, far])
    assert query @ a > query @ b + 0.3


def test_order_is_kept_and_a_batch_equals_its_singles_to_the_bit(int8: OnnxEmbedder) -> None:
    batch = int8.embed(TEXTS)
    assert np.array_equal(batch, np.concatenate([int8.embed([text]) for text in TEXTS]))
    assert np.array_equal(int8.embed(TEXTS[::-1]), batch[::-1])


def test_several_threads_give_the_same_bits(int8: OnnxEmbedder) -> None:
    threaded = OnnxEmbedder(n_threads=2)
    assert np.array_equal(threaded.embed(TEXTS), int8.embed(TEXTS))
    with ThreadPoolExecutor(4) as pool:
        found = np.concatenate(list(pool.map(lambda text: int8.embed([text]), TEXTS)))
    assert np.array_equal(found, int8.embed(TEXTS))


def test_no_text_gives_no_rows_and_an_empty_text_a_unit_row(int8: OnnxEmbedder) -> None:
    assert int8.embed([]).shape == (0, 384)
    assert int8.embed([]).dtype == np.float32
    assert np.linalg.norm(int8.embed([""])) == pytest.approx(1.0, abs=1e-5)


def test_a_long_text_keeps_its_head_and_its_tail(int8: OnnxEmbedder) -> None:
    head, tail = "Translate into French. ", " Answer in rhyme."
    filler = "stone " * 3000
    whole = int8.embed([head + filler + tail])[0]
    assert whole @ int8.embed([head + filler])[0] < 0.9999
    assert whole @ int8.embed([filler + tail])[0] < 0.9999
    other_middle = head + filler[:9000] + "granite " * 50 + filler[9000:] + tail
    assert np.array_equal(int8.embed([other_middle])[0], whole)


def test_of_a_megabyte_only_a_few_pages_are_tokenised(
    int8: OnnxEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    all_ids = Tokenizer._all_ids

    def record(self: Tokenizer, text: str) -> object:
        seen.append(len(text))
        return all_ids(self, text)

    monkeypatch.setattr(Tokenizer, "_all_ids", record)
    int8.embed(["word " * 200_000])
    assert seen == [254 * CHARS_PER_TOKEN + 1]


@pytest.mark.parametrize(
    "junk", ["\ud800 half a character", "\x00\x01\x02", "🙂" * 50, "\u202e\u200d", "x" * 5000]
)
def test_junk_gives_unit_rows(int8: OnnxEmbedder, junk: str) -> None:
    vector = int8.embed([junk])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_a_text_that_spells_a_special_token_is_only_text(int8: OnnxEmbedder) -> None:
    assert not np.array_equal(int8.embed(["a [SEP] b"]), int8.embed(["a b"]))
    assert int8.embed(["a [MASK] b"])[0] @ int8.embed(["a [ mask ] b"])[0] == pytest.approx(1.0, abs=1e-5)


def test_fingerprints_name_precision_and_limit(int8: OnnxEmbedder, fp32: OnnxEmbedder) -> None:
    names = {int8.fingerprint, fp32.fingerprint, OnnxEmbedder(max_tokens=128).fingerprint}
    assert len(names) == 3
    assert OnnxEmbedder().fingerprint == int8.fingerprint


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"precision": "int4"}, "precision"),
        ({"n_threads": 0}, "n_threads"),
        ({"max_tokens": 4}, "max_tokens"),
        ({"max_tokens": 9999}, "max_tokens"),
        ({"source": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_settings_out_of_bounds_are_named(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(EmbedderError, match=word):
        OnnxEmbedder(**settings)


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a BERT encoder of its own, and an empty cache."""
    monkeypatch.setenv("THALAMUS_CACHE", str(tmp_path / "cache"))
    source, folder = find_source("minilm").folder, tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, folder)
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    return folder


def test_a_local_folder_is_built_into_the_cache(
    model_folder: Path, int8: OnnxEmbedder, tmp_path: Path
) -> None:
    found = OnnxEmbedder(model_folder).embed(TEXTS)
    assert np.array_equal(found, int8.embed(TEXTS))
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".onnx"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "roberta"), ("hidden_act", "relu"), ("position_embedding_type", "relative")],
)
def test_another_architecture_is_refused_with_the_way_out(model_folder: Path, key: str, value: Any) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(EmbedderError, match="sentence-transformers:"):
        OnnxEmbedder(model_folder)


def test_weights_that_do_not_match_the_config_are_an_error_and_leave_no_file(
    model_folder: Path, tmp_path: Path
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
    with pytest.raises(EmbedderError, match=r"model\.safetensors"):
        OnnxEmbedder(model_folder)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_damaged_files_are_named(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    (model_folder / name).write_bytes(b"not this")
    with pytest.raises(EmbedderError, match=name):
        OnnxEmbedder(model_folder)
    (model_folder / name).unlink()
    with pytest.raises(EmbedderError, match=name):
        OnnxEmbedder(model_folder)


def test_a_damaged_graph_is_built_again(model_folder: Path, int8: OnnxEmbedder, tmp_path: Path) -> None:
    OnnxEmbedder(model_folder)
    (graph,) = (tmp_path / "cache").iterdir()
    graph.write_bytes(b"cut short")
    assert np.array_equal(OnnxEmbedder(model_folder).embed(TEXTS), int8.embed(TEXTS))


def test_tokens_are_counted_beyond_those_that_are_read(int8: OnnxEmbedder) -> None:
    assert int8.n_tokens("a cat") == 4
    assert int8.n_tokens("word " * 1000) == 1002 > int8.max_tokens


def test_embedders_of_one_graph_share_its_session(int8: OnnxEmbedder) -> None:
    assert OnnxEmbedder()._graph._session is int8._graph._session
    assert OnnxEmbedder(precision="fp32")._graph._session is not int8._graph._session
