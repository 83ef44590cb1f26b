"""Plain CSV and JSON lines, long (a line per prompt and model) or wide (a line per prompt).

Long: prompt, model, score and, where known, id, task, family, bucket, cost_usd, input_tokens, output_tokens,
latency_s, confidence, answer. Wide: prompt and for each model a column of scores; further measures in columns
`MODEL|cost_usd`, `MODEL_response` and so on. JSON lines may nest either:
`{"prompt": …, "score": {"a": 1, "b": 0}}`. Other columns are passed over.
"""

import csv
import gzip
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance
from routers.outcome_format import MEASURES
from routers.text_files import decode_text

from .records import (
    FIELDS,
    Record,
    describe_columns,
    field_name,
    find_score_columns,
    number,
    table_of,
)

_QUERY_FIELDS = ("id", "prompt", "task", "family", "bucket")
_LONG_FIELDS = (*_QUERY_FIELDS, "model", "answer", *MEASURES)
_SEPARATORS = (",", ";", "\t", "|")
_OF_A_MODEL = frozenset({"answer", *MEASURES} - {"score"})


def read_csv(source: Path, experts: Collection[str] = ()) -> OutcomeTable:
    """A CSV file, long or wide, with commas, semicolons, tabs or bars between the cells.

    Of a wide one only the columns of `experts` are read, if there are any.

    Raises:
        DataError: names the line and the column at fault.
    """
    return build_table(source, csv_rows(source), experts)


def csv_rows(source: Path) -> list[Record]:
    """The lines of a CSV file by the names in its first.

    Raises:
        DataError: names the line at fault.
    """
    # The default of 128 KiB is shorter than some prompts. The limit is global to the process.
    csv.field_size_limit(1 << 27)
    text = _text(source)
    separator, n_above = ",", 0
    if text[:4].lower() == "sep=" and text[5:6] in ("\r", "\n"):  # Excel's own way to say it
        separator, n_above = text[4], 1
        text = text[5:].lstrip("\r\n")
    else:
        separator = _find_separator(text)
    # newline="" as the csv module asks for: quoted fields keep their line breaks.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_names(source, names)
        for cells in reader:
            if not any(cells):
                continue
            place = f"{source}, line {reader.line_num + n_above}"
            if len(cells) != len(names):
                raise DataError(f"{place}: {len(names)} columns are needed, as in the first line")
            # Where commas do not part cells, they may part the decimals.
            rows.append(Record(place, dict(zip(names, cells, strict=True)), separator == ";"))
    except csv.Error as error:
        raise DataError(f"{source}, after line {reader.line_num + n_above}: {error}") from None
    return rows


def _find_separator(text: str) -> str:
    """What parts the names in the first line: by it there is a prompt, and the most columns."""

    def rate(separator: str) -> tuple[bool, int]:
        try:
            names = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        except csv.Error:
            return False, 0
        return any(field_name(name) == "prompt" for name in names), len(names)

    return max(_SEPARATORS, key=rate)


def _check_names(source: Path, names: list[str]) -> None:
    repeated = {name for name in names if name and names.count(name) > 1}
    if repeated:
        raise DataError(f"{source}, line 1: column {min(repeated)!r} occurs twice; rename one of them")


def read_jsonl(source: Path, experts: Collection[str] = ()) -> OutcomeTable:
    """A JSON-lines file, long, wide or nested; of wide lines only `experts`, if there are any.

    Raises:
        DataError: names the line and the field at fault.
    """
    return build_table(source, json_rows(source), experts)


def json_rows(source: Path) -> list[Record]:
    """The objects of a JSON-lines file.

    Raises:
        DataError: names the line at fault.
    """
    rows = []
    # Not splitlines(): it also breaks at U+2028, which JSON strings may hold unescaped (RFC 8259).
    for n, line in enumerate(_text(source).split("\n"), start=1):
        line = line.removeprefix("\ufeff")  # within the text where files were joined
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{source}, line {n}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{source}, line {n}: not a JSON object")
        rows.append(Record(f"{source}, line {n}", value))
    return rows


def first_line(source: Path) -> str:
    """The first line of a file, gzipped or not; empty where there is none to read."""
    try:
        with (gzip.open if source.suffix == ".gz" else open)(source, "rb") as file:
            head = file.read(1 << 20)
    except (OSError, EOFError):
        return ""
    try:
        return decode_text(head[: len(head) & ~3]).partition("\n")[0]
    except ValueError:
        # A character was cut, or the reader will say what is wrong with the file.
        return head.decode("utf-8", "replace").partition("\n")[0]


