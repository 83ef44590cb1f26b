"""Embedding experts over one frozen index, and the choice among them: nDCG@10 beside what it is held against.

`python -m studies.retrieval DATA… --expert NAME=FOLDER … --multi-task FOLDER`
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

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
from routers import (
    EmbeddingSelection,
    Floats,
    Floats32,
    PilotRule,
    dataset_oracle,
    instance_oracle,
    load_embedder,
)
from routers.embedding_selection.pilots import winner_shares
from routers.logistic import fit_sigmoids, fit_softmax

ROUTED = "routed, improved"
_PENALTY = 0.1
"""Of the classifiers' weights, as in `routers.categories`; not tuned."""
_PER_SET = 100
"""Training queries of each set that the dataset router compares a query with, as in the paper."""


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
    paper = build(fingerprint, pool, training, "paper")
    scores = compare(readers, test, paper, improved, fresh)
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
    training: Mapping[str, RetrievalScores],
) -> dict[str, list[Floats]]:
    """By name and set the nDCG@10 of every test query; oracles choose among the pool, without multi-task.

    training: what the routers without pilots are fitted on
    """
    # The pool has the first columns; multi-task, where given, has the last and is no choice of the oracles.
    n = len(improved.experts)
    pools = [each.performance[:, :n] for each in test.values()]  # (n_queries, n_experts) each
    scores = {name: [each.performance[:, at] for each in test.values()] for at, name in enumerate(readers)}
    # One expert for a whole set, then one for each query.
    scores["dataset oracle"] = [dataset_oracle(pool) for pool in pools]
    scores["instance oracle"] = [instance_oracle(pool) for pool in pools]
    pairs = list(zip(test.values(), pools, strict=True))
    for name, router in (
        ("dataset router", share_by_nearest_set),
        ("classification head", share_by_head),
        ("expert classifiers", share_by_classifiers),
    ):
        scores[name] = [(router(training, e.vectors) * pool).sum(axis=1) for e, pool in pairs]
    # Shares sum to 1 for each query: where experts tie, this is the mean of what they reach.
    scores["routed, paper"] = [(paper.shares(e.vectors, "paper") * pool).sum(axis=1) for e, pool in pairs]
    scores[ROUTED] = [(improved.shares(e.vectors) * pool).sum(axis=1) for e, pool in pairs]
    return scores


def share_by_nearest_set(training: Mapping[str, RetrievalScores], queries: Floats32) -> Floats:
    """(n_queries, n_experts): all to the best expert of the set that has the most similar training query.

    Reference: RouterRetriever (arXiv 2409.02685), the baseline DatasetRouter.
    Differs: a set's expert is the one best on its training queries in the mean; experts alike share.
    """
    draw = np.random.default_rng(0)
    nearest, owners = [], []
    for each in training.values():
        drawn = draw.permutation(len(each.vectors))[:_PER_SET]
        nearest.append((queries @ each.vectors[drawn].T).max(axis=1))
        owners.append(winner_shares(each.performance.mean(axis=0, keepdims=True), "improved")[0])
    share: Floats = np.stack(owners)[np.column_stack(nearest).argmax(axis=1)]
    return share


def share_by_head(training: Mapping[str, RetrievalScores], queries: Floats32) -> Floats:
    """(n_queries, n_experts): all to the likeliest expert of one softmax over base vectors.

    Reference: RouterRetriever (arXiv 2409.02685), the baseline ClassificationHeadRouter.
    Differs: experts that tie on a training query share its label; the base embedder is not trained.
    """
    rows, labels = _rows_and_labels(training)
    weights = fit_softmax(rows, labels, np.full(rows.shape[1], _PENALTY))
    return winner_shares(_with_one(queries) @ weights, "improved")


def share_by_classifiers(training: Mapping[str, RetrievalScores], queries: Floats32) -> Floats:
    """(n_queries, n_experts): all to the expert whose own yes-or-no classifier is the surest.

    Reference: RouterRetriever (arXiv 2409.02685), the baseline ExpertClassifierRouter.
    Differs: yes stands for each of the experts that tie for the best on a training query.
    """
    rows, labels = _rows_and_labels(training)
    yes = (labels > 0).astype(np.float64)
    penalty = np.full(rows.shape[1], _PENALTY)
    weights = fit_sigmoids(rows, yes, np.ones_like(yes), np.zeros_like(yes), penalty)
    return winner_shares(_with_one(queries) @ weights, "improved")


def _rows_and_labels(training: Mapping[str, RetrievalScores]) -> tuple[Floats, Floats]:
    """All training queries: base vectors with a one (n, dim + 1), and who was best (n, n_experts)."""
    rows = np.concatenate([_with_one(each.vectors) for each in training.values()])
    labels = [winner_shares(each.performance, "improved") for each in training.values()]
    return rows, np.concatenate(labels)


def _with_one(vectors: Floats32) -> Floats:
    return np.column_stack((vectors.astype(np.float64), np.ones(len(vectors))))


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
