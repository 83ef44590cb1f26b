"""The encoder tier: a BERT sentence encoder on ONNX Runtime, int8 by default."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ..errors import EmbedderError
from ..types import Floats32, Ints
from .cache_dir import built, content_hash
from .onnx_graph import BUILDER_VERSION, Precision, write_graph
from .source import Source, find_source
from .tokens import Tokenizer, shared_tokenizer

MIN_TOKENS = 8

_sessions: "WeakValueDictionary[tuple[str, int], Any]" = WeakValueDictionary()
"""Sessions in use, by graph file, whose name tells its content, and threads: who wants the same shares it."""


class OnnxEmbedder:
    """Mean-pooled unit vectors of a BERT encoder; the graph is built once and cached by content.

    Every text runs alone, on one thread: nothing is padded, and the vector of a text never depends on its
    company (dynamic quantisation scales a batch as a whole). `n_threads` texts run at once when several are
    given. A text above `max_tokens` keeps the first three quarters of the budget and the last quarter.

    `embed` may be called from many threads.
    """

    def __init__(
        self,
        source: str | Path = "minilm",
        precision: Precision = "int8",
        n_threads: int = 1,
        max_tokens: int = 256,
    ) -> None:
        """Raises: EmbedderError: no such model, another architecture, or a setting out of bounds."""
        found = find_source(source)
        _check(found, precision, n_threads, max_tokens)
        self._n_threads = n_threads
        self.max_tokens = max_tokens
        content = content_hash(found.weights, found.tokenizer)
        self.fingerprint: str = f"onnx-{content}-{precision}-b{BUILDER_VERSION}-t{max_tokens}"
        self._tokenizer = shared_tokenizer(found.tokenizer)
        self._frame = frame(self._tokenizer)
        self._graph = EncoderGraph(found, precision, n_threads=1)
        self.dim = self._graph.dim

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        if len(texts) == 1 or self._n_threads == 1:
            return np.concatenate([self._embed(text) for text in texts])
        with ThreadPoolExecutor(self._n_threads) as pool:
            return np.concatenate(list(pool.map(self._embed, texts)))

    def n_tokens(self, text: str) -> int:
        """How many tokens the text has with its two special ones; above `max_tokens` not all are read."""
        return self._tokenizer.count(text) + 2

    def _embed(self, text: str) -> Floats32:
        first, last = self._frame
        ids = self._tokenizer.ids(text, self.max_tokens - 2)
        return self._graph.run(np.array([[first, *ids, last]], np.int64))


class EncoderGraph:
    """The encoder without its tokenizer: ids of equally long texts to unit vectors."""

    def __init__(self, source: Source, precision: Precision, n_threads: int) -> None:
        """`n_threads` share one run; 0 takes every core."""
        self.dim = int(source.config["hidden_size"])
        self._session = _session(graph_path(source, precision), n_threads)

    def run(self, ids: Ints) -> Floats32:
        """(n_texts, dim) unit rows of ids (n_texts, n_tokens) that carry their special tokens."""
        vectors: Floats32 = self._session.run(None, {"ids": ids})[0]
        return vectors


def frame(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids that begin and end every text."""
    return tokenizer.id_of("[CLS]"), tokenizer.id_of("[SEP]")


def graph_path(source: Source, precision: Precision) -> Path:
    """The cached ONNX file of this encoder, built if it is not there."""
    name = f"encoder-{content_hash(source.weights, source.folder / 'config.json')}"
    name = f"{name}-{precision}-b{BUILDER_VERSION}.onnx"
    return built(name, lambda path: write_graph(source, precision, path))


def _session(path: Path, n_threads: int) -> Any:
    """The session of a graph; one that is in use already where there is one."""
    shared = _sessions.get((str(path), n_threads))
    if shared is None:
        shared = _sessions[str(path), n_threads] = _open_session(path, n_threads)
    return shared


def _open_session(path: Path, n_threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # one plan would be kept for every length seen
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class per status code, all straight from Exception
        raise EmbedderError(f"{path} cannot be loaded; remove it and it is built again: {error}") from error


def _check(source: Source, precision: str, n_threads: int, max_tokens: int) -> None:
    if precision not in ("int8", "fp32"):
        raise EmbedderError(f"precision is {precision!r}; it is int8 or fp32")
    if n_threads < 1:
        raise EmbedderError(f"n_threads is {n_threads}; it is at least 1")
    most = source.config["max_position_embeddings"]
    if not MIN_TOKENS <= max_tokens <= most:
        raise EmbedderError(f"max_tokens is {max_tokens}; this encoder takes {MIN_TOKENS} to {most}")
