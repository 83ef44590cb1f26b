"""A model of an Ollama daemon that runs already; a process of ours has it loaded and let go."""

from urllib.parse import urlsplit

from ..errors import RunnerSettingsError
from ..types import Launch, RunnerSettings
from .scripts import child_argv

OLLAMA_URL = "http://127.0.0.1:11434"
OLLAMA_GRACE_S = 10.0


def build_ollama_launch(settings: RunnerSettings, alias: str, api_key: str) -> Launch:
    """A process that has the model loaded as long as it lives; requests go to the daemon itself.

    Raises:
        RunnerSettingsError: the address is none.
    """
    url = (settings.url or OLLAMA_URL).rstrip("/")
    place = urlsplit(url)
    if place.scheme != "http" or not place.hostname or place.path:
        raise RunnerSettingsError("runner.url", f'must be as "{OLLAMA_URL}", not "{url}"')
    return Launch(
        child_argv("ollama_child.py"),
        {"url": url, "model": settings.model},
        health_path="/api/version",
        device=settings.device or "cpu",
        serves=settings.model,
        completes=True,
        grace_s=OLLAMA_GRACE_S,
    )
