"""The measures: each a function of a run and of query weights (n_draws, n_queries) that returns (n_draws,).

All ones as weights give the value, resampled counts give draws for its interval.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse

from routers import Floats, Floats32

from .bootstrap import average_by_weight
from .run import EvalContext, Run


def accuracy(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean score over all tested queries."""
    return average_by_weight(run.score, weights)


def gain(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """accuracy / accuracy of the best single expert as chosen on the training part − 1."""
    # gain = acc / acc_single - 1; undefined where the best single expert scores nothing.
    single = average_by_weight(run.single, weights)
    relative: Floats = (
        np.divide(
            average_by_weight(run.score, weights), single, out=np.full_like(single, np.nan), where=single > 0
        )
        - 1
    )
    return relative


def accuracy_in_domain(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean over the training tasks of their accuracies."""
    return _macro(run, context, weights, "in_domain")


def accuracy_out_of_domain(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean over the tasks never trained on of their accuracies."""
    return _macro(run, context, weights, "out_of_domain")


def _macro(run: Run, context: EvalContext, weights: Floats, domain: str) -> Floats:
    tasks = context.domains.get(domain, ())
    if not tasks:
        return np.full(len(weights), np.nan)
    means = []
    for task in tasks:
        rows = context.of_task(task)
        # Macro average as in RouterDC (arXiv 2409.19886): tasks count alike, however many queries they have.
        means.append(average_by_weight(run.score[:, rows], weights[:, rows]))
    macro: Floats = np.mean(means, axis=0)
    return macro


def cost_usd(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean cost of a query with λ = 0."""
    return average_by_weight(run.cost_usd, weights)


def area(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean score over 50 budgets from the cheapest single's to the best single's mean training cost."""
    return average_by_weight(run.at_budget, weights)


def area_usd(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """The cost that was realised with `area`."""
    return average_by_weight(run.at_budget_usd, weights)


def cost_saved(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """1 − cost / cost of the best single, with the largest λ that lost nothing on the training part."""
    ours, theirs = average_by_weight(run.saving_usd, weights), average_by_weight(run.single_usd, weights)
    saved: Floats = 1 - np.divide(ours, theirs, out=np.full_like(ours, np.nan), where=theirs > 0)
    return saved


def cost_saved_score(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Test score less the best single's, with the λ of `cost_saved`."""
    return average_by_weight(run.saving - run.single, weights)


PgrSummary = Callable[[Floats, Floats], Floats]
"""Share sent (n_draws, n + 1) and PGR at each → (n_draws,)."""
# Draws at a time: cumulative sums of all draws of a large table would take gigabytes.
_CHUNK = 100


def apgr(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Integral of PGR over x ∈ [0, 1]; sending at random gives 0.5.

    Queries are sent to the strong expert in order of its predicted gain. At share x sent,
    PGR(x) = (acc(x) − acc_weak) / (acc_strong − acc_weak); a seeded shuffle breaks ties.

    Reference: RouteLLM (arXiv 2406.18665), which averages over ten shares as `apgr_10` does.
    """
    return _mean_over_seeds(run, context, weights, _integral)


def apgr_10(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean of PGR over x = 0.1, 0.2 … 1.0; random sending gives 0.55."""
    return _mean_over_seeds(run, context, weights, _ten_shares)


def _mean_over_seeds(run: Run, context: EvalContext, weights: Floats, summarize: PgrSummary) -> Floats:
    if run.quality is None or (context.strong < 0).any():
        return np.full(len(weights), np.nan)
    found = [
        _one_seed(quality, strong, context, weights, summarize)
        for quality, strong in zip(run.quality, context.strong.tolist(), strict=True)
    ]
    mean: Floats = np.mean(found, axis=0)
    return mean


def _one_seed(
    quality: Floats, strong: int, context: EvalContext, weights: Floats, summarize: PgrSummary
) -> Floats:
    weak = 1 - strong
    # Both experts must be measured, or the lead of the strong one is unknown.
    rows = np.flatnonzero(~np.isnan(quality).any(axis=1) & ~np.isnan(context.table.score).any(axis=1))
    # Without the shuffle a constant router would inherit the table's order, and with it an apgr away from .5.
    shuffled = np.random.default_rng(0).permutation(rows)
    lead = quality[shuffled, strong] - quality[shuffled, weak]
    # A stable sort keeps the shuffled order among ties.
    order = shuffled[np.argsort(-lead, kind="stable")]
    gained = context.table.score[order, strong] - context.table.score[order, weak]  # (n_rows,)
    found = [
        _summarize_pgr(weights[start : start + _CHUNK][:, order].astype(np.float64), gained, summarize)
        for start in range(0, len(weights), _CHUNK)
    ]
    return np.concatenate(found)


def _summarize_pgr(weights: Floats, gained: Floats, summarize: PgrSummary) -> Floats:
    sent = np.cumsum(weights, axis=1)  # (n_draws, n_rows) queries sent to the strong expert so far
    won = np.cumsum(weights * gained, axis=1)  # (n_draws, n_rows) score gained so far
    lead = won[:, -1:]
    # The curve starts at (0, 0): nothing sent, nothing recovered. It ends at (1, 1) by construction.
    start = np.zeros((len(weights), 1))
    share = np.concatenate((start, sent / sent[:, -1:]), axis=1)
    pgr = np.concatenate(
        (start, np.divide(won, lead, out=np.full_like(won, np.nan), where=lead != 0)), axis=1
    )
    return summarize(share, pgr)


def _integral(share: Floats, pgr: Floats) -> Floats:
    # Between two queries PGR is linear, so the trapezoid rule is exact.
    return np.asarray(np.trapezoid(pgr, share, axis=1), np.float64)


def _ten_shares(share: Floats, pgr: Floats) -> Floats:
    at = np.arange(1, 11) / 10
    return np.array([np.interp(at, x, y).mean() for x, y in zip(share, pgr, strict=True)])


BETA = 0.1
# Dollars per thousand queries, constants of RouterArena's formula.
DEAREST, CHEAPEST = 200.0, 0.0044


def router_arena(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Accuracy A and cheapness C in one score in [0, 1], with λ = 0: (1 + β)·A·C / (β·A + C), β = 0.1.

    C = (log₂ 200 − log₂ c) / (log₂ 200 − log₂ 0.0044), c in dollars per thousand queries.

    Reference: RouterArena (arXiv 2510.00202).
    Differs: C is clipped to [0, 1], and the queries are those of this table.
    """
    accuracy = average_by_weight(run.score, weights)
    per_thousand = 1000 * average_by_weight(run.cost_usd, weights)
    # A cost of 0 gives log2(0) = -inf, hence cheapness inf, which the clip turns into 1.
    with np.errstate(divide="ignore"):
        cheapness = (np.log2(DEAREST) - np.log2(per_thousand)) / (np.log2(DEAREST) - np.log2(CHEAPEST))
    cheapness = np.clip(cheapness, 0, 1)
    # A weighted harmonic mean, like F-beta: it is low when either of the two is low.
    below = BETA * accuracy + cheapness
    score: Floats = np.divide(
        (1 + BETA) * accuracy * cheapness, below, out=np.full_like(below, np.nan), where=~(below <= 0)
    )
    return score


def optimal(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Share of queries on which an expert that scored best was picked; ties count."""
    return average_by_weight(run.best, weights)


def optimal_strict(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Share of the queries with one best expert alone on which that one was picked."""
    return average_by_weight(run.best_alone, weights)


def regret(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean of the oracle's score less the score of the picked expert."""
    return average_by_weight(context.table.oracle()[None] - run.score, weights)


def share_of_measured(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Share of decisions whose outcome is in the table; the others enter no other figure."""
    decided = run.picks >= 0
    return average_by_weight(np.where(decided, ~np.isnan(run.score), np.nan), weights)


N_BINS = 10


def brier(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Mean squared difference of predicted and measured score, over all experts."""
    if run.quality is None:
        return np.full(len(weights), np.nan)
    # Brier (1950), over all experts and not only those picked: routing compares all of them.
    off = (run.quality - context.table.score) ** 2  # (n_seeds, n_queries, n_experts)
    return average_by_weight(np.moveaxis(off, 2, 0).reshape(-1, off.shape[1]), weights)


def calibration_error(run: Run, context: EvalContext, weights: Floats) -> Floats:
    """Expected calibration error: |mean predicted − mean measured| over ten bins of equal count.

    A resampled bin is never exactly right, so the interval lies a little above the value.
    """
    if run.quality is None:
        return np.full(len(weights), np.nan)
    counts, predicted_sum, measured_sum = (weights @ part for part in _by_query(run, context))
    total = counts.sum(axis=1)
    error: Floats = np.divide(
        np.abs(predicted_sum - measured_sum).sum(axis=1),
        total,
        out=np.full_like(total, np.nan),
        where=total > 0,
    )
    return error


def reliability(run: Run, context: EvalContext) -> list[tuple[float, float, int]]:
    """Per bin mean predicted score, mean measured score and how many outcomes; empty bins are left out."""
    if run.quality is None:
        return []
    counts, predicted_sum, measured_sum = (part.sum(axis=0) for part in _by_query(run, context))
    return [
        (float(predicted_sum[n] / counts[n]), float(measured_sum[n] / counts[n]), int(counts[n]))
        for n in range(N_BINS)
        if counts[n]
    ]


def _by_query(run: Run, context: EvalContext) -> tuple[Floats, Floats, Floats]:
    """Counts, predicted and measured sums per query and bin, (n_queries, N_BINS) each."""
    quality = run.quality if run.quality is not None else np.empty((0, *context.table.score.shape))
    known = ~np.isnan(quality) & ~np.isnan(context.table.score)
    # Equal counts instead of equal widths: predictions cluster, and near-empty bins are mostly noise.
    # The edges come from all queries and are not resampled, so that bins mean the same in every draw.
    edges = np.quantile(quality[known], np.arange(1, N_BINS) / N_BINS) if known.any() else np.empty(0)
    counts, predicted_sum, measured_sum = (np.zeros((quality.shape[1], N_BINS)) for _ in range(3))
    _, query, expert = np.nonzero(known)
    predicted = quality[known]
    place = query, np.searchsorted(edges, predicted, side="right")
    # np.add.at, since `counts[place] += 1` counts a repeated (query, bin) pair once.
    np.add.at(counts, place, 1.0)
    np.add.at(predicted_sum, place, predicted)
    np.add.at(measured_sum, place, context.table.score[query, expert])
    return counts, predicted_sum, measured_sum


DEPTH = 10


def ndcg(queries: Floats32, documents: Floats32, relevance: scipy.sparse.csr_array) -> Floats:
    """(n_queries,) nDCG@10: Σ gain_i / log2(i + 1) over the first ten, by the same of the best order.

    queries (n_queries, dim) and documents (n_documents, dim) unit rows; relevance (n_queries, n_documents)
    gains; documents as near as each other keep their order.
    """
    found = np.zeros(len(queries))
    for row in range(len(queries)):
        gains = relevance[[row]].toarray()[0]
        # One query at a time: the full similarity matrix of a large corpus does not fit in memory.
        order = np.argsort(-(documents @ queries[row]), kind="stable")[:DEPTH]
        best = _discount(np.sort(gains)[::-1][:DEPTH])
        found[row] = _discount(gains[order]) / best if best > 0 else 0.0
    return found


def _discount(gains: Floats) -> float:
    # trec_eval's form: linear gains, discounted by log2(rank + 1) with ranks from 1.
    return float((gains / np.log2(np.arange(len(gains)) + 2)).sum())
