"""Published benchmark files: RouterBench, RouteLLM and LLMRouterBench.

RouterBench: a pickled DataFrame or CSV with a row per prompt and, per model, a column of scores,
`MODEL|total_cost` and `MODEL|model_response`. Prompts and answers are Python lists of turns, as text.
RouteLLM: prompt, a column of True/False per model, and for some `MODEL_response`; one CSV, or a folder of
them (`mmlu_anatomy.csv` …) whose names are the tasks. Prompts in a `contaminated_prompts.jsonl` beside them
are left out, as its authors do.
LLMRouterBench: a folder of `DATASET/SPLIT/MODEL/…-YYYYMMDD_HHMMSS.json`, one per run. Of several runs of one
model on one dataset the latest counts, by the time in the name; demo runs do not count.
"""

import ast
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from routers import DataError, OutcomeTable, Provenance
from routers.text_files import decode_text

from .flat import build_table, csv_rows, json_rows
from .pickled import read_frame
from .records import Record, describe_columns, field_name, find_score_columns, number, table_of

_TOTAL_COST, _RESPONSE = "|total_cost", "|model_response"


def read_routerbench(source: Path, experts: Collection[str] = ()) -> OutcomeTable:
    """Outcomes of a RouterBench file, pickle or CSV; no code in it is run.

    A pickled table in another layout is read as a CSV file of that layout would be.

    Raises:
        DataError: names the row and column at fault.
    """
    is_csv = source.name.removesuffix(".gz").endswith(".csv")
    rows, unread = (csv_rows(source), {}) if is_csv else _read_pickle_rows(source)
    if not rows:
        raise DataError(f"{source}: no outcome in it")
    names = rows[0].fields
    models = [name.removesuffix(_TOTAL_COST) for name in (*names, *unread) if name.endswith(_TOTAL_COST)]
    needed = [column for model in models for column in (model, model + _TOTAL_COST)]
    for name in ("prompt", *needed):
        if name in unread:
            raise DataError(f"{source}: column {name!r} cannot be read: {unread[name]}")
        if name not in names and models:
            raise DataError(f"{source}: no column {name!r}")
    if not models and is_csv:
        raise DataError(f"{source}: no column MODEL{_TOTAL_COST}, as RouterBench has for each model")
    if not models:
        return build_table(source, rows, experts, unread)
    cost_basis = "measured by RouterBench, USD a call"
    used = {"sample_id", "prompt", "eval_name", "oracle_model_to_route_to", *needed}
    used.update(model + _RESPONSE for model in models)
    others = {name: "not one of RouterBench's" for name in names if name not in used}
    return table_of(
        [record for row in rows for record in _routerbench_records(row, models)],
        Provenance(f"RouterBench: {source.name}", "", cost_basis, describe_columns({**others, **unread})),
    )


def _read_pickle_rows(source: Path) -> tuple[list[Record], Mapping[str, str]]:
    frame = read_frame(source)
    names = list(frame.columns)
    lines = zip(*frame.columns.values(), strict=True)
    rows = [
        Record(f"{source}, row {n}", dict(zip(names, line, strict=True)))
        for n, line in enumerate(lines, start=1)
    ]
    return rows, frame.unread


def _routerbench_records(row: Record, models: list[str]) -> list[Record]:
    query = {
        "id": row.fields.get("sample_id"),
        "prompt": _join_turns(row.fields["prompt"]),
        "task": row.fields.get("eval_name"),
    }
    return [
        row.with_fields(
            {
                **query,
                "model": model,
                "score": row.fields[model],
                "cost_usd": row.fields[model + _TOTAL_COST],
                "answer": _join_turns(row.fields.get(model + _RESPONSE)),
            },
        )
        for model in models
    ]


