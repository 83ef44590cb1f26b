"""Writes a trained adapter as a GGUF file of llama.cpp."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from routers import Floats

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
HEADS = {"attn_q": 9, "attn_k": 3}
"""Of SmolLM2-135M."""


def write_gguf(path: Path, state: "Mapping[str, Tensor]", alpha: float) -> None:
    """Write the matrices; the file appears whole or not at all.

    Those that read are of type Q8_0. Those that write stay 16-bit floats: their rows are as long as the rank
    and fill no block of 32.
    """
    import gguf

    blocks = gguf.GGMLQuantizationType.Q8_0

    partial = path.with_suffix(".part")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, value in state.items():
        part = _tensor_name(name)
        matrix = value.float().numpy()
        if part.endswith("lora_b") and (head := part.split(".")[2]) in HEADS:
            matrix = order_rows(matrix, HEADS[head])
        if part.endswith("lora_a"):
            writer.add_tensor(part, gguf.quants.quantize(matrix, blocks), raw_dtype=blocks)
        else:
            writer.add_tensor(part, matrix.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _tensor_name(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.lora_a` is `blk.3.attn_q.weight.lora_a`."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.\w+\.(\w+)\.(lora_[ab])", name)
    if match is None:
        raise ValueError(f"{name} is no matrix of an adapter")
    return f"blk.{match[1]}.{NAMES[match[2]]}.weight.{match[3]}"


def order_rows(matrix: Floats, n_heads: int) -> Floats:
    """The rows of a matrix that makes queries or keys, (n_heads * size, rank), in the order of llama.cpp.

    It rotates neighbours by a position, transformers the halves of a head: of four rows 0 and 2, 1 and 3.
    """
    n_rows, rank = matrix.shape
    return matrix.reshape(n_heads, 2, n_rows // n_heads // 2, rank).swapaxes(1, 2).reshape(n_rows, rank)
