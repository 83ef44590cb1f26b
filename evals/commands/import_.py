"""`thalamus import`: outcomes from other people's files, as an outcome table."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path

import click
import numpy as np

from routers import DataError, OutcomeTable, add_outcomes

from ..console import parse_pairs, print_facts, report_errors, table_facts
from ..datasets import FORMATS, build_traffic_table, read_decision_scores, read_outcomes

JOURNAL = "journal"

EXAMPLES = """
\b
Examples:
  thalamus import scores.csv outcomes.jsonl.gz
  thalamus import verdicts.csv outcomes.jsonl.gz    comparisons by a judge, as win rates
  thalamus import mydata/ outcomes.jsonl.gz --buckets 0-79
  thalamus import scores.csv outcomes.jsonl --model big=openai/gpt-5 --model small=openai/gpt-5-mini
  thalamus import journal                           rated decisions of the gateway, added to outcomes.jsonl.gz
  thalamus import journal --scores rated.csv        decision_id and score a line, in place of feedback

\b
A CSV or JSON-lines file has a line per prompt and model (prompt, model, score and, where known, cost_usd,
input_tokens, output_tokens, latency_s, id, task, family, bucket), or a line per prompt with a column of
scores per model; other columns are passed over and named. CSV may have commas, semicolons (with decimal
commas) or tabs. A folder holds prompts.parquet and outcomes.parquet. Scores are in [0, 1]. Also read:
comparisons by a judge (a line per pair: prompt, model_a, model_b and winner, which is a, b, tie or a name; a
win rate becomes the score), RouterBench (pickle or CSV; no code in a pickle is run), RouteLLM's CSV files, a
folder of LLMRouterBench results, and LiteLLM or OpenAI request logs with a score a line.
"""


@click.command("import", epilog=EXAMPLES)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), required=False)
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
@click.option(
    "--config",
    "-c",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("thalamus.yaml"),
    envvar="THALAMUS_CONFIG",
    show_default=True,
    help="Of the journal: the configuration that names it.",
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path),
    help="Of the journal: a file with decision_id and score a line, in place of feedback.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@report_errors
def command(
    source: Path,
    out: Path | None,
    form: str,
    buckets: str | None,
    experts: str | None,
    models: Sequence[str],
    renamed: Sequence[str],
    merge: bool,
    config_path: Path,
    scores: Path | None,
    as_json: bool,
) -> None:
    """Read outcomes from SOURCE and write them as an outcome table to OUT (.jsonl or .jsonl.gz).

    SOURCE is a file or a folder, or the word journal: what clients said of the gateway's answers, which is
    always added to OUT (outcomes.jsonl.gz if left out). It needs journal: {content: true}.
    """
    is_journal = str(source) == JOURNAL
    if out is None and not is_journal:
        raise click.UsageError("Missing argument 'OUT'.")
    out = out or Path("outcomes.jsonl.gz")
    _check_out(out)
    chosen = [name.strip() for name in experts.split(",")] if experts else []
    table, lacks = (
        _read_journal(config_path, scores) if is_journal else (read_outcomes(source, form, chosen), [])
    )
    notes = [*table.provenance.notes.split("; "), *lacks] if table.provenance.notes else lacks
    if buckets:
        table = table.take(np.isin(table.bucket, list(bucket_set(buckets))))
    if chosen:
        table = table.only(chosen)
    table = _rename(_with_models(table, models), renamed)
    if not len(table):
        raise DataError(f"{source}: no query left after --buckets {buckets}")
    added: dict[str, dict[str, int]] = {}
    if merge or is_journal:
        earlier = OutcomeTable.load(out) if out.exists() else None
        fresh, table = table, add_outcomes(earlier, table) if earlier is not None else table
        added = _count_additions(earlier, fresh, table)
    elif out.exists():
        notes = [*notes, *_back_up(out, table)]
    table.save(out)
    facts = {"table": str(out), **({"added": added} if added else {}), **table_facts(table)}
    if as_json:
        click.echo(json.dumps({**facts, "notes": notes}))
    else:
        print_facts(facts)
        for note in notes:
            click.echo(f"note: {note}")
        click.echo(f"next: thalamus fit {out}")


def _count_additions(
    earlier: OutcomeTable | None, fresh: OutcomeTable, table: OutcomeTable
) -> dict[str, dict[str, int]]:
    """How many outcomes of each expert are new in a table, and how many were in the earlier one."""
    before = _count_outcomes(earlier) if earlier is not None else {}
    after = _count_outcomes(table)
    added = {}
    # By expert and model: what was measured of a former model stays under another name.
    for key, n_read in _count_outcomes(fresh).items():
        n_new = after.get(key, 0) - before.get(key, 0)
        added[key[0]] = {"outcomes": n_new, "already_there": n_read - n_new}
    return added


def _count_outcomes(table: OutcomeTable) -> dict[tuple[str, str], int]:
    """How many scores of each expert and model there are."""
    counts = (~np.isnan(table.score)).sum(axis=0).tolist()
    return dict(zip(zip(table.experts, table.models, strict=True), counts, strict=True))


def _read_journal(config_path: Path, scores: Path | None) -> tuple[OutcomeTable, list[str]]:
    """The outcomes of the gateway's own traffic, and what could not be learned from, in words."""
    # By entry point, because evals import nothing of the gateway.
    point = next(iter(entry_points(group="thalamus.traffic", name=JOURNAL)), None)
    if point is None:
        raise click.ClickException("the gateway is not installed here: pip install thalamus-gateway")
    found = point.load()(config_path, read_decision_scores(scores) if scores else {})
    return build_traffic_table(found["rows"], found["models"], "traffic of the gateway"), found["lacks"]


def _back_up(out: Path, table: OutcomeTable) -> list[str]:
    """Keep another table that is in the way under a name with the date; says where."""
    try:
        if OutcomeTable.load(out).fingerprint == table.fingerprint:
            return []
    except DataError:
        pass  # no table, but a file of the user's all the same
    kept = out.with_name(f"{out.name}.{datetime.now():%Y-%m-%dT%H-%M-%S}.bak")
    os.replace(out, kept)
    return [f"what {out} held is kept as {kept}; --merge adds to it instead"]


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
