"""Writes a BERT sentence encoder as an ONNX graph straight from its safetensors, without torch.

The graph takes ids (n_texts, n_tokens) of texts of equal length and gives (n_texts, dim) unit vectors. It has
no mask, because nothing is ever padded: on a CPU padding costs more than batching saves. Attention and
quantised products are ONNX Runtime's own fused operators: nothing depends on what its optimiser finds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import EmbedderError
from ..types import Floats32
from .source import Source

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
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="thalamus")

    def _embeddings(self, ids: str) -> str:
        words = self._word_vectors(ids)
        positions = self._load("embeddings.position_embeddings.weight")
        positions = positions + self._load("embeddings.token_type_embeddings.weight")[0]
        shape = self._node("Shape", [ids], start=1)
        bounds = [self._constant(np.array([0])), shape, self._constant(np.array([0]))]
        position = self._node("Slice", [self._constant(positions), *bounds])
        return self._norm("embeddings.LayerNorm", words, position)

    def _word_vectors(self, ids: str) -> str:
        table = self._load("embeddings.word_embeddings.weight")
        if not self._quantise:
            return self._node("Gather", [self._constant(table), ids])
        scale = np.abs(table).max(axis=1, keepdims=True) / 127
        levels = np.rint(table / np.maximum(scale, 1e-12)).astype(np.int8)
        picked = self._node("Cast", [self._node("Gather", [self._constant(levels), ids])], to=1)
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
        weight = np.concatenate([self._load(f"{name}.weight") for name in names]).T
        bias = self._constant(np.concatenate([self._load(f"{name}.bias") for name in names]))
        if not self._quantise:
            product = self._node("MatMul", [hidden, self._constant(weight)])
            return self._node("Add", [product, bias])
        scale = np.maximum(np.abs(weight).max(axis=0) / _LEVELS, 1e-12)
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
