"""`thalamus import`: outcomes from other people's files, as an outcome table."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from routers import DataError, OutcomeTable, merge_outcomes

from ..console import parse_pairs, print_facts, report_errors, table_facts
from ..datasets import FORMATS, read_outcomes

EXAMPLES = """
\b
Examples:
  thalamus import scores.csv outcomes.jsonl.gz
  thalamus import mydata/ outcomes.jsonl.gz --buckets 0-79
  thalamus import scores.csv outcomes.jsonl --model big=openai/gpt-5 --model small=openai/gpt-5-mini

\b
A CSV or JSON-lines file has a line per prompt and model (prompt, model, score and, where known, cost_usd,
input_tokens, output_tokens, latency_s, id, task, family, bucket), or a line per prompt with a column of
scores per model; other columns are passed over and named. CSV may have commas, semicolons (with decimal
commas) or tabs. A folder holds prompts.parquet and outcomes.parquet. Scores are in [0, 1]. Also read:
RouterBench (pickle or CSV; no code in a pickle is run), RouteLLM's CSV files, a folder of LLMRouterBench
results, and LiteLLM or OpenAI request logs with a score a line.
"""


@click.command("import", epilog=EXAMPLES)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", *sorted(FORMATS)]),
    default="auto",
    show_default=True,
    help="How SOURCE is written.",
)
@click.option("--buckets", help="Only these buckets (0-99), such as 0-79 or 3,5,80-99.")
@click.option("--experts", help="Only these experts, comma-separated.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=MODEL",
    help="The provider/model an expert stands for, as in thalamus.yaml; else its name.",
)
@click.option(
    "--rename",
    "renamed",
    multiple=True,
    metavar="NAME=EXPERT",
    help="The name that an expert has in thalamus.yaml, where it differs.",
)
@click.option("--merge", is_flag=True, help="Add to the table in OUT; new measurements replace old ones.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@report_errors
def command(
    source: Path,
    out: Path,
    form: str,
    buckets: str | None,
    experts: str | None,
    models: Sequence[str],
    renamed: Sequence[str],
    merge: bool,
    as_json: bool,
) -> None:
    """Read outcomes from SOURCE and write them as an outcome table to OUT (.jsonl or .jsonl.gz)."""
    _check_out(out)
    chosen = [name.strip() for name in experts.split(",")] if experts else []
    table = read_outcomes(source, form, chosen)
    notes = table.provenance.notes
    if buckets:
        table = table.take(np.isin(table.bucket, list(bucket_set(buckets))))
    if chosen:
        table = table.only(chosen)
    table = _rename(_with_models(table, models), renamed)
    if merge and out.exists():
        table = merge_outcomes(OutcomeTable.load(out), table)
    if not len(table):
        raise DataError(f"{source}: no query left after --buckets {buckets}")
    table.save(out)
    facts = {"table": str(out), **table_facts(table)}
    if as_json:
        click.echo(json.dumps({**facts, "notes": notes}))
    else:
        print_facts(facts)
        for note in notes.split("; ") if notes else ():
            click.echo(f"note: {note}")
        click.echo(f"next: thalamus fit {out}")


def bucket_set(text: str) -> set[int]:
    """The buckets that `0-79` or `3,5,80-99` names.

    Raises:
        BadParameter: the text is not of this form.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 0, -1
        if not 0 <= low <= high < 100:
            raise click.BadParameter(
                f"{part.strip()!r} is no bucket or range of 0-99", param_hint="--buckets"
            )
        found.update(range(low, high + 1))
    return found


def _check_out(out: Path) -> None:
    if not out.name.removesuffix(".gz").endswith(".jsonl"):
        raise click.BadParameter(f"{out.name!r} must end in .jsonl or .jsonl.gz", param_hint="OUT")


def _with_models(table: OutcomeTable, text: Sequence[str]) -> OutcomeTable:
    models = {
        **dict(zip(table.experts, table.models, strict=True)),
        **_pairs(table, text, "MODEL", "--model"),
    }
    return replace(table, models=tuple(models.values()))


def _rename(table: OutcomeTable, text: Sequence[str]) -> OutcomeTable:
    names = _pairs(table, text, "EXPERT", "--rename")
    experts = tuple(names.get(name, name) for name in table.experts)
    if repeated := [name for name in experts if experts.count(name) > 1]:
        raise click.BadParameter(f"two experts would be {repeated[0]!r}", param_hint="--rename")
    return replace(table, experts=experts)


def _pairs(table: OutcomeTable, text: Sequence[str], what: str, option: str) -> dict[str, str]:
    """Of each expert named what it is to be.

    Raises:
        BadParameter: a pair is of another form, or names an expert that the table does not have.
    """
    found: dict[str, str] = {}
    for name, value in parse_pairs(text, option, f"NAME={what}"):
        if name not in table.experts:
            known = ", ".join(table.experts)
            raise click.BadParameter(f"{name!r} is not an expert of the table: {known}", param_hint=option)
        found[name] = value
    return found
