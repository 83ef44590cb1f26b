"""Symbolic-MoE: which skills a query asks for, which experts have them, and whom to recruit."""

from .keywords import (
    N_SAMPLES,
    SAMPLING_TEMPERATURE,
    Catalogue,
    Tagger,
    consistent_keywords,
    keyword_prompt,
    keywords,
    parse_keywords,
)
from .profiles import (
    Aggregators,
    Posteriors,
    best,
    code_probabilities,
    counts,
    draw_with_replacement,
    enough,
    lead,
    paper_probabilities,
    trim_rare,
)

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
    "draw_with_replacement",
    "enough",
    "keyword_prompt",
    "keywords",
    "lead",
    "paper_probabilities",
    "parse_keywords",
    "trim_rare",
]
