"""Chooses an embedding expert by pilot embeddings: centroids of the queries that each expert did best on."""

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
