"""`thalamus embedders`: embedding experts for queries, and the selection that picks one per query."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from routers import (
    DataError,
    EmbeddingSelection,
    Floats,
    Floats32,
    PilotRule,
    QuerySide,
    QuerySideSettings,
    load_embedder,
)
from routers.text_files import write_file

from ..console import OnProgress, print_facts, progress_bar, report_errors
from ..datasets.parquet import RetrievalSet, join_sets, read_retrieval
from ..embedder_eval import BASE, FACTS, document_vectors, extend_selection, parse_named_folder
from ..measures.formulas import ndcg

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
ADD_EXAMPLES = """
\b
Examples:
  thalamus embedders add ./selection scifact=./experts/scifact ./scifact ./cranfield
\b
DATA as for `fit`. Then, in thalamus.yaml:  embeddings: {selection: ./selection}
"""
REMOVE_EXAMPLES = """
\b
Examples:
  thalamus embedders remove ./selection scifact
"""
LIST_EXAMPLES = """
\b
Examples:
  thalamus embedders list ./selection
  thalamus embedders list ./selection --json
"""
_DEFAULTS = QuerySideSettings()


@click.group("embedders")
def command() -> None:
    """Embedding experts for queries, and the selection that picks one per query."""


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
@report_errors
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
    # Fails before the long work where the extra `train` is missing.
    QuerySide(BASE)
    wholes = [read_retrieval(folder) for folder in data]
    with progress_bar() as on_progress:
        sets = [(each.part(each.training), document_vectors(each, vectors, on_progress)) for each in wholes]
        held_out = _score_held_out(sets, settings, folds, on_progress) if folds else None
        model = QuerySide(BASE).fit(*join_sets(sets), settings, lambda *step: on_progress("training", *step))
    model.save(out)
    write_file(out / FACTS, json.dumps(_facts(sets, settings, held_out), indent=1) + "\n")
    print_facts(_summarize(sets, held_out, out))


@command.command("add", epilog=ADD_EXAMPLES)
@click.argument("selection", type=click.Path(path_type=Path))
@click.argument("expert", metavar="NAME=FOLDER")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--vectors", type=click.Path(path_type=Path), help="File in which documents' vectors are kept.")
@click.option(
    "--rule",
    type=click.Choice(("improved", "paper")),
    default="improved",
    show_default=True,
    help="Which expert wins a query: ties shared, or the first of the best as in the paper.",
)
@report_errors
def add(
    selection: Path,
    expert: str,
    data: tuple[Path, ...],
    vectors: Path | None,
    rule: PilotRule,
) -> None:
    """Add an expert to those that may embed queries; nothing is trained.

    Every expert embeds the training queries of DATA. For sets already in SELECTION only the new expert's
    pilots are added, for other sets those of all experts. A missing SELECTION is created with the base
    embedder in it.
    """
    name, folder = parse_named_folder(expert)
    found = _open_selection(selection)
    if name in found.experts:
        raise DataError(f"{selection}: '{name}' is in it already; remove it first")
    sets = [read_retrieval(each) for each in data]
    with progress_bar() as on_progress:
        grown = extend_selection(found, name, str(Path(folder).resolve()), sets, rule, vectors, on_progress)
    grown.save(selection)
    print_facts(_describe(grown))


@command.command("remove", epilog=REMOVE_EXAMPLES)
@click.argument("selection", type=click.Path(path_type=Path))
@click.argument("name")
@report_errors
def remove(selection: Path, name: str) -> None:
    """Take an expert out of a selection; the pilots of the others stay as they are."""
    found = EmbeddingSelection.load(selection)
    if name not in found.experts:
        raise DataError(f"{selection}: no expert '{name}'; there are {', '.join(found.experts)}")
    found.remove_expert(name).save(selection)
    print_facts(_describe(found.remove_expert(name)))


@command.command("list", epilog=LIST_EXAMPLES)
@click.argument("selection", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@report_errors
def list_experts(selection: Path, as_json: bool) -> None:
    """The experts of a selection, where they lie, and how many queries of each set each has won."""
    facts = _describe(EmbeddingSelection.load(selection))
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        print_facts(facts)


def _open_selection(path: Path) -> EmbeddingSelection:
    """The selection at a path, or a new one on the base embedder."""
    base = load_embedder(BASE)
    if path.exists():
        return EmbeddingSelection.load(path, base.fingerprint)
    return EmbeddingSelection.empty(base.fingerprint, {"base": BASE}, base.dim)


def _describe(selection: EmbeddingSelection) -> dict[str, Any]:
    library = selection.library
    return {
        "base embedder": selection.fingerprint,
        "queries": {name: int(count) for name, count in zip(library.datasets, library.counts, strict=True)},
        "experts": {
            name: {
                "folder": selection.sources[name],
                **{
                    f"won of {dataset}": round(float(library.mass[d, e]), 1)
                    for d, dataset in enumerate(library.datasets)
                },
            }
            for e, name in enumerate(library.experts)
        },
    }


def _score_held_out(
    sets: list[tuple[RetrievalSet, Floats32]],
    settings: QuerySideSettings,
    n_folds: int,
    on_progress: OnProgress,
) -> dict[str, Floats]:
    """By set the nDCG@10 of every training query by an expert trained on the other folds."""
    folds = [
        np.random.default_rng(settings.seed).integers(n_folds, size=len(each.queries)) for each, _ in sets
    ]
    found = {each.name: np.zeros(len(each.queries)) for each, _ in sets}
    for fold in range(n_folds):
        others = [(each.part(at != fold), vectors) for (each, vectors), at in zip(sets, folds, strict=True)]
        model = QuerySide(BASE).fit(
            *join_sets(others), settings, lambda *step, fold=fold: on_progress(f"fold {fold + 1}", *step)
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


def _summarize(
    sets: list[tuple[RetrievalSet, Floats32]], held_out: dict[str, Floats] | None, out: Path
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "expert": str(out),
        "training queries": sum(len(each.queries) for each, _ in sets),
    }
    for name, score in (held_out or {}).items():
        facts[f"nDCG@10 held out, {name}"] = round(float(score.mean()), 4)
    return facts
