"""Any other model, through sentence-transformers (extra `train`: torch)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import EmbedderError
from ..types import Floats32


class SentenceTransformerEmbedder:
    """Unit vectors of a sentence-transformers model, given by hub id or local path."""

    def __init__(self, name: str, device: str = "cpu", batch_size: int = 32) -> None:
        """Raises: EmbedderError: the extra is not installed, or the model cannot be loaded."""
        self._model = _load(name, device)
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


def _load(name: str, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise EmbedderError(
            f"{name} needs sentence-transformers: pip install 'thalamus-gateway[train]'"
        ) from error
    try:
        return SentenceTransformer(name, device=device)
    except Exception as error:  # a hub, a file system and several libraries speak here
        raise EmbedderError(f"sentence-transformers cannot load {name}: {error}") from error
