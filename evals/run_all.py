"""Runs every router and baseline on every cut in parallel, and aggregates trials to one `Run` per router."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from routers import Features, Floats, Ints, OutcomeTable, Tier, query_of, worker_pool

from .alternatives import ALTERNATIVES, TierReadings, evaluate_blind_mix, evaluate_tiers, rules
from .evaluate import (
    FRONTIER,
    NEVER,
    RouterSpec,
    SplitResult,
    evaluate_picks,
    evaluate_predictions,
    evaluate_random,
    evaluate_router,
)
from .measures import EvalContext, Kind, Run
from .replay import RecordedExtractor
from .splits import EvalProtocol

REFERENCES = ("true_task", "oracle")
"""Upper references: they use information that no router has."""
OnProgress = Callable[[str, int, int], None]
_N_FOLDS = 5
_Learned = Callable[[OutcomeTable, Features, tuple[str, ...], Features], Floats]


@dataclass(frozen=True, slots=True)
class EvalJob:
    """One unit of work: a baseline by name, or a router by its spec, on the cut of that number."""

    split: int
    name: str
    router_spec: RouterSpec | None = None


def list_jobs(
    protocol: EvalProtocol, router_specs: Sequence[RouterSpec], tiers: TierReadings | None = None
) -> list[EvalJob]:
    """All work of a protocol, in the order a report shows it; `heuristic_v2` needs readings of tiers."""
    singles = [f"single:{expert}" for expert in protocol.table.experts]
    alternatives = [name for name in ALTERNATIVES if name != "heuristic_v2" or (tiers and tiers.success)]
    names = ["best_single", *_BASELINES, *alternatives, "cheapest", "random", *singles, *REFERENCES]
    splits = range(len(protocol.splits))
    routers = [
        EvalJob(split, router_spec.name, router_spec) for router_spec in router_specs for split in splits
    ]
    return routers + [EvalJob(split, name) for name in names for split in splits]


def run_jobs(
    protocol: EvalProtocol,
    read: RecordedExtractor,
    jobs: Sequence[EvalJob],
    on_progress: OnProgress,
    n_workers: int = 2,
    tiers: TierReadings | None = None,
) -> Iterator[tuple[EvalJob, SplitResult]]:
    """Every job with its result, in order of completion."""
    on_progress("fitting and deciding", 0, len(jobs))
    if n_workers < 2:
        for n, job in enumerate(jobs, start=1):
            yield job, run_job(protocol, read, tiers, job)
            on_progress("fitting and deciding", n, len(jobs))
        return
    # Protocol and features go to each process once; with every job they would be pickled again and again.
    with worker_pool(n_workers, _prepare, protocol, read, tiers) as pool:
        pending = {pool.submit(_run_job_here, job): job for job in jobs}
        for n, done in enumerate(as_completed(pending), start=1):
            yield pending[done], done.result()
            on_progress("fitting and deciding", n, len(jobs))


# Per worker process. A list, so that the pool's initializer can fill it without `global`.
_here: list[tuple[EvalProtocol, RecordedExtractor, TierReadings | None]] = []


def _prepare(protocol: EvalProtocol, read: RecordedExtractor, tiers: TierReadings | None) -> None:
    _here[:] = [(protocol, read, tiers)]


def _run_job_here(job: EvalJob) -> SplitResult:
    return run_job(*_here[0], job)


def run_job(
    protocol: EvalProtocol, read: RecordedExtractor, tiers: TierReadings | None, job: EvalJob
) -> SplitResult:
    """Do one job."""
    split = protocol.splits[job.split]
    train, test = protocol.table.take(split.train), _drop_partial_costs(protocol.table.take(split.test))
    if job.router_spec is not None:
        return evaluate_router(train, test, job.router_spec, read, split.seed)
    if job.name == "heuristic_v2" and tiers is not None:
        return evaluate_tiers(train, test, tiers)
    return _evaluate_baseline(train, test, job.name, read)


def _drop_partial_costs(test: OutcomeTable) -> OutcomeTable:
    """Costs only of queries on which every expert's is known: means of costs are then of the same queries."""
    unknown = np.isnan(test.cost_usd)
    partial = unknown.any(axis=1, keepdims=True)  # (n_queries, 1)
    return replace(test, cost_usd=np.where(partial, np.nan, test.cost_usd)) if unknown.any() else test


