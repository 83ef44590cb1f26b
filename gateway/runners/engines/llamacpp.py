"""llama.cpp's own server, from the wheels of `xllamacpp`."""

import os
from importlib.util import find_spec
from pathlib import Path

from ..errors import RunnerSettingsError
from ..types import Launch, RunnerSettings
from ..weights import find_weights
from .scripts import child_argv

OVERHEAD_BYTES = 100 * 1000**2
KV_BYTES_PER_WEIGHT_BYTE = 1 / 16384
"""What a token of context holds against the weights' size, roughly, until a load is measured."""


def build_llamacpp_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A process around its server.

    Raises:
        RunnerSettingsError: package or weights are missing.
    """
    if find_spec("xllamacpp") is None:
        raise RunnerSettingsError(
            "runner.engine", '"llama.cpp" needs a package: pip install "thalamus-gateway[local]"'
        )
    weights = find_weights(settings.model)
    message = {
        "model": str(weights),
        "alias": alias,
        "api_key": api_key,
        "context_tokens": settings.context_tokens,
        "n_parallel": settings.n_parallel,
        "n_threads": settings.n_threads or default_threads(),
        "n_gpu_layers": settings.n_gpu_layers,
        "gpu": settings.device.partition(":")[2] if settings.device else "",
    }
    return Launch(
        child_argv("llamacpp_child.py"),
        message,
        completes=True,
        device=settings.device or "cpu",
        memory_bytes=_estimate_llamacpp_bytes(weights, settings.context_tokens * settings.n_parallel),
    )


def _estimate_llamacpp_bytes(weights: Path, n_tokens: int) -> int:
    size = weights.stat().st_size
    return int(size * (1 + n_tokens * KV_BYTES_PER_WEIGHT_BYTE)) + OVERHEAD_BYTES


def default_threads() -> int:
    """Half the cores this process may use: the other half serves, embeds and streams."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // 2)
