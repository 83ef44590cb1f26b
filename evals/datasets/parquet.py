"""Folders of parquet files: outcome tables and retrieval sets.

An outcome table is `prompts.parquet`, `outcomes.parquet` and an optional `meta.json`. A retrieval set is
`corpus`, `queries` and `qrels`. Queries whose `split` is `train` are trained on and the others tested; where
no split is `train`, even-numbered queries are trained on and odd ones tested.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from routers import Bools, DataError, Floats32, OutcomeTable, Provenance
from routers.text_files import decode_text

from .records import Record, table_of

_PROMPTS = ("prompt_id", "prompt")
_OUTCOMES = ("prompt_id", "model", "score")
_OPTIONAL = ("cost_usd", "input_tokens", "output_tokens", "latency_s", "confidence", "answer", "propensity")


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
        query = {name: values[row] for name, values in prompts.items()}
        outcome = {name: values[n] for name, values in outcomes.items()}
        records.append(Record(place, {**query, **outcome}))
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

    # float(np.float32(0.1)) is 0.10000000149; its shortest decimal reads back as 0.1.
    return [None if v is None else float(str(np.float32(v))) for v in values]


def _provenance(source: Path) -> Provenance:
    path = source / "meta.json"
    if not path.exists():
        return Provenance(source=source.name)
    try:
        meta = json.loads(decode_text(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    if not isinstance(meta, dict):
        raise DataError(f"{path}: not a JSON object")
    outcome = {
        "source": meta.get("source") or meta.get("name") or source.name,
        "licence": meta.get("licence") or meta.get("license"),
        "cost_basis": meta.get("cost_basis"),
        "notes": meta.get("notes"),
    }
    return Provenance(**{name: str(value) for name, value in outcome.items() if value})


_SET_COLUMNS = {
    "corpus": ("doc_id", "text"),
    "queries": ("query_id", "text", "split"),
    "qrels": ("query_id", "doc_id", "relevance"),
}


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """Queries, the documents they are asked of, and what is relevant to which.

    relevance: (n_queries, n_documents) gains ≥ 0
    training:  (n_queries,) trained on; `test` are the others
    """

    name: str
    documents: tuple[str, ...]
    queries: tuple[str, ...]
    relevance: scipy.sparse.csr_array
    training: Bools

    def part(self, rows: Bools) -> "RetrievalSet":
        """Some of the queries, all of the documents."""
        texts = tuple(text for text, kept in zip(self.queries, rows, strict=True) if kept)
        return RetrievalSet(self.name, self.documents, texts, self.relevance[rows], self.training[rows])


def read_retrieval(folder: Path) -> RetrievalSet:
    """The set in a folder; queries without a relevant document are left out.

    Raises:
        DataError: a file or column is missing, or nothing is left: names it.
    """
    corpus, queries, qrels = (_retrieval_columns(folder, name) for name in _SET_COLUMNS)
    places = {name: n for n, name in enumerate(corpus["doc_id"])}
    rows = {name: n for n, name in enumerate(queries["query_id"])}
    found = [
        (rows[query], places[document], float(gain))
        for query, document, gain in zip(*(qrels[column] for column in _SET_COLUMNS["qrels"]), strict=True)
        if gain and gain > 0 and query in rows and document in places
    ]
    if not found:
        raise DataError(f"{folder}: no query has a relevant document")
    at, to, gains = zip(*found, strict=True)
    # (n_queries, n_documents)
    relevance = scipy.sparse.csr_array((gains, (at, to)), shape=(len(rows), len(places)))
    titles = corpus.get("title") or [None] * len(places)
    whole = RetrievalSet(
        folder.name,
        tuple(
            f"{title}. {text}" if title else text or ""
            for title, text in zip(titles, corpus["text"], strict=True)
        ),
        tuple(queries["text"]),
        relevance,
        _is_training(queries),
    )
    return whole.part(relevance.sum(axis=1) > 0)


def join_sets(
    sets: list[tuple[RetrievalSet, Floats32]],
) -> tuple[list[str], Floats32, scipy.sparse.csr_array]:
    """Queries, document vectors and relevance of several sets as one, each asked of its own documents."""
    texts = [text for each, _ in sets for text in each.queries]
    # Block diagonal: a query of one set has no relevant document in another.
    relevance = scipy.sparse.block_diag([each.relevance for each, _ in sets], format="csr")
    return texts, np.concatenate([vectors for _, vectors in sets]), scipy.sparse.csr_array(relevance)


def _is_training(queries: dict[str, list[Any]]) -> Bools:
    split = np.array(queries["split"], dtype=str)
    if (split == "train").any():
        training: Bools = split == "train"
        return training
    try:
        return np.array([int(name) % 2 == 0 for name in queries["query_id"]], dtype=bool)
    except ValueError:
        raise DataError("queries: no split is `train`, and query_id is no number to split by") from None


def _retrieval_columns(folder: Path, name: str) -> dict[str, list[Any]]:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise DataError(f"{path}: no such file; a retrieval set has {', '.join(_SET_COLUMNS)}")
    return _columns(path, _SET_COLUMNS[name], ("title",))
