"""The closed list of categories, the general one last."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..types import Ints

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
