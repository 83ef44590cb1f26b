"""Extremely randomised trees, fitted by scikit-learn and read as arrays: nothing is pickled."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..features import Features
from ..protocols import Arrays
from ..types import Estimate, Floats, Floats32, Ints
from .linear import Inputs
from .targets import Centred, centre_targets, expert_order, query_order

_CHUNK = 128


class Trees:
    """One forest for all experts; a leaf's outcomes are shrunk to the expert's mean.

    Splits are found with gaps filled by the mean; leaf values come from measured outcomes alone.

    Reference: extremely randomised trees (Geurts et al., Machine Learning 63, 2006).
    Differs: leaf values are shrunk to the expert's mean.
    """

    inputs_: Inputs
    roots_: Ints
    feature_: Ints
    threshold_: Floats32
    child_: Ints
    value_: Floats32
    mean_: Floats
    std_: Floats

    def __init__(
        self,
        n_trees: int = 100,
        min_leaf: int = 15,
        prior: float = 4.0,
        form: float = 1.0,
        n_content: int = 48,
        n_words: int = 32,
        seed: int = 0,
    ) -> None:
        """Args:
        n_trees: how many.
        min_leaf: queries in a leaf, at least.
        prior: how many outcomes the expert's mean counts for in a leaf.
        form: 0 leaves the form features out.
        n_content, n_words: principal directions of the dense block, and of the words.
        """
        self.n_trees = n_trees
        self.min_leaf = min_leaf
        self.prior = prior
        self.form = form
        self.n_content = n_content
        self.n_words = n_words
        self.seed = seed

    def fit(self, features: Features, targets: Floats) -> Self:
        rows = query_order(features)
        columns = expert_order(targets[rows])
        back = np.argsort(columns)
        ordered, values = features.take(rows), targets[rows][:, columns]
        parts = centre_targets(values)
        self.inputs_ = Inputs.of(ordered, self.form, self.n_content, self.n_words, self.seed)
        x = self.inputs_.rows(ordered)
        self._grow(x, parts)
        self.mean_ = parts.mean[back]
        self.value_ = self.value_[:, back]
        leaves = self._leaves(x)
        inside = np.bincount(leaves.ravel(), minlength=len(self.feature_))[leaves].mean() if len(x) else 0.0
        self.std_ = (parts.std * np.sqrt(1 / (inside + self.prior)))[back]
        return self

    def _grow(self, x: Floats32, parts: Centred) -> None:
        """Nodes of all trees one after another; a leaf is its own child."""
        trees = self._forest(x, parts.residual)
        starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
        self.roots_ = starts[:-1].astype(np.int64)
        self.feature_ = np.concatenate([np.maximum(tree.feature, 0) for tree in trees]).astype(np.int64)
        leaf = np.concatenate([tree.feature < 0 for tree in trees])  # scikit-learn marks a leaf by feature −2
        thresholds = np.concatenate([_round_down(tree.threshold) for tree in trees])
        self.threshold_ = np.where(leaf, np.float32(np.inf), thresholds).astype(np.float32)
        own = np.arange(len(leaf))
        left = np.concatenate([tree.children_left + at for tree, at in zip(trees, starts, strict=False)])
        right = np.concatenate([tree.children_right + at for tree, at in zip(trees, starts, strict=False)])
        # (2, n_nodes)
        self.child_ = np.stack([np.where(leaf, own, left), np.where(leaf, own, right)]).astype(np.int64)
        total = np.zeros((len(leaf), parts.residual.shape[1]))
        count = np.zeros_like(total)
        for nodes in self._leaves(x).T:
            np.add.at(total, nodes, parts.residual)  # unbuffered: many queries share a node
            np.add.at(count, nodes, parts.known)
        self.value_ = (total / np.maximum(count + self.prior, 1e-9)).astype(np.float32)

    def _forest(self, x: Floats32, residual: Floats) -> list[Any]:
        from sklearn.ensemble import ExtraTreesRegressor  # fitting alone needs it

        spread = float(np.abs(residual).max(initial=0.0)) or 1.0
        if not len(x):
            x, residual = np.zeros((1, x.shape[1]), np.float32), np.zeros((1, residual.shape[1]))
        forest = ExtraTreesRegressor(
            self.n_trees, min_samples_leaf=self.min_leaf, max_features=1 / 3, random_state=self.seed, n_jobs=1
        )
        scaled = residual / spread
        forest.fit(x, scaled[:, 0] if scaled.shape[1] == 1 else scaled)
        return [tree.tree_ for tree in forest.estimators_]

    def _leaves(self, x: Floats32) -> Ints:
        """(n_queries, n_trees) the leaf each query falls into."""
        nodes = np.repeat(self.roots_[None], len(x), axis=0)
        for start in range(0, len(x), _CHUNK):
            block = slice(start, start + _CHUNK)
            nodes[block] = self._descend(x[block], nodes[block])
        return nodes

    def _descend(self, x: Floats32, nodes: Ints) -> Ints:
        flat, row = x.ravel(), np.arange(len(x))[:, None] * x.shape[1]
        child, n_nodes = self.child_.ravel(), len(self.feature_)
        while True:
            beyond = flat[self.feature_[nodes] + row] > self.threshold_[nodes]  # (n_queries, n_trees)
            below = child[beyond * n_nodes + nodes]
            if np.array_equal(below, nodes):  # a leaf is its own child: all have arrived
                return nodes
            nodes = below

    def predict(self, features: Features) -> Estimate:
        leaves = self._leaves(self.inputs_.rows(features))
        mean = np.repeat(self.mean_[None], len(leaves), axis=0)
        for row, fallen in enumerate(leaves):
            mean[row] += self.value_[fallen].mean(axis=0)  # (n_trees, n_experts) → (n_experts,)
        return Estimate(mean, np.repeat(self.std_[None], len(leaves), axis=0))

    def settings(self) -> dict[str, Any]:
        return {
            "n_trees": self.n_trees,
            "min_leaf": self.min_leaf,
            "prior": self.prior,
            "form": self.form,
            "n_content": self.n_content,
            "n_words": self.n_words,
            "seed": self.seed,
        }

    def arrays(self) -> Arrays:
        return {
            **self.inputs_.arrays(),
            "roots": self.roots_,
            "feature": self.feature_.astype(np.int16),
            "threshold": self.threshold_,
            "child": self.child_.astype(np.int32),
            "value": self.value_,
            "mean": self.mean_,
            "std": self.std_,
        }

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        self.inputs_ = Inputs.from_arrays(arrays, self.form)
        self.roots_ = arrays["roots"]
        self.feature_, self.child_ = arrays["feature"].astype(np.int64), arrays["child"].astype(np.int64)
        self.threshold_, self.value_ = arrays["threshold"], arrays["value"]
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        return self


def _round_down(threshold: Floats) -> Floats32:
    """The largest single-precision number not above each: single-precision values compare with it alike."""
    rounded = threshold.astype(np.float32)
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
