"""`thalamus embedders`: embedding experts, fine-tuned on the query side only."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from routers import DataError, Floats, Floats32, QuerySide, QuerySideSettings, load_embedder

from ..datasets.retrieval import RetrievalSet, joined, read_retrieval
from ..ranking import ndcg
from ..vectors import KeptVectors
from .telling import Tell, checked, progress, say_facts

EXAMPLES = """
\b
Examples:
  thalamus embedders fit ./scifact ./experts/scifact
  thalamus embedders fit ./scifact ./cranfield ./experts/both --folds 0     one expert for both
  thalamus embedders fit ./cranfield ./experts/cranfield --epochs 20 --vectors ./vectors.npz

\b
DATA is a folder with corpus.parquet, queries.parquet and qrels.parquet. OUT is served without torch: give it
wherever an embedder is named. Documents stay where the base embedder put them.
"""
BASE = "minilm"
FACTS = "fit.json"
_DEFAULTS = QuerySideSettings()


@click.group("embedders")
def command() -> None:
    """Embedding experts, fine-tuned on the query side only."""


@command.command("fit", epilog=EXAMPLES)
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--epochs", type=click.IntRange(1), default=_DEFAULTS.n_epochs, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULTS.rate,
    show_default=True,
    help="Learning rate.",
)
@click.option(
    "--layers",
    type=click.IntRange(1, 6),
    default=_DEFAULTS.n_layers,
    show_default=True,
    help="Uppermost layers that move.",
)
@click.option(
    "--folds",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="To measure on held-out queries; 0: do not.",
)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True)
@click.option("--vectors", type=click.Path(path_type=Path), help="File in which documents' vectors are kept.")
@checked
def fit(
    data: tuple[Path, ...],
    out: Path,
    epochs: int,
    rate: float,
    layers: int,
    folds: int,
    seed: int,
    vectors: Path | None,
) -> None:
    """Train one query encoder on the training queries of DATA and write it to the folder OUT."""
    if out.exists() and not (out / FACTS).is_file():
        raise DataError(f"{out}: exists and is no embedding expert; choose another name")
    if folds == 1:
        raise click.BadParameter("2 or more, or 0", param_hint="--folds")
    settings = QuerySideSettings(n_epochs=epochs, rate=rate, n_layers=layers, seed=seed)
    QuerySide(BASE)
    wholes = [read_retrieval(folder) for folder in data]
    with progress() as tell:
        sets = [(each.part(each.training), document_vectors(each, vectors, tell)) for each in wholes]
        held_out = _held_out(sets, settings, folds, tell) if folds else None
        model = QuerySide(BASE).fit(*joined(sets), settings, lambda *step: tell("training", *step))
    model.save(out)
    (out / FACTS).write_text(json.dumps(_facts(sets, settings, held_out), indent=1) + "\n", "utf-8")
    say_facts(_told(sets, held_out, out))


def document_vectors(data: RetrievalSet, kept: Path | None, tell: Tell) -> Floats32:
    """(n_documents, dim) of the base embedder, from the file of kept vectors where they are in it."""
    embedder = load_embedder(BASE)
    keeper = KeptVectors(embedder, kept) if kept else None
    reader, n, step = keeper or embedder, len(data.documents), 64
    parts = []
    for start in range(0, n, step):
        parts.append(reader.embed(data.documents[start : start + step]))
        tell(f"documents of {data.name}", min(start + step, n), n)
    if keeper:
        keeper.save()
    return np.concatenate(parts)


def _held_out(
    sets: list[tuple[RetrievalSet, Floats32]], settings: QuerySideSettings, n_folds: int, tell: Tell
) -> dict[str, Floats]:
    """By set the nDCG@10 of every training query by an expert trained on the other folds."""
    folds = [
        np.random.default_rng(settings.seed).integers(n_folds, size=len(each.queries)) for each, _ in sets
    ]
    found = {each.name: np.zeros(len(each.queries)) for each, _ in sets}
    for fold in range(n_folds):
        others = [(each.part(at != fold), vectors) for (each, vectors), at in zip(sets, folds, strict=True)]
        model = QuerySide(BASE).fit(
            *joined(others), settings, lambda *step, fold=fold: tell(f"fold {fold + 1}", *step)
        )
        for (each, vectors), at in zip(sets, folds, strict=True):
            test = each.part(at == fold)
            found[each.name][at == fold] = ndcg(model.embed(test.queries), vectors, test.relevance)
    return found


def _facts(
    sets: list[tuple[RetrievalSet, Floats32]], settings: QuerySideSettings, held_out: dict[str, Floats] | None
) -> dict[str, Any]:
    return {
        "base": BASE,
        "settings": asdict(settings),
        "sets": [each.name for each, _ in sets],
        "held_out": {name: score.tolist() for name, score in (held_out or {}).items()},
    }


def _told(
    sets: list[tuple[RetrievalSet, Floats32]], held_out: dict[str, Floats] | None, out: Path
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "expert": str(out),
        "training queries": sum(len(each.queries) for each, _ in sets),
    }
    for name, score in (held_out or {}).items():
        told[f"nDCG@10 held out, {name}"] = round(float(score.mean()), 4)
    return told
