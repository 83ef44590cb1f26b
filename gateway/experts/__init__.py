"""Whoever answers: remote, local or a tool, behind one protocol."""

from .build import build_expert
from .tool import ToolExpert, shown_to_tools, solver_of
from .types import Call, Expert, Fields, Reply, UpstreamError

__all__ = [
    "Call",
    "Expert",
    "Fields",
    "Reply",
    "ToolExpert",
    "UpstreamError",
    "build_expert",
    "shown_to_tools",
    "solver_of",
]
