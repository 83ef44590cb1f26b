"""`thalamus plan mapping`: which category of queries goes to which expert, within a budget."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

from routers import (
    Artifact,
    ArtifactError,
    CategoryMapping,
    DataError,
    FeatureExtractor,
    MappingBudget,
    MappingProblem,
    OutcomeTable,
    StaticEmbedder,
    Tier,
    budget_curve,
    build_mapping_problem,
    find_categorizers,
    load_embedder,
    parameters_b,
    query_of,
    solve_mapping,
)

from ...console import parse_numbers, parse_pairs, report_errors
from ...datasets import FORMATS, read_outcomes
from ..import_ import bucket_set

EXAMPLES = """
\b
Examples:
  thalamus plan mapping outcomes.jsonl.gz                        the whole curve, by billions of parameters
  thalamus plan mapping outcomes.jsonl.gz --budget 30            the best mapping that fits in 30 billion
  thalamus plan mapping outcomes.jsonl.gz --along usd --budget 0.0004 --pin code=codegemma
  thalamus plan mapping outcomes.jsonl.gz --along memory --memory a=16 --memory b=40 --max-experts 2

\b
Categories are the table's tasks, or with --artifact those its head `coe` assigns to the texts. The
mapping of one budget is printed as a policy for thalamus.yaml; a gateway whose artifact has that head follows
it, whichever head predicts: `thalamus fit TABLE --head coe` adds it.
"""
_MAX_POINTS = 200
Measure = Literal["size", "memory", "usd", "experts"]
UNITS: Mapping[str, str] = {
    "size": "billions of parameters",
    "memory": "memory",
    "usd": "$ a query",
    "experts": "experts",
}


@click.command("mapping", epilog=EXAMPLES)
@click.argument("data", metavar="TABLE", type=click.Path(path_type=Path))
@click.option(
    "--along", type=click.Choice(list(UNITS)), default="size", show_default=True, help="What is scarce."
)
@click.option("--budget", type=float, help="How much of it there is; without, the whole curve.")
@click.option("--max-size", type=float, help="Parameters of all experts in use, in billions.")
@click.option("--max-memory", type=float, help="Memory of all experts in use.")
@click.option("--max-usd", type=float, help="Mean cost of a query.")
@click.option("--max-latency-s", type=float, help="Mean latency of any expert in any category it answers.")
@click.option("--max-experts", type=click.IntRange(1), help="Experts in use.")
@click.option(
    "--size", "sizes", multiple=True, metavar="NAME=B", help="Billions of parameters; else by name."
)
@click.option(
    "--memory", "memories", multiple=True, metavar="NAME=N", help="Memory an expert takes, any unit."
)
@click.option("--pin", "pinned", multiple=True, metavar="CATEGORY=EXPERT", help="A pair that must be.")
@click.option(
    "--forbid", "forbidden", multiple=True, metavar="CATEGORY=EXPERT", help="A pair that must not be."
)
@click.option("--second", is_flag=True, help="Name an expert to fail over to as well.")
@click.option(
    "--points", type=click.IntRange(2, 1000), default=20, show_default=True, help="Of a curve by cost."
)
@click.option("--artifact", type=click.Path(path_type=Path), help="Whose categories to use.")
@click.option("--buckets", help="Only these buckets, such as 0-79.")
@click.option("--experts", help="Only these experts, comma-separated.")
@click.option("--format", "form", type=click.Choice(["auto", *sorted(FORMATS)]), default="auto")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@report_errors
def mapping(
    data: Path,
    along: Measure,
    budget: float | None,
    max_size: float | None,
    max_memory: float | None,
    max_usd: float | None,
    max_latency_s: float | None,
    max_experts: int | None,
    sizes: Sequence[str],
    memories: Sequence[str],
    pinned: Sequence[str],
    forbidden: Sequence[str],
    second: bool,
    points: int,
    artifact: Path | None,
    buckets: str | None,
    experts: str | None,
    form: str,
    as_json: bool,
) -> None:
    """Map categories to experts: the best there is for the outcome TABLE, for one budget or for all."""
    table = _table(data, form, buckets, experts)
    known = {
        name: b for name, model in zip(table.experts, table.models, strict=True) if (b := _b(name, model))
    }
    problem = build_mapping_problem(
        table,
        _predict_categories(artifact, table) if artifact else table.tasks,
        size=known | parse_numbers(sizes, "--size"),
        memory=parse_numbers(memories, "--memory"),
        pinned=parse_pairs(pinned, "--pin", "CATEGORY=EXPERT"),
        forbidden=parse_pairs(forbidden, "--forbid", "CATEGORY=EXPERT"),
    )
    _check_known(problem, along)
    limits = MappingBudget(max_size, max_memory, max_usd, max_latency_s, max_experts)
    if budget is None:
        n_points = points if along == "usd" else _MAX_POINTS
        found = budget_curve(problem, along, limits, second=second, n_points=n_points)
    else:
        one = solve_mapping(problem, limits.at(along, budget), second=second, least=along)
        found = [] if one is None else [one]
    if not found:
        raise DataError("no mapping meets these limits and pairs; loosen one")
    if as_json:
        click.echo(json.dumps(_facts(problem, along, found)))
    else:
        _print_points(problem, along, found, budget is not None)


def _table(data: Path, form: str, buckets: str | None, experts: str | None) -> OutcomeTable:
    table = read_outcomes(data, form)
    if buckets:
        table = table.take(np.isin(table.bucket, list(bucket_set(buckets))))
    if experts:
        table = table.only([name.strip() for name in experts.split(",")])
    return table


def _b(name: str, model: str) -> float | None:
    return parameters_b(model) or parameters_b(name)


def _predict_categories(path: Path, table: OutcomeTable) -> tuple[str, ...]:
    """The categories that the artifact's best tier predicts for the table's texts."""
    artifact = Artifact.load(path)
    found = find_categorizers(artifact)
    tier: Tier = "encoder" if "encoder" in artifact.tiers else "static"
    if tier not in found:
        raise ArtifactError(
            f"{path}: predicts no categories; add a head that does: `thalamus fit --head coe`"
        )
    encoder = load_embedder("minilm", n_threads=2) if tier == "encoder" else None
    extractor = FeatureExtractor(StaticEmbedder(), encoder)
    # The same again, so that what tells categories is checked to be of this embedder.
    teller = find_categorizers(Artifact.load(path, extractor.fingerprints))[tier]
    return teller.categories(extractor.extract([query_of(text) for text in table.texts], tier))


def _check_known(problem: MappingProblem, along: str) -> None:
    values = {"size": problem.size, "memory": problem.memory, "usd": problem.cost_usd}.get(along)
    if values is not None and np.isnan(values).all():
        remedy = {"size": "--size NAME=7", "memory": "--memory NAME=16", "usd": "a table with cost_usd"}[
            along
        ]
        raise DataError(f"no expert's {along} is known: give {remedy}, or plan --along experts")


def _facts(problem: MappingProblem, along: str, found: Sequence[CategoryMapping]) -> dict[str, Any]:
    return {
        "along": along,
        "categories": dict(zip(problem.categories, problem.share.tolist(), strict=True)),
        "points": [_point(point) for point in found],
    }


def _point(point: CategoryMapping) -> dict[str, Any]:
    measured = {key: getattr(point, key) for key in ("quality", "size", "memory", "active_size", "usd")}
    values = {key: None if np.isnan(value) else value for key, value in measured.items()}
    return {"experts": point.experts, **values, "mapping": point.by_category()}


def _print_points(problem: MappingProblem, along: str, found: Sequence[CategoryMapping], whole: bool) -> None:
    unknown = [problem.experts[e] for e in np.flatnonzero(np.isnan(problem.size))]
    if along == "size" and unknown:
        click.echo(
            f"size unknown, so never within a budget: {', '.join(unknown)}; give it with --size NAME=7"
        )
    click.echo(f"{'quality':>8} {'size':>8} {'active':>8} {'$ a query':>10}  experts")
    for point in found:
        parse_numbers = f"{point.quality:8.4f} {_number(point.size)} {_number(point.active_size)}"
        click.echo(f"{parse_numbers} {_number(point.usd, 10)}  {', '.join(point.experts)}")
    if whole:
        click.echo("\npolicies:\n  coe:\n    encoder: always\n    mapping:")
        for category, names in found[-1].by_category().items():
            click.echo(f"      {json.dumps(category)}: {json.dumps(names)}")
    else:
        click.echo(f"next: the same with --budget, in {UNITS[along]}, prints that mapping as a policy")


def _number(value: float, width: int = 8) -> str:
    return f"{'-' if np.isnan(value) else format(value, '.4g'):>{width}}"
