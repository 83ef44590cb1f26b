"""Reading other people's outcomes: a reader per format, each a function from path to `OutcomeTable`."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from routers import DataError, OutcomeTable

FORMATS: Mapping[str, str] = {
    "csv": "flat:read_csv",
    "folder": "folder:read_folder",
    "jsonl": "flat:read_jsonl",
    "table": "table:read_table",
}
"""Name → module:function of this package; `auto` finds the name by `detect`."""


def read_outcomes(source: Path, form: str = "auto") -> OutcomeTable:
    """The outcomes in `source`.

    Raises:
        DataError: no such source or format, or something in it is wrong: names file, row and field.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    module, _, function = FORMATS[detect(source) if form == "auto" else form].partition(":")
    reader: Callable[[Path], OutcomeTable] = getattr(import_module(f".{module}", __name__), function)
    return reader(source)


def detect(source: Path) -> str:
    """The format of a source by its name and first line.

    Raises:
        DataError: it is none of those known.
    """
    if source.is_dir():
        return "folder"
    name = source.name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return "csv"
    if name.endswith((".jsonl", ".ndjson")):
        from .flat import first_line

        return "table" if '"thalamus.outcomes/' in first_line(source) else "jsonl"
    raise DataError(f"{source}: cannot tell its format by its name; choose one with --format")


def source_splits(source: Path, table: OutcomeTable) -> tuple[str, ...]:
    """Per query of the table what its source calls its part (train, test …).

    Raises:
        DataError: the source tells none; only folders of parquet with a column `source_split` do.
    """
    if not source.is_dir() or not (source / "prompts.parquet").exists():
        raise DataError(f"{source}: only a folder with prompts.parquet tells its own train and test parts")
    from .folder import read_column

    parts = read_column(source, "source_split")
    return tuple(str(parts[key]) for key in table.ids)
