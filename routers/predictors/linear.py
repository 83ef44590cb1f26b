"""Ridge regression on dense, lexical and form blocks: one design matrix that is never built."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..features import Features, FormScale
from ..protocols import Arrays
from ..types import Bools, Estimate, Floats, Floats32, Ints
from .targets import centre_targets

if TYPE_CHECKING:
    from scipy.sparse import csr_array


_TINY = 1e-12


class Lexicon:
    """The n-grams kept from training, by hashed id, with their inverse document frequency.

    ids: (n_terms,) ascending; idf: (n_terms,). One place more, the last, stands for every other id and for
    padding; its value is 0.
    place: by id; larger ids have that of the last. values: (n_terms + 1,).
    """

    def __init__(self, ids: Ints, idf: Floats32) -> None:
        self.ids = ids
        self.idf = idf
        self.values = np.append(idf, np.float32(0))
        self._wide = self.values.astype(np.float64)
        self._last = int(ids[-1]) + 1 if len(ids) else 0  # above every id kept: larger ids are clipped to it
        self.place = np.full(self._last + 1, len(ids), np.int64)
        self.place[ids] = np.arange(len(ids))  # by id; every other id finds the last place

    @classmethod
    def of(cls, lexical: Ints, min_count: int) -> "Lexicon":
        """N-grams that occur in at least `min_count` rows of lexical (n_queries, n_slots)."""
        ordered = np.sort(lexical, axis=1)
        first = np.ones(ordered.shape, bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]  # an n-gram counts once a query
        ids, counts = np.unique(ordered[first & (ordered >= 0)], return_counts=True)
        kept = counts >= min_count
        # smoothed as in scikit-learn's TfidfVectorizer
        idf = np.log((1 + len(lexical)) / (1 + counts[kept])) + 1
        return cls(ids[kept].astype(np.int64), idf.astype(np.float32))

    def rows(self, lexical: Ints) -> tuple[Ints, Floats32]:
        """Each id's place among the kept and tf-idf value, (n_queries, n_slots) each; rows of unit length."""
        places = self.place[np.minimum(lexical, self._last)]  # padding, -1, finds the last place
        values = self.values[places]
        values /= np.sqrt(np.einsum("qs,qs->q", values, values) + np.float32(_TINY))[:, None]
        return places, values

    def weigh(self, lexical: Ints, weights: Floats) -> Floats:
        """(n_queries, n_experts) tf-idf rows of unit length times weights (n_terms + 1, n_experts)."""
        if not lexical.size:
            return np.zeros((len(lexical), weights.shape[1]))
        known = lexical >= 0
        known[:, 0] = True  # padding finds the last place, of value 0: no row is empty, which reduceat needs
        ends = known.sum(axis=1).cumsum()
        starts = np.concatenate(([0], ends[:-1]))
        # All rows' slots in one row, so that short queries do not pay for a long one beside them.
        places = self.place.take(np.minimum(lexical[known], self._last))
        values = self._wide.take(places)
        products = np.add.reduceat(weights.take(places, axis=0) * values[:, None], starts, axis=0)
        products /= np.sqrt(np.add.reduceat(values * values, starts) + _TINY)[:, None]
        return products

    def matrix(self, lexical: Ints) -> "csr_array":
        """(n_queries, n_terms + 1) sparse tf-idf, rows of unit length."""
        from scipy.sparse import csr_array  # fitting alone needs SciPy

        n, n_slots = lexical.shape
        places, values = self.rows(lexical)
        starts = np.arange(n + 1) * n_slots  # CSR's indptr: n_slots entries in each row
        shape = (n, len(self.ids) + 1)
        matrix = csr_array((values.ravel().astype(np.float64), places.ravel(), starts), shape)
        matrix.eliminate_zeros()
        matrix.sum_duplicates()
        return matrix


