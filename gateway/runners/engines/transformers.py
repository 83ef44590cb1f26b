"""Any model that the library `transformers` can load, in a process of ours that answers in batches."""

from importlib.util import find_spec
from pathlib import Path

from ..errors import RunnerSettingsError
from ..types import Launch, RunnerSettings
from ..weights import find_weights
from .llamacpp import default_threads
from .scripts import child_argv

LIBRARY_BYTES = 600 * 1000**2
"""What the libraries hold in main memory before there is a model."""


def build_transformers_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A process around a model of the hub, of a folder, or of a GGUF file.

    Raises:
        RunnerSettingsError: packages or weights are missing.
    """
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        problem = f'"transformers" needs packages: pip install torch transformers ({missing[0]} is not here)'
        raise RunnerSettingsError("runner.engine", problem)
    model, weights_file = settings.model, None
    if model.startswith("bundled/") or model.lower().endswith(".gguf"):
        if find_spec("gguf") is None or find_spec("accelerate") is None:
            raise RunnerSettingsError(
                "runner.model", "a GGUF file needs packages: pip install gguf accelerate"
            )
        weights = find_weights(model)
        model, weights_file = str(weights.parent), weights.name
    message = {
        "model": model,
        "weights_file": weights_file,
        "alias": alias,
        "api_key": api_key,
        "context_tokens": settings.context_tokens,
        "n_parallel": settings.n_parallel,
        "n_threads": settings.n_threads or default_threads(),
        "device": settings.device or "cpu",
    }
    return Launch(
        child_argv("transformers_child.py"),
        message,
        completes=True,
        device=settings.device or "cpu",
        memory_bytes=_estimate_transformers_bytes(Path(model)) if weights_file is None else None,
    )


def _estimate_transformers_bytes(folder: Path) -> int | None:
    if not folder.is_dir():
        return None
    return LIBRARY_BYTES + sum(file.stat().st_size for file in folder.glob("*.safetensors"))
