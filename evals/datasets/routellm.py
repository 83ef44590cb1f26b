"""RouteLLM's response files: prompt, a column of True/False per model, and for some `MODEL_response`.

One CSV, or a folder of them (`mmlu_anatomy.csv` …), whose names are the tasks. Prompts that a
`contaminated_prompts.jsonl` beside them names are left out, as its authors do.
"""

from collections.abc import Iterator
from pathlib import Path

from routers import DataError, OutcomeTable, Provenance

from .flat import csv_rows, json_rows
from .records import Record, table_of

_ANSWER = "_response"
_CONTAMINATED = "contaminated_prompts.jsonl"


def read_routellm(source: Path) -> OutcomeTable:
    """Outcomes of one response file or of a folder of them.

    Raises:
        DataError: names the file, line and column at fault.
    """
    files = sorted(source.rglob("*.csv")) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: no CSV file in it")
    left_out = {prompt for folder in _folders(source, files) for prompt in _contaminated(folder)}
    records = [record for file in files for record in _records(file, left_out)]
    told = f"{len(left_out)} contaminated prompts named" if left_out else ""
    return table_of(records, Provenance(source=f"RouteLLM: {source.name}", notes=told))


def _folders(source: Path, files: list[Path]) -> set[Path]:
    """Where a list of contaminated prompts may lie: beside the files, or one folder up within the source."""
    beside = {file.parent for file in files}
    return beside | {folder.parent for folder in beside if source.is_dir() and folder != source}


def _contaminated(folder: Path) -> Iterator[str]:
    path = folder / _CONTAMINATED
    if not path.exists():
        return
    for row in json_rows(path):
        prompt = row.fields.get("eval_prompt")
        if not isinstance(prompt, str):
            raise DataError(f"{row.place}: eval_prompt: a text is needed, not {prompt!r}")
        yield prompt


def _records(file: Path, left_out: set[str]) -> Iterator[Record]:
    task = file.name.removesuffix(".csv").removesuffix("_responses")
    for n, row in enumerate(csv_rows(file), start=1):
        prompt = row.fields.get("prompt")
        if prompt is None:
            raise DataError(f"{row.place}: no prompt; it has {', '.join(map(str, row.fields))}")
        if prompt in left_out:
            continue
        models = [name for name in row.fields if _is_model(name)]
        for model in models:
            told = {"score": row.fields[model], "answer": row.fields.get(model + _ANSWER)}
            yield Record(
                row.place, {"id": f"{task}/{n}", "prompt": prompt, "task": task, "model": model, **told}
            )


def _is_model(name: str) -> bool:
    return name not in ("prompt", "") and not name.startswith("Unnamed:") and not name.endswith(_ANSWER)
