"""Engine name → how to launch it. A new engine is one function here and its line in `ENGINES`."""

import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from .errors import RunnerSettingsError
from .types import Launch, RunnerSettings
from .weights import find_weights

LaunchBuilder = Callable[[RunnerSettings, str, str], Launch]
"""(settings, alias, api_key) → how to start the process that serves them."""


def launch_for(
    settings: RunnerSettings, alias: str, api_key: str, engines: Mapping[str, LaunchBuilder] | None = None
) -> Launch:
    """How to start what `settings` ask for; `alias` is the model name its responses bear.

    Raises:
        RunnerSettingsError: unknown engine, missing package or weights, impossible numbers.
    """
    known = ENGINES if engines is None else engines
    if settings.engine not in known:
        problem = f'"{settings.engine}" is unknown; known: {", ".join(known)}'
        raise RunnerSettingsError("runner.engine", problem)
    settings.check()
    return known[settings.engine](settings, alias, api_key)


def llamacpp(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """llama.cpp's own server, from the wheels of `xllamacpp`."""
    if find_spec("xllamacpp") is None:
        raise RunnerSettingsError(
            "runner.engine", '"llama.cpp" needs a package: pip install "thalamus-gateway[local]"'
        )
    message = {
        "model": str(find_weights(settings.model)),
        "alias": alias,
        "api_key": api_key,
        "context_tokens": settings.context_tokens,
        "n_parallel": settings.n_parallel,
        "n_threads": settings.n_threads or default_threads(),
        "n_gpu_layers": settings.n_gpu_layers,
    }
    # A script, not `-m`: the child then imports nothing of the gateway. -P, because the script's folder holds
    # a `types.py` that must not shadow the standard library's.
    script = Path(__file__).with_name("llamacpp_child.py")
    return Launch((sys.executable, "-P", str(script)), message)


def default_threads() -> int:
    """Half the cores this process may use: the other half serves, embeds and streams."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // 2)


ENGINES: Mapping[str, LaunchBuilder] = {"llama.cpp": llamacpp}