def _join_turns(value: Any) -> Any:
    """Turns as one text, a line each; what is no list of turns stays as it is."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        # The published cells are Python literals, not JSON; literal_eval runs no code.
        turns = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return "\n".join(map(str, turns)) if isinstance(turns, list) else value


_ANSWER = "_response"
_CONTAMINATED = "contaminated_prompts.jsonl"


def read_routellm(source: Path, experts: Collection[str] = ()) -> OutcomeTable:
    """Outcomes of one response file or of a folder of them.

    Raises:
        DataError: names the file, line and column at fault.
    """
    files = sorted(source.rglob("*.csv")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no CSV file in it")
    left_out = {prompt for folder in _folders(source, files) for prompt in _read_contaminated(folder)}
    others: dict[str, str] = {}
    records = [record for file in files for record in _routellm_records(file, left_out, experts, others)]
    notes = [f"{len(left_out)} contaminated prompts named"] if left_out else []
    notes += [describe_columns(others)] if others else []
    return table_of(records, Provenance(source=f"RouteLLM: {source.name}", notes="; ".join(notes)))


def _folders(source: Path, files: list[Path]) -> set[Path]:
    """Where a list of contaminated prompts may lie: beside the files, or one folder up within the source."""
    beside = {file.parent for file in files}
    return beside | {folder.parent for folder in beside if source.is_dir() and folder != source}


def _read_contaminated(folder: Path) -> Iterator[str]:
    path = folder / _CONTAMINATED
    if not path.exists():
        return
    for row in json_rows(path):
        prompt = row.fields.get("eval_prompt")
        if not isinstance(prompt, str):
            raise DataError(f"{row.place}: eval_prompt: a text is needed, not {prompt!r}")
        yield prompt


def _routellm_records(
    file: Path, left_out: set[str], experts: Collection[str], others: dict[str, str]
) -> Iterator[Record]:
    """The outcomes of one file; the columns that are passed over are added to `others`."""
    task = file.name.removesuffix(".csv").removesuffix("_responses")
    rows = csv_rows(file)
    names = list(rows[0].fields) if rows else []
    prompts = [name for name in names if field_name(name) == "prompt"]
    if rows and not prompts:
        raise DataError(f"{rows[0].place}: no prompt; it has {', '.join(names)}")
    models, more = find_score_columns(
        rows,
        [name for name in names if field_name(name) != "prompt" and not name.endswith(_ANSWER)],
        experts,
    )
    others.update(more)
    for n, row in enumerate(rows, start=1):
        prompt = row.fields[prompts[0]]
        if prompt in left_out:
            continue
        for model in models:
            number(row, model)
            value = {"score": row.fields[model], "answer": row.fields.get(model + _ANSWER)}
            yield row.with_fields(
                {"id": f"{task}/{n}", "prompt": prompt, "task": task, "model": model, **value}
            )


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
    records = [record for path, run in runs.values() for record in _run_records(path, run)]
    # Some runs wrap the question in a prompt per model; such records meet by the question itself.
    shared = _find_shared_prompts(records)
    return table_of(
        [record if record.fields["id"] in shared else _by_origin(record) for record in records],
        Provenance(source=f"LLMRouterBench: {source.name}", cost_basis="as in the files, USD a call"),
    )


def _stamp(path: Path) -> tuple[str, str]:
    found = _STAMP.search(path.name)
    return (found.group(1) if found else ""), str(path)


def _run(path: Path) -> Mapping[str, Any] | None:
    try:
        value = json.loads(decode_text(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict) or any(name not in value for name in _NEEDED):
        return None
    return value


def _run_records(path: Path, run: Mapping[str, Any]) -> Iterator[Record]:
    if not isinstance(run["records"], list):
        raise DataError(f"{path}: records: a list is needed")
    # A run whose records all cost 0 was local: its cost is unknown, and 0 would win every budget.
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


def _find_shared_prompts(records: list[Record]) -> set[str]:
    """Ids whose prompt is the same for every model; the others are known by the question it was made from."""
    prompts: dict[str, set[str]] = {}
    for record in records:
        prompts.setdefault(record.fields["id"], set()).add(record.fields["prompt"])
    return {key for key, value in prompts.items() if len(value) == 1}


def _text(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
