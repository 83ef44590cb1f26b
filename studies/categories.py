"""Categories from few labels, with and without a pool of unlabelled prompts; what α promises and what comes.

`python -m studies.categories DATA` reads buckets 0–79 of a table with tasks, in four folds. Of the training
folds a share of the prompts is labelled and graded; the rest is the pool: prompts alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from evals.console import progress_bar, report_errors
from evals.datasets import read_outcomes
from evals.measures.bootstrap import Interval, interval
from evals.replay import RecordedExtractor
from evals.vectors import VectorCache
from routers import (
    GENERAL,
    Bools,
    Categorizer,
    FeatureExtractor,
    Features,
    Floats,
    Ints,
    OutcomeTable,
    StaticEmbedder,
    Tier,
    fit_predictor,
    load_embedder,
    make_predictor,
    query_of,
)
from routers.protocols import CategoryExamples

SHARES = (0.01, 0.05, 0.2)
ALPHAS = (0.05, 0.1, 0.2)
N_TRAINED = 80
"""Buckets from 0 that are read; the others are for the last reading of a frozen configuration."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A table of tagged prompts with their features and folds, and what to make predictors with."""

    table: OutcomeTable
    features: Features
    folds: Ints
    settings: dict[str, Any]

    def fit(self, labelled: Ints, pool: Ints, alpha: float = 0.1) -> Any:
        """`coe` on the labelled rows, and on the texts alone of the pool."""
        known = [self.table.tasks[n] for n in labelled.tolist()]
        names = tuple(sorted({*known} - {"", GENERAL}))
        examples = CategoryExamples(names, self.features.take(pool), [""] * len(pool))
        model = make_predictor("coe", {"alpha": alpha, **self.settings})
        return fit_predictor(model, self.features.take(labelled), self.table.score[labelled], known, examples)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--tier", type=click.Choice(["static", "encoder"]), default="static", show_default=True)
@click.option("--vectors", type=click.Path(path_type=Path), help="As of `thalamus eval`; for --tier encoder.")
@click.option("--draws", "n_draws", type=click.IntRange(1), default=5, show_default=True, help="Of labels.")
@click.option("--mode", type=click.Choice(["improved", "paper"]), default="improved", show_default=True)
@click.option("--only", type=click.Choice(["labels", "alpha"]), help="One of the two tables.")
@report_errors
def main(data: Path, tier: Tier, vectors: Path | None, n_draws: int, mode: str, only: str | None) -> None:
    """Print the table of labels and the table of α, line by line."""
    with progress_bar() as on_progress:
        recorded = record(data, tier, vectors, {"mode": mode}, on_progress)
        if only != "alpha":
            click.echo("| labels | pool | category assigned | where not sent to general | routed |")
            click.echo("|---|---|---:|---:|---:|")
            for line in measure_labels(recorded, n_draws, on_progress):
                click.echo(line)
        if only != "labels":
            click.echo("| α asked | sent to general, in domain | tasks left out: sent to general | AUC |")
            click.echo("|---|---:|---:|---:|")
            for line in measure_alphas(recorded, on_progress):
                click.echo(line)


