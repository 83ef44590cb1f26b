"""What LiteLLM knows: whose a model is, what it does, and whose key a variable holds."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..providers import PROVIDERS, find_maker, list_providers

Table = Mapping[str, msgspec.Raw]

KIND_WORDS = (
    (re.compile(r"embed|\bbge-|\be5-|\bgte-|minilm", re.IGNORECASE), "embedding"),
    (re.compile(r"rerank", re.IGNORECASE), "rerank"),
    (re.compile(r"whisper|transcribe", re.IGNORECASE), "audio_transcription"),
    (re.compile(r"\btts\b|-tts\b|text-to-speech|\bspeech", re.IGNORECASE), "audio_speech"),
    (re.compile(r"dall-e|gpt-image|stable-diffusion|imagen|\bflux\b", re.IGNORECASE), "image_generation"),
    (re.compile(r"\brealtime\b", re.IGNORECASE), "realtime"),
    (re.compile(r"\bsora\b|\bveo-", re.IGNORECASE), "video_generation"),
    (re.compile(r"\bocr\b", re.IGNORECASE), "ocr"),
    (re.compile(r"moderation", re.IGNORECASE), "moderation"),
)
"""What a model is by its name, where neither the file nor LiteLLM's table says it."""
AZURE = ("azure", "azure_ai", "azure_text")
INFERENCE_PROFILE = re.compile(r"^(us|eu|apac|global|jp|au|ca|us-gov)\.")
"""The region before a model of Bedrock, which is the same model in each."""


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
        head, slash, rest = model.partition("/")
        if slash and head in self._providers:
            return model if rest else None
        api_base = params.get("api_base") or params.get("base_url")
        found = self._ask_litellm(model, api_base)
        # With an address of its own the name says nothing: any server may call its model `gpt-4-mine`.
        if found is None and not api_base:
            found = (maker := find_maker(model)) and f"{maker}/{model}"
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
