"""Engine name → how to launch it. A new engine is one builder in `launchers` and its line in `ENGINES`."""

from collections.abc import Callable, Mapping

from ..types import Launch, RunnerSettings, RunnerSettingsError
from .launchers import (
    build_command_launch,
    build_llamacpp_launch,
    build_ollama_launch,
    build_transformers_launch,
    build_vllm_launch,
)

__all__ = ["ENGINES", "LaunchBuilder", "launch_for"]

LaunchBuilder = Callable[[RunnerSettings, str, str], Launch]
"""(settings, alias, api_key) → how to start the process that serves them."""

ENGINES: Mapping[str, LaunchBuilder] = {
    "llama.cpp": build_llamacpp_launch,
    "transformers": build_transformers_launch,
    "vllm": build_vllm_launch,
    "ollama": build_ollama_launch,
    "command": build_command_launch,
}


def build_launch(
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
