"""The outcomes of the nearest queries, nearest weighing most, shrunk to the expert's mean."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..protocols import Arrays
from ..types import Estimate, Features, Floats, Floats32, Ints
from .space import Space
from .targets import centred

_CHUNK = 256
_SAME = 1e-5
"""Cosines closer than this are equal: float32 products do not tell them apart."""


class KNN:
    """k nearest training queries by cosine over content and form.

    A neighbour weighs as much as it is more similar than the k-th, so that the estimate moves smoothly when
    the k-th changes: ties need no rule, and a batch equals its singles however the products are rounded.
    Neighbours nobody asked an expert about weigh nothing for that expert.
    """

    space_: Space
    rows_: Floats32
    residual_: Floats32
    known_: Floats32
    mean_: Floats
    std_: Floats
    complete_: bool

    def __init__(self, k: int = 100, prior: float = 2.0, form: float = 1.0, n_dims: int | None = 48) -> None:
        """Args:
        k: how many neighbours.
        prior: weight of the expert's mean, in neighbours of full weight.
        form: weight of the form features beside the dense ones.
        n_dims: principal directions kept for the search; None keeps all.
        """
        self.k = k
        self.prior = prior
        self.form = form
        self.n_dims = n_dims

    def fit(self, features: Features, targets: Floats) -> Self:
        parts = centred(targets)
        self.space_ = Space.of(features, self.form, self.n_dims)
        self.rows_ = self.space_.rows(features)
        self.residual_ = parts.residual.astype(np.float32)
        self.known_ = parts.known.astype(np.float32)
        self.mean_, self.std_ = parts.mean, parts.std
        self.complete_ = bool(parts.known.all())
        return self

    def predict(self, features: Features) -> Estimate:
        n = len(features)
        mean = np.repeat(self.mean_[None], n, axis=0)
        std = np.repeat(self.std_[None], n, axis=0)
        if not len(self.rows_):
            return Estimate(mean, std)
        rows = self.space_.rows(features)
        for start in range(0, n, _CHUNK):
            block = slice(start, start + _CHUNK)
            for n_row, similarity in enumerate(rows[block] @ self.rows_.T, start):
                pull, share = self._read(similarity)
                mean[n_row] += pull
                std[n_row] *= share
        return Estimate(mean, std)

    def _read(self, similarity: Floats32) -> tuple[Floats32, Floats32]:
        """What the neighbours add to the mean, and by how much they narrow the spread; (n_experts,) each."""
        nearest, weights = self._neighbours(similarity)
        residual = self.residual_[nearest]
        if self.complete_:
            total = weights.sum() + np.float32(self.prior)
            square = weights @ weights
        else:
            known = self.known_[nearest]
            total = weights @ known + np.float32(self.prior)
            square = (weights * weights) @ known
        return weights @ residual / total, np.sqrt(square + np.float32(self.prior)) / total

    def _neighbours(self, similarity: Floats32) -> tuple[Ints, Floats32]:
        edge = similarity.min()
        if len(similarity) > self.k:
            edge = np.partition(similarity, len(similarity) - self.k)[len(similarity) - self.k]
        nearest = np.flatnonzero(similarity >= edge)
        lead = similarity[nearest] - edge
        top = lead.max()
        return nearest, lead / top if top > _SAME else np.ones_like(lead)

    def settings(self) -> dict[str, Any]:
        return {"k": self.k, "prior": self.prior, "form": self.form, "n_dims": self.n_dims}

    def arrays(self) -> Arrays:
        return {
            **self.space_.arrays(),
            "rows": self.rows_,
            "residual": self.residual_,
            "known": self.known_,
            "mean": self.mean_,
            "std": self.std_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.space_ = Space.from_arrays(arrays, self.form)
        self.rows_ = arrays["rows"]
        self.residual_, self.known_ = arrays["residual"], arrays["known"]
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        self.complete_ = bool(self.known_.all())
        return self
