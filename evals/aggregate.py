"""Trials of all cuts put together: one `Run` per router, over all seeds and queries."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from routers import Floats, Ints

from .evaluate import FRONTIER, Trial
from .measures import Ground, Kind, Run
from .run_all import REFERENCES, Job
from .splits import Layout

_ARRAYS = ("score", "cost_usd", "at_budget", "at_budget_usd", "saving", "saving_usd")


def build_ground(layout: Layout) -> Ground:
    """What all runs of the layout stand on."""
    strong = np.full(len(layout.seeds), -1, np.int64)
    if layout.table.n_experts == 2:
        for cut in layout.cuts:
            strong[layout.seeds.index(cut.seed)] = layout.table.take(cut.train).best_single()
    return Ground(layout.table, layout.domains, strong)


def aggregate_runs(layout: Layout, jobs: Sequence[Job], done: Iterable[tuple[Job, Trial]]) -> list[Run]:
    """One run a router, in the order of the jobs."""
    trials: dict[str, dict[int, Trial]] = {}
    routers: set[str] = set()
    for job, trial in done:
        trials.setdefault(job.name, {})[job.cut] = trial
        routers |= {job.name} if job.router_spec is not None else set()
    singles = _singles(layout)
    runs = [_run(layout, name, _kind(name, routers), parts, singles) for name, parts in trials.items()]
    shown = list(dict.fromkeys(job.name for job in jobs))
    return sorted(runs, key=lambda run: shown.index(run.name))


def _kind(name: str, routers: set[str]) -> Kind:
    if name in routers:
        return "router"
    return "reference" if name in REFERENCES else "baseline"


def _singles(layout: Layout) -> tuple[Floats, Floats]:
    """Score and cost of the best single expert as each training part names it, (n_seeds, n_queries)."""
    score, usd = (np.full((len(layout.seeds), len(layout.table)), np.nan) for _ in range(2))
    for cut in layout.cuts:
        seed = layout.seeds.index(cut.seed)
        best = layout.table.take(cut.train).best_single()
        score[seed, cut.test] = layout.table.score[cut.test, best]
        usd[seed, cut.test] = layout.table.cost_usd[cut.test, best]
    return score, usd


def _run(
    layout: Layout, name: str, kind: Kind, parts: Mapping[int, Trial], singles: tuple[Floats, Floats]
) -> Run:
    table, n_seeds = layout.table, len(layout.seeds)
    arrays = {key: np.full((n_seeds, len(table)), np.nan) for key in _ARRAYS}
    picks = np.full((n_seeds, len(table)), -1, np.int64)
    best, alone = (np.full((n_seeds, len(table)), np.nan) for _ in range(2))
    share, saving_share = (np.zeros(table.score.shape) for _ in range(2))
    quality: Floats | None = None
    for n, trial in parts.items():
        cut = layout.cuts[n]
        seed = layout.seeds.index(cut.seed)
        for key, values in arrays.items():
            values[seed, cut.test] = getattr(trial, key)
        picks[seed, cut.test] = trial.picks
        best[seed, cut.test], alone[seed, cut.test] = _identified(table.score[cut.test], trial.share)
        share[cut.test] += trial.share
        saving_share[cut.test] += trial.saving_share
        if trial.quality is not None and kind != "reference" and name != "best_single":
            quality = np.full((n_seeds, *table.score.shape), np.nan) if quality is None else quality
            quality[seed, cut.test] = trial.quality
    return Run(
        name=name,
        kind=kind,
        **arrays,
        single=singles[0],
        single_usd=singles[1],
        share=share,
        saving_share=saving_share,
        best=best,
        best_alone=alone,
        picks=picks,
        quality=quality,
        frontier=_frontier(layout, parts),
        rate=np.array([trial.rate for trial in parts.values() if trial.rate]),
    )


def _identified(score: Floats, share: Floats) -> tuple[Floats, Floats]:
    """(n_test,) share of the pick among the best, NaN where unmeasured; the same where one alone is best."""
    known = np.where(np.isnan(score), -np.inf, score)
    top = known == known.max(axis=1, keepdims=True)
    among = np.where(top, share, 0.0).sum(axis=1)
    among = np.where(np.isnan(score).all(axis=1), np.nan, among)
    return among, np.where(top.sum(axis=1) == 1, among, np.nan)


def _frontier(layout: Layout, parts: Mapping[int, Trial]) -> Floats:
    """(n_lambdas, 3) λ, mean score, mean cost; empty without costs."""
    sizes: Ints = np.array([len(layout.cuts[n].test) for n in parts])
    drawn = np.array([trial.frontier for trial in parts.values()])
    mean = np.average(drawn, axis=0, weights=sizes)
    found: Floats = np.concatenate((FRONTIER[:, None], mean), axis=1)
    drawable: Floats = found[~np.isnan(found).any(axis=1)]
    return drawable