def _evaluate_baseline(
    train: OutcomeTable, test: OutcomeTable, name: str, read: RecordedExtractor
) -> SplitResult:
    if name in _LEARNED:
        return _evaluate_learned(train, test, partial(_predict, _LEARNED[name], read))
    if name == "blind_mix":
        return evaluate_blind_mix(train, test)
    if name == "random":
        return evaluate_random(test)
    if name == "cheapest":
        return evaluate_picks(test, cheapest(train, len(test)))
    if name == "best_single":
        means = train.means()["score"]
        return evaluate_predictions(train, test, _rows(means, len(train)), _rows(means, len(test)))
    if name == "true_task":
        return evaluate_predictions(train, test, task_table(train, train), task_table(train, test))
    if name == "oracle":
        return evaluate_predictions(train, test, _fill_unknown(train), _fill_unknown(test))
    column = test.experts.index(name.removeprefix("single:"))
    return evaluate_picks(test, np.full(len(test), column, np.int64))


def _evaluate_learned(
    train: OutcomeTable, test: OutcomeTable, predict: Callable[[OutcomeTable, OutcomeTable], Floats]
) -> SplitResult:
    folds = train.folds(_N_FOLDS)
    out_of_fold = np.empty_like(train.score)  # (n_train, n_experts)
    for fold in np.unique(folds):
        inside = folds == fold
        # A table whose buckets fall in one fold has no other rows to train on; then it predicts its own.
        out_of_fold[inside] = predict(train.take(~inside) if not inside.all() else train, train.take(inside))
    return evaluate_predictions(train, test, out_of_fold, predict(train, test))


def _predict(learn: _Learned, read: RecordedExtractor, train: OutcomeTable, test: OutcomeTable) -> Floats:
    tier: Tier = "encoder" if "encoder" in read.fingerprints else "static"
    train_x = read.extract([query_of(text) for text in train.texts], tier)
    test_x = read.extract([query_of(text) for text in test.texts], tier)
    return learn(train, train_x, test.texts, test_x)


def _rows(means: Floats, n: int) -> Floats:
    return np.repeat(np.where(np.isnan(means), NEVER, means)[None], n, axis=0)


def _fill_unknown(table: OutcomeTable) -> Floats:
    """Scores as a quality: an unmeasured outcome is never the best."""
    return np.where(np.isnan(table.score), NEVER, table.score)


_ARRAYS = ("score", "cost_usd", "at_budget", "at_budget_usd", "saving", "saving_usd")


def build_context(protocol: EvalProtocol) -> EvalContext:
    """What all runs of the protocol share."""
    strong = np.full(len(protocol.seeds), -1, np.int64)  # (n_seeds,)
    if protocol.table.n_experts == 2:
        for split in protocol.splits:
            strong[protocol.seeds.index(split.seed)] = protocol.table.take(split.train).best_single()
    return EvalContext(protocol.table, protocol.domains, strong)


def aggregate_runs(
    protocol: EvalProtocol, jobs: Sequence[EvalJob], done: Iterable[tuple[EvalJob, SplitResult]]
) -> list[Run]:
    """One run a router, in the order of the jobs."""
    results: dict[str, dict[int, SplitResult]] = {}
    routers: set[str] = set()
    for job, result in done:
        results.setdefault(job.name, {})[job.split] = result
        routers |= {job.name} if job.router_spec is not None else set()
    singles = _singles(protocol)
    runs = [_run(protocol, name, _kind(name, routers), parts, singles) for name, parts in results.items()]
    order = list(dict.fromkeys(job.name for job in jobs))
    return sorted(runs, key=lambda run: order.index(run.name))


