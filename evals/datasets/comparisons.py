"""Verdicts of a judge on pairs of answers, CSV or JSON lines: win rates become scores.

A line is a comparison: prompt, model_a, model_b and winner, which is `a`, `b`, `tie` or the name of a model
(`model_a`, `tie (bothbad)` and their like are read too), or the columns winner_model_a, winner_model_b and
winner_tie. `id` and `task` are read where they are there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from routers import DataError, OutcomeTable, Provenance, rate_std

from .flat import csv_rows, json_rows
from .records import Record, field_name, number, table_of

_POINTS = {"a": 1.0, "model_a": 1.0, "b": 0.0, "model_b": 0.0, "tie": 0.5, "both": 0.5, "draw": 0.5}
_ONE_HOT = (("winner_model_a", 1.0), ("winner_model_b", 0.0), ("winner_tie", 0.5))


def read_comparisons(source: Path) -> OutcomeTable:
    """One score per prompt and model: the share of its comparisons that it won, a tie counting half.

    `score_std` is the deviation of Jeffreys' posterior: one verdict says little, ten say more.

    Raises:
        DataError: names the line and field at fault.
    """
    is_json = source.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    points: dict[tuple[str, str], list[float]] = {}
    firsts: dict[tuple[str, str], tuple[Record, Mapping[str, Any]]] = {}
    for row in json_rows(source) if is_json else csv_rows(source):
        fields = {field_name(name): value for name, value in row.fields.items()}
        key = str(fields.get("id") or fields.get("prompt"))
        first, second = (_name(row, side) for side in ("model_a", "model_b"))
        if first == second:
            raise DataError(f"{row.place}: model_b: {second} is compared with itself")
        won = _read_winner(row, first, second)
        for model, share in ((first, won), (second, 1.0 - won)):
            points.setdefault((key, model), []).append(share)
            firsts.setdefault((key, model), (row, fields))
    records = []
    for (key, model), shares in points.items():
        row, own = firsts[key, model]
        n, mean = np.float64(len(shares)), np.float64(np.mean(shares))
        known = {name: own.get(name) for name in ("prompt", "task")}
        score = {"score": float(mean), "score_std": float(rate_std(mean, n))}
        records.append(row.with_fields({**known, "id": key, "model": model, **score}))
    return table_of(records, Provenance(source=f"comparisons: {source.name}"))


def _name(row: Record, side: str) -> str:
    value = row.fields.get(side)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.place}: {side}: the name of a model is needed, not {value!r}")
    return value.strip()


def _read_winner(row: Record, first: str, second: str) -> float:
    """The points of the first model."""
    said = row.fields.get("winner")
    if said is None and any(name in row.fields for name, _ in _ONE_HOT):
        found = [share for name, share in _ONE_HOT if number(row, name) == 1]
        if len(found) == 1:
            return found[0]
    elif isinstance(said, str):
        text = said.strip()
        if text in (first, second):
            return 1.0 if text == first else 0.0
        word = text.lower().partition(" ")[0]
        if word in _POINTS:
            return _POINTS[word]
    raise DataError(f"{row.place}: winner: a, b, tie or one of {first} and {second} is needed, not {said!r}")
