"""The closed list of categories, the general one last."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Floats, Ints

GENERAL = "general"
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Names of the categories; the last is `general`, where queries go that belong nowhere else."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, tags: Sequence[str], min_count: int = 1) -> "Taxonomy":
        """The tags borne by at least `min_count` queries, in alphabetical order, and `general`."""
        counts = Counter(tag for tag in tags if tag and tag != GENERAL)
        return cls((*sorted(tag for tag, n in counts.items() if n >= min_count), GENERAL))

    def __len__(self) -> int:
        return len(self.names)

    def labels(self, tags: Sequence[str]) -> Ints:
        """(n_queries,) place of each tag: a tag too rare for a category is general, no tag is `UNKNOWN`."""
        place = {name: n for n, name in enumerate(self.names)} | {"": UNKNOWN}
        return np.array([place.get(tag, len(self) - 1) for tag in tags], np.int64)


@dataclass(frozen=True, slots=True)
class CategoryScores:
    """What was measured, and what it says; NaN where nothing was.

    value, count: (n_categories, n_experts); overall: (n_experts,) over all queries
    """

    value: Floats
    count: Floats
    overall: Floats

    @classmethod
    def of(cls, targets: Floats, labels: Ints, n_categories: int, strength: float) -> "CategoryScores":
        """(n_c·s̄_ce + κ·s̄_e) / (n_c + κ) with κ = strength; without κ, s̄_e where nothing was measured.

        targets: (n_queries, n_experts), NaN where unmeasured; labels: (n_queries,), negative where unknown
        """
        known = ~np.isnan(targets)
        filled = np.where(known, targets, 0.0)
        total = known.sum(axis=0)
        overall = np.divide(filled.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
        belongs = (labels == np.arange(n_categories)[:, None]).astype(np.float64)
        count = belongs @ known  # (n_categories, n_experts)
        # Sums of differences from the mean: equal targets give exactly their value.
        above = belongs @ np.where(known, targets - overall, 0.0)
        pull = np.divide(above, count + strength, out=np.zeros_like(above), where=count + strength > 0)
        return cls(overall + pull, count, overall)
