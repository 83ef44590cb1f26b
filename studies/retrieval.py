"""Embedding experts over one frozen index, and the choice among them: nDCG@10 beside what it is held against.

`python -m studies.retrieval DATA… --expert NAME=FOLDER … --multi-task FOLDER`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from evals.console import progress_bar, report_errors
from evals.datasets.parquet import read_retrieval
from evals.embedder_eval import (
    BASE,
    RetrievalScores,
    document_vectors,
    measure,
    parse_named_folder,
    use_held_out_scores,
)
from evals.measures.bootstrap import Interval, mean_over_sets
from routers import EmbeddingSelection, Floats, PilotRule, dataset_oracle, instance_oracle, load_embedder

ROUTED = "routed, improved"


@dataclass(frozen=True, slots=True)
class RetrievalResult:
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
@report_errors
def main(
    data: tuple[Path, ...],
    experts: tuple[str, ...],
    multi_task: Path | None,
    vectors: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Test queries of DATA read by each embedding expert and by the one chosen for each query."""
    pool = {"base": BASE, **dict(parse_named_folder(expert) for expert in experts)}
    readers = {**pool, **({"multi-task": str(multi_task)} if multi_task else {})}
    training, test = {}, {}
    with progress_bar() as on_progress:
        for folder in data:
            found = read_retrieval(folder)
            documents = document_vectors(found, vectors, on_progress)
            training[found.name] = measure(found.part(found.training), documents, pool, on_progress)
            test[found.name] = measure(found.part(~found.training), documents, readers, on_progress)
    # Pilots must not rest on queries an expert was trained on: held-out scores stand in for those.
    fresh = {name: use_held_out_scores(name, each, pool) for name, each in training.items()}
    fingerprint = load_embedder(BASE).fingerprint
    improved = build(fingerprint, pool, fresh)
    scores = compare(readers, test, build(fingerprint, pool, training, "paper"), improved)
    if out is not None:
        improved.save(out)
    figures = summarize(scores)
    if as_json:
        click.echo(json.dumps({name: asdict(row) for name, row in figures.items()}, indent=1))
    else:
        click.echo(render(list(test), figures))


def build(
    fingerprint: str,
    pool: Mapping[str, str],
    training: Mapping[str, RetrievalScores],
    rule: PilotRule = "improved",
) -> EmbeddingSelection:
    """Pilots per expert and set of what was measured on training queries."""
    dim = next(iter(training.values())).vectors.shape[1]  # (n_queries, dim)
    selection = EmbeddingSelection.empty(fingerprint, pool, dim)
    for name, each in training.items():
        selection = selection.add_dataset(name, each.vectors, each.performance, rule)
    return selection


def compare(
    readers: Mapping[str, str],
    test: Mapping[str, RetrievalScores],
    paper: EmbeddingSelection,
    improved: EmbeddingSelection,
) -> dict[str, list[Floats]]:
    """By name and set the nDCG@10 of every test query; oracles choose among the pool, without multi-task."""
    # The pool has the first columns; multi-task, where given, has the last and is no choice of the oracles.
    n = len(improved.experts)
    pools = [each.performance[:, :n] for each in test.values()]  # (n_queries, n_experts) each
    scores = {name: [each.performance[:, at] for each in test.values()] for at, name in enumerate(readers)}
    # One expert for a whole set, then one for each query.
    scores["dataset oracle"] = [dataset_oracle(pool) for pool in pools]
    scores["instance oracle"] = [instance_oracle(pool) for pool in pools]
    pairs = list(zip(test.values(), pools, strict=True))
    # Shares sum to 1 for each query: where experts tie, this is the mean of what they reach.
    scores["routed, paper"] = [(paper.shares(e.vectors, "paper") * pool).sum(axis=1) for e, pool in pairs]
    scores[ROUTED] = [(improved.shares(e.vectors) * pool).sum(axis=1) for e, pool in pairs]
    return scores


def summarize(scores: Mapping[str, Sequence[Floats]]) -> dict[str, RetrievalResult]:
    """nDCG@10 per set and over sets, and by how much the routed one is better, in pairs."""
    return {
        name: RetrievalResult(
            tuple(float(each.mean()) for each in parts),
            # The mean of the sets' means: a large set weighs as much as a small one.
            mean_over_sets(parts),
            mean_over_sets([ours - each for ours, each in zip(scores[ROUTED], parts, strict=True)]),
        )
        for name, parts in scores.items()
    }


def render(names: Sequence[str], figures: Mapping[str, RetrievalResult]) -> str:
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


if __name__ == "__main__":
    main()
