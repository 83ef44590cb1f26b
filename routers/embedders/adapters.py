"""Embedders around others: a cache of recent texts, and any model of sentence-transformers."""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from threading import Lock
from typing import Any

import numpy as np

from ..errors import EmbedderError
from ..features import Embedder
from ..types import Floats32


class CachedEmbedder:
    """Another embedder behind a least-recently-used memory of `size` vectors; 0 remembers nothing.

    Texts are kept as hashes, never as text. Within a batch equal texts are embedded once, for any size.
    """

    def __init__(self, inner: Embedder, size: int = 1024) -> None:
        """Raises: EmbedderError: a negative size."""
        if size < 0:
            raise EmbedderError(f"size is {size}; it is at least 0")
        self._inner = inner
        self._size = size
        self._vectors: OrderedDict[bytes, Floats32] = OrderedDict()
        self._lock = Lock()

    @property
    def dim(self) -> int:
        return self._inner.dim

    @property
    def fingerprint(self) -> str:
        return self._inner.fingerprint

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        keys = [_key(text) for text in texts]
        found = self._recall(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            fresh = dict(zip(missing, self._inner.embed(list(missing.values())), strict=True))
            self._remember(fresh)
            found |= fresh
        return np.stack([found[key] for key in keys]) if keys else np.empty((0, self.dim), np.float32)

    def _recall(self, keys: Sequence[bytes]) -> dict[bytes, Floats32]:
        with self._lock:
            found = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in found:
                self._vectors.move_to_end(key)
        return found

    def _remember(self, fresh: dict[bytes, Floats32]) -> None:
        if not self._size:
            return
        with self._lock:
            for key, vector in fresh.items():
                self._vectors[key] = vector.copy()  # a row would keep its whole batch alive
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class SentenceTransformerEmbedder:
    """Unit vectors of a sentence-transformers model, given by hub id or local path."""

    def __init__(self, name: str, device: str = "cpu", batch_size: int = 32) -> None:
        """Raises: EmbedderError: the extra is not installed, or the model cannot be loaded."""
        self._model = load_torch_encoder(name, device)
        self._batch_size = batch_size
        self.dim = int(self._model.encode([""], show_progress_bar=False).shape[1])
        self.fingerprint = f"sentence-transformers-{name}-t{self._model.max_seq_length}"

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        vectors = self._model.encode(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)


def load_torch_encoder(name: str, device: str = "cpu") -> Any:
    """A model of sentence-transformers by hub id or local path, ready to read.

    Raises:
        EmbedderError: the extra is not installed, or the model cannot be loaded.
    """
    try:
        import torch  # noqa: F401
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise EmbedderError(
            f"{name} needs torch and sentence-transformers: pip install 'thalamus-gateway[train]'"
        ) from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    try:
        return SentenceTransformer(name, device=device).eval()
    except Exception as error:  # a hub, a file system and several libraries speak here
        raise EmbedderError(f"sentence-transformers cannot load {name}: {error}") from error
