"""Makes the static table: each token through the encoder once, fewer dimensions, weights by rarity."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import EmbedderError
from ..types import Floats, Floats32
from .model_files import Source, build_cached, content_hash, find_source
from .onnx import BUILDER_VERSION, EncoderGraph, special_token_ids
from .tokens import get_tokenizer

DISTILLER_VERSION = f"2.{BUILDER_VERSION}"
"""Part of the cache key and of fingerprints: raise it whenever the table's vectors change."""

RARITY = 1e-4
"""Smoothing `a` of the weight a / (a + p): the smaller, the less frequent tokens count."""

BATCH = 128

Progress = Callable[[int, int], None]


def table_path(source: Source, dim: int, progress: Progress | None) -> Path:
    """The cached token table (n_vocab, dim) float32 of this encoder, distilled if it is not there."""
    name = f"static-{content_hash(source.weights, source.tokenizer)}-d{dim}-b{DISTILLER_VERSION}.npy"
    return build_cached(name, lambda path: _write(source, dim, progress, path))


def _write(source: Source, dim: int, progress: Progress | None, path: Path) -> None:
    vectors = principal(_token_vectors(source, progress), dim)
    table = vectors * rarity(get_tokenizer(source.tokenizer).vocabulary())[:, None]
    with path.open("wb") as file:
        np.save(file, table.astype(np.float32))


def _token_vectors(source: Source, progress: Progress | None) -> Floats32:
    """(n_vocab, encoder dim) unit vectors of the texts that are one token long.

    int8 serves as well as fp32 here: tables from either route equally well.
    """
    graph = EncoderGraph(source, "int8", n_threads=0)
    n_vocab = int(source.config["vocab_size"])
    first, last = special_token_ids(get_tokenizer(source.tokenizer))
    vectors = np.empty((n_vocab, graph.dim), np.float32)
    for start in range(0, n_vocab, BATCH):
        tokens = np.arange(start, min(start + BATCH, n_vocab))
        # (n_batch, 3): [CLS], token, [SEP]
        framed = np.pad(tokens[:, None], ((0, 0), (1, 1)), constant_values=((0, 0), (first, last)))
        vectors[tokens] = graph.run(framed)
        if progress is not None:
            progress(int(tokens[-1]) + 1, n_vocab)
    return vectors


def principal(vectors: Floats32, dim: int) -> Floats:
    """(n_vocab, dim): centred, on the `dim` directions of largest variance.

    The sign of each direction is fixed by its largest entry, so that every machine gets the same table.
    """
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)  # (n_vocab, dim_encoder)
    _, directions = np.linalg.eigh(centred.T @ centred)  # (dim_encoder, dim_encoder), eigenvalues ascending
    kept = directions[:, ::-1][:, :dim]
    largest = kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])]  # (dim,)
    projected: Floats = centred @ (kept * np.sign(largest))
    return projected


def rarity(vocabulary: Sequence[str]) -> Floats:
    """(n_vocab,) weights a / (a + p) in (0, 1), with p from Zipf's law.

    A BERT vocabulary lists special tokens, then single characters, then words from the most frequent on; what
    comes before the first word counts as frequent as that word.

    Reference: Arora et al., A Simple but Tough-to-Beat Baseline for Sentence Embeddings, ICLR 2017, eq. 1.
    Differs: p is 1 / rank instead of a count; the common component goes with the centring of the table.
    """
    words = (row for row, token in enumerate(vocabulary) if len(token) > 1 and token.isalpha())
    rank = np.maximum(np.arange(len(vocabulary)) - next(words, 0) + 1, 1)  # (n_vocab,), from 1
    p = 1 / rank  # Zipf's law
    p /= p.sum()
    weights: Floats = RARITY / (RARITY + p)
    return weights


class StaticEmbedder:
    """Mean of distilled token vectors: microseconds a text, and routing nearly as good as the encoder's.

    Distilling takes some seconds the first time (`progress` hears tokens done and in all); the table is
    cached by content and mapped into memory. Texts above `max_tokens` keep head and tail. `embed` may be
    called from many threads.

    Reference: model2vec (Minish Lab): token vectors, principal components, rarity weights, mean.
    Differs: rarity follows Zipf's law by vocabulary rank; signs of directions are fixed for equal bits.
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
        self.tokenizer = get_tokenizer(found.tokenizer)
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
            parts = self._table.take(np.array(tokens or self._unknown), axis=0)  # (n_tokens, dim)
            # A product with ones sums faster than sum(axis=0); the unit vector of a sum is that of its mean.
            total: Floats32 = self._ones[: len(parts)] @ parts  # (dim,)
            np.divide(total, np.sqrt(total @ total), out=vectors[row])
        return vectors
