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

Rule = Literal["paper", "improved"]

_NEVER = -1.0
"""Score of an expert without a pilot: no cosine is lower."""
_SHARPNESS = 10.0
"""Chosen by cross-validation, see evals/LOG.md."""


def winners(scores: Floats, rule: Rule) -> Floats:
    """(n_queries, n_experts) who did best on each query: shares that sum to 1, 0 where nobody was scored.

    scores: (n_queries, n_experts), NaN where unmeasured. `paper` gives a tie to the first expert, `improved`
    shares it evenly and asks for somebody to have won against.
    """
    filled = np.where(np.isnan(scores), -np.inf, scores)
    best = filled.max(axis=1, keepdims=True, initial=-np.inf)
    tied = (filled == best) & np.isfinite(best)
    if rule == "paper":
        tied &= np.cumsum(tied, axis=1) == 1
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

    def add_dataset(self, name: str, embeddings: Floats32, scores: Floats, rule: Rule = "improved") -> Self:
        """With the pilots of one dataset more: embeddings (n, dim), scores (n, n_experts).

        Raises:
            ValueError: the dataset is there already.
        """
        if name in self.datasets:
            raise ValueError(f"dataset {name!r} is in the library already")
        share = winners(scores, rule)
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
        self, name: str, evidence: Mapping[str, tuple[Floats32, Floats, Floats]], rule: Rule = "improved"
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
            share = winners(np.column_stack((others, own)), rule)[:, -1]
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

    def scores(self, embeddings: Floats32, rule: Rule = "improved", max_pilots: int | None = None) -> Floats:
        """(n_queries, n_experts) how much each expert's pilots speak for it.

        paper:    mean cosine between the query and the expert's pilots, in [−1, 1]
        improved: the share of the pull on the query (`pull`) that comes from the expert's pilots, in [0, 1]

        max_pilots: only an expert's so many heaviest pilots count.
        """
        score: Floats
        if rule == "improved":
            score = self.pull(embeddings, max_pilots).sum(axis=1)
            return score
        there = self._counting(max_pilots)
        cosine = _cosines(embeddings, self._centroids())
        score = np.where(there, cosine, 0.0).sum(axis=1) / np.maximum(there.sum(axis=0), 1)
        score[:, ~there.any(axis=0)] = _NEVER
        return score

    def pull(self, embeddings: Floats32, max_pilots: int | None = None) -> Floats:
        """(n_queries, n_datasets, n_experts) mass · exp(10·cos(q − μ, c − μ)), as shares that sum to 1.

        As if every pilot were the middle of a cloud as heavy as its mass: the posterior of who won where.
        """
        there = self._counting(max_pilots)
        centre = self.totals.sum(axis=0) / max(self.counts.sum(), 1.0)
        cosine = _cosines(embeddings - centre, self._centroids() - centre)
        weight = np.exp(_SHARPNESS * (cosine - 1.0)) * np.where(there, self.mass, 0.0)
        total = weight.sum(axis=(1, 2), keepdims=True)
        even = np.full_like(weight, 1.0 / max(there.size, 1))
        shares: Floats = np.divide(weight, total, out=even, where=total > 0)
        return shares

    def _centroids(self) -> Floats:
        centroids: Floats = self.sums / np.where(self.mass > 0, self.mass, 1.0)[..., None]
        return centroids

    def _counting(self, max_pilots: int | None) -> Bools:
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
    """(n_experts,) queries that somebody won over those of them the expert took part in: it wins no less
    often for having been asked less often."""
    won = share.any(axis=1)
    took_part = (~np.isnan(scores))[won].sum(axis=0)
    scarcity: Floats = won.sum() / np.maximum(took_part, 1)
    return scarcity


def _cosines(embeddings: Floats | Floats32, centroids: Floats) -> Floats:
    """(n_queries, n_datasets, n_experts)."""
    flat = _unit(centroids).reshape(-1, centroids.shape[-1])
    return (_unit(embeddings) @ flat.T).reshape(len(embeddings), *centroids.shape[:-1])


def _unit(vectors: Floats | Floats32) -> Floats:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Floats = vectors / np.where(norm > 0, norm, 1.0)
    return unit
