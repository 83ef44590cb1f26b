"""Choosing among experts by where the queries lie on which each did best: pilot embeddings."""

from .pilots import PilotIndex, PilotLibrary, PilotRule, winner_shares
from .selection import EmbeddingSelection, dataset_oracle, instance_oracle

__all__ = [
    "EmbeddingSelection",
    "PilotIndex",
    "PilotLibrary",
    "PilotRule",
    "dataset_oracle",
    "instance_oracle",
    "winner_shares",
]
