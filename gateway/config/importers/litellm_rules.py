"""What LiteLLM knows: whose a model is, what it does, and whose key a variable holds."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..providers import PROVIDERS, list_providers, passes_through

Table = Mapping[str, msgspec.Raw]

KIND_WORDS = (
    (re.compile(r"embed|\bbge-|\be5-|\bgte-|minilm", re.IGNORECASE), "embedding"),
    (re.compile(r"rerank", re.IGNORECASE), "rerank"),
    (re.compile(r"whisper|transcribe", re.IGNORECASE), "audio_transcription"),
    (re.compile(r"\btts\b|-tts\b|text-to-speech|\bspeech", re.IGNORECASE), "audio_speech"),
    (re.compile(r"dall-e|gpt-image|stable-diffusion|imagen|\bflux\b", re.IGNORECASE), "image_generation"),
    (re.compile(r"moderation", re.IGNORECASE), "moderation"),
)
"""What a model is by its name, where neither the file nor LiteLLM's table says it."""
AZURE = ("azure", "azure_ai", "azure_text")
INFERENCE_PROFILE = re.compile(r"^(us|eu|apac|global|jp|au|ca|us-gov)\.")
"""The region before a model of Bedrock, which is the same model in each."""
FAMILIES = (
    frozenset(AZURE),
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
"""Whose a model is that LiteLLM knew once: it forgets models that are no longer sold."""


class ModelRules:
    """LiteLLM's own answers: whose a model is, and what it does."""

    def __init__(self, table: Table, load: Callable[[], Any] | None) -> None:
        self._table = table
        self._load = load
        self._litellm: Any = None
        self._providers = list_providers() or frozenset(PROVIDERS)

    def find_model(self, params: Mapping[str, Any]) -> str | None:
        """`provider/model` of an entry, None where LiteLLM knows no provider for it."""
        model, named = str(params.get("model") or ""), params.get("custom_llm_provider")
        if isinstance(named, str) and named:
            return model if model.startswith(f"{named}/") else f"{named}/{model}"
        head, slash, _ = model.partition("/")
        if slash and head in self._providers:
            return model
        api_base = params.get("api_base") or params.get("base_url")
        found = self._ask_litellm(model, api_base)
        # With an address of its own the name says nothing: any server may call its model `gpt-4-mine`.
        if found is None and not api_base:
            maker = next((provider for pattern, provider in MAKERS if pattern.match(model)), None)
            found = maker and f"{maker}/{model}"
        return found if found and found.partition("/")[0] in self._providers else None

    def _ask_litellm(self, model: str, api_base: Any) -> str | None:
        if self._load is None or not model:
            return None
        if self._litellm is None:
            self._litellm = self._load()
        # A reference says nothing of the address behind it.
        base = api_base if isinstance(api_base, str) and "://" in api_base else None
        try:
            name, provider, *_ = self._litellm.get_llm_provider(model=model, api_base=base)
        except Exception:  # LiteLLM raises its own BadRequestError, and others for odd names
            return None
        return name if str(name).startswith(f"{provider}/") else f"{provider}/{name}"

    def facts(self, *names: str) -> dict[str, Any]:
        """What the table says of the first of the names that it has."""
        for name in names:
            for spelling in (name, name.partition("/")[2]):
                if spelling and (raw := self._table.get(spelling)) is not None:
                    entry = msgspec.json.decode(raw)
                    return entry if isinstance(entry, dict) else {}
        return {}


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
