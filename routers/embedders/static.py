"""The cheap tier: one vector per vocabulary token, distilled from an encoder, averaged over the text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import EmbedderError
from ..types import Floats32
from .cache_dir import content_hash
from .distill import DISTILLER_VERSION, Progress, table_path
from .source import find_source
from .tokens import shared_tokenizer


class StaticEmbedder:
    """Mean of distilled token vectors: microseconds a text, and routing nearly as good as the encoder's.

    Distilling takes some seconds the first time (`progress` hears tokens done and in all); the table is
    cached by content and mapped into memory. Texts above `max_tokens` keep head and tail. `embed` may be
    called from many threads.

    Reference: model2vec (Minish Lab): token vectors, principal components, rarity weights, mean.
    """

    def __init__(
        self,
        source: str | Path = "minilm",
        dim: int = 256,
        max_tokens: int = 512,
        progress: Progress | None = None,
    ) -> None:
        """Raises: EmbedderError: no such model, another architecture, or a setting out of bounds."""
        found = find_source(source)
        most = found.config["hidden_size"]
        if not 1 <= dim <= most:
            raise EmbedderError(f"dim is {dim}; a table of this encoder has 1 to {most}")
        if max_tokens < 1:
            raise EmbedderError(f"max_tokens is {max_tokens}; it is at least 1")
        self.dim = dim
        self.fingerprint: str = (
            f"static-{content_hash(found.weights, found.tokenizer)}-d{dim}-b{DISTILLER_VERSION}-t{max_tokens}"
        )
        self.tokenizer = shared_tokenizer(found.tokenizer)
        self._max_tokens = max_tokens
        self._unknown = [self.tokenizer.id_of("[UNK]")]
        self._table = np.asarray(np.load(table_path(found, dim, progress), mmap_mode="r"))
        self._ones = np.ones(max_tokens, np.float32)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, as `embed_ids` takes them: what lexical features can be made of as well."""
        return self.tokenizer.ids(text, self._max_tokens)

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        return self.embed_ids([self.ids(text) for text in texts])

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> Floats32:
        """(n_texts, dim) unit rows of texts as `ids` gives them; no token at all counts as an unknown one."""
        vectors = np.empty((len(ids), self.dim), np.float32)
        for row, tokens in enumerate(ids):
            vectors[row] = self._mean(tokens or self._unknown)
        return vectors

    def _mean(self, tokens: Sequence[int]) -> Floats32:
        # A product with ones sums faster than sum(axis=0); the length of a mean is lost in the unit vector.
        total: Floats32 = self._ones[: len(tokens)] @ self._table.take(np.array(tokens), axis=0)
        total /= np.sqrt(total @ total)
        return total
