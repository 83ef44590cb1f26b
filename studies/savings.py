"""What routing saves and harms on little data and on other tasks: `python -m studies.savings DATA…`.

From each table rows are drawn to fit on, and others, of other buckets, to test on; then whole tasks are left
out. Every λ is chosen on the rows fitted on. Printed per table and size, in points, means over the draws:

    area, over four, over blind   mean test score over fifty budgets; less mean_of_four's, less blind mixing's
    harm                          score with λ = 0, less the best single expert's
    reliability, slope            trust in predicted differences as fitted; what came true of them in the test

Every run makes the same draws: `--out` before a change and `--before` after it compare them in pairs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from evals.alternatives import evaluate_blind_mix
from evals.console import OnProgress, progress_bar, report_errors
from evals.datasets import read_outcomes
from evals.evaluate import evaluate_predictions
from evals.measures.bootstrap import Interval, interval
from evals.replay import RecordedExtractor
from evals.run_all import mean_of_four
from evals.vectors import VectorCache
from routers import (
    DataError,
    FeatureExtractor,
    Features,
    FitSettings,
    Floats,
    Ints,
    OutcomeTable,
    StaticEmbedder,
    Tier,
    cross_fit,
    load_embedder,
    query_of,
)
from routers.calibration import advantage_slope

SIZES = (200, 400, 1000)
N_TRAINED = 80
"""Buckets from 0 that are drawn from; the others are for the last reading of a frozen configuration."""
N_TESTED = 1500
N_DRAWS, N_QUICK = 20, 5
_CONTRASTS = ("over_four", "over_blind", "harm")


@dataclass(frozen=True, slots=True)
class DrawResult:
    """The figures of one draw, in score; NaN where a table has no costs.

    area: of the router; over_four, over_blind: less that of mean_of_four and of blind mixing
    harm: score with λ = 0 less the best single expert's, as the rows fitted on name it
    reliability: as fitted; slope: of true on predicted advantage on the test rows
    """

    layout: str
    seed: int
    area: float
    over_four: float
    over_blind: float
    harm: float
    reliability: float
    slope: float


@click.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help=f"{N_QUICK} draws of each kind instead of {N_DRAWS}.")
@click.option("--predictor", default="blend", show_default=True)
@click.option("--tier", type=click.Choice(["static", "encoder"]), default="static", show_default=True)
@click.option("--vectors", type=click.Path(path_type=Path), help="As of `thalamus eval`; for --tier encoder.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures of every draw here, as JSON.")
@click.option(
    "--before", type=click.Path(path_type=Path, exists=True), help="Compare with what --out wrote earlier."
)
@report_errors
def main(
    data: tuple[Path, ...],
    quick: bool,
    predictor: str,
    tier: Tier,
    vectors: Path | None,
    out: Path | None,
    before: Path | None,
) -> None:
    """Area, harm and reliability over many draws of rows and tasks, with 95 % intervals over the draws."""
    found: dict[str, list[DrawResult]] = {}
    n_draws = N_QUICK if quick else N_DRAWS
    encoder = load_embedder("minilm", n_threads=1) if tier == "encoder" else None
    kept = VectorCache(encoder, vectors) if encoder is not None and vectors is not None else None
    with progress_bar() as on_progress:
        for path in data:
            table = read_outcomes(path)
            # Cut at once: nothing below sees a row of the other buckets.
            table = table.take(table.bucket < N_TRAINED)
            read = RecordedExtractor.of(
                table.texts, FeatureExtractor(StaticEmbedder(), kept or encoder), on_progress
            )
            measure = partial(measure_draw, table, read, predictor, tier)
            found[path.name] = list(_measure_all(table, n_draws, measure, on_progress))
            if kept is not None:
                kept.save()
    click.echo(render(found))
    if before is not None:
        click.echo("\nThis run less the earlier one, the same draws in pairs:\n")
        click.echo(render_changes(found, _load(before)))
    if out is not None:
        rows = {name: [asdict(result) for result in results] for name, results in found.items()}
        out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _measure_all(
    table: OutcomeTable,
    n_draws: int,
    measure: "partial[DrawResult]",
    on_progress: OnProgress,
) -> Iterator[DrawResult]:
    layouts = [str(size) for size in SIZES] + (["tasks"] if len(set(table.tasks)) > 1 else [])
    for n, (layout, seed) in enumerate((layout, seed) for layout in layouts for seed in range(n_draws)):
        on_progress("draws", n, n_draws * len(layouts))
        train, test = draw_tasks(table, seed) if layout == "tasks" else draw_rows(table, int(layout), seed)
        yield measure(layout, seed, train, test)


def draw_rows(table: OutcomeTable, size: int, seed: int) -> tuple[Ints, Ints]:
    """Rows to fit on, from half of the buckets, and rows to test on, from the others.

    Raises:
        DataError: half of the buckets hold fewer rows.
    """
    rng = np.random.default_rng((seed, size))
    mixed = rng.permutation(np.unique(table.bucket))
    inside = np.isin(table.bucket, mixed[: len(mixed) // 2])
    if inside.sum() < size:
        raise DataError(f"{int(inside.sum())} rows in half of the buckets are too few to draw {size} from")
    return _take_some(np.flatnonzero(inside), size, rng), _take_some(np.flatnonzero(~inside), N_TESTED, rng)


def draw_tasks(table: OutcomeTable, seed: int) -> tuple[Ints, Ints]:
    """Rows of all tasks but one to fit on, and rows of that one; seed after seed each is left out in turn."""
    rng = np.random.default_rng((seed, 0))
    names = sorted(set(table.tasks))
    # The same order for all seeds, so that a few draws meet as many tasks as they can.
    left_out = np.random.default_rng(0).permutation(names)[seed % len(names)]
    inside = np.array(table.tasks) == left_out
    return _take_some(np.flatnonzero(~inside), SIZES[-1], rng), _take_some(
        np.flatnonzero(inside), N_TESTED, rng
    )


def _take_some(rows: Ints, n: int, rng: np.random.Generator) -> Ints:
    drawn: Ints = np.sort(rng.permutation(rows)[:n])
    return drawn


def measure_draw(
    table: OutcomeTable,
    read: RecordedExtractor,
    predictor: str,
    tier: Tier,
    layout: str,
    seed: int,
    train_rows: Ints,
    test_rows: Ints,
) -> DrawResult:
    """Fit on the one rows and read the others once."""
    train, test = table.take(train_rows), table.take(test_rows)
    artifact, out_of_fold = cross_fit(train, read, FitSettings(predictor, tiers=(tier,)))
    model = artifact.tiers[tier]
    calibrated = model.calibration.apply(model.quality.predict(_extract(read, test, tier)))
    quality = model.advantage.apply(calibrated.mean, calibrated.novelty)
    ours = evaluate_predictions(train, test, out_of_fold[tier], quality)
    slope, _ = advantage_slope(calibrated.mean, test.score, test.bucket)
    single = test.score[:, train.best_single()]
    priced = not np.isnan(train.means()["cost_usd"]).any()
    area, four, blind = (
        (ours.at_budget.mean(), _four(train, test, read, tier), evaluate_blind_mix(train, test).at_budget)
        if priced
        else (np.nan, np.nan, np.full(1, np.nan))
    )
    return DrawResult(
        layout,
        seed,
        area=float(area),
        over_four=float(area - four),
        over_blind=float(area - blind.mean()),
        harm=float((ours.score - single).mean()),
        reliability=model.advantage.reliability,
        slope=slope,
    )


def _four(train: OutcomeTable, test: OutcomeTable, read: RecordedExtractor, tier: Tier) -> float:
    """The area of mean_of_four on the features of the same tier."""

    def predict(known: OutcomeTable, asked: OutcomeTable) -> Floats:
        return mean_of_four(known, _extract(read, known, tier), asked.texts, _extract(read, asked, tier))

    folds, out_of_fold = train.folds(), np.empty_like(train.score)
    for fold in np.unique(folds):
        inside = folds == fold
        out_of_fold[inside] = predict(train.take(~inside), train.take(inside))
    return float(evaluate_predictions(train, test, out_of_fold, predict(train, test)).at_budget.mean())


def _extract(read: RecordedExtractor, table: OutcomeTable, tier: Tier) -> Features:
    return read.extract([query_of(text) for text in table.texts], tier)


def _load(path: Path) -> dict[str, list[DrawResult]]:
    """Raises: DataError: the file is not one that --out wrote."""
    try:
        rows = json.loads(path.read_text("utf-8"))
        return {name: [DrawResult(**row) for row in results] for name, results in rows.items()}
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{path}: not written by --out of this study") from None


def _of(results: Sequence[DrawResult], layout: str, name: str) -> Floats:
    return np.array([getattr(result, name) for result in results if result.layout == layout], np.float64)


def _layouts(results: Sequence[DrawResult]) -> list[str]:
    return list(dict.fromkeys(result.layout for result in results))


def render(found: Mapping[str, Sequence[DrawResult]]) -> str:
    """The figures as a Markdown table, a row per table and layout."""
    heads = ["table", "rows", "area", *(name.replace("_", " ") for name in _CONTRASTS)]
    lines = ["| " + " | ".join([*heads, "reliability", "slope"]) + " |", "|---" * (len(heads) + 2) + "|"]
    for table, results in found.items():
        for layout in _layouts(results):
            area, trusted, slope = (
                float(_of(results, layout, name).mean()) for name in ("area", "reliability", "slope")
            )
            cells = [_points(_of(results, layout, name)) for name in _CONTRASTS]
            plain = "–" if np.isnan(area) else f"{area:.4f}"
            row = [table, layout, plain, *cells, f"{trusted:.2f}", f"{slope:.2f}"]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def render_changes(
    now: Mapping[str, Sequence[DrawResult]], before: Mapping[str, Sequence[DrawResult]]
) -> str:
    """Now less before in area and in score with λ = 0, over the draws that both made."""
    lines = ["| table | rows | draws | area | score with λ = 0 |", "|---" * 5 + "|"]
    for table, results in now.items():
        earlier = {(one.layout, one.seed): one for one in before.get(table, ())}
        for layout in _layouts(results):
            both = [
                (one, earlier[layout, one.seed])
                for one in results
                if one.layout == layout and (layout, one.seed) in earlier
            ]
            changes = (
                np.array([getattr(new, name) - getattr(old, name) for new, old in both])
                for name in ("area", "harm")
            )
            lines.append(f"| {table} | {layout} | {len(both)} | " + " | ".join(map(_points, changes)) + " |")
    return "\n".join(lines)


def _points(values: Floats) -> str:
    """In points, with the interval over draws."""
    if not len(values) or np.isnan(values).any():
        return "–"
    found: Interval = interval(values)
    return f"{100 * found.value:+.2f} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


if __name__ == "__main__":
    main()
