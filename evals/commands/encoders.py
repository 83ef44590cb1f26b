"""`thalamus encoders`: the encoder fine-tuned on what experts scored, and any other made servable."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from routers import (
    DataError,
    EncoderTuning,
    Features,
    Floats,
    Floats32,
    Ints,
    OutcomeTable,
    TuneSettings,
    export_encoder,
    load_embedder,
    make_predictor,
)
from routers.folders import replace_folder
from routers.text_files import write_file

from ..console import OnProgress, print_facts, progress_bar, report_errors
from ..datasets import read_outcomes
from ..measures import average_by_weight, interval_of, resample_weights
from ..probes.files import load_bundled_outcomes
from .fit import BUNDLED, TUNED, digest_text
from .import_ import bucket_set

EXAMPLES = """
\b
Examples:
  thalamus encoders fit outcomes.jsonl.gz ./encoder
  thalamus encoders fit outcomes.jsonl.gz ./encoder --buckets 0-49       leave the others to `thalamus fit`
  thalamus encoders fit bundled ./encoder --layers all --epochs 1 --folds 0
  thalamus fit outcomes.jsonl.gz --encoder ./encoder                     then, in thalamus.yaml:
                                                                         routing: {encoder: ./encoder}
"""
EXPORT_EXAMPLES = """
\b
Examples:
  thalamus encoders export sentence-transformers/all-mpnet-base-v2 ./mpnet
  thalamus encoders export ./my-finetuned-model ./mine
  thalamus fit --encoder ./mpnet
