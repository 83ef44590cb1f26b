"""What panels would be worth: `python -m studies.recruiting DATA`.

Per fold profiles are learned on the other folds and experts are recruited for the fold by every rule there
is. Where answers were not recorded, a panel counts as right where more than half of its votes score at
least 0.5: a proxy, to be read beside the best single expert and the best among those recruited.
"""

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np

from evals.commands.import_ import bucket_set
from evals.console import progress_bar, report_errors
from evals.datasets import read_outcomes
from evals.measures.bootstrap import interval_of_difference
from evals.replay import RecordedExtractor, majority_right, oracle_of
from evals.vectors import VectorCache
from routers import (
    Embedder,
    Extractor,
    FeatureExtractor,
    Floats,
    Ints,
    OutcomeTable,
    StaticEmbedder,
    Tier,
    load_embedder,
    make_predictor,
    query_of,
    skills,
)

# How much of the softmax the experts that are enough have between them (arXiv 2403.07652, equation 4).
MASS = 0.8
# As many queries does the expert's own accuracy count for, beside those of a keyword.
PRIOR = 5.0
SHARPNESS = 50.0
"""Of the softmax over predicted quality whose mass says how many experts are enough."""


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--buckets", default="0-79", show_default=True, help="The queries to use, in folds of 20 buckets."
)
@click.option("-k", "k", default=3, show_default=True, help="How many experts a panel has.")
@click.option("--tier", type=click.Choice(["static", "encoder"]), default="encoder", show_default=True)
@click.option("--vectors", type=click.Path(path_type=Path), help="As of `thalamus eval`.")
@report_errors
def main(data: Path, buckets: str, k: int, tier: Tier, vectors: Path | None) -> None:
    """Panels recruited by each rule, beside the best single expert."""
    table = read_outcomes(data)
    table = table.take(np.isin(table.bucket, list(bucket_set(buckets))))
    encoder = load_embedder("minilm", n_threads=2) if tier == "encoder" else None
    kept = VectorCache(encoder, vectors) if encoder is not None and vectors is not None else None
    with progress_bar() as on_progress:
        read = RecordedExtractor.of(
            table.texts, FeatureExtractor(StaticEmbedder(), kept or encoder), on_progress
        )
        if kept is not None:
            kept.save()
        votes = recruit(table, table.bucket // 20, read, StaticEmbedder(), tier, k)
    click.echo(render(table, votes))


def recruit(
    table: OutcomeTable,
    folds: Ints,
    read: Extractor,
    embedder: Embedder,
    tier: Tier,
    k: int,
    seed: int = 0,
) -> dict[str, Ints]:
    """By rule, (n_queries, n_experts) how often each expert is called; `embedder` is for keywords."""
    votes: dict[str, Ints] = {}
    for fold in np.unique(folds):
        inside = folds == fold
        # A stream per fold, so that the draws of one do not depend on those before.
        rng = np.random.default_rng([seed, int(fold)])
        train, test = table.take(~inside), table.take(inside)
        found = _by_features(train, test, read, tier, k, rng) | _by_keywords(train, test, embedder, k, rng)
        for rule, counts in found.items():
            votes.setdefault(rule, np.zeros(table.score.shape, np.int64))[inside] = counts
    return votes


def _by_features(
    train: OutcomeTable,
    test: OutcomeTable,
    read: Extractor,
    tier: Tier,
    k: int,
    rng: np.random.Generator,
) -> dict[str, Ints]:
    n, n_experts = test.score.shape
    x = read.extract([query_of(text) for text in train.texts], tier)
    z = read.extract([query_of(text) for text in test.texts], tier)
    means = np.repeat(train.means()["score"][None], n, axis=0)  # (n_test, n_experts)
    paper, coded, skilled, blended = (
        make_predictor(name, settings).fit(x, train.score).predict(z).mean
        for name, settings in (
            ("skills", {"mode": "paper"}),
            ("skills", {"mode": "code"}),
            ("skills", {}),
            ("blend", {}),
        )
    )
    members = {
        "best single": skills.best(means, 1),
        f"best {k} of all": skills.best(means, k),
        f"random {k}": skills.best(rng.random((n, n_experts)), k),
        # Section 3.2 draws with replacement, then trims the rare; the released code never calls its trimming.
        "paper": skills.trim_rare(
            skills.draw_with_replacement(paper, rng.random((n, k))), paper, rng.random((n, k))
        ),
        "paper's code": skills.draw_with_replacement(coded, rng.random((n, k))),
        "skills, best one": skills.best(skilled, 1),
        f"skills, best {k}": skills.best(skilled, k),
        "blend, best one": skills.best(blended, 1),
        f"blend, best {k}": skills.best(blended, k),
    }
    votes = {rule: _votes(picks, n_experts) for rule, picks in members.items()}
    dynamic = skills.enough(_shares(skilled), MASS, k).astype(np.int64)  # (n_test, n_experts)
    return {**votes, f"skills, enough of {k}": dynamic}


def _by_keywords(
    train: OutcomeTable, test: OutcomeTable, embedder: Embedder, k: int, rng: np.random.Generator
) -> dict[str, Ints]:
    """With keywords found in the texts, tagged against the catalogue of the training part."""
    tagger = skills.Tagger(skills.Catalogue.of(train.texts), embedder)
    trained, tested = (tagger.tag([skills.keywords(text) for text in part.texts]) for part in (train, test))
    posteriors = skills.Posteriors.of(trained, train.score, PRIOR)
    # Smoothed as in scikit-learn's TfidfTransformer, without its + 1: a keyword of every text weighs 0.
    idf = np.log((1 + len(train)) / (1 + (trained > 0).sum(axis=0)))
    value = {
        f"keywords, best {k}": posteriors.mean,
        # One draw of each posterior in place of its mean (Thompson sampling, arXiv 1707.02038).
        f"keywords, Thompson {k}": posteriors.draw(rng),
    }
    return {
        rule: _votes(
            skills.best(posteriors.overall + skills.lead(tested, idf, accuracy), k), test.score.shape[1]
        )
        for rule, accuracy in value.items()
    }


def _shares(quality: Floats) -> Floats:
    # Less the largest, which leaves the softmax as it is and keeps `exp` from overflowing.
    raised = np.exp(SHARPNESS * (quality - quality.max(axis=1, keepdims=True)))
    shares: Floats = raised / raised.sum(axis=1, keepdims=True)
    return shares


def _votes(members: Ints, n_experts: int) -> Ints:
    """(n_queries, n_experts) how often each is among the members (n_queries, k)."""
    votes: Ints = (members[:, :, None] == np.arange(n_experts)).sum(axis=1)  # over the k of each query
    return votes


def render(table: OutcomeTable, votes: Mapping[str, Ints]) -> str:
    """Markdown: the proxy, its paired interval over the best single expert, oracle, calls, cost."""
    single = oracle_of(table.score, votes["best single"])  # (n_queries,)
    lines = [
        "| recruited | proxy of the vote | over best single, 95 % | best of those asked | calls | cost |",
        "|---" * 6 + "|",
    ]
    for rule, counts in votes.items():
        right = majority_right(table.score, counts)
        # One expert needs no vote: its score counts, also where that is neither 0 nor 1.
        if counts.sum(axis=1).max() == 1:
            right = oracle_of(table.score, counts)
        by = interval_of_difference(right, single)
        # An expert drawn twice is called once; only its vote counts twice.
        cost = np.nansum(np.where(counts > 0, table.cost_usd, 0.0), axis=1).mean()
        own = np.nansum(np.where(votes["best single"] > 0, table.cost_usd, 0.0), axis=1).mean()
        lines.append(
            f"| {rule} | {right.mean():.4f} | {by.low:+.4f} … {by.high:+.4f} "
            f"| {np.nanmean(oracle_of(table.score, counts)):.4f} | {(counts > 0).sum(axis=1).mean():.2f} "
            f"| {cost / own if own else float('nan'):.2f} × |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
