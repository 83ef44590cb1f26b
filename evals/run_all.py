"""Runs every router and baseline on every cut in parallel, and aggregates trials to one `Run` per router."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial

import numpy as np

from routers import Features, Floats, Ints, OutcomeTable, Tier, query_of, worker_pool

from .baselines import cheapest, mean_of_four, naive_ridge, task_table
from .evaluate import FRONTIER, NEVER, RouterSpec, Trial, chance, evaluate_router, fixed, judge
from .measures import Ground, Kind, Run
from .replay import Recorded
from .splits import Layout

REFERENCES = ("true_task", "oracle")
"""Upper references: they know what no router can."""
Tell = Callable[[str, int, int], None]
_N_FOLDS = 5
_Learned = Callable[[OutcomeTable, Features, tuple[str, ...], Features], Floats]
_LEARNED: Mapping[str, _Learned] = {"mean_of_four": mean_of_four, "naive_ridge": naive_ridge}


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work: a baseline by name, or a router by its spec, on the cut of that number."""

    cut: int
    name: str
    router_spec: RouterSpec | None = None


def list_jobs(layout: Layout, router_specs: Sequence[RouterSpec]) -> list[Job]:
    """All work of a protocol, in the order a report shows it."""
    singles = [f"single:{expert}" for expert in layout.table.experts]
    names = ["best_single", *_LEARNED, "cheapest", "random", *singles, *REFERENCES]
    cuts = range(len(layout.cuts))
    routers = [Job(cut, router_spec.name, router_spec) for router_spec in router_specs for cut in cuts]
    return routers + [Job(cut, name) for name in names for cut in cuts]


def run_jobs(
    layout: Layout, read: Recorded, jobs: Sequence[Job], tell: Tell, n_workers: int = 2
) -> Iterator[tuple[Job, Trial]]:
    """Every job with what came of it, in the order they finish."""
    tell("fitting and deciding", 0, len(jobs))
    if n_workers < 2:
        for n, job in enumerate(jobs, start=1):
            yield job, perform(layout, read, job)
            tell("fitting and deciding", n, len(jobs))
        return
    with worker_pool(n_workers, _prepare, layout, read) as pool:
        pending = {pool.submit(_perform_here, job): job for job in jobs}
        for n, done in enumerate(as_completed(pending), start=1):
            yield pending[done], done.result()
            tell("fitting and deciding", n, len(jobs))


_here: list[tuple[Layout, Recorded]] = []


def _prepare(layout: Layout, read: Recorded) -> None:
    _here[:] = [(layout, read)]


def _perform_here(job: Job) -> Trial:
    return perform(*_here[0], job)


def perform(layout: Layout, read: Recorded, job: Job) -> Trial:
    """Do one job."""
    cut = layout.cuts[job.cut]
    train, test = layout.table.take(cut.train), layout.table.take(cut.test)
    if job.router_spec is not None:
        return evaluate_router(train, test, job.router_spec, read, cut.seed)
    return _baseline(train, test, job.name, read)


def _baseline(train: OutcomeTable, test: OutcomeTable, name: str, read: Recorded) -> Trial:
    if name in _LEARNED:
        return _learned(train, test, partial(_predict, _LEARNED[name], read))
    if name == "random":
        return chance(test)
    if name == "cheapest":
        return fixed(test, cheapest(train, len(test)))
    if name == "best_single":
        means = train.means()["score"]
        return judge(train, test, _rows(means, len(train)), _rows(means, len(test)))
    if name == "true_task":
        return judge(train, test, task_table(train, train), task_table(train, test))
    if name == "oracle":
        return judge(train, test, _known(train), _known(test))
    column = test.experts.index(name.removeprefix("single:"))
    return fixed(test, np.full(len(test), column, np.int64))


def _learned(
    train: OutcomeTable, test: OutcomeTable, predict: Callable[[OutcomeTable, OutcomeTable], Floats]
) -> Trial:
    folds = train.folds(_N_FOLDS)
    out_of_fold = np.empty_like(train.score)
    for fold in np.unique(folds):
        inside = folds == fold
        out_of_fold[inside] = predict(train.take(~inside) if not inside.all() else train, train.take(inside))
    return judge(train, test, out_of_fold, predict(train, test))


def _predict(learn: _Learned, read: Recorded, train: OutcomeTable, test: OutcomeTable) -> Floats:
    tier: Tier = "encoder" if "encoder" in read.fingerprints else "static"
    seen = read.extract([query_of(text) for text in train.texts], tier)
    asked = read.extract([query_of(text) for text in test.texts], tier)
    return learn(train, seen, test.texts, asked)


def _rows(means: Floats, n: int) -> Floats:
    return np.repeat(np.where(np.isnan(means), NEVER, means)[None], n, axis=0)


def _known(table: OutcomeTable) -> Floats:
    """Scores as a quality: what nobody measured is never the best."""
    return np.where(np.isnan(table.score), NEVER, table.score)


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