"""
_DEFAULTS = TuneSettings()
_N_TIMED = 50


def _parse_layers(_context: click.Context, _parameter: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a number of layers nor all")
    return int(value)


@click.group("encoders")
def command() -> None:
    """The encoder that reads prompts: fine-tuned on what experts scored, or another one made servable."""


@command.command("fit", epilog=EXAMPLES)
@click.argument("table", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--base", default="minilm", show_default=True, help="What to begin with: a folder or hub id.")
@click.option("--buckets", help="Learn from these buckets of the table only, such as 0-49.")
@click.option(
    "--layers",
    metavar="N|all",
    default=str(_DEFAULTS.n_layers),
    callback=_parse_layers,
    show_default=True,
    help="Uppermost layers that move, or all.",
)
@click.option("--epochs", type=click.IntRange(1), default=_DEFAULTS.n_epochs, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULTS.rate,
    show_default=True,
    help="Learning rate.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(8, 512),
    default=_DEFAULTS.max_tokens,
    show_default=True,
    help="Of a text while learning.",
)
@click.option(
    "--folds",
    type=click.IntRange(0, 10),
    default=2,
    show_default=True,
    help="To compare with the base on held-out queries; 0: do not.",
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@report_errors
def fit(
    table: Path,
    out: Path,
    base: str,
    buckets: str | None,
    layers: int | None,
    epochs: int,
    rate: float,
    max_tokens: int,
    folds: int,
    seed: int,
    as_json: bool,
) -> None:
    """Fine-tune an encoder end to end on the experts' losses in TABLE and write it to the folder OUT.

    TABLE as for `thalamus fit`, or a folder as for `thalamus eval`. Needs the extra `train` (torch) once;
    what it writes is served without. OUT appears at the end: an interruption leaves it as it was.

    For each of --folds an encoder is tuned on the other folds, and the same ridge is fitted on its vectors
    and on those of the base; the figures compare both on the fold.
    """
    if out.exists() and not (out / TUNED).is_file():
        raise DataError(f"{out}: exists and is no tuned encoder; choose another name")
    if folds == 1:
        raise click.BadParameter("2 or more, or 0", param_hint="--folds")
    outcomes = load_bundled_outcomes()[0] if str(table) == BUNDLED else read_outcomes(table, "auto")
    if buckets:
        outcomes = outcomes.take(np.isin(outcomes.bucket, list(bucket_set(buckets))))
    settings = TuneSettings(layers, epochs, rate, max_tokens=max_tokens, seed=seed)
    with progress_bar(tells_always=True) as on_progress:
        tuning = EncoderTuning(outcomes.texts, base, settings, lambda *step: on_progress("reading", *step))
        measured = _measure_held_out(tuning, outcomes, base, folds, on_progress) if folds else {}
        score, rows = outcomes.mask_declined(), np.arange(len(outcomes))
        with replace_folder(out) as fresh:
            tuning.tune(score, rows, fresh, lambda *step: on_progress("tuning", *step))
            facts = {"base": base, "settings": asdict(settings), "queries": len(outcomes), **measured}
            seen = {"texts": [digest_text(text) for text in outcomes.texts]}
            write_file(fresh / TUNED, json.dumps({**facts, **seen}) + "\n")
    facts |= {"encoder": str(out), "milliseconds a text": _time(out, outcomes.texts)}
    _show(facts, as_json)


@command.command("export", epilog=EXPORT_EXAMPLES)
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@report_errors
def export(model: str, out: Path) -> None:
    """Write MODEL, a folder or hub id of sentence-transformers, as a folder OUT that serves without torch.

    Pooling and all later modules go into one ONNX graph in int8. Needs the extra `train` (torch) once.
    """
    if out.exists() and not (out / "onnx").is_dir():
        raise DataError(f"{out}: exists and is no exported encoder; choose another name")
    cosine = export_encoder(model, out)
    embedder = load_embedder(str(out))
    print_facts({"encoder": str(out), "dimensions": embedder.dim, "cosine to torch": round(cosine, 4)})


def _measure_held_out(
    tuning: EncoderTuning, outcomes: OutcomeTable, base: str, n_folds: int, on_progress: OnProgress
) -> dict[str, Any]:
    """What one ridge makes of held-out queries, by the base's vectors and by those of a tuned encoder.

    Score of the expert it takes, and squared error, each with the paired difference and its interval.
    """
    truth, folds = outcomes.mask_declined(), outcomes.folds(n_folds)
    shape = (len(outcomes), 2)  # (n_queries, base and tuned)
    score, error = np.full(shape, np.nan), np.full(shape, np.nan)
    frozen = _embed(base, outcomes.texts, "base", on_progress)
    for fold in np.unique(folds).tolist():
        rows, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if not len(rows):
            raise DataError("all queries are in one fold: --folds 0 fits without a comparison")
        with TemporaryDirectory(prefix="thalamus-encoder-") as scratch:
            at = f"fold {fold + 1} of {n_folds}"
            tuned = tuning.tune(
                truth, rows, scratch, lambda *step, at=at: on_progress(f"tuning, {at}", *step)
            )
            vectors = frozen, _embed(str(tuned), outcomes.texts, at, on_progress)
        known = ~np.isnan(truth[held])
        for n, dense in enumerate(vectors):
            said = _predict(dense, truth, rows, held)
            score[held, n] = truth[held, said.argmax(axis=1)]
            squares = np.where(known, said - truth[held], 0.0) ** 2
            error[held, n] = squares.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return {"held out, score of the chosen": _compare(score), "held out, squared error": _compare(error)}


def _embed(spec: str, texts: Sequence[str], what: str, on_progress: OnProgress) -> Floats32:
    """(n_texts, dim) by the embedder as it is served."""
    embedder, size = load_embedder(spec, n_threads=2), 64
    parts = []
    for start in range(0, len(texts), size):
        on_progress(f"reading with it, {what}", start, len(texts))
        parts.append(embedder.embed(texts[start : start + size]))
    return np.concatenate(parts)


def _predict(dense: Floats32, truth: Floats, rows: Ints, held: Ints) -> Floats:
    """(n_held, n_experts) by a ridge on the vectors alone, fitted on these rows: Tryage's published head."""
    nothing, form = np.full((len(dense), 1), -1, np.int64), np.zeros((len(dense), 0))
    features = Features("encoder", dense, nothing, form)
    head = make_predictor("tryage", {"mode": "paper"})
    return head.fit(features.take(rows), truth[rows]).predict(features.take(held)).mean


def _compare(values: Floats) -> dict[str, Any]:
    """Means of base and tuned over the queries that have both, and the paired difference."""
    known = values[~np.isnan(values).any(axis=1)].T  # (2, n_known)
    if not known.shape[1]:
        return {}
    weights = resample_weights(known.shape[1])
    found = interval_of(average_by_weight(known[1:], weights) - average_by_weight(known[:1], weights))
    facts: dict[str, Any] = {
        "base": round(float(known[0].mean()), 4),
        "tuned": round(float(known[1].mean()), 4),
    }
    if found is not None:
        facts["difference"] = round(found.value, 4)
        facts["interval"] = [round(found.low, 4), round(found.high, 4)]
    return facts


def _time(folder: Path, texts: Sequence[str]) -> float:
    """The median time to read one of the texts, on one thread."""
    embedder = load_embedder(str(folder))
    spent = []
    for text in texts[:: max(1, len(texts) // _N_TIMED)]:
        started = time.perf_counter()
        embedder.embed([text])
        spent.append(time.perf_counter() - started)
    return round(1e3 * float(np.median(spent)), 2)


def _show(facts: dict[str, Any], as_json: bool) -> None:
    shown = {key: value for key, value in facts.items() if key != "texts"}
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    print_facts(shown)
    click.echo(
        f"next: `thalamus fit TABLE --encoder {facts['encoder']}`, and in thalamus.yaml "
        f"routing: {{encoder: {facts['encoder']}}}"
    )
