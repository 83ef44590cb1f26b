"""Writes a BERT sentence encoder as an ONNX graph straight from its safetensors, without torch.

The graph takes ids (n_texts, n_tokens) of texts of equal length and gives (n_texts, dim) unit vectors. It has
no mask, because nothing is ever padded: on a CPU padding costs more than batching saves. Attention and
quantised products are ONNX Runtime's own fused operators: nothing depends on what its optimiser finds.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ..errors import EmbedderError
from ..types import Floats32, Ints
from .model_files import Source, build_cached, content_hash, find_source
from .tokens import Tokenizer, get_tokenizer

Precision = Literal["int8", "fp32"]

BUILDER_VERSION = 2
"""Part of the cache key and of fingerprints: raise it whenever the graph's vectors change."""

_LEVELS = 63
"""Weights use seven of eight bits: with all eight, CPUs without VNNI saturate in the sum of two products."""

_CONTRIB = "com.microsoft"


def write_graph(source: Source, precision: Precision, path: Path) -> None:
    """Writes the encoder to `path`.

    Raises:
        EmbedderError: weights are missing or of another architecture.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source.weights, framework="np") as weights:
            graph = _Graph(source.config, precision, weights.get_tensor)
            model = graph.model()
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise EmbedderError(
            f"{source.weights} does not hold the encoder its config.json describes: {error}"
        ) from error
    path.write_bytes(model.SerializeToString())


class _Graph:
    """Nodes and weights, added in the order of the computation."""

    def __init__(
        self, config: dict[str, Any], precision: Precision, tensor: Callable[[str], NDArray[Any]]
    ) -> None:
        self._config = config
        self._quantise = precision == "int8"
        self._tensor = tensor
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._n_names = 0

    def model(self) -> Any:
        from onnx import TensorProto, helper

        hidden = self._embeddings("ids")
        for layer in range(self._config["num_hidden_layers"]):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        pooled = self._node("ReduceMean", [hidden, self._constant(np.array([1]))], keepdims=0)
        self._node("LpNormalization", [pooled], output="embedding", axis=1, p=2)
        dim = self._config["hidden_size"]
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n_texts", "n_tokens"])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n_texts", dim])],
            self._weights,
        )
        # 18: from there on ReduceMean takes its axes as an input.
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="thalamus")

    def _embeddings(self, ids: str) -> str:
        words = self._word_vectors(ids)
        positions = self._load("embeddings.position_embeddings.weight")
        positions = positions + self._load("embeddings.token_type_embeddings.weight")[0]
        shape = self._node("Shape", [ids], start=1)  # [n_tokens]
        bounds = [self._constant(np.array([0])), shape, self._constant(np.array([0]))]
        position = self._node("Slice", [self._constant(positions), *bounds])
        return self._norm("embeddings.LayerNorm", words, position)

    def _word_vectors(self, ids: str) -> str:
        table = self._load("embeddings.word_embeddings.weight")
        if not self._quantise:
            return self._node("Gather", [self._constant(table), ids])
        scale = np.abs(table).max(axis=1, keepdims=True) / 127  # (n_vocab, 1): a token's own
        levels = np.rint(table / np.maximum(scale, 1e-12)).astype(np.int8)
        picked = self._node("Cast", [self._node("Gather", [self._constant(levels), ids])], to=1)  # 1: FLOAT
        return self._node("Mul", [picked, self._node("Gather", [self._constant(scale), ids])])

    def _layer(self, name: str, hidden: str) -> str:
        attended = self._attention(f"{name}.attention.self", hidden)
        attended = self._dense([f"{name}.attention.output.dense"], attended)
        hidden = self._norm(f"{name}.attention.output.LayerNorm", attended, hidden)
        inner = self._dense([f"{name}.intermediate.dense"], hidden)
        inner = self._node("Gelu", [inner], domain=_CONTRIB)
        inner = self._dense([f"{name}.output.dense"], inner)
        return self._norm(f"{name}.output.LayerNorm", inner, hidden)

    def _attention(self, name: str, hidden: str) -> str:
        packed = self._dense([f"{name}.{part}" for part in ("query", "key", "value")], hidden)
        parts = [self._name() for _ in range(3)]
        self._add("Split", [packed], parts, axis=2, num_outputs=3)
        heads = self._config["num_attention_heads"]
        return self._node("MultiHeadAttention", parts, domain=_CONTRIB, num_heads=heads)

    def _dense(self, names: list[str], hidden: str) -> str:
        """x·W + b, for several layers on the same input at once."""
        # Safetensors of PyTorch hold (n_out, n_in); MatMul takes (n_in, n_out).
        weight = np.concatenate([self._load(f"{name}.weight") for name in names]).T
        bias = self._constant(np.concatenate([self._load(f"{name}.bias") for name in names]))
        if not self._quantise:
            product = self._node("MatMul", [hidden, self._constant(weight)])
            return self._node("Add", [product, bias])
        scale = np.maximum(np.abs(weight).max(axis=0) / _LEVELS, 1e-12)  # (n_out,)
        levels = self._constant(np.rint(weight / scale).astype(np.int8))
        inputs = [hidden, levels, self._constant(scale), "", bias]
        return self._node("DynamicQuantizeMatMul", inputs, domain=_CONTRIB)

    def _norm(self, name: str, *parts: str) -> str:
        """The normalised sum; unfused, because SkipLayerNormalization is several times slower on a CPU."""
        learned = [self._constant(self._load(f"{name}.{part}")) for part in ("weight", "bias")]
        epsilon = float(self._config.get("layer_norm_eps", 1e-12))
        return self._node("LayerNormalization", [self._node("Add", list(parts)), *learned], epsilon=epsilon)

    def _load(self, name: str) -> Floats32:
        return np.asarray(self._tensor(name), np.float32)

    def _constant(self, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = self._name()
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _node(self, kind: str, inputs: list[str], *, output: str | None = None, **attributes: Any) -> str:
        output = output or self._name()
        self._add(kind, inputs, [output], **attributes)
        return output

    def _add(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, outputs, **attributes))

    def _name(self) -> str:
        self._n_names += 1
        return f"t{self._n_names}"


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
        self._tokenizer = get_tokenizer(found.tokenizer)
        self._frame = special_token_ids(self._tokenizer)
        self._graph = EncoderGraph(found, precision, n_threads=1)
        self.dim = self._graph.dim

    def embed(self, texts: Sequence[str]) -> Floats32:
        """(n_texts, dim) unit rows, in order; (0, dim) for no text."""
        return embed_each(self._embed, texts, self.dim, self._n_threads)

    def n_tokens(self, text: str) -> int:
        """How many tokens the text has with its two special ones; above `max_tokens` not all are read."""
        return self._tokenizer.count(text) + 2

    def _embed(self, text: str) -> Floats32:
        first, last = self._frame
        ids = self._tokenizer.ids(text, self.max_tokens - 2)  # [CLS] and [SEP] count too
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


def embed_each(embed: Callable[[str], Floats32], texts: Sequence[str], dim: int, n_threads: int) -> Floats32:
    """(n_texts, dim) the rows that `embed` gives, (1, dim) each, in order; (0, dim) for no text."""
    if not texts:
        return np.empty((0, dim), np.float32)
    if len(texts) == 1 or n_threads == 1:
        return np.concatenate([embed(text) for text in texts])
    with ThreadPoolExecutor(n_threads) as pool:
        return np.concatenate(list(pool.map(embed, texts)))


def special_token_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids that begin and end every text."""
    return tokenizer.id_of("[CLS]"), tokenizer.id_of("[SEP]")


