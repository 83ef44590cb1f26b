"""The template families, one module per ability."""

from . import (
    arithmetic,
    classification,
    code,
    completion,
    counting,
    dates,
    explanation,
    extraction,
    facts,
    formatting,
    listing,
    sorting,
    spelling,
    translation,
    units,
    word_problems,
    word_relations,
    yes_no,
)
from .shapes import Family

FAMILIES: tuple[Family, ...] = (
    *arithmetic.FAMILIES,
    *word_problems.FAMILIES,
    *units.FAMILIES,
    *dates.FAMILIES,
    *counting.FAMILIES,
    *facts.FAMILIES,
    *word_relations.FAMILIES,
    *completion.FAMILIES,
    *translation.FAMILIES,
    *spelling.FAMILIES,
    *yes_no.FAMILIES,
    *classification.FAMILIES,
    *extraction.FAMILIES,
    *sorting.FAMILIES,
    *formatting.FAMILIES,
    *listing.FAMILIES,
    *explanation.FAMILIES,
    *code.FAMILIES,
)
