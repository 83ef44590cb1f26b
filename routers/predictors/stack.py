"""What a forest makes of what other predictors said: whom to believe for which form of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from ..protocols import Arrays
from ..types import Features, Floats, Ints
from .canonical import expert_order, query_order
from .forest import Forest, Growth
from .targets import centred


@dataclass(frozen=True, slots=True)
class Stack:
    """A forest that corrects a prediction, from the form of the text and what each member said.

    unit: the spread of the targets, in which the forest answers
    """

    unit: float
    forest: Forest

    @classmethod
    def fit(
        cls, features: Features, members: Sequence[Floats], base: Floats, targets: Floats, how: Growth
    ) -> "Stack | None":
        """From out-of-fold predictions (n_queries, n_experts), the members' and the one to be corrected.

        None where the targets do not vary.
        """
        parts = centred(targets)
        unit = float(np.sqrt((parts.residual**2).sum() / max(parts.known.sum(), 1)))
        if unit < 1e-9:
            return None
        n_form, n_experts = features.form.shape[1], targets.shape[1]
        # Questions are drawn from columns in an order of their own, whatever order the experts came in,
        # and from predictions in units of the targets.
        queries = query_order(features)
        order = expert_order(targets[queries])
        experts = np.concatenate([n_form + n * n_experts + order for n in range(len(members))])
        column = np.concatenate((np.arange(n_form), experts))
        centre = np.concatenate((np.zeros(n_form), np.tile(parts.mean[order], len(members))))
        scale = np.where(np.arange(len(column)) < n_form, 1.0, unit)
        rows = np.concatenate((features.form, *members), axis=1)
        rows = (rows[queries][:, column] - centre) / scale
        known = parts.known[queries]
        residual = np.where(known, targets[queries] - base[queries], 0.0) / unit
        return cls(unit, Forest.grow(rows, residual, known, how).rescaled(column, centre, scale))

    def correction(self, rows: Floats) -> Floats:
        """(n_queries, n_experts) what to add.

        rows: (n_queries, n_form + n_members · n_experts or more) form, then each member's prediction
        """
        found = self.forest.read(rows)
        found *= self.unit
        return found

    def arrays(self) -> Arrays:
        return {**self.forest.arrays(), "unit": np.array(self.unit)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Stack":
        return cls(float(arrays["unit"]), Forest.from_arrays(arrays))


def hashed_folds(features: Features, n_folds: int) -> Ints:
    """(n_queries,) by all that is known of a query: equal ones stay together, in whatever order they come."""
    parts = zip(features.dense, features.lexical, features.form, strict=True)
    return np.array([crc32(b"".join(map(bytes, part))) % n_folds for part in parts], np.int64)
