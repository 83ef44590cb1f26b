"""Engine name → how to launch it. A new engine is one module here and its line in `ENGINES`."""

from collections.abc import Callable, Mapping

from ..errors import RunnerSettingsError
from ..types import Launch, RunnerSettings
from .command import command
from .llamacpp import llamacpp
from .ollama import ollama
from .transformers import transformers
from .vllm import vllm

__all__ = ["ENGINES", "LaunchBuilder", "launch_for"]

LaunchBuilder = Callable[[RunnerSettings, str, str], Launch]
"""(settings, alias, api_key) → how to start the process that serves them."""

ENGINES: Mapping[str, LaunchBuilder] = {
    "llama.cpp": llamacpp,
    "transformers": transformers,
    "vllm": vllm,
    "ollama": ollama,
    "command": command,
}


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
