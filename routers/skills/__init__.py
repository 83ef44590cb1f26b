"""Symbolic-MoE: which skills a query asks for, which experts have them, and whom to recruit."""

from .catalogue import Catalogue, Tagger
from .keywords import (
    N_SAMPLES,
    SAMPLING_TEMPERATURE,
    consistent_keywords,
    keyword_prompt,
    keywords,
    parse_keywords,
)
from .profiles import Posteriors, code_probabilities, counts, lead, paper_probabilities
from .recruiting import Aggregators, best, enough, trimmed, with_replacement

__all__ = [
    "N_SAMPLES",
    "SAMPLING_TEMPERATURE",
    "Aggregators",
    "Catalogue",
    "Posteriors",
    "Tagger",
    "best",
    "code_probabilities",
    "consistent_keywords",
    "counts",
    "enough",
    "keyword_prompt",
    "keywords",
    "lead",
    "paper_probabilities",
    "parse_keywords",
    "trimmed",
    "with_replacement",
]