def build_table(
    source: Path,
    rows: list[Record],
    experts: Collection[str] = (),
    unread: Mapping[str, str] | None = None,
) -> OutcomeTable:
    """Lines of any of the forms as a table; `unread` are columns that are not in them, with the reason.

    Raises:
        DataError: names the line and the column at fault.
    """
    if not rows:
        raise DataError(f"{source}: no outcome in it")
    wide = [row for row in rows if _is_wide(row)]
    models, measures, others = _find_columns(wide, experts)
    if not wide:
        names = dict.fromkeys(name for row in rows for name in row.fields)
        others = {name: "no field of ours" for name in names if field_name(name) not in FIELDS and name}
    if wide and not models:
        found = describe_columns(others)
        raise DataError(
            f"{wide[0].place}: neither a model column nor a column of scores{found and f'; {found}'}"
        )
    records = [record for row in rows for record in _read_row(row, models, measures)]
    notes = describe_columns({**others, **(unread or {})})
    return table_of(records, Provenance(source=source.name, notes=notes))


def _is_wide(row: Record) -> bool:
    fields = {field_name(name): value for name, value in row.fields.items()}
    if "prompt" not in fields:
        raise DataError(f"{row.place}: no prompt; it has {', '.join(map(str, row.fields))}")
    return "model" not in fields and not isinstance(fields.get("score"), Mapping)


def _find_columns(
    rows: list[Record], experts: Collection[str]
) -> tuple[list[str], dict[str, dict[str, str]], dict[str, str]]:
    """Of wide lines the columns of scores, the columns of each one's measures, and what the others hold."""
    names = list(dict.fromkeys(name for row in rows for name in row.fields))
    names = [name for name in names if field_name(name) not in _QUERY_FIELDS]
    measures: dict[str, dict[str, str]] = {}
    for name in names:
        for mark in "|_ ":
            model, _, measure = name.partition(mark) if mark == "|" else _split_measure(name, mark)
            if measure and model in names and (field_name(measure) in _OF_A_MODEL or mark == "|"):
                measures.setdefault(model, {})[name] = field_name(measure)
    taken = {name for of_model in measures.values() for name in of_model}
    models, others = find_score_columns(rows, (name for name in names if name not in taken), experts)
    return models, measures, others


def _split_measure(name: str, mark: str) -> tuple[str, str, str]:
    """`big_total_cost` as big and total_cost: the measure is the longest known name at the end."""
    parts = name.split(mark)
    for n in range(1, len(parts)):
        if field_name("_".join(parts[n:])) in FIELDS:
            return mark.join(parts[:n]), mark, "_".join(parts[n:])
    return "", mark, ""


def _read_row(row: Record, models: list[str], measures: Mapping[str, Mapping[str, str]]) -> Iterator[Record]:
    """The outcomes of one line."""
    fields = {field_name(name): value for name, value in row.fields.items()}
    query = {name: fields[name] for name in _QUERY_FIELDS if name in fields}
    if isinstance(fields.get("score"), Mapping):
        yield from _read_nested(row, query, fields)
    elif "model" in fields:
        yield row.with_fields({name: fields[name] for name in _LONG_FIELDS if name in fields})
    else:
        for model in models:
            if model not in row.fields:
                continue
            _check_score(row, model)
            more = {
                measure: row.fields[name]
                for name, measure in measures.get(model, {}).items()
                if name in row.fields
            }
            yield row.with_fields({**more, **query, "model": model, "score": row.fields[model]})


def _check_score(row: Record, model: str) -> None:
    # Here and not with the other records: the message names the column as the user knows it.
    try:
        number(row, model)
    except DataError as error:
        raise DataError(
            f"{error}; if this is no column of scores, name those that are with --experts"
        ) from None


def _read_nested(row: Record, query: Mapping[str, Any], fields: Mapping[str, Any]) -> Iterator[Record]:
    for model in fields["score"]:
        measures = {
            name: fields[name].get(model)
            for name in (*MEASURES, "answer")
            if isinstance(fields.get(name), Mapping)
        }
        yield row.with_fields({**query, "model": model, **measures})


def _text(source: Path) -> str:
    try:
        data = source.read_bytes()
        return decode_text(gzip.decompress(data) if source.suffix == ".gz" else data)
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or error}") from None
    except (EOFError, ValueError) as error:
        raise DataError(f"{source}: {error}") from None


def read_table(source: Path) -> OutcomeTable:
    """An outcome table as `OutcomeTable.save` writes it."""
    return OutcomeTable.load(source)
