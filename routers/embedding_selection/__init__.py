"""Choosing among experts by where the queries lie on which each did best: pilot embeddings."""

from .pilots import PilotIndex, PilotLibrary, winners

__all__ = ["PilotIndex", "PilotLibrary", "winners"]
