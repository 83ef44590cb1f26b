"""Embedding models served here: the base, which reads every document, and experts that read queries."""

from .choice import TextChoice
from .pool import Chosen, EmbedderPool, Reading, list_embedders
from .turns import TextQueue

__all__ = ["Chosen", "EmbedderPool", "Reading", "TextChoice", "TextQueue", "list_embedders"]
