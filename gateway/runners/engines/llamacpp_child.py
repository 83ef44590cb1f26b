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
    return xllamacpp.Server(params)


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