def _kind(name: str, routers: set[str]) -> Kind:
    if name in routers:
        return "router"
    return "reference" if name in REFERENCES else "baseline"


def _singles(protocol: EvalProtocol) -> tuple[Floats, Floats]:
    """Score and cost of the best single expert as each training part names it, (n_seeds, n_queries)."""
    # (n_seeds, n_queries)
    score, usd = (np.full((len(protocol.seeds), len(protocol.table)), np.nan) for _ in range(2))
    for split in protocol.splits:
        seed = protocol.seeds.index(split.seed)
        best = protocol.table.take(split.train).best_single()
        score[seed, split.test] = protocol.table.score[split.test, best]
        test = _drop_partial_costs(protocol.table.take(split.test))
        usd[seed, split.test] = test.cost_usd[:, best]
    return score, usd


def _run(
    protocol: EvalProtocol,
    name: str,
    kind: Kind,
    parts: Mapping[int, SplitResult],
    singles: tuple[Floats, Floats],
) -> Run:
    table, n_seeds = protocol.table, len(protocol.seeds)
    # Invariant: within one seed the test parts are disjoint, so each cell is written at most once.
    arrays = {key: np.full((n_seeds, len(table)), np.nan) for key in _ARRAYS}
    picks = np.full((n_seeds, len(table)), -1, np.int64)  # (n_seeds, n_queries)
    best, alone = (np.full((n_seeds, len(table)), np.nan) for _ in range(2))
    share, saving_share = (np.zeros(table.score.shape) for _ in range(2))  # (n_queries, n_experts)
    quality: Floats | None = None
    for n, result in parts.items():
        split = protocol.splits[n]
        seed = protocol.seeds.index(split.seed)
        for key, values in arrays.items():
            values[seed, split.test] = getattr(result, key)
        picks[seed, split.test] = result.picks
        best[seed, split.test], alone[seed, split.test] = _find_best_picks(
            table.score[split.test], result.share
        )
        share[split.test] += result.share
        saving_share[split.test] += result.saving_share
        # References and `best_single` are rules that only look like predictions; they are not calibrated.
        if result.quality is not None and kind != "reference" and name != "best_single":
            quality = np.full((n_seeds, *table.score.shape), np.nan) if quality is None else quality
            quality[seed, split.test] = result.quality
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
        frontier=_frontier(protocol, parts),
        rate=np.array([result.rate for result in parts.values() if result.rate]),
    )


def _find_best_picks(score: Floats, share: Floats) -> tuple[Floats, Floats]:
    """(n_test,) share of the pick among the best, NaN where unmeasured; the same where one alone is best."""
    known = np.where(np.isnan(score), -np.inf, score)
    top = known == known.max(axis=1, keepdims=True)  # (n_test, n_experts) the best of each row
    # Summed over all tied experts: picking any one of them is optimal.
    among = np.where(top, share, 0.0).sum(axis=1)
    among = np.where(np.isnan(score).all(axis=1), np.nan, among)
    return among, np.where(top.sum(axis=1) == 1, among, np.nan)


def _frontier(protocol: EvalProtocol, parts: Mapping[int, SplitResult]) -> Floats:
    """(n_lambdas, 3) λ, mean score, mean cost; empty without costs."""
    sizes: Ints = np.array([len(protocol.splits[n].test) for n in parts])
    drawn = np.array([result.frontier for result in parts.values()])  # (n_splits, n_lambdas, 2)
    # Weighted by test size, so that the curve is a mean over queries and not over splits.
    mean = np.average(drawn, axis=0, weights=sizes)
    found: Floats = np.concatenate((FRONTIER[:, None], mean), axis=1)
    drawable: Floats = found[~np.isnan(found).any(axis=1)]
    return drawable


_CHUNK = 512  # queries whose similarities are held at once, to bound memory


