"""Providers that speak OpenAI's protocol themselves: where they are, and where their keys are looked for."""

import os
from dataclasses import dataclass


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
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY"),
}
"""Named as LiteLLM names them; with an `api_base` of their own they are OpenAI's protocol all the same."""


def passes_through(provider: str) -> bool:
    """Whether a provider's experts are called directly, without LiteLLM."""
    return provider in PROVIDERS


def api_base_of(provider: str, configured: str | None) -> str | None:
    """The address to use; None where neither the configuration nor the provider gives one."""
    known = PROVIDERS.get(provider)
    return configured or (known.api_base if known else None)


def api_key_of(provider: str, configured: str | None, api_base: str | None) -> str | None:
    """The configured key; the environment's for the provider's own address only: it goes nowhere else."""
    known = PROVIDERS.get(provider)
    # One provider's key never goes to another address: the environment's belongs to its own.
    if configured is not None or known is None or known.key_variable is None or api_base is not None:
        return configured
    return os.environ.get(known.key_variable)
