"""Providers: those that speak OpenAI's protocol, with addresses and keys, and all that LiteLLM knows."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec

EXPERT_GROUP = "thalamus.experts"
"""Entry points of the experts that installed packages offer, named by the provider in `model`."""


@dataclass(frozen=True, slots=True)
class Provider:
    """`api_base` None: the operator must say where it is."""

    api_base: str | None
    key_variable: str | None = None


PROVIDERS = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": Provider("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "hosted_vllm": Provider(None),
    "llamafile": Provider("http://127.0.0.1:8080/v1"),
    "lm_studio": Provider("http://127.0.0.1:1234/v1"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "nvidia_nim": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "ollama": Provider("http://127.0.0.1:11434/v1"),
    "ollama_chat": Provider("http://127.0.0.1:11434/v1"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
}
"""Named as LiteLLM names them; with an `api_base` of their own they are OpenAI's protocol all the same."""
OLLAMA = ("ollama", "ollama_chat")
FAMILIES = (
    frozenset({"azure", "azure_ai", "azure_text"}),
    frozenset({"cohere", "cohere_chat"}),
    frozenset({"gemini", "vertex_ai", "vertex_ai_beta", "google"}),
    frozenset({"openai", "text-completion-openai", "custom_openai"}),
    frozenset({"anthropic", "anthropic_text"}),
    frozenset({"ollama", "ollama_chat"}),
    frozenset({"together_ai", "together", "togetherai"}),
    frozenset({"fireworks_ai", "fireworks"}),
    frozenset({"nvidia_nim", "nvidia"}),
    frozenset({"perplexity", "perplexityai"}),
    frozenset({"mistral", "codestral", "text-completion-codestral"}),
)
"""Providers that take each other's keys, with the words by which variables name them."""
MAKERS = (
    (re.compile(r"claude\b", re.IGNORECASE), "anthropic"),
    (re.compile(r"command\b", re.IGNORECASE), "cohere_chat"),
    (re.compile(r"gpt-\d|chatgpt-|o\d+(-|$)", re.IGNORECASE), "openai"),
    (re.compile(r"gemini-\d", re.IGNORECASE), "vertex_ai"),
)
"""Whose a model is by its name, for models that LiteLLM's table has no longer, and for hints."""


def passes_through(provider: str) -> bool:
    """Whether a provider's experts are called directly, without LiteLLM."""
    return provider in PROVIDERS


def needs_address(provider: str, configured: str | None) -> bool:
    """Whether the operator has to say where a provider is, and has not."""
    return passes_through(provider) and not api_base_of(provider, configured)


def api_base_of(provider: str, configured: str | None) -> str | None:
    """The address to use; None where neither the configuration nor the provider gives one."""
    if configured and provider in OLLAMA:
        return _ollama_base(configured)
    known = PROVIDERS.get(provider)
    return configured or (known.api_base if known else None)


def _ollama_base(configured: str) -> str:
    """Ollama's address is written with `/v1`, with `/api` or alone; OpenAI's protocol is under `/v1`."""
    parts = urlsplit(configured)
    path = parts.path.rstrip("/")
    if not path.endswith("/v1"):
        path = path.removesuffix("/api") + "/v1"
    return urlunsplit(parts._replace(path=path))


def api_key_of(provider: str, configured: str | None, api_base: str | None) -> str | None:
    """The configured key; the environment's for the provider's own address only: it goes nowhere else."""
    known = PROVIDERS.get(provider)
    # One provider's key never goes to another address: the environment's belongs to its own.
    if configured is not None or known is None or known.key_variable is None or api_base is not None:
        return configured
    return os.environ.get(known.key_variable)


def list_providers() -> frozenset[str] | None:
    """Every name that may stand before the slash of a `model`; None where LiteLLM's names cannot be read."""
    theirs = _litellm_providers()
    return theirs and theirs | PROVIDERS.keys() | entry_points(group=EXPERT_GROUP).names


@cache
def _litellm_providers() -> frozenset[str] | None:
    """LiteLLM's names, read from its files: importing it costs seconds of CPU."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    try:
        names = frozenset(_read_provider_names(folder))
    except (OSError, UnicodeDecodeError, msgspec.DecodeError, IndexError):
        return None
    # Another layout of LiteLLM's sources must not refuse what works.
    return names if {"anthropic", "azure", "bedrock", "gemini"} <= names else None


def _read_provider_names(folder: Path) -> Iterator[str]:
    source = (folder / "types" / "utils.py").read_text(encoding="utf-8")
    enumeration = source.split("class LlmProviders(", 1)[1].split("\nclass ", 1)[0]
    yield from re.findall(r'^    [A-Z0-9_]+ = "([^"]+)"', enumeration, re.MULTILINE)
    configured = folder / "llms" / "openai_like" / "providers.json"
    if configured.is_file():
        yield from msgspec.json.decode(configured.read_bytes(), type=dict[str, msgspec.Raw])


KEY_WORDS = frozenset(
    {
        *(
            "openai",
            "anthropic",
            "azure",
            "gemini",
            "google",
            "groq",
            "mistral",
            "codestral",
            "cohere",
            "xai",
        ),
        *("deepseek", "openrouter", "together", "togetherai", "fireworks", "perplexity", "perplexityai"),
        *("cerebras", "nvidia", "replicate", "huggingface", "moonshot", "dashscope", "voyage", "sambanova"),
        *("deepinfra", "databricks", "watsonx"),
    }
)
"""First words of variables that say whose key they hold."""
ADDRESSES = {
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gemini",
    "api.perplexity.ai": "perplexity",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.deepinfra.com": "deepinfra",
    "api.moonshot.ai": "moonshot",
    "api.sambanova.ai": "sambanova",
    **{
        host: name
        for name, provider in PROVIDERS.items()
        if provider.api_base
        and (host := urlsplit(provider.api_base).hostname)
        and "." in host.strip("0123456789.")
    },
}
"""Hosts of providers, each with its owner."""


def find_receiver(variable: str, provider: str, api_base: str | None) -> str | None:
    """The provider that would get another one's key, going by the variable's name; None where none would."""
    owner = variable.lower().partition("_")[0]
    if owner not in KEY_WORDS or not re.search(r"KEY|TOKEN", variable.upper()):
        return None
    host = urlsplit(api_base).hostname if api_base and "://" in api_base else None
    receiver = ADDRESSES.get(host or "") or ("azure" if host and host.endswith(".azure.com") else None)
    if receiver is None:
        # A server of the operator's own may take any key.
        if api_base and (passes_through(provider) or provider in ("litellm_proxy", "custom_openai")):
            return None
        receiver = provider
    return None if _family(owner) & _family(receiver) else receiver


def _family(name: str) -> frozenset[str]:
    return next((family for family in FAMILIES if name in family), frozenset({name}))


def find_maker(model: str) -> str | None:
    """The provider that makes a model of this bare name; None where the name tells none."""
    return next((provider for pattern, provider in MAKERS if pattern.match(model)), None)
