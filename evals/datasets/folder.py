"""Folders of parquet: `prompts.parquet`, `outcomes.parquet` and, if there, `meta.json`."""

import json
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance

from .records import Record, table_of

_PROMPTS = ("prompt_id", "prompt")
_OUTCOMES = ("prompt_id", "model", "score")
_OPTIONAL = ("cost_usd", "input_tokens", "output_tokens", "latency_s", "confidence", "answer")


def read_folder(source: Path) -> OutcomeTable:
    """One row of outcomes per prompt and model; a bucket column is kept as the unit of splits.

    Raises:
        DataError: a file or column is missing, or a value is wrong.
    """
    prompts = _columns(source / "prompts.parquet", _PROMPTS, ("task", "family", "bucket"))
    outcomes = _columns(source / "outcomes.parquet", _OUTCOMES, _OPTIONAL)
    row_of = {key: n for n, key in enumerate(prompts["prompt_id"])}
    records = []
    for n, key in enumerate(outcomes["prompt_id"]):
        place = f"{source / 'outcomes.parquet'}, row {n + 1}"
        if key not in row_of:
            raise DataError(
                f"{source / 'outcomes.parquet'}, row {n + 1}: prompt_id {key!r} is not in prompts.parquet"
            )
        row = row_of[key]
        asked = {name: values[row] for name, values in prompts.items()}
        told = {name: values[n] for name, values in outcomes.items()}
        records.append(Record(place, {**asked, **told}))
    return table_of(records, _provenance(source))


def read_column(source: Path, name: str) -> dict[str, Any]:
    """One more column of the prompts, by prompt_id.

    Raises:
        DataError: it is not there.
    """
    columns = _columns(source / "prompts.parquet", ("prompt_id", name), ())
    return dict(zip(columns["prompt_id"], columns[name], strict=True))


def _columns(path: Path, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, list[Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow: pip install 'thalamus-gateway[data]'"
        ) from None
    try:
        names = set(pyarrow.parquet.read_schema(path).names)
        if missing := [name for name in needed if name not in names]:
            raise DataError(f"{path}: no column {missing[0]!r}; it has {', '.join(sorted(names))}")
        wanted = [name for name in (*needed, *optional) if name in names]
        table = pyarrow.parquet.read_table(path, columns=wanted)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not parquet: {error}".splitlines()[0]) from None
    return {name: _values(table.column(name)) for name in wanted}


def _values(column: Any) -> list[Any]:
    """Python values; single-precision numbers at their shortest decimal, so that 0.1 stays 0.1."""
    values: list[Any] = column.to_pylist()
    if str(column.type) != "float":
        return values
    import numpy as np

    return [None if v is None else float(str(np.float32(v))) for v in values]


def _provenance(source: Path) -> Provenance:
    path = source / "meta.json"
    if not path.exists():
        return Provenance(source=source.name)
    try:
        meta = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(meta, dict):
        raise DataError(f"{path}: not a JSON object")
    told = {
        "source": meta.get("source") or meta.get("name") or source.name,
        "licence": meta.get("licence") or meta.get("license"),
        "cost_basis": meta.get("cost_basis"),
        "notes": meta.get("notes"),
    }
    return Provenance(**{name: str(value) for name, value in told.items() if value})
