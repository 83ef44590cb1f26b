"""RouterBench: a row per prompt; per model a column of scores and `MODEL|total_cost`, `MODEL|model_response`.

As published a pickled DataFrame, or the same as CSV. Prompts and answers are Python lists of turns, as text.
"""

import ast
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance

from .flat import csv_rows
from .pickled import read_frame
from .records import Record, table_of

COST, ANSWER = "|total_cost", "|model_response"


def read_routerbench(source: Path) -> OutcomeTable:
    """Outcomes of a RouterBench file, pickle or CSV; no code in it is run.

    Raises:
        DataError: names the row and column at fault.
    """
    rows = csv_rows(source) if source.name.removesuffix(".gz").endswith(".csv") else _pickled_rows(source)
    if not rows:
        raise DataError(f"{source}: no outcome in it")
    models = [name.removesuffix(COST) for name in rows[0].fields if name.endswith(COST)]
    for name in ("prompt", *models):
        if name not in rows[0].fields:
            raise DataError(f"{source}: no column {name!r}")
    if not models:
        raise DataError(f"{source}: no column MODEL{COST}, as RouterBench has for each model")
    cost_basis = "measured by RouterBench, USD a call"
    return table_of(
        [record for row in rows for record in _records(row, models)],
        Provenance(source=f"RouterBench: {source.name}", cost_basis=cost_basis),
    )


def _pickled_rows(source: Path) -> list[Record]:
    columns = read_frame(source)
    names = list(columns)
    lines = zip(*columns.values(), strict=True)
    return [
        Record(f"{source}, row {n}", dict(zip(names, line, strict=True)))
        for n, line in enumerate(lines, start=1)
    ]


def _records(row: Record, models: list[str]) -> list[Record]:
    asked = {
        "id": row.fields.get("sample_id"),
        "prompt": _turns(row.fields["prompt"]),
        "task": row.fields.get("eval_name"),
    }
    return [
        Record(
            row.place,
            {
                **asked,
                "model": model,
                "score": row.fields[model],
                "cost_usd": row.fields[model + COST],
                "answer": _turns(row.fields.get(model + ANSWER)),
            },
        )
        for model in models
    ]


def _turns(told: Any) -> Any:
    """Turns as one text, a line each; what is no list of turns stays as it is."""
    if not isinstance(told, str) or not told.startswith("["):
        return told
    try:
        turns = ast.literal_eval(told)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return told
    return "\n".join(map(str, turns)) if isinstance(turns, list) else told
