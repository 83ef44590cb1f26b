"""Predicting what each expert makes of a query: vocabulary, embedders, predictors, artifacts.

Importing this package loads numpy and nothing heavier; embedders and fitting load what they need when used.
"""

from .errors import ArtifactError, DataError, EmbedderError, RoutersError
from .protocols import Arrays, Embedder, Predictor
from .types import (
    Bools,
    Estimate,
    ExpertProfile,
    Features,
    Floats,
    Floats32,
    Ints,
    Prediction,
    Query,
    Tier,
)

__all__ = [
    "ArtifactError",
    "Arrays",
    "Bools",
    "DataError",
    "Embedder",
    "EmbedderError",
    "Estimate",
    "ExpertProfile",
    "Features",
    "Floats",
    "Floats32",
    "Ints",
    "Prediction",
    "Predictor",
    "Query",
    "RoutersError",
    "Tier",
]
