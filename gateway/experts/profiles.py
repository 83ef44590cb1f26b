"""What the pool looks like to a router: the configuration's experts, with prices and abilities looked up."""

from collections.abc import Iterator

from routers import ExpertProfile, estimate_tokens, parameters_b

from ..config import Config, ExpertConfig
from ..requests.query import TOKENS_PER_TURN
from .prices import ModelFacts, facts_of

UNKNOWN = ModelFacts()
PLAIN = frozenset[str]()
OURS = ("local", "region", "tool")
"""Labels that say what the rest of the configuration says: nobody else's word counts."""


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
        context_tokens=expert.context_window or _runner_window(expert) or facts.context_tokens,
        abilities=_abilities(expert, facts),
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
