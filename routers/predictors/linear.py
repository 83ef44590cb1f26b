"""Ridge regression on dense, lexical and form features; predicting is a sum of weight rows."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..protocols import Arrays
from ..types import Estimate, Features, Floats, Floats32, Ints
from .design import Design, Lexicon, solve_ridge
from .space import FormScale
from .targets import centre_targets


class Linear:
    """One ridge for all blocks of features; a block's weight says how much of the kernel is its.

    It is kernel ridge with kernel dense·cos + lexical·cos_tfidf + form·⟨z, z′⟩/n_form, solved in its weights
    by conjugate gradients, so that gaps in the targets and 20,000 queries cost nothing special.

    Reference: ridge regression (Hoerl and Kennard, 1970); conjugate gradients (Hestenes and Stiefel, 1952).
    Differs: one operator over dense, sparse and form blocks; each expert has its own missing outcomes.
    """

    mean_: Floats
    std_: Floats
    dense_: Floats
    lexicon_: Lexicon
    lexical_: Floats32
    form_scale_: FormScale
    form_: Floats

    def __init__(
        self,
        alpha: float = 10.0,
        dense: float = 1.0,
        lexical: float = 1.0,
        form: float = 0.0,
        min_count: int = 2,
    ) -> None:
        """Args:
        alpha: ridge strength.
        dense, lexical, form: share of each block in the kernel; 0 leaves it out.
        min_count: queries an n-gram must occur in to be kept.
        """
        self.alpha = alpha
        self.dense = dense
        self.lexical = lexical
        self.form = form
        self.min_count = min_count

    def fit(self, features: Features, targets: Floats) -> Self:
        parts = centre_targets(targets)
        lexical_ids: Ints = features.lexical if self.lexical else np.zeros((len(features), 0), np.int64)
        self.lexicon_ = Lexicon.of(lexical_ids, self.min_count)
        self.form_scale_ = FormScale.of(features)
        design = Design(
            _scale_block(features.dense, self.dense),
            self.lexicon_.matrix(lexical_ids) * np.sqrt(self.lexical),
            _scale_block(self.form_scale_.standardise(features), self.form),
        )
        weights = solve_ridge(design, parts.residual, parts.known, self.alpha)
        dense, lexical, form = design.blocks(weights)
        self.mean_ = parts.mean
        self.dense_ = dense * np.sqrt(self.dense)
        self.lexical_ = (lexical * np.sqrt(self.lexical)).astype(np.float32)
        self.form_ = form * np.sqrt(self.form)
        left = np.where(parts.known, parts.residual - design.forward(weights), 0.0)
        spread = np.sqrt((left**2).sum(axis=0) / np.maximum(parts.count, 1))
        self.std_ = np.maximum(spread, 0.1 * parts.std) * np.sqrt(1 / np.maximum(parts.count, 1) + 0.02)
        return self._ready()

    def predict(self, features: Features) -> Estimate:
        std = self.std_[None].repeat(len(features), axis=0)
        if self.dense or self.form:
            mean = self._read(features).astype(np.float64).dot(self._weights)
            mean += self.mean_
        else:
            mean = self.mean_[None].repeat(len(features), axis=0)
        if self.lexical and len(self.lexicon_.ids):
            for ids, row in zip(features.lexical, mean, strict=True):
                places, values = self.lexicon_.row(ids)
                row += values.dot(self.lexical_.take(places, axis=0))
        return Estimate(mean, std)

    def _read(self, features: Features) -> Floats32:
        """The blocks of dense and form that count, side by side."""
        if not self.form:
            return features.dense
        return self.form_scale_.beside(features) if self.dense else self.form_scale_.standardise(features)

    def lift(self, axes: Floats32) -> Self:
        """Itself, reading as dense what it learned as the product of that with axes (n_inputs, n_dims)."""
        self.dense_ = axes @ self.dense_
        return self._ready()

    def _ready(self) -> Self:
        """Put the weights of dense and form, as far as they count, below each other: one product for both."""
        counts = ((self.dense, self.dense_), (self.form, self.form_))
        blocks = [weights for share, weights in counts if share]
        self._weights = np.concatenate(blocks) if blocks else self.dense_[:0]
        return self

    def settings(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "dense": self.dense,
            "lexical": self.lexical,
            "form": self.form,
            "min_count": self.min_count,
        }

    def arrays(self) -> Arrays:
        return {
            "mean": self.mean_,
            "std": self.std_,
            "dense": self.dense_,
            "lexical": self.lexical_,
            "lexical_ids": self.lexicon_.ids,
            "lexical_idf": self.lexicon_.idf,
            "form": self.form_,
            "form_mean": self.form_scale_.mean,
            "form_gain": self.form_scale_.gain,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        self.dense_, self.form_ = arrays["dense"].astype(np.float64), arrays["form"].astype(np.float64)
        self.lexical_ = arrays["lexical"]
        self.lexicon_ = Lexicon(arrays["lexical_ids"], arrays["lexical_idf"])
        self.form_scale_ = FormScale(arrays["form_mean"], arrays["form_gain"])
        return self._ready()


def _scale_block(block: Floats32, share: float) -> Floats:
    """In double precision, in which the order of queries is not seen; no columns where the share is 0."""
    return block.astype(np.float64) * np.sqrt(share) if share else np.zeros((len(block), 0))