class Design:
    """X = [dense | lexical | form] as an operator."""

    def __init__(self, dense: Floats, lexical: "csr_array", form: Floats) -> None:
        self._dense = dense
        self._lexical = lexical
        self._lexical_t = lexical.T.tocsr()
        self._form = form
        self._ends = np.cumsum([dense.shape[1], lexical.shape[1]])
        self.shape = (dense.shape[0], int(self._ends[-1]) + form.shape[1])

    def blocks(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Weights (n_features, n_experts) per block."""
        dense, lexical, form = np.split(weights, self._ends)
        return dense, lexical, form

    def forward(self, weights: Floats) -> Floats:
        """X·W, (n_queries, n_experts)."""
        dense, lexical, form = self.blocks(weights)
        result: Floats = self._dense @ dense + self._lexical @ lexical + self._form @ form
        return result

    def backward(self, values: Floats) -> Floats:
        """Xᵀ·V, (n_features, n_experts)."""
        return np.concatenate((self._dense.T @ values, self._lexical_t @ values, self._form.T @ values))


_TOLERANCE = 1e-5
_MAX_STEPS = 300


def solve_ridge(design: Design, residual: Floats, known: Bools, alpha: float) -> Floats:
    """(n_features, n_experts) weights minimising Σ_known (r − Xw)² + α·|w|² for every expert.

    Each column stops moving once its gradient is `_TOLERANCE` of what it was.
    """
    weights = np.zeros((design.shape[1], residual.shape[1]))
    gradient = design.backward(residual)  # (n_features, n_experts)
    direction = gradient.copy()
    size = (gradient**2).sum(axis=0)  # (n_experts,)
    enough = size * _TOLERANCE**2 + 1e-30
    # Conjugate gradients on (XᵀKX + αI)·w = Xᵀr for every column; K selects its known outcomes.
    for _ in range(_MAX_STEPS):
        if (size <= enough).all():
            break
        # (n_features, n_experts)
        curved = design.backward(np.where(known, design.forward(direction), 0.0)) + alpha * direction
        step = np.where(size > enough, size / np.maximum((direction * curved).sum(axis=0), 1e-30), 0.0)
        weights += step * direction
        gradient -= step * curved
        shrunk = (gradient**2).sum(axis=0)
        # β = |gₖ₊₁|² / |gₖ|²: Fletcher and Reeves, The Computer Journal 7, 1964.
        direction = gradient + (shrunk / np.maximum(size, 1e-30)) * direction
        size = shrunk
    return weights


_N_STEPS = 6
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Inputs:
    """[dense · content | form · form | words], as float32; a batch has the very bits of its singles.

    content: (dim, n_content) axes of the dense block, words: (n_terms + 1, n_words) axes of the tf-idf block;
    either is (0, 0) where the block is taken as it is or left out.
    """

    scale: FormScale
    form: float
    lexicon: Lexicon
    content: Floats32
    words: Floats32

    @classmethod
    def of(cls, features: Features, form: float, n_content: int | None, n_words: int, seed: int) -> "Inputs":
        """n_content None keeps the dense block as it is; n_words 0 and form 0 leave those out."""
        lexicon = Lexicon.of(features.lexical if n_words else features.lexical[:, :0], 2)
        words = np.zeros((0, 0), np.float32)
        if n_words and len(lexicon.ids) and len(features):
            words = _axes(lexicon.matrix(features.lexical), n_words, seed)
        return cls(FormScale.of(features), form, lexicon, _content(features, n_content), words)

    def rows(self, features: Features) -> Floats32:
        """(n_queries, n_inputs) float32."""
        blocks = [self._content(features)]
        if self.form:
            blocks.append(self.scale.standardise(features) * np.float32(self.form))
        if self.words.size:
            blocks.append(self._words(features))
        return np.concatenate(blocks, axis=1)

    def _content(self, features: Features) -> Floats32:
        # In double precision and rounded: a sum's order, which batches change, is not seen in 24 bits.
        if not self.content.size:
            return features.dense
        return (features.dense.astype(np.float64) @ self.content.astype(np.float64)).astype(np.float32)

    def _words(self, features: Features) -> Floats32:
        read = np.zeros((len(features), self.words.shape[1]))  # (n_queries, n_words)
        for start in range(0, len(features), _CHUNK):
            block = slice(start, start + _CHUNK)
            places, values = self.lexicon.rows(features.lexical[block])
            axes = self.words[places].astype(np.float64)  # (n_block, n_slots, n_words)
            read[block] = np.einsum("qs,qsw->qw", values.astype(np.float64), axes)
        return read.astype(np.float32)

    def arrays(self) -> Arrays:
        return {
            "form_mean": self.scale.mean,
            "form_gain": self.scale.gain,
            "ids": self.lexicon.ids,
            "idf": self.lexicon.idf,
            "content": self.content,
            "words": self.words,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]], form: float) -> "Inputs":
        return cls(
            FormScale(arrays["form_mean"], arrays["form_gain"]),
            form,
            Lexicon(arrays["ids"], arrays["idf"]),
            arrays["content"],
            arrays["words"],
        )


def _content(features: Features, n_content: int | None) -> Floats32:
    dense = features.dense.astype(np.float64)
    if n_content is None or n_content >= dense.shape[1] or len(dense) <= n_content:
        return np.zeros((0, 0), np.float32)
    _, vectors = np.linalg.eigh(dense.T @ dense)
    return np.ascontiguousarray(vectors[:, -n_content:], dtype=np.float32)


def _axes(matrix: "csr_array", n_axes: int, seed: int) -> Floats32:
    """(n_terms, n_axes) leading right singular vectors, by subspace iteration; those of no weight are 0."""
    n_terms = matrix.shape[1]
    basis = np.random.default_rng(seed).normal(size=(n_terms, min(n_axes, n_terms)))
    for _ in range(_N_STEPS):
        # Randomised subspace iteration: Halko et al., arXiv 0909.4061, algorithm 4.4.
        basis = np.linalg.qr(matrix.T @ (matrix @ basis))[0]
    seen = matrix @ basis  # (n_queries, n_axes)
    weight, turn = np.linalg.eigh(seen.T @ seen)
    axes: Floats = basis @ turn[:, ::-1]
    axes[:, weight[::-1] < 1e-9 * max(float(weight[-1]), 1e-30)] = 0.0
    return axes.astype(np.float32)


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
        dense, lexical, form = design.blocks(weights)  # (n_columns, n_experts) each
        self.mean_ = parts.mean
        # √share in the design and √share here: together the block's share of the kernel.
        self.dense_ = dense * np.sqrt(self.dense)
        self.lexical_ = (lexical * np.sqrt(self.lexical)).astype(np.float32)
        self.form_ = form * np.sqrt(self.form)
        left = np.where(parts.known, parts.residual - design.forward(weights), 0.0)  # (n_queries, n_experts)
        spread = np.sqrt((left**2).sum(axis=0) / np.maximum(parts.count, 1))
        self.std_ = np.maximum(spread, 0.1 * parts.std) * np.sqrt(1 / np.maximum(parts.count, 1) + 0.02)
        return self._ready()

    def predict(self, features: Features) -> Estimate:
        std = self.std_[None].repeat(len(features), axis=0)
        if self.dense or self.form:
            if not self.form:
                rows = features.dense
            elif self.dense:
                rows = self.form_scale_.beside(features)
            else:
                rows = self.form_scale_.standardise(features)
            mean = rows.astype(np.float64).dot(self.weights_)  # (n_queries, n_experts)
            mean += self.mean_
        else:
            mean = self.mean_[None].repeat(len(features), axis=0)
        if self.lexical and len(self.lexicon_.ids):
            # In blocks: a weight for each slot and expert is held at once, of 20,000 queries a gigabyte.
            for start in range(0, len(mean), _CHUNK):
                block = slice(start, start + _CHUNK)
                mean[block] += self.lexicon_.weigh(features.lexical[block], self._words)
        return Estimate(mean, std)

    def lift(self, axes: Floats32) -> Self:
        """Itself, reading as dense what it learned as the product of that with axes (n_inputs, n_dims)."""
        self.dense_ = axes @ self.dense_
        return self._ready()

    def _ready(self) -> Self:
        """Put the weights of dense and form, as far as they count, below each other: one product for both."""
        counts = ((self.dense, self.dense_), (self.form, self.form_))
        blocks = [weights for share, weights in counts if share]
        self.weights_ = np.concatenate(blocks) if blocks else self.dense_[:0]
        self._words = self.lexical_.astype(np.float64)
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
