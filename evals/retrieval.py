"""Embedding experts over one frozen index, and the choice among them: nDCG@10 beside what it is held against.

`python -m evals.retrieval DATA… --expert NAME=FOLDER … --multi-task FOLDER`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np

from routers import (
    DataError,
    EmbeddingSelection,
    Floats,
    Floats32,
    dataset_oracle,
    instance_oracle,
    load_embedder,
)

from .commands.embedders import BASE, FACTS, document_vectors
from .commands.telling import Tell, checked, progress
from .datasets.retrieval import RetrievalSet, read_retrieval
from .ranking import ndcg
from .significance import Interval

ROUTED = "routed, improved"
Rule = Literal["paper", "improved"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One part of one set: base vectors (n, dim) and nDCG@10 (n, n_experts) of its queries."""

    vectors: Floats32
    performance: Floats


@dataclass(frozen=True, slots=True)
class Told:
    """What one way of reading queries reaches: per set, over sets, and the routed one's lead over it."""

    sets: tuple[float, ...]
    mean: Interval
    routed_over: Interval


@click.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--expert", "experts", multiple=True, metavar="NAME=FOLDER", help="An embedding expert.")
@click.option("--multi-task", type=click.Path(path_type=Path), help="One expert fine-tuned on all sets.")
@click.option("--vectors", type=click.Path(path_type=Path), help="File in which documents' vectors are kept.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Keep the selection (improved) in this directory."
)
@click.option("--json", "as_json", is_flag=True)
@checked
def main(
    data: tuple[Path, ...],
    experts: tuple[str, ...],
    multi_task: Path | None,
    vectors: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Test queries of DATA read by each embedding expert and by the one chosen for each query."""
    pool = {"base": BASE, **dict(_pair(told) for told in experts)}
    readers = {**pool, **({"multi-task": str(multi_task)} if multi_task else {})}
    training, test = {}, {}
    with progress() as tell:
        for folder in data:
            found = read_retrieval(folder)
            documents = document_vectors(found, vectors, tell)
            training[found.name] = measure(found.part(found.training), documents, pool, tell)
            test[found.name] = measure(found.part(~found.training), documents, readers, tell)
    fresh = {name: held_out(name, each, pool) for name, each in training.items()}
    fingerprint = load_embedder(BASE).fingerprint
    improved = build(fingerprint, pool, fresh)
    scores = compare(readers, test, build(fingerprint, pool, training, "paper"), improved)
    if out is not None:
        improved.save(out)
    figures = told(scores)
    if as_json:
        click.echo(json.dumps({name: asdict(row) for name, row in figures.items()}, indent=1))
    else:
        click.echo(render(list(test), figures))


def measure(data: RetrievalSet, documents: Floats32, readers: Mapping[str, str], tell: Tell) -> Measured:
    """Every reader's nDCG@10 on every query."""
    columns, base = [], None
    for n, (name, source) in enumerate(readers.items()):
        vectors = load_embedder(source).embed(data.queries)
        base = vectors if name == "base" else base
        columns.append(ndcg(vectors, documents, data.relevance))
        tell(f"queries of {data.name} ({len(data.queries)})", n + 1, len(readers))
    if base is None:
        raise DataError("no reader is named `base`")
    return Measured(base, np.column_stack(columns))


def held_out(name: str, measured: Measured, pool: Mapping[str, str]) -> Measured:
    """The same, but an expert trained on these queries is told by what it reached on them when held out."""
    performance = measured.performance.copy()
    for column, source in enumerate(pool.values()):
        facts = Path(source, FACTS)
        kept = json.loads(facts.read_text("utf-8"))["held_out"].get(name) if facts.is_file() else None
        if kept is not None and len(kept) == len(performance):
            performance[:, column] = kept
    return Measured(measured.vectors, performance)


def build(
    fingerprint: str, pool: Mapping[str, str], training: Mapping[str, Measured], rule: Rule = "improved"
) -> EmbeddingSelection:
    """Pilots per expert and set of what was measured on training queries."""
    dim = next(iter(training.values())).vectors.shape[1]
    selection = EmbeddingSelection.empty(fingerprint, pool, dim)
    for name, each in training.items():
        selection = selection.add_dataset(name, each.vectors, each.performance, rule)
    return selection


def compare(
    readers: Mapping[str, str],
    test: Mapping[str, Measured],
    paper: EmbeddingSelection,
    improved: EmbeddingSelection,
) -> dict[str, list[Floats]]:
    """By name and set the nDCG@10 of every test query; oracles choose among the pool, without multi-task."""
    n = len(improved.experts)
    pools = [each.performance[:, :n] for each in test.values()]
    scores = {name: [each.performance[:, at] for each in test.values()] for at, name in enumerate(readers)}
    scores["dataset oracle"] = [dataset_oracle(pool) for pool in pools]
    scores["instance oracle"] = [instance_oracle(pool) for pool in pools]
    pairs = list(zip(test.values(), pools, strict=True))
    scores["routed, paper"] = [(paper.shares(e.vectors, "paper") * pool).sum(axis=1) for e, pool in pairs]
    scores[ROUTED] = [(improved.shares(e.vectors) * pool).sum(axis=1) for e, pool in pairs]
    return scores


def told(scores: Mapping[str, Sequence[Floats]]) -> dict[str, Told]:
    """nDCG@10 per set and over sets, and by how much the routed one is better, in pairs."""
    return {
        name: Told(
            tuple(float(each.mean()) for each in parts),
            mean_over_sets(parts),
            mean_over_sets([ours - each for ours, each in zip(scores[ROUTED], parts, strict=True)]),
        )
        for name, parts in scores.items()
    }


def mean_over_sets(parts: Sequence[Floats], *, n_draws: int = 2000, seed: int = 0) -> Interval:
    """The mean of the sets' means and its 95 % bootstrap interval: queries drawn anew within each set."""
    rng = np.random.default_rng(seed)
    draws = np.mean(
        [part[rng.integers(len(part), size=(n_draws, len(part)))].mean(axis=1) for part in parts], axis=0
    )
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(np.mean([part.mean() for part in parts])), float(low), float(high))


def render(names: Sequence[str], figures: Mapping[str, Told]) -> str:
    """Markdown: nDCG@10 in hundredths, and the routed one's lead over each with its interval."""
    lines = [
        f"| | {' | '.join(names)} | mean | {ROUTED} over it, 95 % |",
        "|---|" + "---:|" * (len(names) + 2),
    ]
    for name, row in figures.items():
        cells = " | ".join(f"{100 * value:.1f}" for value in (*row.sets, row.mean.value))
        lead = row.routed_over
        behind = f"{100 * lead.value:+.1f} [{100 * lead.low:+.1f}, {100 * lead.high:+.1f}]"
        lines.append(f"| {name} | {cells} | {'' if name == ROUTED else behind} |")
    return "\n".join(lines)


def _pair(told: str) -> tuple[str, str]:
    name, _, folder = told.partition("=")
    if not folder or name in ("base", "multi-task"):
        raise DataError(f"--expert {told}: NAME=FOLDER, with another name than base and multi-task")
    if not Path(folder).is_dir():
        raise DataError(f"--expert {told}: no folder {folder}; `thalamus embedders fit` makes one")
    return name, folder


if __name__ == "__main__":
    main()
