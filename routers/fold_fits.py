"""The fits that heads rest on: without each fold, and on everything, for every tier, over processes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import numpy as np

from .features import Features
from .protocols import Categorizer, CategoryExamples, Predictor
from .registry import fit_predictor, make_predictor
from .types import Estimate, Floats, Ints, Tier

_TOKENS = {"alpha": 10.0, "dense": 1.0, "lexical": 0.0, "form": 1.0}


@dataclass(frozen=True, slots=True)
class FitData:
    """What is fitted on.

    score, log_tokens: (n_queries, n_experts), NaN where unmeasured
    folds: (n_queries,) each is left out once
    tags: (n_queries,) tasks, "" where there is none
    heads: by name the predictor of quality and its settings
    examples: by tier what teaches categories beside the queries; none where a tier is missing
    """

    features: Mapping[Tier, Features]
    score: Floats
    log_tokens: Floats
    folds: Ints
    tags: Sequence[str]
    heads: Mapping[str, tuple[str, Mapping[str, Any]]]
    examples: Mapping[Tier, CategoryExamples] = field(default_factory=dict)

    @property
    def has_lengths(self) -> bool:
        return not bool(np.isnan(self.log_tokens).all())

    def parts(self, fold: int | None) -> tuple[Ints, Ints]:
        """Rows of the fold and rows to fit on: the same where there is one fold, or none is named."""
        if fold is None:
            everything = np.arange(len(self.folds))
            return everything, everything
        inside, outside = np.flatnonzero(self.folds == fold), np.flatnonzero(self.folds != fold)
        return inside, outside if len(outside) else inside


@dataclass(frozen=True, slots=True)
class TierFit:
    """One tier of one head: what was learned of everything, and what was predicted out of fold.

    tokens, log_tokens: of log1p(output tokens), the same for every head; None and NaN where none was measured
    raw, log_tokens: (n_queries, n_experts); the novelty of `raw` is NaN where the predictor does not tell
    categories: what was assigned to each query out of fold; None where the predictor tells none
    """

    quality: Predictor
    tokens: Predictor | None
    raw: Estimate
    log_tokens: Floats
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """What a predictor says of a fold that it was not fitted on."""

    estimate: Estimate
    categories: tuple[str, ...] | None


_LENGTHS = ""
"""Stands for a head where the lengths are fitted, once for all of them."""
_Piece = tuple[Tier, str, int | None]
"""A tier, a head, and the fold left out: None for the fit on everything."""


def fit_tiers(
    material: FitData, n_workers: int = 1, report: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, dict[Tier, TierFit]]:
    """Every fit by head and tier, over so many processes; with one, here.

    `report` hears of the fits done, and of all.
    """
    folds = [int(fold) for fold in np.unique(material.folds)]
    parts = [*material.heads, *([_LENGTHS] if material.has_lengths else [])]
    pieces: list[_Piece] = [
        (tier, part, fold) for tier in material.features for part in parts for fold in (None, *folds)
    ]
    learned: dict[tuple[Tier, str], Predictor] = {}
    held: dict[tuple[Tier, str], Estimate] = {}
    assigned: dict[tuple[Tier, str], list[str]] = {}
    report(0, len(pieces))
    for n, ((tier, part, fold), result) in enumerate(_fit_all(material, pieces, n_workers), start=1):
        if not isinstance(result, _Held):
            learned[tier, part] = result
        else:
            inside, _ = material.parts(fold)
            whole = held.setdefault((tier, part), _blank_estimate(material))
            whole.mean[inside], whole.std[inside] = result.estimate.mean, result.estimate.std
            if whole.novelty is not None and result.estimate.novelty is not None:
                whole.novelty[inside] = result.estimate.novelty
            if result.categories is not None:
                names = assigned.setdefault((tier, part), [""] * len(material.folds))
                for row, name in zip(inside.tolist(), result.categories, strict=True):
                    names[row] = name
        report(n, len(pieces))
    return {
        name: {
            tier: TierFit(
                learned[tier, name],
                learned.get((tier, _LENGTHS)),
                held[tier, name],
                held.get((tier, _LENGTHS), _blank_estimate(material)).mean,
                tuple(assigned[tier, name]) if (tier, name) in assigned else None,
            )
            for tier in material.features
        }
        for name in material.heads
    }


def _blank_estimate(material: FitData) -> Estimate:
    """NaN throughout."""
    shape = material.score.shape
    return Estimate(np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape[0], np.nan))


def _fit_all(
    material: FitData, pieces: Sequence[_Piece], n_workers: int
) -> Iterator[tuple[_Piece, Predictor | _Held]]:
    """Each with what came of it, in the order they finish."""
    if n_workers < 2:
        for piece in pieces:
            yield piece, _fit(material, piece)
        return
    with worker_pool(n_workers, _prepare, material) as pool:
        pending = {pool.submit(_fit_here, piece): piece for piece in pieces}
        for done in as_completed(pending):
            yield pending[done], done.result()


_worker_data: list[FitData] = []


def _prepare(material: FitData) -> None:
    _worker_data[:] = [material]


def _fit_here(piece: _Piece) -> Predictor | _Held:
    return _fit(_worker_data[0], piece)


def _fit(material: FitData, piece: _Piece) -> Predictor | _Held:
    """The predictor fitted on everything, or what one predicts of the fold that it was not fitted on."""
    tier, name, fold = piece
    inside, outside = material.parts(fold)
    seen = material.features[tier].take(outside)
    if name == _LENGTHS:
        fitted = make_predictor("linear", _TOKENS).fit(seen, material.log_tokens[outside])
    else:
        tags = [material.tags[n] for n in outside.tolist()]
        model = make_predictor(*material.heads[name])
        examples = material.examples.get(tier)
        fitted = fit_predictor(model, seen, material.score[outside], tags, examples)
    if fold is None:
        return fitted
    asked = material.features[tier].take(inside)
    categories = fitted.categories(asked) if isinstance(fitted, Categorizer) else None
    return _Held(fitted.predict(asked), categories)


def worker_pool(n: int, prepare: Callable[..., None], *material: Any) -> ProcessPoolExecutor:
    """`n` fresh processes, `prepare(*material)` called in each; one thread of linear algebra apiece.

    They end with the process that made them, however it ends. Fresh ones, for forking would copy the locks
    of ONNX Runtime and of BLAS as they happen to be: the calling script needs its `__main__` guard.
    """
    return ProcessPoolExecutor(n, get_context("spawn"), _start, (prepare, material))


def _start(prepare: Callable[..., None], material: tuple[Any, ...]) -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    Thread(target=_end_with_parent, daemon=True).start()
    prepare(*material)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever: it holds both ends of the queue."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)
