"""The closed list of categories, the general one last."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np

from ..logistic import fit_softmax, softmax
from ..protocols import Arrays
from ..types import Floats, Floats32, Ints

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

    def labels(self, tags: Sequence[str], is_closed: bool = False) -> Ints:
        """(n_queries,) place of each tag: a tag too rare for a category is general, no tag is `UNKNOWN`.

        Where the list of categories is closed, a tag that is not on it says nothing: `UNKNOWN`.
        """
        place = {name: n for n, name in enumerate(self.names)} | {"": UNKNOWN}
        other = UNKNOWN if is_closed else len(self) - 1
        return np.array([place.get(tag, other) for tag in tags], np.int64)


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


Kind = Literal["knn", "logistic", "centroid"]

_CHUNK = 256
_SAME = 1e-5
"""Cosines closer than this are equal: float32 products do not tell them apart."""


class Classifier(Protocol):
    """Learned map from rows (n_queries, dim) to posteriors (n_queries, n_categories) that sum to 1."""

    def fit(self, rows: Floats32, labels: Ints, n_categories: int) -> Self: ...

    def posterior(self, rows: Floats32) -> Floats: ...

    def arrays(self) -> Arrays: ...

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self: ...


def make_classifier(kind: Kind, k: int = 15, plain: bool = False) -> Classifier:
    """An unfitted classifier; k and plain are for neighbours."""
    if kind == "knn":
        return Neighbours(k, plain)
    return Logistic() if kind == "logistic" else Centroids()


class Neighbours:
    """Votes of the k nearest; each weighs by its lead over the k-th, or all alike if `plain`.

    The categories' shares vote too, with the weight of one neighbour, unless plain.
    """

    rows_: Floats32
    labels_: Ints
    share_: Floats

    def __init__(self, k: int = 15, plain: bool = False) -> None:
        self.k = k
        self.plain = plain

    def fit(self, rows: Floats32, labels: Ints, n_categories: int) -> Self:
        self.rows_, self.labels_ = rows, labels
        self.share_ = shares(labels, n_categories)
        return self

    def posterior(self, rows: Floats32) -> Floats:
        votes = np.zeros((len(rows), len(self.share_)))
        if not len(self.rows_):
            return votes + self.share_
        for start in range(0, len(rows), _CHUNK):
            for n, similarity in enumerate(rows[start : start + _CHUNK] @ self.rows_.T, start):
                nearest, weight = self._nearest(similarity)
                np.add.at(votes[n], self.labels_[nearest], weight)
        if not self.plain:
            votes += self.share_
        votes /= votes.sum(axis=1, keepdims=True)
        return votes

    def _nearest(self, similarity: Floats32) -> tuple[Ints, Floats]:
        edge = similarity.min()
        if len(similarity) > self.k:
            edge = np.partition(similarity, len(similarity) - self.k)[len(similarity) - self.k]
        nearest = np.flatnonzero(similarity >= edge)
        lead = (similarity[nearest] - edge).astype(np.float64)
        if self.plain or lead.max() <= _SAME:
            return nearest, np.ones(len(nearest))
        return nearest, lead / lead.max()

    def arrays(self) -> Arrays:
        return {"rows": self.rows_, "labels": self.labels_, "share": self.share_}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.rows_, self.labels_, self.share_ = arrays["rows"], arrays["labels"], arrays["share"]
        return self


class Logistic:
    """Multinomial logistic regression: one small product a query."""

    weights_: Floats

    def __init__(self, penalty: float = 0.1) -> None:
        self.penalty = penalty

    def fit(self, rows: Floats32, labels: Ints, n_categories: int) -> Self:
        wide = _with_one(rows)
        penalty = np.full(wide.shape[1], self.penalty)
        self.weights_ = fit_softmax(wide, np.eye(n_categories)[labels], penalty)
        return self

    def posterior(self, rows: Floats32) -> Floats:
        return softmax(_with_one(rows) @ self.weights_)

    def arrays(self) -> Arrays:
        return {"weights": self.weights_}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.weights_ = arrays["weights"]
        return self


class Centroids:
    """Softmax over cosines to the categories' mean rows."""

    centroids_: Floats
    seen_: Floats

    def __init__(self, sharpness: float = 20.0) -> None:
        self.sharpness = sharpness

    def fit(self, rows: Floats32, labels: Ints, n_categories: int) -> Self:
        sums = np.eye(n_categories)[labels].T @ rows.astype(np.float64)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        self.centroids_ = sums / np.where(norm > 0, norm, 1.0)
        self.seen_ = (np.bincount(labels, minlength=n_categories) > 0).astype(np.float64)
        return self

    def posterior(self, rows: Floats32) -> Floats:
        logits = self.sharpness * (rows @ self.centroids_.T)
        share: Floats = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        if self.seen_.any():
            share = share * self.seen_
        share /= share.sum(axis=1, keepdims=True)
        return share

    def arrays(self) -> Arrays:
        return {"centroids": self.centroids_, "seen": self.seen_}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.centroids_, self.seen_ = arrays["centroids"], arrays["seen"]
        return self


def shares(labels: Ints, n_categories: int) -> Floats:
    """(n_categories,) share of each among the labels; where there are none, all is in the general, last."""
    counts = np.bincount(labels, minlength=n_categories).astype(np.float64)
    if not counts.sum():
        counts[-1] = 1.0
    share: Floats = counts / counts.sum()
    return share


def _with_one(rows: Floats32) -> Floats:
    return np.column_stack((rows.astype(np.float64), np.ones(len(rows))))


