"""Readers of outcome files: one function per format, from a path to an `OutcomeTable`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance

FORMATS: Mapping[str, str] = {
    "comparisons": "comparisons:read_comparisons",
    "csv": "flat:read_csv",
    "folder": "parquet:read_folder",
    "jsonl": "flat:read_jsonl",
    "llmrouterbench": "published:read_llmrouterbench",
    "logs": "logs:read_logs",
    "routellm": "published:read_routellm",
    "routerbench": "published:read_routerbench",
    "table": "flat:read_table",
}
"""Name → module:function of this package; `auto` finds the name by `detect`."""


_WIDE = frozenset({"csv", "jsonl", "routellm", "routerbench"})
"""Formats with a column of scores per expert, beside which others may stand."""


def read_outcomes(source: Path, form: str = "auto", experts: Collection[str] = ()) -> OutcomeTable:
    """The outcomes in `source`; of columns of scores only those of `experts`, if there are any.

    Raises:
        DataError: no such source or format, or something in it is wrong: names file, row and field.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; `thalamus profile` writes a table of outcomes")
    form = detect(source) if form == "auto" else form
    module, _, function = FORMATS[form].partition(":")
    reader: Callable[..., OutcomeTable] = getattr(import_module(f".{module}", __name__), function)
    return reader(source, experts) if form in _WIDE else reader(source)


def detect(source: Path) -> str:
    """The format of a source by its name and first line.

    Raises:
        DataError: it is none of those known.
    """
    if source.is_dir():
        return _detect_folder(source)
    name = source.name.removesuffix(".gz")
    if name.endswith((".pkl", ".pickle")):
        return "routerbench"
    if not name.endswith((".csv", ".tsv", ".jsonl", ".ndjson")):
        raise DataError(f"{source}: its name does not show its format; choose one with --format")
    from .flat import first_line

    line = first_line(source)
    if "model_a" in line and "model_b" in line:
        return "comparisons"
    if name.endswith((".csv", ".tsv")):
        # In this order: `|model_response` contains `_response`.
        marks = {
            "oracle_model_to_route_to": "routerbench",
            "|model_response": "routerbench",
            "_response": "routellm",
        }
        return next((form for mark, form in marks.items() if mark in line), "csv")
    if '"thalamus.outcomes/' in line:
        return "table"
    return "logs" if any(f'"{field}"' in line for field in _LOGGED) else "jsonl"


_LOGGED = ("messages", "response_cost", "request", "body")
"""Fields that only request logs have."""


def _detect_folder(source: Path) -> str:
    if (source / "prompts.parquet").exists() or (source / "outcomes.parquet").exists():
        return "folder"
    if next(source.rglob("*.csv"), None):
        return "routellm"
    return "llmrouterbench" if next(source.rglob("*.json"), None) else "folder"


def read_decision_scores(source: Path) -> dict[str, float]:
    """Scores by decision id, from a CSV or JSON-lines file with `decision_id` (or `id`) and `score`.

    Raises:
        DataError: names the line and field at fault.
    """
    from .flat import csv_rows, json_rows
    from .records import number

    is_json = source.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    scores: dict[str, float] = {}
    for row in json_rows(source) if is_json else csv_rows(source):
        key = row.fields.get("decision_id", row.fields.get("id"))
        if not isinstance(key, str) or not key:
            raise DataError(f"{row.place}: decision_id: a text is needed, not {key!r}")
        score = number(row, "score")
        if not 0 <= score <= 1:
            raise DataError(
                f"{row.place}: score: a number in [0, 1] is needed, not {row.fields.get('score')!r}"
            )
        scores[key] = score
    return scores


def build_traffic_table(
    rows: Sequence[Mapping[str, Any]], models: Mapping[str, str], source: str
) -> OutcomeTable:
    """Outcomes of a gateway's own traffic, where a prompt may have been asked several times."""
    from .records import Record, average_same, table_of

    records = [Record(f"{source}, outcome {n}", row) for n, row in enumerate(rows, start=1)]
    table = table_of(average_same(records), Provenance(source=source))
    return replace(table, models=tuple(models.get(name, name) for name in table.experts))


def source_splits(source: Path, table: OutcomeTable) -> tuple[str, ...]:
    """Per query of the table what its source calls its part (train, test …).

    Raises:
        DataError: the source has none; only folders of parquet with a column `source_split` do.
    """
    if not source.is_dir() or not (source / "prompts.parquet").exists():
        raise DataError(f"{source}: only a folder with prompts.parquet has its own train and test parts")
    from .parquet import read_column

    parts = read_column(source, "source_split")
    return tuple(str(parts[key]) for key in table.ids)
