"""From a configuration to the expert it describes."""

from collections.abc import Callable
from importlib.metadata import entry_points

from ..config import Config, ExpertConfig, TimeoutConfig
from ..config.providers import EXPERT_GROUP, passes_through
from ..prompts.wrappings import WrappingGrammar
from ..runners import Runners
from ..runners.launchers import USUAL_SLOTS, VLLM_SLOTS
from .anthropic import AnthropicExpert
from .http_client import Transport
from .litellm import RULES, LiteLLMExpert
from .local import LocalExpert
from .openai_compatible import openai_expert
from .tool import ToolExpert, load_tool
from .types import Expert

ExpertFactory = Callable[[ExpertConfig, TimeoutConfig], Expert]
"""What such an entry point loads. It may raise ValueError for a configuration that it cannot use."""


def build_expert(
    config: ExpertConfig,
    timeouts: TimeoutConfig,
    transport: Transport,
    runners: Runners,
    grammar: WrappingGrammar | None = None,
) -> Expert:
    """The expert that a configuration describes; `timeouts` hold where it has none of its own.

    Raises:
        ValueError: its address is neither given nor known, or its factory refuses the configuration.
    """
    limits = config.timeouts or timeouts
    if config.tool is not None:
        return ToolExpert(config.name, load_tool(config.tool), grammar)
    if config.runner is not None:
        return LocalExpert(config, limits, transport, runners)
    if passes_through(config.provider):
        return openai_expert(config, limits, transport)
    if config.provider == "anthropic":
        RULES.limits = transport.limits
        return AnthropicExpert(config, limits, transport)
    # After the built-in providers, so that no package can redirect their keys; before LiteLLM, which knows
    # more than a hundred providers, so that a package can serve one of them better.
    if (factory := find_expert_factory(config.provider)) is not None:
        return factory(config, limits)
    RULES.limits = transport.limits
    return LiteLLMExpert(config, limits)


def find_expert_factory(provider: str) -> ExpertFactory | None:
    """The factory that an installed package offers for a provider, or None."""
    for point in entry_points(group=EXPERT_GROUP, name=provider):
        factory: ExpertFactory = point.load()
        return factory
    return None


def read_parallel_limits(config: Config) -> dict[str, int | None]:
    """How many calls each expert serves at a time; None where there is no bound."""
    return {expert.name: _sum_parallel(expert) for expert in config.experts}


def _sum_parallel(expert: ExpertConfig) -> int | None:
    """The sum over its deployments; None as soon as one of them has no bound."""
    if expert.runner is not None:
        return expert.runner.n_parallel or (VLLM_SLOTS if expert.runner.engine == "vllm" else USUAL_SLOTS)
    bounds = [place.max_parallel for place in expert.effective_deployments()]
    known = [bound for bound in bounds if bound is not None]
    return sum(known) if len(known) == len(bounds) else None
