"""The vector space of neighbours and clusters: content and form of a text in one unit vector."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..protocols import Arrays
from ..types import Features, Floats32

_CLIP = 3.0
_TINY = np.float32(1e-12)


@dataclass(frozen=True, slots=True)
class FormScale:
    """Training mean and reciprocal spread of the form features, (n_form,) each.

    key: the same for equal scales, by which what was read of a query is shared by all who read it so
    """

    mean: Floats32
    gain: Floats32
    key: bytes = field(init=False, repr=False, compare=False)
    _limit: np.float32 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.mean.tobytes() + self.gain.tobytes())
        object.__setattr__(self, "_limit", np.float32(_CLIP / np.sqrt(max(len(self.mean), 1))))

    @classmethod
    def of(cls, features: Features) -> "FormScale":
        """The gain makes a typical row one of unit length; a feature that never varied gets none."""
        form = features.form
        if not len(form):
            return cls(np.zeros(form.shape[1], np.float32), np.zeros(form.shape[1], np.float32))
        std = form.std(axis=0)
        varies = std > 1e-6
        gain = np.divide(1.0, std * np.sqrt(form.shape[1]), out=np.zeros_like(std), where=varies)
        return cls(form.mean(axis=0).astype(np.float32), gain.astype(np.float32))

    def standardise(self, features: Features) -> Floats32:
        """(n_queries, n_form) standardised, clipped at 3 spreads."""
        z = features.form.astype(np.float32)
        z -= self.mean
        z *= self.gain
        clipped: Floats32 = np.minimum(np.maximum(z, -self._limit, out=z), self._limit, out=z)
        return clipped

    def beside(self, features: Features) -> Floats32:
        """(n_queries, dim + n_form) [dense | form]"""
        return features.once(self.key, self._beside)

    def _beside(self, features: Features) -> Floats32:
        return np.concatenate((features.dense, self.standardise(features)), axis=1)


@dataclass(frozen=True, slots=True)
class Space:
    """Unit vectors of [dense | weight · form], in their principal directions if those are fewer.

    axes: (dim + n_form, n_dims); (0, 0) where all directions are kept
    """

    scale: FormScale
    weight: float
    axes: Floats32

    @classmethod
    def of(cls, features: Features, weight: float, n_dims: int | None) -> "Space":
        plain = cls(FormScale.of(features), weight, np.zeros((0, 0), np.float32))
        return cls(plain.scale, weight, _principal_axes(plain.rows(features), n_dims))

    def rows(self, features: Features) -> Floats32:
        """(n_queries, n_dims) float32; of unit length before the smaller directions were dropped."""
        return self.project(self.unit(features))

    def unit(self, features: Features) -> Floats32:
        """(n_queries, dim + n_form) float32 of unit length; the same in every space of one weight."""
        return features.once((self.weight, self.scale.key), self._unit)

    def _unit(self, features: Features) -> Floats32:
        if self.weight == 1.0:
            rows = self.scale.beside(features)
        else:
            form = self.scale.standardise(features) * np.float32(self.weight)
            rows = np.concatenate((features.dense, form), axis=1)
        unit: Floats32 = rows / np.sqrt(np.vecdot(rows, rows) + _TINY)[:, None]
        return unit

    def project(self, unit: Floats32) -> Floats32:
        """What `rows` gives for the queries whose unit vectors these are."""
        return multiply_rows(unit, self.axes) if self.axes.size else unit

    def arrays(self) -> Arrays:
        return {"form_mean": self.scale.mean, "form_gain": self.scale.gain, "axes": self.axes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]], weight: float) -> "Space":
        return cls(FormScale(arrays["form_mean"], arrays["form_gain"]), weight, arrays["axes"])


def multiply_rows(rows: Floats32, matrix: Floats32) -> Floats32:
    """rows @ matrix with the same bits for a row alone and in a batch.

    A matrix product may sum in another order for another number of rows; a batch must equal its singles.
    """
    products: Floats32
    if len(rows) == 1:
        products = rows.dot(matrix)
        return products
    products = np.empty((len(rows), matrix.shape[1]), np.float32)
    for row, product in zip(rows, products, strict=True):
        np.dot(row, matrix, out=product)
    return products


def _principal_axes(rows: Floats32, n_dims: int | None) -> Floats32:
    n_rows, dim = rows.shape
    if n_dims is None or n_dims >= dim or n_rows <= n_dims:
        return np.zeros((0, 0), np.float32)
    wide = rows.astype(np.float64)
    _, vectors = np.linalg.eigh(wide.T @ wide)
    return np.ascontiguousarray(vectors[:, -n_dims:], dtype=np.float32)
