"""Pilot embeddings: per expert and dataset the centroid of the queries on which that expert did best.

Kept as sums and masses, so that experts and datasets come and go without touching the others, and feedback
moves a centroid by adding to a sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from ..protocols import Arrays
from ..types import Bools, Floats, Floats32

PilotRule = Literal["paper", "improved"]

_NEVER = -1.0
"""Score of an expert without a pilot: no cosine is lower."""
_SHARPNESS = 10.0
"""Chosen by cross-validation, see evals/LOG.md."""


def winner_shares(scores: Floats, rule: PilotRule) -> Floats:
    """(n_queries, n_experts) share of each expert in having the best score; rows sum to 1, 0 without scores.

    scores: (n_queries, n_experts), NaN where unmeasured. `paper` gives a tie to the first expert, `improved`
    shares it evenly and counts only queries on which at least two experts were scored.
    """
    filled = np.where(np.isnan(scores), -np.inf, scores)  # an expert that was not tried wins nothing
    best = filled.max(axis=1, keepdims=True, initial=-np.inf)
    tied = (filled == best) & np.isfinite(best)
    if rule == "paper":
        tied &= np.cumsum(tied, axis=1) == 1  # the first of those tied
    elif scores.shape[1] > 1:
        tied &= ((~np.isnan(scores)).sum(axis=1) > 1)[:, None]
    share: Floats = tied / np.maximum(tied.sum(axis=1, keepdims=True), 1)
    return share


@dataclass(frozen=True, slots=True)
class PilotLibrary:
    """Pilots by dataset and expert; a pilot is its sum over its mass.

    sums:   (n_datasets, n_experts, dim) embeddings of the queries the expert won, each by its share
    mass:   (n_datasets, n_experts) those shares summed; 0 where there is no pilot
    totals: (n_datasets, dim) all embeddings of the dataset summed
    counts: (n_datasets,) how many there are

    Reference: RouterRetriever (arXiv 2409.02685), Algorithm 1.
    Differs (improved): ties are shared; a pilot weighs as much as the queries behind it (the paper's own
    suggestion, appendix C.4); cosines are taken around the mean of all embeddings; near pilots outweigh far
    ones exponentially, where the paper takes the mean of all.
    """

    experts: tuple[str, ...]
    datasets: tuple[str, ...]
    sums: Floats
    mass: Floats
    totals: Floats
    counts: Floats

    @classmethod
    def empty(cls, experts: Sequence[str], dim: int) -> "PilotLibrary":
        """A library of these experts that knows no dataset yet."""
        n = len(experts)
        return cls(
            tuple(experts), (), np.zeros((0, n, dim)), np.zeros((0, n)), np.zeros((0, dim)), np.zeros(0)
        )

    @property
    def dim(self) -> int:
        return int(self.totals.shape[1])

    def add_dataset(
        self, name: str, embeddings: Floats32, scores: Floats, rule: PilotRule = "improved"
    ) -> Self:
        """With the pilots of one dataset more: embeddings (n, dim), scores (n, n_experts).

        Raises:
            ValueError: the dataset is there already.
        """
        if name in self.datasets:
            raise ValueError(f"dataset {name!r} is in the library already")
        share = winner_shares(scores, rule)
        if rule == "improved":
            share = share * _scarcity(scores, share)
        wide = embeddings.astype(np.float64)
        return replace(
            self,
            datasets=(*self.datasets, name),
            sums=np.concatenate((self.sums, (share.T @ wide)[None])),
            mass=np.concatenate((self.mass, share.sum(axis=0)[None])),
            totals=np.concatenate((self.totals, wide.sum(axis=0)[None])),
            counts=np.append(self.counts, float(len(wide))),
        )

    def remove_dataset(self, name: str) -> Self:
        """Without a dataset; what adding it did is undone to the bit.

        Raises:
            ValueError: no such dataset.
        """
        kept = np.arange(len(self.datasets)) != self._place(name, self.datasets, "dataset")
        return replace(
            self,
            datasets=tuple(other for other in self.datasets if other != name),
            sums=self.sums[kept],
            mass=self.mass[kept],
            totals=self.totals[kept],
            counts=self.counts[kept],
        )

    def add_expert(
        self, name: str, evidence: Mapping[str, tuple[Floats32, Floats, Floats]], rule: PilotRule = "improved"
    ) -> Self:
        """With one expert more, last; the pilots of the others stay as they are.

        evidence: by dataset the embeddings (n, dim), the newcomer's scores (n,) and those of the others
        (n, n_experts); a subset of the dataset's queries will do.

        Raises:
            ValueError: the expert is there already, or a dataset is not.
        """
        if name in self.experts:
            raise ValueError(f"expert {name!r} is in the library already")
        sums = np.zeros((len(self.datasets), 1, self.dim))
        mass = np.zeros((len(self.datasets), 1))
        for dataset, (embeddings, own, others) in evidence.items():
            row = self._place(dataset, self.datasets, "dataset")
            share = winner_shares(np.column_stack((others, own)), rule)[:, -1]
            scale = self.counts[row] / max(len(own), 1)
            sums[row, 0] = scale * (share @ embeddings.astype(np.float64))
            mass[row, 0] = scale * share.sum()
        return replace(
            self,
            experts=(*self.experts, name),
            sums=np.concatenate((self.sums, sums), axis=1),
            mass=np.concatenate((self.mass, mass), axis=1),
        )

    def remove_expert(self, name: str) -> Self:
        """Without an expert; needs no outcome.

        Raises:
            ValueError: no such expert.
        """
        kept = np.arange(len(self.experts)) != self._place(name, self.experts, "expert")
        return replace(
            self,
            experts=tuple(other for other in self.experts if other != name),
            sums=self.sums[:, kept],
            mass=self.mass[:, kept],
        )

    def update(self, dataset: str, embedding: Floats32, shares: Floats) -> Self:
        """With one query more: its embedding (dim,) and who did best on it (n_experts,).

        Raises:
            ValueError: no such dataset.
        """
        row = self._place(dataset, self.datasets, "dataset")
        fresh = replace(
            self,
            sums=self.sums.copy(),
            mass=self.mass.copy(),
            totals=self.totals.copy(),
            counts=self.counts.copy(),
        )
        wide = embedding.astype(np.float64)
        fresh.sums[row] += shares[:, None] * wide
        fresh.mass[row] += shares
        fresh.totals[row] += wide
        fresh.counts[row] += 1
        return fresh

    def scores(
        self, embeddings: Floats32, rule: PilotRule = "improved", max_pilots: int | None = None
    ) -> Floats:
        """(n_queries, n_experts) how much each expert's pilots speak for it, see `PilotIndex`."""
        return self.index(rule, max_pilots).scores(embeddings)

    def index(self, rule: PilotRule = "improved", max_pilots: int | None = None) -> "PilotIndex":
        """The library made ready for queries; `max_pilots` counts only an expert's so many heaviest."""
        at = np.nonzero(self._select_pilots(max_pilots))
        centre = np.zeros(self.dim)
        weight = 1.0 / np.maximum(np.bincount(at[1], minlength=len(self.experts)), 1)[at[1]]
        if rule == "improved":
            centre = self.totals.sum(axis=0) / max(self.counts.sum(), 1.0)
            weight = self.mass[at]
        return PilotIndex(
            rule=rule,
            centre=centre,
            pilots=_unit(self.sums[at] / self.mass[at][:, None] - centre),
            weight=weight,
            of_dataset=np.eye(len(self.datasets))[at[0]],
            of_expert=np.eye(len(self.experts))[at[1]],
        )

    def _select_pilots(self, max_pilots: int | None) -> Bools:
        """(n_datasets, n_experts) which pilots count; of equally heavy ones the first datasets'."""
        there = self.mass > 0
        if max_pilots is None:
            return there
        share = self.mass / np.maximum(self.counts, 1)[:, None]
        rank = np.argsort(np.argsort(-share, axis=0, kind="stable"), axis=0, kind="stable")
        counting: Bools = there & (rank < max_pilots)
        return counting

    def arrays(self) -> Arrays:
        """Everything as arrays, names too."""
        return {
            "experts": np.array(self.experts, dtype=str),
            "datasets": np.array(self.datasets, dtype=str),
            "sums": self.sums,
            "mass": self.mass,
            "totals": self.totals,
            "counts": self.counts,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> "PilotLibrary":
        """What `arrays` gave."""
        experts, datasets = (tuple(str(name) for name in arrays[key]) for key in ("experts", "datasets"))
        sums, mass, totals, counts = (arrays[key] for key in ("sums", "mass", "totals", "counts"))
        return cls(experts, datasets, sums, mass, totals, counts)

    def _place(self, name: str, names: tuple[str, ...], kind: str) -> int:
        if name not in names:
            raise ValueError(f"no {kind} {name!r}; there are {', '.join(names)}")
        return names.index(name)


def _scarcity(scores: Floats, share: Floats) -> Floats:
    """(n_experts,) won queries over those of them with a score of the expert.

    Without it an expert measured on fewer queries would win fewer of them.
    """
    won = share.any(axis=1)
    took_part = (~np.isnan(scores))[won].sum(axis=0)
    scarcity: Floats = won.sum() / np.maximum(took_part, 1)
    return scarcity


def _unit(vectors: Floats | Floats32) -> Floats:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = vectors / np.where(norm > 0, norm, 1.0)
    return unit


@dataclass(frozen=True, slots=True)
class PilotIndex:
    """Pilots that count, one a row, ready for queries.

    pilots: (n_pilots, dim) unit vectors from the centre; weight: (n_pilots,)
    of_dataset, of_expert: (n_pilots, n_datasets) and (n_pilots, n_experts), 1 where the pilot is theirs
    """

    rule: PilotRule
    centre: Floats
    pilots: Floats
    weight: Floats
    of_dataset: Floats
    of_expert: Floats

    def scores(self, embeddings: Floats32) -> Floats:
        """(n_queries, n_experts).

        paper:    mean cosine between the query and the expert's pilots, in [−1, 1]
        improved: the share of the pull on the query that comes from the expert's pilots, in [0, 1]
        """
        if self.rule == "improved":
            return self.shares(self.pull(embeddings))
        score: Floats = (self._cosines(embeddings) * self.weight) @ self.of_expert
        score[:, ~self.of_expert.any(axis=0)] = _NEVER
        return score

    def shares(self, pull: Floats) -> Floats:
        """(n_queries, n_experts) share of the pull from each expert's pilots; equal shares without pilots."""
        if not len(self.pilots):
            return np.full((len(pull), self.of_expert.shape[1]), 1.0 / max(self.of_expert.shape[1], 1))
        share: Floats = pull @ self.of_expert
        return share

    def pull(self, embeddings: Floats32) -> Floats:
        """(n_queries, n_pilots) weight · exp(10·cos(q − μ, c − μ)), as shares that sum to 1.

        As if every pilot were the middle of a cloud as heavy as its mass: the posterior of who won where.
        """
        pull = np.exp(_SHARPNESS * (self._cosines(embeddings) - 1.0)) * self.weight
        pull /= np.maximum(pull.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return pull

    def _cosines(self, embeddings: Floats32) -> Floats:
        cosines: Floats = _unit(embeddings - self.centre) @ self.pilots.T
        return cosines