def cheapest(train: OutcomeTable, n_queries: int) -> Ints:
    """The expert with the lowest mean training cost, always; the best single where no cost is known."""
    cost = train.means()["cost_usd"]
    pick = train.best_single() if np.isnan(cost).all() else int(np.nanargmin(cost))
    return np.full(n_queries, pick, np.int64)


def task_table(train: OutcomeTable, test: OutcomeTable) -> Floats:
    """(n_test, n_experts) mean training score on the true task: an upper reference, not a baseline."""
    overall = train.means()["score"]
    # A task's mean may be NaN for an expert it was never measured on; the overall mean fills in.
    known = {task: train.take(np.array(train.tasks) == task).means()["score"] for task in set(train.tasks)}
    means = {task: np.where(np.isnan(mean), overall, mean) for task, mean in known.items()}
    return np.array([means.get(task, overall) for task in test.tasks]).reshape(len(test), train.n_experts)


def mean_of_four(train: OutcomeTable, train_x: Features, texts: tuple[str, ...], x: Features) -> Floats:
    """(n_queries, n_experts) mean of TF-IDF ridge, dense ridge, 200 neighbours and 64 k-means clusters.

    The features are those of the encoder tier. Gaps count as the expert's mean.
    """
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    y = fill_gaps(train)  # (n_train, n_experts)
    # min_df=2 drops words of a single query, which a linear model would only memorise.
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    lexical = Ridge(alpha=3.0).fit(words.fit_transform(train.texts), y).predict(words.transform(texts))
    dense = Ridge(alpha=1.0).fit(train_x.dense, y).predict(x.dense)
    clusters = KMeans(min(64, len(train)), n_init=4, random_state=0).fit(train_x.dense)
    members = np.eye(clusters.n_clusters)[clusters.labels_]  # (n_train, n_clusters) one-hot
    # KMeans can leave a cluster empty when texts repeat; the maximum avoids 0 / 0.
    by_cluster = (members.T @ y) / np.maximum(members.sum(axis=0), 1)[:, None]
    four = (lexical, dense, _neighbours(train_x, y, x, 200), by_cluster[clusters.predict(x.dense)])
    mean: Floats = np.mean([part.reshape(len(x), -1) for part in four], axis=0)
    return mean


def _neighbours(train_x: Features, y: Floats, x: Features, k: int) -> Floats:
    k = min(k, len(train_x))
    mean = np.empty((len(x), y.shape[1]))
    for start in range(0, len(x), _CHUNK):
        block = slice(start, start + _CHUNK)
        # (n_block, k), in no order
        nearest = np.argpartition(-(x.dense[block] @ train_x.dense.T), k - 1, axis=1)[:, :k]
        mean[block] = y[nearest].mean(axis=1)
    return mean


def naive_ridge(train: OutcomeTable, train_x: Features, texts: tuple[str, ...], x: Features) -> Floats:
    """(n_queries, n_experts) one ridge over TF-IDF and the vector side by side: the first thing to try."""
    from scipy.sparse import csr_array, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    seen_x = hstack((words.fit_transform(train.texts), csr_array(train_x.dense.astype(np.float64)))).tocsr()
    test_x = hstack((words.transform(texts), csr_array(x.dense.astype(np.float64)))).tocsr()
    predicted: Floats = Ridge(alpha=3.0).fit(seen_x, fill_gaps(train)).predict(test_x)
    return predicted.reshape(len(x), -1)


_BASELINES: Mapping[str, _Learned] = {"mean_of_four": mean_of_four, "naive_ridge": naive_ridge}
_LEARNED: Mapping[str, _Learned] = {**_BASELINES, "rules": rules}


def fill_gaps(train: OutcomeTable) -> Floats:
    """(n_queries, n_experts) scores, the expert's mean where unmeasured."""
    means = train.means()["score"]
    return np.where(np.isnan(train.score), np.where(np.isnan(means), 0.0, means), train.score)
