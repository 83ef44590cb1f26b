"""Providers of language models, played by their documented rules on a port of this machine."""

from .anthropic import ANTHROPIC
from .bedrock import BEDROCK
from .gemini import GEMINI
from .openai import AZURE, OPENAI_LIKE, OpenAIRules
from .server import ProviderServer, Request, Response
from .vertex import VERTEX, VertexRules

__all__ = [
    "ANTHROPIC",
    "AZURE",
    "BEDROCK",
    "GEMINI",
    "OPENAI_LIKE",
    "VERTEX",
    "OpenAIRules",
    "ProviderServer",
    "Request",
    "Response",
    "VertexRules",
]
