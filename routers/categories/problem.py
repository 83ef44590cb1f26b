"""From an outcome table to the mapping problem: what each expert scores, costs and takes in each category."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import DataError
from ..outcomes import OutcomeTable
from ..types import Floats
from .budget import MappingProblem
from .scores import CategoryScores
from .taxonomy import Taxonomy

_STRENGTH = 20.0
"""Outcomes an expert's overall mean counts for in a category."""
_UNCERTAIN = 0.05
"""Least share of the queries reckoned to be general: those too uncertain for any category."""
_MIN_COUNT = 5

Pair = tuple[str, str]


def mapping_problem(
    table: OutcomeTable,
    tags: Sequence[str],
    *,
    size: Mapping[str, float] | None = None,
    memory: Mapping[str, float] | None = None,
    pinned: Iterable[Pair] = (),
    forbidden: Iterable[Pair] = (),
) -> MappingProblem:
    """Categories are the tags that at least five queries bear, and `general`; means are shrunk.

    tags: one a query; size, memory: by expert, of those known

    Raises:
        DataError: no query bears a tag, or a pair or size names a category or expert that is not there.
    """
    if not any(tags):
        raise DataError("no query has a task: there are no categories to map")
    taxonomy = Taxonomy.of(tags, _MIN_COUNT)
    labels = taxonomy.labels(tags)

    def shrunk(values: Floats) -> Floats:
        return CategoryScores.of(values, labels, len(taxonomy), _STRENGTH).value

    share = np.bincount(labels[labels >= 0], minlength=len(taxonomy)).astype(np.float64)
    share /= share.sum()
    share[-1] = max(share[-1], _UNCERTAIN)
    return MappingProblem(
        categories=taxonomy.names,
        experts=table.experts,
        share=share / share.sum(),
        score=shrunk(table.score),
        cost_usd=shrunk(table.cost_usd),
        latency_s=shrunk(table.latency_s),
        size=_column(table.experts, size or {}, "size"),
        memory=_column(table.experts, memory or {}, "memory"),
        pinned=_pairs(pinned, taxonomy, table.experts),
        forbidden=_pairs(forbidden, taxonomy, table.experts),
    )


def _column(experts: Sequence[str], known: Mapping[str, float], what: str) -> Floats:
    _known(known, experts, f"{what}: no expert")
    return np.array([known.get(name, np.nan) for name in experts])


def _pairs(pairs: Iterable[Pair], taxonomy: Taxonomy, experts: Sequence[str]) -> frozenset[Pair]:
    found = frozenset(pairs)
    _known((category for category, _ in found), taxonomy.names, "no category")
    _known((expert for _, expert in found), experts, "no expert")
    return found


def _known(names: Iterable[str], there: Sequence[str], what: str) -> None:
    for name in names:
        if name not in there:
            raise DataError(f"{what} {name!r}; there are {', '.join(there)}")
