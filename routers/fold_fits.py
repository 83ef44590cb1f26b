"""The fits that heads rest on: without each fold, and on everything, for every tier, over processes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import numpy as np

from .features import Features
from .protocols import Predictor
from .registry import fit_predictor, make_predictor
from .types import Estimate, Floats, Ints, Tier

_TOKENS = {"alpha": 10.0, "dense": 1.0, "lexical": 0.0, "form": 1.0}


@dataclass(frozen=True, slots=True)
class FitData:
    """What is fitted on.

    score, log_tokens: (n_queries, n_experts), NaN where unmeasured
    folds: (n_queries,) each is left out once
    tags: (n_queries,) tasks, "" where there is none
    """

    features: Mapping[Tier, Features]
    score: Floats
    log_tokens: Floats
    folds: Ints
    tags: Sequence[str]
    predictor: str
    settings: Mapping[str, Any]

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
class LearnedPredictors:
    """The predictors of quality and, where lengths were measured, of log1p(output tokens)."""

    quality: Predictor
    tokens: Predictor | None


@dataclass(frozen=True, slots=True)
class TierFit:
    """One tier: what was learned of everything, and what was predicted out of fold.

    raw, log_tokens: (n_queries, n_experts); log_tokens is NaN where no length was measured
    """

    learned: LearnedPredictors
    raw: Estimate
    log_tokens: Floats


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """What was predicted of one fold's rows; log_tokens is None where no length was measured."""

    mean: Floats
    std: Floats
    log_tokens: Floats | None


_Piece = tuple[Tier, int | None]
"""A tier, and the fold left out: None for the fit on everything."""


def fit_tiers(
    material: FitData, n_workers: int = 1, report: Callable[[int, int], None] = lambda done, total: None
) -> dict[Tier, TierFit]:
    """Every fit, over so many processes; with one, here. `report` hears of the fits done, and of all."""
    folds = [int(fold) for fold in np.unique(material.folds)]
    pieces: list[_Piece] = [(tier, fold) for tier in material.features for fold in (None, *folds)]
    learned: dict[Tier, LearnedPredictors] = {}
    held: dict[_Piece, _HeldOut] = {}
    report(0, len(pieces))
    for n, (piece, result) in enumerate(_fit_all(material, pieces, n_workers), start=1):
        if isinstance(result, LearnedPredictors):
            learned[piece[0]] = result
        else:
            held[piece] = result
        report(n, len(pieces))
    return {tier: _assemble(material, learned[tier], held, tier) for tier in material.features}


def _assemble(
    material: FitData, learned: LearnedPredictors, held: Mapping[_Piece, _HeldOut], tier: Tier
) -> TierFit:
    shape = material.score.shape
    mean, std, log_tokens = np.empty(shape), np.empty(shape), np.full(shape, np.nan)
    for (whose, fold), part in held.items():
        if whose != tier:
            continue
        inside, _ = material.parts(fold)
        mean[inside], std[inside] = part.mean, part.std
        if part.log_tokens is not None:
            log_tokens[inside] = part.log_tokens
    return TierFit(learned, Estimate(mean, std), log_tokens)


def _fit_all(
    material: FitData, pieces: Sequence[_Piece], n_workers: int
) -> Iterator[tuple[_Piece, LearnedPredictors | _HeldOut]]:
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


def _fit_here(piece: _Piece) -> LearnedPredictors | _HeldOut:
    return _fit(_worker_data[0], piece)


def _fit(material: FitData, piece: _Piece) -> LearnedPredictors | _HeldOut:
    tier, fold = piece
    inside, outside = material.parts(fold)
    learned = _learn(material, material.features[tier], outside)
    if fold is None:
        return learned
    asked = material.features[tier].take(inside)
    estimate = learned.quality.predict(asked)
    log_tokens = learned.tokens.predict(asked).mean if learned.tokens is not None else None
    return _HeldOut(estimate.mean, estimate.std, log_tokens)


def _learn(material: FitData, features: Features, rows: Ints) -> LearnedPredictors:
    seen = features.take(rows)
    tags = [material.tags[n] for n in rows.tolist()]
    model = make_predictor(material.predictor, material.settings)
    quality = fit_predictor(model, seen, material.score[rows], tags)
    if not material.has_lengths:
        return LearnedPredictors(quality, None)
    return LearnedPredictors(quality, make_predictor("linear", _TOKENS).fit(seen, material.log_tokens[rows]))


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
