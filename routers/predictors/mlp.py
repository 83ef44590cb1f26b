"""One hidden layer shared by all experts, one output each; squared error, gaps in the targets allowed."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.random import Generator

from ..features import Features
from ..protocols import Arrays
from ..types import Estimate, Floats, Floats32
from .linear import Inputs
from .targets import centre_targets, expert_order, query_order

_BATCH = 128
_MIN_STEPS = 400
_RATE = 3e-3
_BETAS = (0.9, 0.999)


class MLP:
    """ŷ = mean + spread · (tanh(x·W₁ + b₁)·W₂), by Adam with decoupled weight decay.

    W₂ starts at 0: an expert without outcomes keeps the pool's mean.

    Reference: AdamW (arXiv 1711.05101), decoupled weight decay.
    Differs: one hidden layer for all experts; the rate falls linearly to 0; at least 400 steps.
    """

    inputs_: Inputs
    mean_: Floats
    std_: Floats
    hidden_: Floats32
    output_: Floats32

    def __init__(
        self,
        n_hidden: int = 64,
        n_epochs: int = 20,
        decay: float = 2.0,
        form: float = 1.0,
        n_words: int = 48,
        seed: int = 0,
    ) -> None:
        """Args:
        n_hidden: units of the shared layer.
        n_epochs: passes over the training queries; never fewer than 400 steps.
        decay: of the weights, per unit of learning rate.
        form: weight of the form features beside the dense ones; 0 leaves them out.
        n_words: principal directions of the words; 0 leaves them out.
        """
        self.n_hidden = n_hidden
        self.n_epochs = n_epochs
        self.decay = decay
        self.form = form
        self.n_words = n_words
        self.seed = seed

    def fit(self, features: Features, targets: Floats) -> Self:
        rows = query_order(features)
        columns = expert_order(targets[rows])
        back = np.argsort(columns)
        ordered, values = features.take(rows), targets[rows][:, columns]
        parts = centre_targets(values)
        self.inputs_ = Inputs.of(ordered, self.form, None, self.n_words, self.seed)
        x = self.inputs_.rows(ordered).astype(np.float64)
        spread = float(np.sqrt((parts.residual**2).sum() / max(parts.known.sum(), 1))) or 1.0
        rng = np.random.default_rng(self.seed)
        hidden = rng.normal(size=(x.shape[1] + 1, self.n_hidden))
        hidden[-1] = 0.0  # the last row is b₁
        weights = [hidden, np.zeros((self.n_hidden, values.shape[1]))]
        if parts.known.any():
            self._train(weights, x, parts.residual / spread, parts.known.astype(np.float64), rng)
        weights[1] *= spread
        left = np.where(parts.known, parts.residual - _forward(weights, x)[1], 0.0)
        around = np.maximum(np.sqrt((left**2).sum(axis=0) / np.maximum(parts.count, 1)), 0.1 * parts.std)
        self.mean_ = parts.mean[back]
        self.std_ = (around * np.sqrt(1 / np.maximum(parts.count, 1) + 0.02))[back]
        self.hidden_, self.output_ = weights[0].astype(np.float32), weights[1][:, back].astype(np.float32)
        return self

    def _train(self, weights: list[Floats], x: Floats, y: Floats, known: Floats, rng: Generator) -> None:
        """Adam on mini-batches, in place; the rate falls to nothing."""
        n_batches = -(-len(x) // _BATCH)
        n_steps = max(self.n_epochs * n_batches, _MIN_STEPS)
        moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
        order = np.zeros(0, np.int64)
        for step in range(n_steps):
            if len(order) < min(_BATCH, len(x)):
                order = rng.permutation(len(x))  # what filled no batch of the last pass is dropped
            batch, order = order[:_BATCH], order[_BATCH:]
            rate = _RATE * (1 - step / n_steps)  # linearly to 0
            for n, gradient in enumerate(_gradients(weights, x[batch], y[batch], known[batch])):
                mean, square = moments[n]
                mean += (1 - _BETAS[0]) * (gradient - mean)
                square += (1 - _BETAS[1]) * (gradient**2 - square)
                fair = mean / (1 - _BETAS[0] ** (step + 1))  # bias correction, arXiv 1412.6980, algorithm 1
                size = np.sqrt(square / (1 - _BETAS[1] ** (step + 1))) + 1e-8
                # AdamW: the decay stands beside the gradient, not in it
                weights[n] -= rate * (fair / size + self.decay * weights[n])

    def predict(self, features: Features) -> Estimate:
        x = self.inputs_.rows(features)
        values = np.tanh(x @ self.hidden_[:-1] + self.hidden_[-1]) @ self.output_  # (n_queries, n_experts)
        return Estimate(self.mean_ + values, np.repeat(self.std_[None], len(x), axis=0))

    def settings(self) -> dict[str, Any]:
        return {
            "n_hidden": self.n_hidden,
            "n_epochs": self.n_epochs,
            "decay": self.decay,
            "form": self.form,
            "n_words": self.n_words,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        own: Arrays = {"mean": self.mean_, "std": self.std_, "hidden": self.hidden_, "output": self.output_}
        return {**self.inputs_.arrays(), **own}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.inputs_ = Inputs.from_arrays(arrays, self.form)
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        self.hidden_, self.output_ = arrays["hidden"], arrays["output"]
        return self


def _forward(weights: list[Floats], x: Floats) -> tuple[Floats, Floats]:
    """The hidden layer (n_queries, n_hidden) and the values (n_queries, n_experts)."""
    hidden = np.tanh(x @ weights[0][:-1] + weights[0][-1])
    return hidden, hidden @ weights[1]


def _gradients(weights: list[Floats], x: Floats, y: Floats, known: Floats) -> tuple[Floats, Floats]:
    """Of half the squared error per query; an unmeasured outcome has no gradient."""
    hidden, values = _forward(weights, x)
    error = (values - y) * known / len(x)  # (n_queries, n_experts)
    inner = (error @ weights[1].T) * (1 - hidden**2)  # tanh′ = 1 − tanh²; (n_queries, n_hidden)
    return np.concatenate((x.T @ inner, inner.sum(axis=0)[None])), hidden.T @ error
