"""Plain CSV and JSON lines, long (a line per prompt and model) or wide (a line per prompt).

Long: prompt, model, score and, where known, id, task, family, bucket, cost_usd, input_tokens, output_tokens,
latency_s, confidence, answer. Wide: prompt and for each model a column of scores; further measures in columns
`MODEL|cost_usd` and so on. JSON lines may nest either: `{"prompt": …, "score": {"a": 1, "b": 0}}`.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance

from .records import ALIASES, MEASURES, Record, number, table_of

_QUERY_FIELDS = ("id", "prompt", "task", "family", "bucket")
_LONG_FIELDS = (*_QUERY_FIELDS, "model", "answer", *MEASURES)


def read_csv(source: Path) -> OutcomeTable:
    """A CSV (or, by its name, tab-separated) file, long or wide.

    Raises:
        DataError: names the line and the column at fault.
    """
    return _table(source, csv_rows(source))


def csv_rows(source: Path) -> list[Record]:
    """The lines of a CSV file by the names in its first.

    Raises:
        DataError: names the line at fault.
    """
    # The default of 128 KiB is shorter than some prompts. The limit is global to the process.
    csv.field_size_limit(1 << 27)
    separator = "\t" if source.name.removesuffix(".gz").endswith(".tsv") else ","
    # newline="" as the csv module asks for: quoted fields keep their line breaks.
    reader = csv.DictReader(io.StringIO(_text(source), newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        for row in reader:
            place = f"{source}, line {reader.line_num}"
            # DictReader puts surplus cells under None and fills missing ones with None.
            if None in row or None in row.values():
                raise DataError(
                    f"{place}: {len(reader.fieldnames or ())} columns are needed, as in the first line"
                )
            rows.append(Record(place, row))
    except csv.Error as error:
        raise DataError(f"{source}, after line {reader.line_num}: {error}") from None
    return rows


def read_jsonl(source: Path) -> OutcomeTable:
    """A JSON-lines file, long, wide or nested.

    Raises:
        DataError: names the line and the field at fault.
    """
    return _table(source, json_rows(source))


def json_rows(source: Path) -> list[Record]:
    """The objects of a JSON-lines file.

    Raises:
        DataError: names the line at fault.
    """
    rows = []
    # Not splitlines(): it also breaks at U+2028, which JSON strings may hold unescaped (RFC 8259).
    for n, line in enumerate(_text(source).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{source}, line {n}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{source}, line {n}: not a JSON object")
        rows.append(Record(f"{source}, line {n}", value))
    return rows


def first_line(source: Path) -> str:
    """The first line of a file, gzipped or not; empty where there is none to read."""
    try:
        with (gzip.open if source.suffix == ".gz" else open)(source, "rb") as file:
            return file.readline(1 << 20).decode("utf-8", "replace")
    except (OSError, EOFError):
        return ""


def _table(source: Path, rows: list[Record]) -> OutcomeTable:
    provenance = Provenance(source=source.name)
    if not rows:
        raise DataError(f"{source}: no outcome in it")
    records = [record for row in rows for record in _records(row)]
    return table_of(records, provenance)


def _records(row: Record) -> Iterator[Record]:
    """The outcomes of one line."""
    fields = {ALIASES.get(name, name): value for name, value in row.fields.items()}
    if "prompt" not in fields:
        raise DataError(f"{row.place}: no prompt; it has {', '.join(map(str, row.fields))}")
    query = {name: fields[name] for name in _QUERY_FIELDS if name in fields}
    if isinstance(fields.get("score"), Mapping):
        yield from _read_nested(row.place, query, fields)
    elif "model" in fields:
        yield Record(row.place, {name: fields[name] for name in _LONG_FIELDS if name in fields})
    else:
        yield from _read_wide(row.place, query, row.fields)


def _read_nested(place: str, query: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[Record]:
    for model in fields["score"]:
        measures = {
            name: fields[name].get(model)
            for name in (*MEASURES, "answer")
            if isinstance(fields.get(name), Mapping)
        }
        yield Record(place, {**query, "model": model, **measures})


def _read_wide(place: str, query: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[Record]:
    others = [name for name in fields if ALIASES.get(name, name) not in _QUERY_FIELDS]
    models = [name for name in others if "|" not in name]
    if not models:
        raise DataError(f"{place}: neither a model column nor a column of scores")
    for model in models:
        number(Record(place, {model: fields[model]}), model)  # a column of words is no column of scores
        measures = {
            ALIASES.get(measure, measure): fields[f"{model}|{measure}"]
            for measure in (name.partition("|")[2] for name in others if name.startswith(f"{model}|"))
        }
        yield Record(place, {**query, "model": model, "score": fields[model], **measures})


def _text(source: Path) -> str:
    try:
        data = source.read_bytes()
        # utf-8-sig drops the byte order mark that spreadsheets write.
        return (gzip.decompress(data) if source.suffix == ".gz" else data).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or error}") from None
    except (EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: damaged or not UTF-8 text: {error}") from None


def read_table(source: Path) -> OutcomeTable:
    """An outcome table as `OutcomeTable.save` writes it."""
    return OutcomeTable.load(source)
