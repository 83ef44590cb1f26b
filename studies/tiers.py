"""What each embedder tier is worth: `python -m studies.tiers DATA`.

Per fold an artifact is fitted on the other folds, calibration and adaptive margin included, and the engine
replays the fold with `encoder: never`, `adaptive` and `always`, beside the simple ensemble `mean_of_four`.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from evals.commands.import_ import bucket_set
from evals.console import OnProgress, progress_bar, report_errors
from evals.datasets import read_outcomes
from evals.measures.bootstrap import interval_of_difference
from evals.measures.budgets import BudgetResult, Split, evaluate_split, pool, summary
from evals.replay import RecordedExtractor, Replay, replay
from evals.run_all import mean_of_four, task_table
from policies import EncoderUse, Policy
from routers import (
    FeatureExtractor,
    FitSettings,
    Floats,
    Ints,
    OutcomeTable,
    StaticEmbedder,
    Tier,
    fit_artifact,
    load_embedder,
    make_predictor,
    query_of,
)

USES: tuple[EncoderUse, ...] = ("never", "adaptive", "always")
Quality = Callable[[OutcomeTable, OutcomeTable], Floats]
"""Training part, queries → (n_queries, n_experts) predicted quality."""


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--buckets", default="0-99", show_default=True, help="The queries to use.")
@click.option("--test", "held_out", help="Buckets to read once, fitting on the rest; else five bucket folds.")
@click.option("--predictor", default="blend", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures here too, as JSON.")
@report_errors
def main(data: Path, buckets: str, held_out: str | None, predictor: str, out: Path | None) -> None:
    """Gain over the best single expert with the encoder never, adaptively, always consulted."""
    table = read_outcomes(data)
    table = table.take(np.isin(table.bucket, list(bucket_set(buckets))))
    folds = table.bucket // 20  # (n_queries,) buckets 0–99 make five folds
    tested = set(folds.tolist())
    if held_out is not None:
        inside = np.isin(table.bucket, list(bucket_set(held_out)))
        # −1 is read once; the others keep their folds, which out-of-fold predictions need.
        folds, tested = np.where(inside, -1, folds), {-1}
    extractor = FeatureExtractor(StaticEmbedder(), load_embedder("minilm", n_threads=2))
    with progress_bar() as on_progress:
        read = RecordedExtractor.of(table.texts, extractor, on_progress)
        figures = compare(table, folds, sorted(tested), read, predictor, on_progress)
    click.echo(render(figures))
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def compare(
    table: OutcomeTable,
    folds: Ints,
    tested: list[int],
    read: RecordedExtractor,
    predictor: str,
    on_progress: OnProgress,
) -> dict[str, dict[str, float]]:
    """Figures by name of the router; replayed ones carry the share of queries that consulted the encoder."""
    by_quality: dict[str, Quality] = {
        "mean_of_four": partial(_four, read),
        **{f"{predictor} {tier}": partial(_predict, read, predictor, tier) for tier in read.fingerprints},
    }
    results: dict[str, list[BudgetResult]] = {name: [] for name in [*by_quality, "true task"]}
    replays: dict[str, list[Replay]] = {use: [] for use in USES}
    singles: list[Floats] = []
    for n, fold in enumerate(tested):
        on_progress("folds", n, len(tested))
        train, test = table.take(folds != fold), table.take(folds == fold)
        inner = folds[folds != fold]
        artifact = fit_artifact(train, read, FitSettings(predictor))
        for use in USES:
            replays[use].append(replay(test, artifact, read, Policy(use, encoder=use)))
        # Best on the training part: the best on the test part would be known in hindsight only.
        singles.append(test.score[:, train.best_single()])
        for name, quality in by_quality.items():
            # λ is chosen on out-of-fold predictions: a model predicts texts it was fitted on too well.
            split = Split(train, test, _out_of_fold(train, inner, quality), quality(train, test))
            results[name].append(evaluate_split(split))
        # The true task of a query, which no request carries: an upper reference.
        known = task_table(train, test)
        results["true task"].append(evaluate_split(Split(train, test, task_table(train, train), known)))
    return _figures(results, replays, np.concatenate(singles))


def _figures(
    results: dict[str, list[BudgetResult]], replays: dict[str, list[Replay]], single: Floats
) -> dict[str, dict[str, float]]:
    pooled = {name: pool(parts) for name, parts in results.items()}
    four = pooled["mean_of_four"]
    figures: dict[str, dict[str, float]] = {"best single": {"accuracy": float(single.mean())}}
    for name, result in pooled.items():
        values = {key: float(value) for key, value in summary(result).items()}
        for key, ours, theirs in (
            ("accuracy", result.score, four.score),
            ("area", result.at_budget, four.at_budget),
        ):
            by = interval_of_difference(ours, theirs)
            values |= {
                f"{key}_over_four": by.value,
                f"{key}_over_four_low": by.low,
                f"{key}_over_four_high": by.high,
            }
        figures[name] = values
    for use, parts in replays.items():
        score = np.concatenate([part.score for part in parts])  # (n_queries,) in the order of `single`
        by = interval_of_difference(score, single)
        figures[f"encoder: {use}"] = {
            "accuracy": float(score.mean()),
            "gain": float(score.mean() / single.mean() - 1),  # .60 over .50 is +.20
            "over_single": by.value,
            "over_single_low": by.low,
            "over_single_high": by.high,
            "consulted": float(np.concatenate([part.consulted for part in parts]).mean()),
        }
    return figures


def _four(read: RecordedExtractor, train: OutcomeTable, queries: OutcomeTable) -> Floats:
    train_x = read.extract([query_of(text) for text in train.texts], "encoder")
    return mean_of_four(
        train, train_x, queries.texts, read.extract([query_of(t) for t in queries.texts], "encoder")
    )


def _predict(
    read: RecordedExtractor, predictor: str, tier: Tier, train: OutcomeTable, queries: OutcomeTable
) -> Floats:
    train_x = read.extract([query_of(text) for text in train.texts], tier)
    fitted = make_predictor(predictor).fit(train_x, train.score)  # score: (n_train, n_experts)
    return fitted.predict(read.extract([query_of(text) for text in queries.texts], tier)).mean


def _out_of_fold(train: OutcomeTable, folds: Ints, quality: Quality) -> Floats:
    """(n_train, n_experts) predictions for the training part, each fold by the others."""
    result = np.empty_like(train.score)  # (n_train, n_experts)
    for fold in np.unique(folds):
        inside = folds == fold
        result[inside] = quality(train.take(~inside), train.take(inside))
    return result


def render(figures: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
    keys = ["accuracy", "gain", "area", "cost_saved", "cost_saved_score", "consulted", "over_single_low"]
    keys += ["over_single_high", "accuracy_over_four_low", "area_over_four_low"]
    lines = ["| router | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, values in figures.items():
        cells = [f"{values[key]:.4f}" if key in values else "" for key in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