def graph_path(source: Source, precision: Precision) -> Path:
    """The cached ONNX file of this encoder, built if it is not there."""
    name = f"encoder-{content_hash(source.weights, source.folder / 'config.json')}"
    name = f"{name}-{precision}-b{BUILDER_VERSION}.onnx"
    return build_cached(name, lambda path: write_graph(source, precision, path))


def _session(path: Path, n_threads: int) -> Any:
    """The session of a graph; one that is in use already where there is one."""
    shared = _sessions.get((str(path), n_threads))
    if shared is None:
        shared = _sessions[str(path), n_threads] = open_session(
            path, n_threads, "; remove it and it is built again"
        )
    return shared


def open_session(path: Path, n_threads: int, fix: str = "") -> Any:
    """A session of an ONNX file on the CPU; `fix` is what an error advises.

    Raises:
        EmbedderError: the file cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    options.enable_mem_pattern = False  # one plan would be kept for every length seen
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class per status code, all straight from Exception
        raise EmbedderError(f"{path} cannot be loaded{fix}: {error}") from error


def _check(source: Source, precision: str, n_threads: int, max_tokens: int) -> None:
    if precision not in ("int8", "fp32"):
        raise EmbedderError(f"precision is {precision!r}; it is int8 or fp32")
    if n_threads < 1:
        raise EmbedderError(f"n_threads is {n_threads}; it is at least 1")
    most = source.config["max_position_embeddings"]
    if not MIN_TOKENS <= max_tokens <= most:
        raise EmbedderError(f"max_tokens is {max_tokens}; this encoder takes {MIN_TOKENS} to {most}")
