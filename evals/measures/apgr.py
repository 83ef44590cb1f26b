"""Two experts: how much of the strong one's lead is recovered by the share of queries it is sent.

With queries in order of the predicted gain of the strong expert, PGR(x) = (acc(x) − acc_weak) / (acc_strong −
acc_weak) at share x sent to the strong one; ties are broken by a seeded shuffle.

Reference: RouteLLM (arXiv 2406.18665), which averages over ten shares (`apgr_10`); `apgr` integrates.
"""

from collections.abc import Callable

import numpy as np

from routers import Floats

from .run import Ground, Run

Reading = Callable[[Floats, Floats], Floats]
"""Share sent (n_draws, n + 1) and PGR at each → (n_draws,)."""
_CHUNK = 100


def apgr(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Integral of PGR over x ∈ [0, 1]; random sending gives 0.5."""
    return _mean_over_seeds(run, ground, weights, _integral)


def apgr_10(run: Run, ground: Ground, weights: Floats) -> Floats:
    """Mean of PGR over x = 0.1, 0.2 … 1.0; random sending gives 0.55."""
    return _mean_over_seeds(run, ground, weights, _ten_shares)


def _mean_over_seeds(run: Run, ground: Ground, weights: Floats, read: Reading) -> Floats:
    if run.quality is None or (ground.strong < 0).any():
        return np.full(len(weights), np.nan)
    found = [
        _one_seed(quality, strong, ground, weights, read)
        for quality, strong in zip(run.quality, ground.strong.tolist(), strict=True)
    ]
    mean: Floats = np.mean(found, axis=0)
    return mean


def _one_seed(quality: Floats, strong: int, ground: Ground, weights: Floats, read: Reading) -> Floats:
    weak = 1 - strong
    rows = np.flatnonzero(~np.isnan(quality).any(axis=1) & ~np.isnan(ground.table.score).any(axis=1))
    shuffled = np.random.default_rng(0).permutation(rows)
    lead = quality[shuffled, strong] - quality[shuffled, weak]
    order = shuffled[np.argsort(-lead, kind="stable")]
    gained = ground.table.score[order, strong] - ground.table.score[order, weak]
    found = [
        _read(weights[start : start + _CHUNK][:, order].astype(np.float64), gained, read)
        for start in range(0, len(weights), _CHUNK)
    ]
    return np.concatenate(found)


def _read(weights: Floats, gained: Floats, read: Reading) -> Floats:
    sent = np.cumsum(weights, axis=1)
    won = np.cumsum(weights * gained, axis=1)
    lead = won[:, -1:]
    start = np.zeros((len(weights), 1))
    share = np.concatenate((start, sent / sent[:, -1:]), axis=1)
    pgr = np.concatenate(
        (start, np.divide(won, lead, out=np.full_like(won, np.nan), where=lead != 0)), axis=1
    )
    return read(share, pgr)


def _integral(share: Floats, pgr: Floats) -> Floats:
    return np.asarray(np.trapezoid(pgr, share, axis=1), np.float64)


def _ten_shares(share: Floats, pgr: Floats) -> Floats:
    at = np.arange(1, 11) / 10
    return np.array([np.interp(at, x, y).mean() for x, y in zip(share, pgr, strict=True)])
