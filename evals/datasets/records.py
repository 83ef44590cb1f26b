"""Records, one per prompt and model, put together as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from routers import DataError, Floats, OutcomeTable, Provenance

MEASURES = ("score", "cost_usd", "input_tokens", "output_tokens", "latency_s", "confidence", "declined")
ALIASES = {
    "prompt_id": "id",
    "query_id": "id",
    "sample_id": "id",
    "text": "prompt",
    "query": "prompt",
    "question": "prompt",
    "expert": "model",
    "model_name": "model",
    "kind": "task",
    "eval_name": "task",
    "group": "family",
    "cost": "cost_usd",
    "total_cost": "cost_usd",
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "latency": "latency_s",
    "response": "answer",
}
"""Other names of our fields."""


@dataclass(frozen=True, slots=True)
class Record:
    """One outcome by field name (`id prompt task family bucket model` and measures), and its place."""

    place: str
    fields: Mapping[str, Any]


def table_of(records: Sequence[Record], provenance: Provenance) -> OutcomeTable:
    """Queries in order of appearance, experts by name; a prompt without id is known by its text.

    Raises:
        DataError: a field is missing or wrong, or two records have the same prompt and model.
    """
    if not records:
        raise DataError(f"{provenance.source or 'the source'}: no outcome in it")
    named = [_rename(record) for record in records]
    queries: dict[str, Record] = {}
    for record in named:
        first = queries.setdefault(_key(record), record)
        if first.fields["prompt"] != record.fields["prompt"]:
            raise DataError(f"{record.place}: id {_key(record)!r} has two prompts")
    rows = {key: n for n, key in enumerate(queries)}
    experts = sorted({_text(record, "model") for record in named})
    columns = {name: n for n, name in enumerate(experts)}
    measures: dict[str, Floats] = {name: np.full((len(rows), len(experts)), np.nan) for name in MEASURES}
    answers: list[list[str | None]] = [[None] * len(experts) for _ in rows]
    seen: set[tuple[int, int]] = set()
    for record in named:
        place = rows[_key(record)], columns[record.fields["model"]]
        if place in seen:
            raise DataError(f"{record.place}: a second outcome of {experts[place[1]]} on the same prompt")
        seen.add(place)
        for name in MEASURES:
            measures[name][place] = number(record, name)
        answer = record.fields.get("answer")
        answers[place[0]][place[1]] = None if answer is None else str(answer)
    _check_ranges(named, provenance)
    firsts = list(queries.values())
    return OutcomeTable.build(
        [first.fields["prompt"] for first in firsts],
        experts,
        measures,
        ids=list(queries),
        tasks=[str(first.fields.get("task") or "") for first in firsts],
        families=[str(first.fields.get("family") or "") for first in firsts],
        bucket=_buckets(firsts),
        answers=answers if any(any(a is not None for a in row) for row in answers) else None,
        provenance=provenance,
    )


def _rename(record: Record) -> Record:
    fields = {ALIASES.get(name, name): value for name, value in record.fields.items()}
    renamed = Record(record.place, fields)
    _text(renamed, "prompt")
    return renamed


def _key(record: Record) -> str:
    value = record.fields.get("id")
    return str(record.fields["prompt"] if value is None or value == "" else value)


def _text(record: Record, name: str) -> str:
    value = record.fields.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"{record.place}: {name}: a text is needed, not {value!r}")
    return value


def number(record: Record, name: str) -> float:
    """The field as a number; NaN where there is nothing.

    Raises:
        DataError: it is something else.
    """
    value: Any = record.fields.get(name)
    if value is None or value == "":
        return float("nan")
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{record.place}: {name}: a number is needed, not {value!r}") from None


def _check_ranges(records: Sequence[Record], provenance: Provenance) -> None:
    for record in records:
        score = number(record, "score")
        if score < 0 or score > 1:
            raise DataError(f"{record.place}: score: {score:g} is not in [0, 1]")
        for name in MEASURES[1:-1]:
            if number(record, name) < 0:
                raise DataError(f"{record.place}: {name}: {number(record, name):g} is negative")


def _buckets(firsts: Sequence[Record]) -> Any:
    value = [number(first, "bucket") for first in firsts]
    if any(np.isnan(value)):
        return None
    for first, bucket in zip(firsts, value, strict=True):
        # Splits index 100 places by bucket.
        if bucket != int(bucket) or not 0 <= bucket < 100:
            raise DataError(f"{first.place}: bucket: a whole number from 0 to 99 is needed, not {bucket:g}")
    return np.array(value, np.int64)
