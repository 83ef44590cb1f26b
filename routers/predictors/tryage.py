"""Tryage's perceptive router: the loss of every expert on a query, regressed by one head for all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from ..errors import ArtifactError
from ..features import FORM_NAMES, Features
from ..protocols import Arrays, Predictor
from ..registry import make_predictor
from ..types import Estimate, Floats

RegressorName = Literal["ridge", "kernel", "mlp", "trees"]

_HEADS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ridge": ("linear", {"alpha": 10.0, "dense": 1.0, "lexical": 1.0, "form": 1.0}),
    "kernel": ("kernel", {}),
    "mlp": ("mlp", {}),
    "trees": ("trees", {}),
}
_PAPER: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ridge": ("linear", {"alpha": 5.0, "dense": 1.0, "lexical": 0.0, "form": 0.0}),
    "mlp": ("mlp", {"form": 0.0, "n_words": 0}),
}


@dataclass(frozen=True, slots=True)
class PartEffect:
    """By how much one part of a query moved each expert's prediction: (n_experts,), in the target's unit."""

    part: str
    by: Floats


class Tryage:
    """L̂(z) ∈ Rⁿ by least squares on L = 1 − score; the prediction is 1 − L̂.

    Whom it chooses is the engine's part: argmin L̂ᵢ + Σⱼ λⱼ·Cⱼ(Mᵢ) is argmax of utility, where cost, latency
    and the weighted goals of `policies.Objective` are C.

    Reference: Tryage (arXiv 2308.11601), the routing objective.
    Differs: paper reads the embedding alone by a ridge or a shared hidden layer, on a frozen encoder where
    theirs is fine-tuned; improved reads words and form too, by any of four heads.
    """

    head_: Predictor
    neutral_: Features

    def __init__(
        self,
        mode: Literal["improved", "paper"] = "improved",
        head: RegressorName | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Args:
        mode: paper reads the embedding alone, by `ridge` or `mlp`.
        head: who regresses; None takes the trees, or in paper mode the ridge.
        settings: of the head, where they differ from its own.
        """
        heads = _PAPER if mode == "paper" else _HEADS
        head = head or ("ridge" if mode == "paper" else "trees")
        if head not in heads:
            known = ", ".join(heads)
            raise ArtifactError(f"predictor 'tryage': no head {head!r} in mode {mode!r}; there are {known}")
        self.mode = mode
        self.head = head
        self.given = dict(settings or {})

    def _make_unfitted(self) -> Predictor:
        name, settings = (_PAPER if self.mode == "paper" else _HEADS)[self.head]
        return make_predictor(name, {**settings, **self.given})

    def fit(self, features: Features, targets: Floats) -> Self:
        self.head_ = self._make_unfitted().fit(features, 1.0 - targets)  # L = 1 − score, arXiv 2308.11601
        self.neutral_ = _typical_query(features)
        return self

    def predict(self, features: Features) -> Estimate:
        loss = self.head_.predict(features)
        return Estimate(1.0 - loss.mean, loss.std)

    def explain(self, features: Features) -> list[PartEffect]:
        """What moved the prediction for one query, the largest first.

        By occlusion: a part is put in its typical state and the rest left; the difference is what it moved.
        Parts are `content`, `words`, and each feature of form. Differences need not add up.
        """
        whole = self.predict(features).mean[0]
        moved = [
            PartEffect(part, whole - self.predict(without).mean[0])
            for part, without in _occlude_parts(features, self.neutral_)
        ]
        return sorted(moved, key=lambda one: -float(np.abs(one.by).max(initial=0.0)))

    def settings(self) -> dict[str, Any]:
        return {"mode": self.mode, "head": self.head, "settings": dict(self.given)}

    def arrays(self) -> Arrays:
        head = {f"head.{key}": values for key, values in self.head_.arrays().items()}
        return {**head, "typical_dense": self.neutral_.dense, "typical_form": self.neutral_.form}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Self:
        held = {k.removeprefix("head."): v for k, v in arrays.items() if k.startswith("head.")}
        self.head_ = self._make_unfitted().restore(held)
        dense, form = arrays["typical_dense"], arrays["typical_form"]
        self.neutral_ = Features("static", dense, np.full((1, 1), -1), form)
        return self


def _typical_query(features: Features) -> Features:
    """One query like no other: mean vector of unit length, no words, mean form."""
    n = max(len(features), 1)
    dense = features.dense.sum(axis=0, keepdims=True, dtype=np.float64) / n
    length = float(np.linalg.norm(dense)) or 1.0
    form = features.form.sum(axis=0, keepdims=True) / n
    return Features(features.tier, (dense / length).astype(np.float32), np.full((1, 1), -1), form)


def _occlude_parts(query: Features, typical: Features) -> list[tuple[str, Features]]:
    """The query once for each of its parts, without that part."""
    nothing = np.full_like(query.lexical, -1)
    variants = [
        ("content", Features(query.tier, typical.dense, query.lexical, query.form)),
        ("words", Features(query.tier, query.dense, nothing, query.form)),
    ]
    for column in range(query.form.shape[1]):
        form = query.form.copy()
        form[:, column] = typical.form[:, column]
        name = FORM_NAMES[column] if len(FORM_NAMES) == query.form.shape[1] else str(column)
        variants.append((f"form.{name}", Features(query.tier, query.dense, query.lexical, form)))
    return variants