_PRIOR_STEPS = 20
_MAX_LABELLED = 4096
_N_EDGES = 10
_SHARPNESS = 4
_KEPT = 0.95
_STEPS = 30


def _spread_over_neighbours(rows: Floats32, labels: Ints, n_categories: int) -> Floats:
    """(n_queries, n_categories) shares of the labels that reach each query; all alike where none does."""
    from scipy.sparse import csr_array

    n = len(rows)
    k = min(_N_EDGES, n - 1)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    nearest, weight = np.empty((n, k), np.int64), np.empty((n, k))
    for start in range(0, n, _CHUNK):
        similarity = unit[start : start + _CHUNK] @ unit.T
        place = np.arange(len(similarity))
        similarity[place, start + place] = -np.inf  # a query is no neighbour of its own
        best = np.argpartition(similarity, n - k, axis=1)[:, n - k :]
        nearest[start : start + _CHUNK] = best
        weight[start : start + _CHUNK] = np.take_along_axis(similarity, best, axis=1)
    weight = np.maximum(weight, 0.0) ** _SHARPNESS
    edges = csr_array((weight.ravel(), (np.repeat(np.arange(n), k), nearest.ravel())), (n, n))
    edges = edges.maximum(edges.T)
    degree = 1.0 / np.sqrt(np.maximum(edges.sum(axis=1), 1e-9))
    start_shares = np.eye(n_categories + 1)[labels][:, :n_categories]  # UNKNOWN is −1: the column cut off
    start_shares /= np.maximum(start_shares.sum(axis=0), 1.0)
    reached = start_shares
    for _ in range(_STEPS):
        carried = degree[:, None] * (edges @ (degree[:, None] * reached))
        reached = _KEPT * carried + (1 - _KEPT) * start_shares
    total = reached.sum(axis=1, keepdims=True)
    shares_of: Floats = np.where(total > 0, reached / np.where(total > 0, total, 1.0), 1.0 / n_categories)
    return shares_of


@dataclass(frozen=True, slots=True)
class Propagation:
    """How to spread labels.

    rounds:      each labels more neighbours of what the one before labelled
    confidence:  posterior a label needs to be taken
    temperature: below 1 sharpens posteriors, above 1 flattens them
    k:           neighbours that vote
    """

    rounds: int = 3
    confidence: float = 0.8
    temperature: float = 1.0
    k: int = 15

    def spread(self, rows: Floats32, labels: Ints, n_categories: int) -> Ints:
        """(n_queries,) labels with confident ones filled in; what was labelled keeps its label."""
        found = labels.copy()
        for _ in range(self.rounds):
            known = found != UNKNOWN
            if known.all() or not known.any():
                break
            voted = Neighbours(self.k).fit(rows[known], found[known], n_categories).posterior(rows[~known])
            certain = self.sharpen(voted)
            certain = correct_prior(certain, shares(found[known], n_categories))
            found[~known] = self.read_certain(certain)
        return found

    def spread_over_graph(self, rows: Floats32, labels: Ints, n_categories: int) -> Ints:
        """As `spread`, by two opinions multiplied: who lies near whom, and a classifier of what is labelled.

        With a handful of labels the graph knows more, with hundreds the classifier; their product is never
        below the better one by much (evals/LOG.md).

        Reference: label spreading, Zhou et al., NIPS 2003: F ← a·S·F + (1 − a)·Y over nearest neighbours.
        Differs: a category's labels weigh 1 together; the classifier's posterior is multiplied in.
        """
        known = labels != UNKNOWN
        if known.all() or not known.any():
            return labels.copy()
        # Of many labelled queries some are enough to reach the others, and all pairs are computed.
        few = np.flatnonzero(known)
        few = few[:: max(1, -(-len(few) // _MAX_LABELLED))]
        asked = np.flatnonzero(~known)
        at = np.concatenate((few, asked))
        near = _spread_over_neighbours(rows[at], labels[at], n_categories)[len(few) :]
        alone = Logistic().fit(rows[known], labels[known], n_categories).posterior(rows[asked])
        both = near * alone
        both /= np.maximum(both.sum(axis=1, keepdims=True), 1e-300)
        found = labels.copy()
        found[asked] = self.read_certain(both)
        return found

    def read_certain(self, posterior: Floats) -> Ints:
        """(n_queries,) the likeliest label where it is confident, else `UNKNOWN`."""
        best: Ints = posterior.argmax(axis=1)
        return np.where(posterior.max(axis=1, initial=0.0) >= self.confidence, best, UNKNOWN)

    def sharpen(self, posterior: Floats) -> Floats:
        """Posteriors p^(1/temperature), renormalised."""
        raised = posterior ** (1.0 / self.temperature)
        normal: Floats = raised / raised.sum(axis=1, keepdims=True)
        return normal


def correct_prior(posterior: Floats, trained: Floats) -> Floats:
    """Posteriors as they would be had the classifier known the pool's class shares.

    posterior: (n_queries, n_categories) learned where the classes had shares `trained` (n_categories,)

    Reference: Saerens, Latinne and Decaestecker, Neural Computation 14 (2002): EM over the pool's shares.
    """
    share = trained.copy()
    likelihood = np.divide(posterior, trained, out=np.zeros_like(posterior), where=trained > 0)
    adjusted = posterior
    for _ in range(_PRIOR_STEPS):
        joint = likelihood * share
        adjusted = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
        share = adjusted.mean(axis=0)
    return adjusted
