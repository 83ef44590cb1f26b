"""From a configuration to the expert it describes."""

from ..config import ExpertConfig, TimeoutConfig
from ..runners import Runners
from .litellm import LiteLLMExpert
from .local import LocalExpert
from .openai_compatible import openai_expert
from .providers import passes_through
from .tool import ToolExpert, load_tool
from .types import Expert
from .upstream import Transport


def build_expert(
    config: ExpertConfig, timeouts: TimeoutConfig, transport: Transport, runners: Runners
) -> Expert:
    """The expert that a configuration describes; `timeouts` hold where it has none of its own.

    Raises:
        ValueError: nobody says where it is.
    """
    patience = config.timeouts or timeouts
    if config.tool is not None:
        return ToolExpert(config.name, load_tool(config.tool))
    if config.runner is not None:
        return LocalExpert(config, patience, transport, runners)
    if passes_through(config.provider):
        return openai_expert(config, patience, transport)
    return LiteLLMExpert(config, patience)
