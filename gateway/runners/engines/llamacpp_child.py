"""The process around llama.cpp: reads what to serve, says where it listens, ends with its parent.

Run as a script with a socket for standard input. It imports nothing of the gateway.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Linux: be killed when the parent dies, even in the middle of loading weights, which holds the GIL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(order: dict[str, Any]) -> Any:
    """A running server; it lives as long as the object."""
    # Before the import, because CUDA reads the variable when it starts.
    if order["gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = order["gpu"]
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = order["model"]
    params.model_alias = {order["alias"]}
    params.api_keys = [order["api_key"]]
    # Port 0: the kernel chooses a free one, which no other process can take in between.
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cors_origins = "http://127.0.0.1"
    params.n_parallel = order["n_parallel"]
    # llama.cpp divides its context by the number of slots.
    params.n_ctx = order["context_tokens"] * order["n_parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["n_threads"]
    if order["n_gpu_layers"] is not None:
        params.n_gpu_layers = order["n_gpu_layers"]
    params.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts in memory
    params.ui = params.endpoint_slots = False
    params.verbosity = 2  # warnings and errors
    if order["embeds"]:
        params.embedding = True
        # A text is embedded in one step: a longer one would be refused.
        params.n_batch = params.n_ubatch = max(params.n_ubatch, order["context_tokens"])
    for name, value in order["options"].items():
        set_option(xllamacpp, params, name, value)
    return xllamacpp.Server(params)


PLAIN_OPTIONS = {
    "chat_template": "chat_template",
    "batch_tokens": "n_batch",
    "ubatch_tokens": "n_ubatch",
    "rope_freq_base": "rope_freq_base",
    "rope_freq_scale": "rope_freq_scale",
    "context_shift": "ctx_shift",
}
ENUM_OPTIONS = {
    "reasoning": ("reasoning_format", "common_reasoning_format", "COMMON_REASONING_FORMAT_"),
    "pooling": ("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_"),
    "split_mode": ("split_mode", "llama_split_mode", "LLAMA_SPLIT_MODE_"),
}


def set_option(xllamacpp: Any, params: Any, name: str, value: Any) -> None:
    """One of llama.cpp's own settings, by the name that the configuration has for it.

    Raises:
        ValueError: this version of the library has no such setting.
    """
    draft = params.speculative.draft
    if name in PLAIN_OPTIONS:
        setattr(params, PLAIN_OPTIONS[name], value)
    elif name in ENUM_OPTIONS:
        field, kind, prefix = ENUM_OPTIONS[name]
        setattr(params, field, getattr(getattr(xllamacpp, kind), prefix + value.upper()))
    elif name == "draft_model":
        draft.mparams.path = value
        kind = xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE
        params.speculative.types = [kind]
    elif name == "draft_tokens":
        draft.n_max = value
    elif name == "draft_gpu_layers":
        draft.n_gpu_layers = value
    elif name == "mmproj":
        params.mmproj.path = value
    elif name == "kv_type":
        params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}")
    elif name == "flash_attention":
        chosen = "ENABLED" if value else "DISABLED"
        params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{chosen}")
    elif name == "grammar":
        kind = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER
        params.sampling.grammar = xllamacpp.CommonGrammar(kind, value)
    elif name == "loras":
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in value]
    elif name == "kv_on_gpu":
        params.no_kv_offload = not value
    elif name == "tensor_split":
        params.tensor_split = [*value, *[0.0] * (len(params.tensor_split) - len(value))]
    else:
        raise ValueError(f"llama.cpp has no setting {name}")


def main() -> None:
    """Serve until the parent closes its end of the socket, as any death of it does."""
    die_with_parent()
    control = socket.socket(fileno=0)
    with control.makefile("rb") as orders:
        order = json.loads(orders.readline() or b"null")
        if order is None:
            return
        try:
            server = serve(order)
        except Exception as error:
            control.sendall(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
            sys.exit(1)
        control.sendall(json.dumps({"address": server.listening_address}).encode() + b"\n")
        while orders.readline():
            pass
    os._exit(0)  # no destructor: it would wait for requests whose clients are gone


if __name__ == "__main__":
    main()
