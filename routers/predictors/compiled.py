"""A fitted blend as `routers/_compiled.c` reads it: all members, novelty and forest in one call."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..features import Features, compiled
from ..protocols import Predictor
from ..types import Estimate, Floats, Floats32
from .linear import Linear
from .neighbours import KNN, Clusters, Space

_WORDS, _NEIGHBOURS, _CLUSTERS, _CONTENT = range(4)
_MOST_MEMBERS = 8

_Member = tuple[int, int, int, int, float, float, tuple[NDArray[Any], ...]]
"""Kind, rows, its first product, how many, a number and a prior that mean what the kind says, and arrays."""


def _to_doubles(values: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(values, np.float64)


def _to_floats(values: NDArray[Any]) -> Floats32:
    return np.ascontiguousarray(values, np.float32)


class CompiledBlend:
    """Predicts what a `Blend` does, up to the order of sums; a query's answer depends on no other's."""

    def __init__(
        self,
        space: Space,
        members: Sequence[Predictor],
        shares: Floats,
        mean: Floats | None,
        fades: tuple[float, float, float, float],
        *,
        novelty: tuple[Floats32, Floats32] | None,
        forest: tuple[NDArray[Any], Floats, Floats32, float] | None,
    ) -> None:
        """Args:
        mean: (n_experts,) what is left of a strange query, None where nothing tells strange ones.
        novelty: rates and pulls of `ClusterNovelty`.
        forest: columns and thresholds (n_trees, depth), leaves, and the unit of `Stack`.

        Raises:
            ValueError: a member is of a kind, or of a size, that is not compiled.
        """
        self._pulls: list[Floats32] = []
        self._space = space
        if compiled is None or space.weight != 1.0 or len(members) > _MOST_MEMBERS:
            raise ValueError("the compiled blend knows form at full weight, and few members")
        self._width = 0
        laid = tuple(self._lay_out(member) for member in members)
        mean = laid[0][-1][0] if mean is None else _to_doubles(mean)
        self._n_experts = len(mean)
        place, rates = self._place(novelty[1]) if novelty else 0, novelty[0] if novelty else None
        dim = self._width - len(space.scale.mean)
        pulls = np.concatenate(self._pulls, axis=1) if self._pulls else np.zeros((self._width, 0), np.float32)
        scale = space.scale
        trees = None
        if forest is not None:
            column, threshold, leaf, unit = forest
            asked = np.ascontiguousarray(column, np.int64), _to_doubles(threshold), _to_floats(leaf)
            trees = (*column.shape, unit, asked)
        self._given = (
            (dim, len(scale.mean), self._n_experts, pulls.shape[1], *fades),
            (_to_floats(scale.mean), _to_floats(scale.gain), _to_floats(pulls), _to_doubles(shares), mean),
            laid,
            trees,
            None if rates is None else (len(rates), place, (_to_floats(rates),)),
        )
        self._tells_novelty = novelty is not None
        del self._pulls
        self._blend = compiled.Blend(*self._given)

    def __getstate__(self) -> dict[str, Any]:
        """What another process makes the compiled blend of, when heads are fitted there."""
        return {name: value for name, value in self.__dict__.items() if name != "_blend"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        assert compiled is not None  # noqa: S101 (both processes run one installation)
        self._blend = compiled.Blend(*self._given)

    def predict(self, features: Features) -> Estimate:
        shape = len(features), self._n_experts
        mean, std, novelty = np.empty(shape), np.empty(shape), np.empty(len(features))
        lexical = np.ascontiguousarray(features.lexical, np.int64)
        dense, form = _to_floats(features.dense), _to_doubles(features.form)
        self._blend.predict(dense, lexical, form, mean, std, novelty)
        return Estimate(mean, std, novelty if self._tells_novelty else None)

    def _place(self, pulls: Floats32) -> int:
        """Where these columns (dim + n_form, n_columns) are among the products of a query's unit vector."""
        first = sum(len(block.T) for block in self._pulls)
        self._pulls.append(pulls)
        self._width = len(pulls)
        return first

    def _lay_out(self, member: Predictor) -> _Member:
        """Raises: ValueError: it is not compiled."""
        found = None
        if isinstance(member, Linear):
            found = self._lay_out_linear(member)
        elif isinstance(member, Clusters) and member.space_.equals(self._space):
            n, place = len(member.centroids_), self._place(member.pulls)
            arrays = _to_doubles(member.mean_), _to_doubles(member.mean_), _to_doubles(member.table)
            found = _CLUSTERS, n, place, n, member.sharpest, 0.0, arrays
        elif isinstance(member, KNN) and member.space_.equals(self._space):
            found = self._lay_out_neighbours(member)
        if found is None:
            raise ValueError(f"{type(member).__name__} is not compiled with these settings")
        return found

    def _lay_out_linear(self, member: Linear) -> _Member | None:
        said = _to_doubles(member.mean_), _to_doubles(member.std_)
        reads = bool(member.dense), bool(member.form), bool(member.lexical)
        lexicon = member.lexicon_
        if reads == (False, False, True) and len(lexicon.ids):
            arrays = *said, lexicon.place, lexicon.values, member.lexical_
            return _WORDS, len(lexicon.ids), 0, 0, len(lexicon.place) - 1, 0.0, arrays
        if reads == (True, True, False) and member.form_scale_.key == self._space.scale.key:
            return _CONTENT, 1, 0, 0, 0.0, 0.0, (*said, _to_doubles(member.weights_))
        return None

    def _lay_out_neighbours(self, member: KNN) -> _Member | None:
        """None where neighbours are looked for in cells."""
        n, axes = len(member.residual_), member.space_.axes
        if member.cells_ is not None or not n or member.k < 1:
            return None
        if not axes.size:  # all directions, as they are
            axes = np.eye(len(member.columns_), dtype=np.float32)
        rows = _to_floats(member.columns_), _to_floats(member.residual_)
        known = () if member.complete_ else (_to_floats(member.known_),)
        arrays = _to_doubles(member.mean_), _to_doubles(member.std_), *rows, *known
        return _NEIGHBOURS, n, self._place(axes), axes.shape[1], member.k, member.prior, arrays
