"""What the pool looks like to a router: the configuration's experts, with prices and abilities looked up.

Prices, windows and abilities come from the table that LiteLLM carries. It is read as a file:
importing LiteLLM costs seconds of CPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from routers import ExpertProfile, estimate_tokens, parameters_b

from ..config import Config, ExpertConfig
from ..openai.messages import TOKENS_PER_TURN

TABLE = "model_prices_and_context_window_backup.json"
ABILITIES = {
    "supports_vision": "vision",
    "supports_audio_input": "audio",
    "supports_pdf_input": "files",
    "supports_video_input": "video",
    "supports_function_calling": "tools",
    "supports_response_schema": "json",
    "supports_audio_output": "audio_output",
}
MAX_USD_PER_TOKEN = 0.1
"""Above this an entry is a slip of units: the dearest models cost under a thousandth of it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the table knows of a model; None is unknown."""

    input_usd_per_token: float | None = None
    output_usd_per_token: float | None = None
    cached_input_usd_per_token: float | None = None
    written_usd_per_token: float | None = None
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
        written_usd_per_token=_price(entry.get("cache_creation_input_token_cost")),
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
    # The table is edited by hand upstream; a slip must read as unknown, never as free.
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MAX_USD_PER_TOKEN
    return float(value) if good else None


def _count(value: Any) -> int | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1
    return int(value) if good else None


UNKNOWN = ModelFacts()
PLAIN = frozenset[str]()
OURS = ("local", "region", "tool")
"""Labels derived from other keys of the configuration; `labels` cannot override them."""


def profiles(config: Config) -> tuple[ExpertProfile, ...]:
    """The experts that `auto` chooses from, in the file's order; embedding models are not among them."""
    return tuple(profile_of(expert) for expert in config.experts if not expert.embeds)


def profile_of(expert: ExpertConfig) -> ExpertProfile:
    """One expert as routing sees it; what the configuration says wins over the table."""
    facts = (facts_of(expert.model) if _in_table(expert) else None) or UNKNOWN
    free = 0.0 if expert.is_local else None
    return ExpertProfile(
        name=expert.name,
        model=expert.model,
        input_usd_per_token=_first(expert.input_cost_per_token, facts.input_usd_per_token, free),
        output_usd_per_token=_first(expert.output_cost_per_token, facts.output_usd_per_token, free),
        cached_input_usd_per_token=_first(
            expert.cached_input_cost_per_token,
            # The table's price of a cached token belongs to the table's price of a token.
            facts.cached_input_usd_per_token if expert.input_cost_per_token is None else None,
        ),
        context_tokens=expert.context_window or _runner_window(expert) or facts.context_tokens,
        abilities=_abilities(expert, facts),
        content_parts=expert.content_parts,
        labels=frozenset(_labels(expert)),
        quality=expert.quality,
        latency_s=expert.latency_s,
        parameters_b=_first(expert.parameters_b, parameters_b(expert.model)),
        released=expert.released,
        ratings=expert.ratings.as_pairs(),
        prefix_tokens=sum(TOKENS_PER_TURN + estimate_tokens(turn) for turn in _prefix(expert)),
        max_output_tokens=expert.max_output_tokens,
    )


def _prefix(expert: ExpertConfig) -> Iterator[str]:
    """What is put before every conversation with it."""
    if expert.system:
        yield expert.system
    for example in expert.examples:
        yield example.user
        yield example.assistant


def _in_table(expert: ExpertConfig) -> bool:
    """A served model is the provider's only where the provider serves it: a local one has no list price."""
    return not expert.is_local and not (
        expert.context_window
        and expert.abilities is not None
        and expert.input_cost_per_token is not None
        and expert.output_cost_per_token is not None
    )


def _runner_window(expert: ExpertConfig) -> int | None:
    return expert.runner.context_tokens if expert.runner else None


def _abilities(expert: ExpertConfig, facts: ModelFacts) -> frozenset[str] | None:
    if expert.abilities is not None:
        return frozenset(expert.abilities)
    return PLAIN if expert.runner or expert.tool else facts.abilities


def _labels(expert: ExpertConfig) -> Iterator[tuple[str, str]]:
    yield "local", "true" if expert.is_local else "false"
    if expert.tool:
        yield "tool", "true"
    regions = {place.region for place in expert.effective_deployments()}
    if len(regions) == 1 and (region := regions.pop()):
        yield "region", region
    yield from ((key, value) for key, value in expert.labels.items() if key not in OURS)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
