"""Text to vectors: an encoder on ONNX Runtime, a static table distilled from it, and others by name.

Importing this package loads no model library; an embedder loads what it needs when it is made.
"""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EmbedderError
from ..features import Embedder

if TYPE_CHECKING:
    from .adapters import CachedEmbedder, SentenceTransformerEmbedder
    from .exported import ExportedEmbedder
    from .hashing import HashingEmbedder
    from .onnx import OnnxEmbedder
    from .tokens import StaticEmbedder

__all__ = [
    "CachedEmbedder",
    "ExportedEmbedder",
    "HashingEmbedder",
    "OnnxEmbedder",
    "SentenceTransformerEmbedder",
    "StaticEmbedder",
    "is_embedder",
    "load_embedder",
]

_KINDS = ("minilm", "static", "hashing", "sentence-transformers")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HOMES = {
    "CachedEmbedder": ".adapters",
    "ExportedEmbedder": ".exported",
    "HashingEmbedder": ".hashing",
    "OnnxEmbedder": ".onnx",
    "SentenceTransformerEmbedder": ".adapters",
    "StaticEmbedder": ".tokens",
}


if not TYPE_CHECKING:  # so that a type checker refuses a name that is misspelt

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _class(name)


def is_embedder(spec: str) -> bool:
    """Whether a specification is of a form that `load_embedder` knows; nothing is loaded."""
    if spec.partition(":")[0] in _KINDS or Path(spec).expanduser().exists():
        return True
    return _HUB_ID.fullmatch(spec) is not None


def load_embedder(spec: str, n_threads: int = 1) -> Embedder:
    """The embedder a specification names.

    `minilm[:int8|:fp32]`, `static[:DIM]`, `hashing[:DIM]`, `sentence-transformers:NAME`, the path of an
    encoder's folder or ONNX file, or its id on the hub, such as `intfloat/e5-small-v2`. The encoder takes
    `n_threads` texts at once when several are given.

    Raises:
        EmbedderError: no such embedder, or it cannot be loaded.
    """
    kind, _, setting = spec.partition(":")
    makers: dict[str, Callable[[], Embedder]] = {
        "minilm": lambda: _class("OnnxEmbedder")("minilm", setting or "int8", n_threads),
        "static": lambda: _class("StaticEmbedder")("minilm", _dim(spec, setting, 256)),
        "hashing": lambda: _class("HashingEmbedder")(_dim(spec, setting, 64)),
        "sentence-transformers": lambda: _class("SentenceTransformerEmbedder")(_require_name(spec, setting)),
    }
    if kind in makers and not Path(spec).expanduser().is_dir():
        return makers[kind]()
    if not is_embedder(spec):
        raise EmbedderError(
            f"no embedder {spec!r}: it is one of {', '.join(_KINDS)}, an existing folder or ONNX file, "
            "or an id of the hub such as intfloat/e5-small-v2"
        )
    loaded: Embedder = import_module(".exported", __name__).load_encoder(spec, n_threads)
    return loaded


def _class(name: str) -> Callable[..., Embedder]:
    found: Callable[..., Embedder] = getattr(import_module(_HOMES[name], __name__), name)
    return found


def _dim(spec: str, setting: str, default: int) -> int:
    if not setting:
        return default
    if not setting.isascii() or not setting.isdigit():
        raise EmbedderError(f"embedder {spec!r}: {setting!r} is not a number of dimensions")
    return int(setting)


def _require_name(spec: str, setting: str) -> str:
    if not setting:
        raise EmbedderError(f"embedder {spec!r} names no model: sentence-transformers:NAME")
    return setting
