"""LoRA adapters in GGUF files, small and random: they change what SmolLM2-135M says, to no purpose."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH = 576
"""Of SmolLM2-135M, in and out of the matrix that ends its attention."""
N_LAYERS = 30
RANK = 4
ALIGNMENT = 32
STRING, FLOAT32 = 8, 6  # types of values in a GGUF file
TENSOR_F32 = 0

ADAPTER = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama"}


def write_adapter(
    path: Path, seed: int, strength: float = 0.1, header: Mapping[str, str] = ADAPTER, rank: int = RANK
) -> Path:
    """An adapter of low rank in every layer; those of different seeds change other things."""
    draw = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for layer in range(N_LAYERS):
        name = f"blk.{layer}.attn_output.weight"
        tensors[f"{name}.lora_a"] = (draw.normal(size=(rank, WIDTH)) / WIDTH**0.5).astype(np.float32)
        tensors[f"{name}.lora_b"] = (strength * draw.normal(size=(WIDTH, rank))).astype(np.float32)
    values = [_pack_text(key) + struct.pack("<I", STRING) + _pack_text(text) for key, text in header.items()]
    values.append(_pack_text("adapter.lora.alpha") + struct.pack("<If", FLOAT32, float(rank)))
    infos, data = b"", b""
    for name, tensor in tensors.items():
        # ggml names the fastest dimension first, numpy last.
        infos += _pack_text(name) + struct.pack("<IQQ", 2, *reversed(tensor.shape))
        infos += struct.pack("<IQ", TENSOR_F32, len(data))
        data += _pad(tensor.astype("<f4").tobytes())
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values)) + b"".join(values) + infos
    path.write_bytes(_pad(head) + data)
    return path


def _pack_text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
