"""Retrieval sets: a folder with `corpus`, `queries` and `qrels`, each a parquet file.

Queries whose `split` is `train` are trained on and those of `test` tested on; in a set that is not split,
even-numbered queries are trained on and odd ones tested on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from routers import Bools, DataError, Floats32

_COLUMNS = {
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
    corpus, queries, qrels = (_columns(folder, name) for name in _COLUMNS)
    places = {name: n for n, name in enumerate(corpus["doc_id"])}
    rows = {name: n for n, name in enumerate(queries["query_id"])}
    found = [
        (rows[query], places[document], float(gain))
        for query, document, gain in zip(*(qrels[column] for column in _COLUMNS["qrels"]), strict=True)
        if gain and gain > 0 and query in rows and document in places
    ]
    if not found:
        raise DataError(f"{folder}: no query has a relevant document")
    at, to, gains = zip(*found, strict=True)
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
        _training(queries),
    )
    return whole.part(relevance.sum(axis=1) > 0)


def joined(sets: list[tuple[RetrievalSet, Floats32]]) -> tuple[list[str], Floats32, scipy.sparse.csr_array]:
    """Queries, document vectors and relevance of several sets as one, each asked of its own documents."""
    texts = [text for each, _ in sets for text in each.queries]
    relevance = scipy.sparse.block_diag([each.relevance for each, _ in sets], format="csr")
    return texts, np.concatenate([vectors for _, vectors in sets]), scipy.sparse.csr_array(relevance)


def _training(queries: dict[str, list[Any]]) -> Bools:
    split = np.array(queries["split"], dtype=str)
    if (split == "train").any():
        training: Bools = split == "train"
        return training
    try:
        return np.array([int(name) % 2 == 0 for name in queries["query_id"]], dtype=bool)
    except ValueError:
        raise DataError("queries: no split is `train`, and query_id is no number to split by") from None


def _columns(folder: Path, name: str) -> dict[str, list[Any]]:
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise DataError(f"{path}: no such file; a retrieval set has {', '.join(_COLUMNS)}")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("reading parquet needs pyarrow: pip install 'thalamus-gateway[data]'") from None
    try:
        columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet ({error})") from None
    missing = [column for column in _COLUMNS[name] if column not in columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}")
    return columns
