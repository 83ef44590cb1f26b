"""Scores of embedders on retrieval sets whose documents the base embedder embedded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from routers import DataError, EmbeddingSelection, Floats, Floats32, PilotRule, load_embedder

from .console import OnProgress
from .datasets.parquet import RetrievalSet
from .measures.formulas import ndcg
from .vectors import VectorCache

BASE = "minilm"
FACTS = "fit.json"
"""What `thalamus embedders fit` leaves beside an expert."""
RESERVED_NAMES = ("base", "multi-task", BASE, "auto")


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """One part of one set: base vectors (n, dim) and nDCG@10 (n, n_experts) of its queries."""

    vectors: Floats32
    performance: Floats


def document_vectors(data: RetrievalSet, kept: Path | None, on_progress: OnProgress) -> Floats32:
    """(n_documents, dim) of the base embedder, from the file of kept vectors where they are in it."""
    embedder = load_embedder(BASE)
    keeper = VectorCache(embedder, kept) if kept else None
    # Documents stay where the base embedder put them: one index serves every query expert.
    reader, n, step = keeper or embedder, len(data.documents), 64
    parts = []
    for start in range(0, n, step):
        parts.append(reader.embed(data.documents[start : start + step]))
        on_progress(f"documents of {data.name}", min(start + step, n), n)
    if keeper:
        keeper.save()
    return np.concatenate(parts)


def measure(
    data: RetrievalSet, documents: Floats32, readers: Mapping[str, str], on_progress: OnProgress
) -> RetrievalScores:
    """Every reader's nDCG@10 on every query."""
    columns, base = [], None
    for n, (name, source) in enumerate(readers.items()):
        vectors = load_embedder(source).embed(data.queries)
        base = vectors if name == "base" else base
        columns.append(ndcg(vectors, documents, data.relevance))
        on_progress(f"queries of {data.name} ({len(data.queries)})", n + 1, len(readers))
    if base is None:
        raise DataError("no reader is named `base`")
    return RetrievalScores(base, np.column_stack(columns))


def use_held_out_scores(name: str, measured: RetrievalScores, pool: Mapping[str, str]) -> RetrievalScores:
    """The same with held-out scores for each expert that was trained on these queries."""
    performance = measured.performance.copy()
    for column, source in enumerate(pool.values()):
        facts = Path(source, FACTS)
        # An expert has seen its own training queries; its score on them would win the selection unfairly.
        kept = json.loads(facts.read_text("utf-8"))["held_out"].get(name) if facts.is_file() else None
        if kept is not None and len(kept) == len(performance):
            performance[:, column] = kept
    return RetrievalScores(measured.vectors, performance)


def extend_selection(
    selection: EmbeddingSelection,
    name: str,
    source: str,
    sets: Sequence[RetrievalSet],
    rule: PilotRule,
    kept: Path | None,
    on_progress: OnProgress,
) -> EmbeddingSelection:
    """The selection with one more expert, scored on the training queries of these sets.

    In sets it knows the others' pilots stay as they are; sets it does not know get those of all experts.
    """
    pool = {**selection.sources, name: source}
    found = {}
    for each in sets:
        documents = document_vectors(each, kept, on_progress)
        found[each.name] = use_held_out_scores(
            each.name, measure(each.part(each.training), documents, pool, on_progress), pool
        )
    known = {data: m for data, m in found.items() if data in selection.library.datasets}
    # The new expert is last in the pool: its column against those of all others.
    evidence = {data: (m.vectors, m.performance[:, -1], m.performance[:, :-1]) for data, m in known.items()}
    grown = selection.add_expert(name, source, evidence, rule)
    for data, measured in found.items():
        if data not in known:
            grown = grown.add_dataset(data, measured.vectors, measured.performance, rule)
    return grown


def parse_named_folder(text: str) -> tuple[str, str]:
    """The name and the folder in `NAME=FOLDER`.

    Raises:
        DataError: it is not that, the name is taken, or there is no such folder.
    """
    name, _, folder = text.partition("=")
    if not folder or name in RESERVED_NAMES:
        raise DataError(f"{text}: NAME=FOLDER, with another name than {', '.join(RESERVED_NAMES)}")
    if not Path(folder).is_dir():
        raise DataError(f"{text}: no folder {folder}; `thalamus embedders fit` makes one")
    return name, folder
