"""The lines of an outcome table on disk, checked: errors name file, line and field."""

import gzip
import json
from pathlib import Path
from typing import Any, NoReturn

from .errors import DataError
from .text_files import decode_text

SCHEMA = "thalamus.outcomes/1"
MEASURES = (
    "score",
    "score_std",
    "cost_usd",
    "input_tokens",
    "output_tokens",
    "latency_s",
    "confidence",
    "declined",
    "propensity",
)
_TEXT_FIELDS = ("id", "text", "task", "family")
_ROW_FIELDS = {*_TEXT_FIELDS, "bucket", "answers", *MEASURES}


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and rows of the file; lines are counted from 1, the header being the first.

    Raises:
        DataError: missing, damaged, another schema, or a row that is not what the header announces.
    """
    lines = _lines(path)
    header = _object(path, 1, lines[0]) if lines else {}
    if not str(header.get("schema", "")).startswith("thalamus.outcomes/"):
        raise DataError(f"{path}: not an outcome table; `thalamus import` makes one from other files")
    if header["schema"] != SCHEMA:
        raise DataError(f"{path}: schema {header['schema']}, this one reads {SCHEMA}: `thalamus import` anew")
    n_experts = _check_experts(path, header)
    rows = [_object(path, n, line) for n, line in enumerate(lines[1:], start=2)]
    for n, row in enumerate(rows, start=2):
        _check_row(path, n, row, n_experts)
    return header, rows


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        text = decode_text(gzip.decompress(data) if path.suffix == ".gz" else data)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (EOFError, ValueError) as error:
        raise DataError(f"{path}: damaged or not text: {error}") from None
    return [line for line in text.split("\n") if line.strip()]


def _object(path: Path, n: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        _fail(path, n, f"not JSON: {error}")
    if not isinstance(value, dict):
        _fail(path, n, "not a JSON object")
    return value


def _check_experts(path: Path, header: dict[str, Any]) -> int:
    listed = header.get("experts")
    if not isinstance(listed, list) or not listed:
        _fail(path, 1, "experts: a list of {name, model} is needed")
    for expert in listed:
        if not isinstance(expert, dict) or not all(isinstance(expert.get(k), str) for k in ("name", "model")):
            _fail(path, 1, f"experts: {expert!r} is not {{name, model}}")
    return len(listed)


def _check_row(path: Path, n: int, row: dict[str, Any], n_experts: int) -> None:
    if unknown := sorted(set(row) - _ROW_FIELDS):
        _fail(path, n, f"unknown field {unknown[0]!r}")
    for key in _TEXT_FIELDS:
        if not isinstance(row.get(key, None if key in ("id", "text") else ""), str):
            _fail(path, n, f"{key}: a string is needed")
    if type(row.get("bucket")) is not int:
        _fail(path, n, "bucket: a whole number is needed")
    for key in (*MEASURES, "answers"):
        values = row.get(key)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != n_experts:
            _fail(path, n, f"{key}: a list of {n_experts} values is needed, one per expert")
        kinds = (str,) if key == "answers" else (int, float)
        if any(v is not None and (isinstance(v, bool) or not isinstance(v, kinds)) for v in values):
            _fail(path, n, f"{key}: {'strings' if key == 'answers' else 'numbers'} or null are needed")


def _fail(path: Path, n: int, message: str) -> NoReturn:
    raise DataError(f"{path}, line {n}: {message}")
