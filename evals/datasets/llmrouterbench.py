"""LLMRouterBench: a folder of result files, `DATASET/SPLIT/MODEL/…-YYYYMMDD_HHMMSS.json`, one per run.

Of several runs of one model on one dataset the latest counts, by the time in the name; demo runs do not.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance

from .records import Record, table_of

_STAMP = re.compile(r"(\d{8}_\d{6})\.json$")
_NEEDED = ("dataset_name", "split", "model_name", "records")


def read_llmrouterbench(source: Path) -> OutcomeTable:
    """Outcomes of all results under a folder.

    Costs of a run that cost nothing in all are unknown, not zero: its models were run by the authors.

    Raises:
        DataError: names the file and record at fault.
    """
    runs: dict[tuple[str, str, str], tuple[Path, Mapping[str, Any]]] = {}
    for path in sorted(source.rglob("*.json"), key=_stamp):
        run = _run(path)
        if run is not None and not run.get("demo"):
            runs[str(run["dataset_name"]), str(run["split"]), str(run["model_name"])] = path, run
    if not runs:
        raise DataError(f"{source}: no result file with {', '.join(_NEEDED)} in it")
    records = [record for path, run in runs.values() for record in _records(path, run)]
    shared = _shared_prompts(records)
    return table_of(
        [record if record.fields["id"] in shared else _by_origin(record) for record in records],
        Provenance(source=f"LLMRouterBench: {source.name}", cost_basis="as the files tell it, USD a call"),
    )


def _stamp(path: Path) -> tuple[str, str]:
    found = _STAMP.search(path.name)
    return (found.group(1) if found else ""), str(path)


def _run(path: Path) -> Mapping[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict) or any(name not in value for name in _NEEDED):
        return None
    return value


def _records(path: Path, run: Mapping[str, Any]) -> Iterator[Record]:
    if not isinstance(run["records"], list):
        raise DataError(f"{path}: records: a list is needed")
    priced = any(isinstance(one, dict) and one.get("cost") for one in run["records"])
    for n, one in enumerate(run["records"], start=1):
        place = f"{path}, record {n}"
        if not isinstance(one, dict):
            raise DataError(f"{place}: not a JSON object")
        yield Record(
            place,
            {
                "id": f"{run['dataset_name']}/{run['split']}/{one.get('index', n)}",
                "prompt": _text(one.get("prompt") or one.get("origin_query")),
                "origin": _text(one.get("origin_query") or one.get("prompt")),
                "task": str(run["dataset_name"]),
                "model": str(run["model_name"]),
                "score": one.get("score"),
                "cost_usd": one.get("cost") if priced else None,
                "input_tokens": one.get("prompt_tokens"),
                "output_tokens": one.get("completion_tokens"),
                "answer": _text(one.get("raw_output")),
            },
        )


def _by_origin(record: Record) -> Record:
    return Record(record.place, {**record.fields, "prompt": record.fields["origin"]})


def _shared_prompts(records: list[Record]) -> set[str]:
    """Ids whose prompt is the same for every model; the others are known by the question it was made from."""
    prompts: dict[str, set[str]] = {}
    for record in records:
        prompts.setdefault(record.fields["id"], set()).add(record.fields["prompt"])
    return {key for key, told in prompts.items() if len(told) == 1}


def _text(told: Any) -> Any:
    return json.dumps(told, ensure_ascii=False) if isinstance(told, list | dict) else told