def record(
    data: Path,
    tier: Tier,
    vectors: Path | None,
    settings: dict[str, Any],
    on_progress: Callable[[str, int, int], None],
) -> Recorded:
    """Buckets 0–79 of the table, in four folds, with the features of one tier."""
    table = read_outcomes(data)
    table = table.take(table.bucket < N_TRAINED)
    encoder = load_embedder("minilm") if tier == "encoder" else None
    kept = VectorCache(encoder, vectors) if encoder is not None and vectors is not None else None
    whole = FeatureExtractor(StaticEmbedder(), kept or encoder)
    read = RecordedExtractor.of(table.texts, whole, on_progress)
    if kept is not None:
        kept.save()
    features = read.extract([query_of(text) for text in table.texts], tier)
    return Recorded(table, features, np.asarray(table.bucket) // 20, settings)


def measure_labels(
    recorded: Recorded, n_draws: int, on_progress: Callable[[str, int, int], None]
) -> Iterator[str]:
    """A line for each share of labels with and without the pool, and the gain of the pool in pairs."""
    shares = (*SHARES, 1.0)
    for n, share in enumerate(shares):
        drawn: dict[bool, list[tuple[Bools, Bools, Floats]]] = {False: [], True: []}
        for draw in range(n_draws if share < 1 else 1):
            parts = [split_labels(recorded, fold, share, draw) for fold in range(4)]
            for with_pool in (False, True) if share < 1 else (False,):
                found = [read_fold(recorded, *part, with_pool) for part in parts]
                drawn[with_pool].append(
                    cast("tuple[Bools, Bools, Floats]", tuple(map(np.concatenate, zip(*found, strict=True))))
                )
            on_progress("labels", n * n_draws + draw + 1, len(shares) * n_draws)
        yield from render_labels(share, drawn)


def split_labels(recorded: Recorded, fold: int, share: float, draw: int) -> tuple[Ints, Ints, Ints]:
    """Labelled rows, the pool and the rows of the fold; of every task at least one is labelled."""
    outside = np.flatnonzero(recorded.folds != fold)
    rng = np.random.default_rng([fold, draw])
    order = rng.permutation(outside)
    tasks = np.array(recorded.table.tasks)[order]
    # The first of every task, as a taxonomy has an example of each category.
    _, first = np.unique(tasks, return_index=True)
    place = np.concatenate((first, np.setdiff1d(np.arange(len(order)), first)))
    n = max(round(share * len(order)), len(first))
    chosen = order[place]
    return chosen[:n], chosen[n:], np.flatnonzero(recorded.folds == fold)


def read_fold(
    recorded: Recorded, labelled: Ints, pool: Ints, asked: Ints, with_pool: bool
) -> tuple[Bools, Bools, Floats]:
    """Of the rows asked: whether the category is right, whether it is general, the score of the choice."""
    tags = recorded.table.tasks
    fitted = recorded.fit(labelled, pool if with_pool else pool[:0])
    features = recorded.features.take(asked)
    assigned = cast("Categorizer", fitted).categories(features)
    right = np.array([name == tags[row] for name, row in zip(assigned, asked.tolist(), strict=True)])
    general = np.array([name == GENERAL for name in assigned])
    mean = fitted.predict(features).mean
    tied = mean >= mean.max(axis=1, keepdims=True) - 1e-12
    score = (recorded.table.score[asked] * tied).sum(axis=1) / tied.sum(axis=1)
    return right, general, score


def render_labels(share: float, drawn: dict[bool, list[tuple[Bools, Bools, Floats]]]) -> Iterator[str]:
    """One line without and one with the pool, whose gains are paired over queries, means over the draws."""
    means: dict[bool, tuple[Floats, Floats]] = {}
    for with_pool, draws in drawn.items():
        if not draws:
            continue
        right = np.mean([one[0] for one in draws], axis=0)
        score = np.mean([one[2] for one in draws], axis=0)
        certain = sum(one[0].sum() for one in draws) / max(sum((~one[1]).sum() for one in draws), 1)
        means[with_pool] = right, score
        gains = ""
        if with_pool and False in means:
            gain = [interval(np.asarray(a - b)) for a, b in zip(means[True], means[False], strict=True)]
            gains = f" (assigned {show(gain[0])}, routed {show(gain[1])})"
        cells = f"{100 * right.mean():.1f} | {100 * certain:.1f} | {100 * score.mean():.2f}{gains}"
        yield f"| {100 * share:g} % | {'yes' if with_pool else 'no'} | {cells} |"


def show(gain: Interval) -> str:
    """A difference in points with its interval."""
    return f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def measure_alphas(recorded: Recorded, on_progress: Callable[[str, int, int], None]) -> Iterator[str]:
    """A line for each α: what goes to the general category in domain, and of tasks that were left out."""
    tags = np.array(recorded.table.tasks)
    names = np.unique(tags)
    for n, alpha in enumerate(ALPHAS):
        inside = np.zeros(len(tags), bool)
        inside_level, outside_level = np.zeros(len(tags)), np.zeros(len(tags))
        outside = np.zeros(len(tags), bool)
        for fold in range(4):
            rows, asked = np.flatnonzero(recorded.folds != fold), np.flatnonzero(recorded.folds == fold)
            inside[asked], inside_level[asked] = read_level(recorded, rows, asked, alpha)
        for name in names:
            rows, asked = np.flatnonzero(tags != name), np.flatnonzero(tags == name)
            outside[asked], outside_level[asked] = read_level(recorded, rows, asked, alpha)
        recalls = [outside[tags == name].mean() for name in names]
        auc = area_under_curve(inside_level, outside_level)
        on_progress("α", n + 1, len(ALPHAS))
        yield (
            f"| {alpha:g} | {100 * inside.mean():.1f} % | {100 * outside.mean():.1f} %"
            f" (mean over tasks {100 * np.mean(recalls):.1f} %) | {auc:.3f} |"
        )


def read_level(recorded: Recorded, rows: Ints, asked: Ints, alpha: float) -> tuple[Bools, Floats]:
    """Of the rows asked: whether they go to the general category, and how uncertain their category is."""
    fitted = recorded.fit(rows, rows[:0], alpha)
    features = recorded.features.take(asked)
    assigned = cast("Categorizer", fitted).categories(features)
    row = fitted.space_.rows(features)
    level = fitted.uncertainty_.measure_uncertainty(fitted.classifier_.posterior(row), row)
    return np.array([name == GENERAL for name in assigned]), level


def area_under_curve(low: Floats, high: Floats) -> float:
    """The share of pairs in which the second is higher; ties count half."""
    order = np.sort(low)
    below = np.searchsorted(order, high, "left")
    upto = np.searchsorted(order, high, "right")
    return float((below + upto).mean() / 2 / len(order))


if __name__ == "__main__":
    main()
