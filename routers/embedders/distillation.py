"""Makes the static table: each token through the encoder once, fewer dimensions, weights by rarity."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..types import Floats, Floats32
from .model_files import Source, build_cached, content_hash
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
