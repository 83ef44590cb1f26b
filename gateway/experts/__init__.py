"""Whoever answers: remote, local or a tool, behind one protocol."""

from .build import build_expert
from .types import Call, Expert, Fields, Reply, UpstreamError

__all__ = ["Call", "Expert", "Fields", "Reply", "UpstreamError", "build_expert"]
