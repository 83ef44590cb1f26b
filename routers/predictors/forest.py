"""Oblivious trees: one split per level. A forest of them is read in a handful of array operations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from ..protocols import Arrays
from ..types import Bools, Features, Floats, Floats32, Ints
from .targets import centre_targets, expert_order, query_order

MAX_DEPTH = 8
"""The answers along a path are one byte."""
_MAX_ASKED = 6000
"""Of more rows than this only some choose the questions; all fill the leaves."""


@dataclass(frozen=True, slots=True)
class ForestSettings:
    """How a forest grows.

    n_trees, depth: how many trees, and questions in each, at most `MAX_DEPTH`
    rate: share of what a tree learned that counts; the next learns what is left
    n_tries: questions drawn at random per level, of which the one that tells most is asked
    prior: how many outcomes of 0 are in a leaf from the start
    """

    n_trees: int = 100
    depth: int = 5
    rate: float = 0.07
    n_tries: int = 16
    prior: float = 60.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Forest:
    """The sum of boosted oblivious trees, their questions drawn at random.

    column, threshold: (n_trees, depth) the question of each level, whether a row has more there
    leaf: (n_trees · 2^depth, n_outputs) what is answered

    Reference: gradient boosting (Friedman, 2001); oblivious trees as in CatBoost (arXiv 1706.09516);
    randomised splits (extremely randomised trees, Geurts et al., 2006).
    Differs: one forest for all outputs; thresholds are drawn at random and the best of `n_tries` is kept.
    """

    column: Ints
    threshold: Floats
    leaf: Floats32
    _asked: tuple[Ints, Floats, Ints, Floats32] = field(init=False, repr=False, compare=False)
    """All questions in one row, eight a tree, so that a tree's answers are a byte; where its leaves start."""

    def __post_init__(self) -> None:
        n_trees, depth = self.column.shape
        before = ((0, 0), (MAX_DEPTH - depth, 0))
        columns = np.pad(self.column, before).ravel()
        edges = np.pad(self.threshold, before, constant_values=np.inf).ravel()  # nothing has more
        start, ones = np.arange(n_trees) << depth, np.ones(n_trees, np.float32)
        object.__setattr__(self, "_asked", (columns, edges, start, ones))

    @classmethod
    def grow(cls, rows: Floats, residual: Floats, known: Bools, how: ForestSettings) -> "Forest":
        """Learn residual (n_rows, n_outputs), which is 0 where unknown, from rows (n_rows, n_columns)."""
        low, span = rows.min(axis=0), np.ptp(rows, axis=0)
        rng = np.random.default_rng(how.seed)
        column = np.empty((how.n_trees, how.depth), np.int64)
        threshold = np.empty((how.n_trees, how.depth))
        leaf = np.empty((how.n_trees, 2**how.depth, residual.shape[1]))
        left, asked = residual.copy(), slice(None, None, 1 + len(rows) // _MAX_ASKED)
        for tree in range(how.n_trees):
            tally = _ResidualSums(left[asked], known[asked], how.prior)
            place = np.zeros(len(rows[asked]), np.int64)
            for level in range(how.depth):
                tried = rng.integers(rows.shape[1], size=how.n_tries)
                edge = low[tried] + rng.random(how.n_tries) * span[tried]
                places = 2 * place + (rows[asked, tried] > edge).T
                best = tally.best_partition(places, 2 ** (level + 1))
                place = places[best]
                column[tree, level], threshold[tree, level] = tried[best], edge[best]
            place = _places(rows, column[tree], threshold[tree])
            leaf[tree] = how.rate * _ResidualSums(left, known, how.prior).values(place, 2**how.depth)
            left -= np.where(known, leaf[tree][place], 0.0)
        return cls(column, threshold, leaf.reshape(-1, residual.shape[1]).astype(np.float32))

    def read(self, rows: Floats) -> Floats:
        """(n_rows, n_outputs); a row's answer does not depend on its company."""
        columns, edges, start, ones = self._asked
        result = np.empty((len(rows), self.leaf.shape[1]))
        for row, answer in zip(rows, result, strict=True):
            place = np.packbits(row.take(columns) > edges) + start
            answer[:] = ones.dot(self.leaf.take(place, axis=0))  # adds faster than a sum does
        return result

    def rescale(self, column: Ints, centre: Floats, unit: Floats) -> "Forest":
        """The same forest for rows whose columns stand elsewhere and are not yet centred and scaled.

        column: (n_columns,) where each is now; centre, unit: (n_columns,) as it is now
        """
        threshold = centre[self.column] + unit[self.column] * self.threshold
        return Forest(column[self.column], threshold, self.leaf)

    def arrays(self) -> Arrays:
        return {"column": self.column, "threshold": self.threshold, "leaf": self.leaf}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "Forest":
        return cls(arrays["column"], arrays["threshold"], arrays["leaf"])


def _places(rows: Floats, column: Ints, threshold: Floats) -> Ints:
    """(n_rows,) the leaf of one tree that each row falls into."""
    places: Ints = (rows[:, column] > threshold) @ (1 << np.arange(len(column))[::-1])
    return places


class _ResidualSums:
    """Sums of residuals by leaf, from which the gain of a partition follows."""

    def __init__(self, residual: Floats, known: Bools, prior: float) -> None:
        self._residual = np.ascontiguousarray(residual.T)
        self._known = None if known.all() else np.ascontiguousarray(known.T.astype(np.float64))
        self._prior = prior

    def best_partition(self, places: Ints, n_places: int) -> int:
        """Which of the partitions (n_tries, n_rows) explains most of the residuals' squares."""
        n_tries = len(places)
        flat = (places + n_places * np.arange(n_tries)[:, None]).ravel()
        explained = np.zeros(n_tries)
        for total, count in self._sums(flat, n_tries, n_tries * n_places):
            explained += (total**2 / (count + self._prior)).reshape(n_tries, n_places).sum(axis=1)
        return int(explained.argmax())

    def values(self, place: Ints, n_places: int) -> Floats:
        """(n_places, n_outputs) shrunk means."""
        columns = [total / (count + self._prior) for total, count in self._sums(place, 1, n_places)]
        return np.stack(columns, axis=1)

    def _sums(self, flat: Ints, n_tries: int, n_places: int) -> Iterator[tuple[Floats, Floats]]:
        """Per output the sum of residuals in each place, and how many there are."""
        count = np.bincount(flat, minlength=n_places).astype(np.float64)
        for e, residual in enumerate(self._residual):
            if self._known is not None:
                count = _sum_by_place(flat, np.tile(self._known[e], n_tries), n_places)
            yield _sum_by_place(flat, np.tile(residual, n_tries), n_places), count


def _sum_by_place(flat: Ints, weights: Floats, n_places: int) -> Floats:
    return np.asarray(np.bincount(flat, weights, n_places), np.float64)


@dataclass(frozen=True, slots=True)
class Stack:
    """A forest that corrects a prediction, from the form of the text and what each member said.

    unit: the spread of the targets, in which the forest answers
    """

    unit: float
    forest: Forest

    @classmethod
    def fit(
        cls, features: Features, members: Sequence[Floats], base: Floats, targets: Floats, how: ForestSettings
    ) -> "Stack | None":
        """From out-of-fold predictions (n_queries, n_experts), the members' and the one to be corrected.

        None where the targets do not vary.
        """
        parts = centre_targets(targets)
        unit = float(np.sqrt((parts.residual**2).sum() / max(parts.known.sum(), 1)))
        if unit < 1e-9:
            return None
        n_form, n_experts = features.form.shape[1], targets.shape[1]
        # Splits are drawn from columns in a canonical order: the order of the experts does not matter;
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
        return cls(unit, Forest.grow(rows, residual, known, how).rescale(column, centre, scale))

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


def hash_folds(features: Features, n_folds: int) -> Ints:
    """(n_queries,) fold by a hash of all features: equal queries share a fold, in any order."""
    parts = zip(features.dense, features.lexical, features.form, strict=True)
    return np.array([crc32(b"".join(map(bytes, part))) % n_folds for part in parts], np.int64)
