"""Runs every router and every baseline on every cut, over both cores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial

import numpy as np

from routers import Features, Floats, OutcomeTable, Tier, query_of, worker_pool

from .baselines import cheapest, mean_of_four, naive_ridge, task_table
from .evaluate import NEVER, Trial, chance, evaluate_router, fixed, judge
from .replay import Recorded
from .router_specs import RouterSpec
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
