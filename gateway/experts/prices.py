"""Prices, windows and abilities of known models, from the table that LiteLLM carries.

The table is read as a file, without importing LiteLLM, and only when an expert needs it. Every entry is
validated: what is missing, negative or no number is unknown (None), never zero.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

TABLE = "model_prices_and_context_window_backup.json"
ABILITIES = {
    "supports_vision": "vision",
    "supports_function_calling": "tools",
    "supports_response_schema": "json",
}
MAX_USD_PER_TOKEN = 0.1
"""Above this an entry is a slip of units: the dearest models cost under a thousandth of it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the table knows of a model; None is unknown."""

    input_usd_per_token: float | None = None
    output_usd_per_token: float | None = None
    cached_input_usd_per_token: float | None = None
    reasoning_usd_per_token: float | None = None
    context_tokens: int | None = None
    abilities: frozenset[str] | None = None
    embeds: bool = False


def facts_of(model: str) -> ModelFacts | None:
    """What is known of `provider/model`, or None where the table has no such entry."""
    table = price_table()
    for name in _spellings(model):
        if (raw := table.get(name)) is not None and (facts := _facts(raw, model)) is not None:
            return facts
    return None


@cache
def price_table() -> dict[str, msgspec.Raw]:
    """The raw entries by name; empty where LiteLLM or its table is missing or damaged."""
    path = table_path()
    try:
        return msgspec.json.Decoder(dict[str, msgspec.Raw]).decode(path.read_bytes()) if path else {}
    except (OSError, msgspec.MsgspecError):
        return {}


def table_path() -> Path | None:
    """Where the table lies, without importing LiteLLM."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / TABLE
    return path if path.is_file() else None


def _spellings(model: str) -> tuple[str, ...]:
    """As the table may write it: with its provider, or without."""
    bare = model.partition("/")[2]
    return (model, bare) if bare else (model,)


def _facts(raw: msgspec.Raw, model: str) -> ModelFacts | None:
    try:
        entry = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    if not isinstance(entry, dict) or not _same_provider(entry, model):
        return None
    known = any(key in entry for key in ABILITIES)
    return ModelFacts(
        input_usd_per_token=_price(entry.get("input_cost_per_token")),
        output_usd_per_token=_price(entry.get("output_cost_per_token")),
        cached_input_usd_per_token=_price(entry.get("cache_read_input_token_cost")),
        reasoning_usd_per_token=_price(entry.get("output_cost_per_reasoning_token")),
        context_tokens=_count(entry.get("max_input_tokens")) or _count(entry.get("max_tokens")),
        abilities=frozenset(word for key, word in ABILITIES.items() if entry.get(key) is True)
        if known
        else None,
        embeds=entry.get("mode") == "embedding",
    )


def _same_provider(entry: dict[str, Any], model: str) -> bool:
    """Whether a bare name found in the table is this provider's and not another's model of the same name."""
    provider = model.partition("/")[0] if "/" in model else None
    listed = str(entry.get("litellm_provider", ""))
    return provider is None or listed == provider or listed.startswith((provider + "-", provider + "_"))


def _price(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_USD_PER_TOKEN
    return float(value) if good else None


def _count(value: Any) -> int | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1
    return int(value) if good else None
