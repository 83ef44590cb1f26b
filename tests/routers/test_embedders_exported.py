"""Encoders from their ONNX file: as others export them, without torch; and the export, with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from routers import EmbedderError, OnnxEmbedder, export_encoder, is_embedder, load_embedder
from routers.embedders.exported import ExportedEmbedder
from routers.embedders.model_files import find_source
from routers.embedders.tokens import get_tokenizer
from tests.fakes.embedders import DIM, N_VOCAB, TABLE, write_encoder_folder, write_onnx

MINILM = find_source("minilm").folder


def token_vectors(text: str) -> np.ndarray:
    """(n_tokens, dim) of a short text, with its special tokens."""
    ids = [101, *get_tokenizer(MINILM / "tokenizer.json").ids(text, 100).tolist(), 102]
    return TABLE[ids]


def unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize(
    "place", ["onnx/model.onnx", "model.onnx", "onnx/model_int8_reduced.onnx", "own.onnx"]
)
def test_an_encoder_of_another_kind_runs_from_its_onnx_file(tmp_path: Path, place: str) -> None:
    write_onnx(write_encoder_folder(tmp_path) / place)
    embedder = load_embedder(str(tmp_path))
    assert (type(embedder), embedder.dim) == (ExportedEmbedder, DIM)
    assert embedder.embed(["Hello, world!"])[0] == pytest.approx(
        unit(token_vectors("Hello, world!").mean(0)), abs=1e-5
    )


def test_an_onnx_file_is_an_embedder_by_its_path(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "onnx" / "model.onnx")
    by_file, by_folder = (load_embedder(str(path)) for path in (tmp_path / "onnx" / "model.onnx", tmp_path))
    assert by_file.fingerprint == by_folder.fingerprint
    assert by_file.embed(["a b"]).tolist() == by_folder.embed(["a b"]).tolist()


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
def test_it_pools_as_its_folder_says(tmp_path: Path, pooling: str) -> None:
    write_onnx(write_encoder_folder(tmp_path, pooling=pooling, modules=("Normalize",)) / "model.onnx")
    tokens = token_vectors("two words")
    want = {"mean": tokens.mean(0), "cls": tokens[0], "max": tokens.max(0), "lasttoken": tokens[-1]}[pooling]
    assert load_embedder(str(tmp_path)).embed(["two words"])[0] == pytest.approx(unit(want), abs=1e-5)


def test_its_default_prompt_stands_before_every_text(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx")
    facts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(facts))
    found = load_embedder(str(tmp_path)).embed(["who"])[0]
    assert found == pytest.approx(unit(token_vectors("query: who").mean(0)), abs=1e-5)


def test_a_long_text_keeps_head_and_tail_within_what_the_model_reads(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx")
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 10}')
    found = load_embedder(str(tmp_path)).embed(["one two three four five six seven eight nine ten eleven"])[0]
    kept = "one two three four five six ten eleven"
    assert found == pytest.approx(unit(token_vectors(kept).mean(0)), abs=1e-5)


@pytest.mark.parametrize("text", ["", "[SEP] [CLS]", "half \ud800", "x" * 100_000, "日本語"])
def test_any_text_has_a_unit_vector(tmp_path: Path, text: str) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx")
    assert np.linalg.norm(load_embedder(str(tmp_path)).embed([text])) == pytest.approx(1.0, abs=1e-5)


def test_many_texts_are_those_alone_on_any_number_of_threads(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx")
    texts = [f"text number {n}" for n in range(9)]
    alone = load_embedder(str(tmp_path))
    one_by_one = np.concatenate([alone.embed([text]) for text in texts])
    assert load_embedder(str(tmp_path), n_threads=3).embed(texts).tolist() == one_by_one.tolist()
    assert alone.embed([]).shape == (0, DIM)


def test_a_module_that_is_not_computed_here_is_refused_with_the_fix(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path, modules=("Dense",)) / "model.onnx")
    with pytest.raises(EmbedderError, match=r"module Dense.*thalamus encoders export"):
        load_embedder(str(tmp_path))


def test_a_graph_with_other_inputs_is_refused_with_the_fix(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx", inputs=("input_ids", "pixels"))
    with pytest.raises(EmbedderError, match=r"pixels.*export it for feature extraction"):
        load_embedder(str(tmp_path))


def test_without_its_tokenizer_the_error_says_which_file_is_missing(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(EmbedderError, match=r"no tokenizer\.json"):
        load_embedder(str(tmp_path))


def test_without_onnx_and_without_torch_the_error_says_how_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    write_encoder_folder(tmp_path)
    with pytest.raises(EmbedderError, match="thalamus encoders export"):
        load_embedder(str(tmp_path))


def test_a_folder_without_an_encoder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="name the folder of an encoder"):
        load_embedder(str(tmp_path))


def test_a_damaged_file_is_one_clear_error(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        load_embedder(str(tmp_path))


def test_the_bundled_encoder_in_a_folder_is_the_same_encoder(tmp_path: Path) -> None:
    for name in ("config.json", "modules.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).symlink_to(MINILM / name)
    (tmp_path / "1_Pooling").symlink_to(MINILM / "1_Pooling")
    embedder = load_embedder(str(tmp_path))
    assert isinstance(embedder, OnnxEmbedder)
    assert embedder.fingerprint == load_embedder("minilm").fingerprint


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with the encoder `acme/small` in it; the hub itself cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = tmp_path / "models--acme--small"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    write_onnx(write_encoder_folder(model / "snapshots" / ("0" * 40)) / "onnx" / "model.onnx")
    return tmp_path


def test_a_hub_id_runs_from_the_cache_of_the_hub(hub: Path) -> None:
    assert load_embedder("acme/small").dim == DIM


def test_a_hub_that_does_not_answer_is_one_line_with_the_name(hub: Path) -> None:
    with pytest.raises(EmbedderError, match="acme/other is no folder or file here") as refused:
        load_embedder("acme/other")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "is_one"),
    [
        ("minilm", True),
        ("minilm:fp32", True),
        ("intfloat/e5-small", True),
        ("minlm", False),
        ("./no", False),
    ],
)
def test_what_names_an_embedder_is_told_without_loading_one(spec: str, is_one: bool) -> None:
    assert is_embedder(spec) is is_one


def test_running_an_export_loads_no_torch(tmp_path: Path) -> None:
    write_onnx(write_encoder_folder(tmp_path) / "model.onnx")
    script = (
        f"import sys; from routers import load_embedder; load_embedder({str(tmp_path)!r}).embed(['x']); "
        "print(sorted({'torch', 'transformers', 'onnx', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_an_exported_encoder_gives_the_vectors_of_torch(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    assert export_encoder("minilm", tmp_path / "out") > 0.98
    found = ExportedEmbedder(tmp_path / "out").embed(["Who was Rome's first emperor?"])
    assert (found @ load_embedder("minilm:fp32").embed(["Who was Rome's first emperor?"]).T).item() > 0.98


@pytest.mark.train
@pytest.mark.filterwarnings("default")  # libraries' own deprecations
def test_a_tuned_encoder_of_another_architecture_is_exported_with_it(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import DistilBertConfig, DistilBertModel

    from routers import EncoderTuning, TuneSettings

    small = DistilBertConfig(vocab_size=N_VOCAB, dim=24, n_layers=2, n_heads=2, hidden_dim=48)
    DistilBertModel(small).save_pretrained(tmp_path / "plain")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(MINILM / name, tmp_path / "plain" / name)
    part = Transformer(str(tmp_path / "plain"), max_seq_length=64)
    SentenceTransformer(modules=[part, Pooling(24, "cls")], device="cpu").save(str(tmp_path / "base"))
    texts = [f"{word} number {n}" for word in ("sum", "poem") for n in range(8)]
    score = np.repeat([[1.0, 0.0], [0.0, 1.0]], 8, axis=0)
    tuning = EncoderTuning(texts, str(tmp_path / "base"), TuneSettings(None, batch=8))
    folder = tuning.tune(score, np.arange(16), tmp_path / "tuned")
    served = load_embedder(str(folder))
    assert isinstance(served, ExportedEmbedder)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    assert float((served.embed(texts) * theirs).sum(axis=1).min()) > 0.97
