"""Experts: remote, local or a tool, behind one protocol."""

from .build import ExpertFactory, build_expert
from .tool import ToolExpert, load_tool
from .types import Call, Expert, Fields, Reply, UpstreamError

__all__ = [
    "Call",
    "Expert",
    "ExpertFactory",
    "Fields",
    "Reply",
    "ToolExpert",
    "UpstreamError",
    "build_expert",
    "load_tool",
]
