"""Putting two outcome tables together: more queries, more experts, or newer measurements of the same."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from .errors import DataError
from .outcome_format import MEASURES
from .outcomes import OutcomeTable
from .types import Floats, Ints


def merge_outcomes(first: OutcomeTable, second: OutcomeTable) -> OutcomeTable:
    """Union of queries (by id) and experts (by name); where both measured, `second` counts.

    Raises:
        DataError: an expert stands for two models, or an id for two texts.
    """
    models = dict(zip(first.experts, first.models, strict=True))
    for name, model in zip(second.experts, second.models, strict=True):
        if models.setdefault(name, model) != model:
            raise DataError(f"expert {name!r} is {models[name]!r} in one table and {model!r} in the other")
    row_of = {key: n for n, key in enumerate(first.ids)}
    for n, key in enumerate(second.ids):
        if key in row_of and first.texts[row_of[key]] != second.texts[n]:
            raise DataError(f"id {key!r} stands for two different texts")
    added = np.array([n for n, key in enumerate(second.ids) if key not in row_of], np.int64)
    row_of.update({second.ids[n]: len(first) + i for i, n in enumerate(added)})
    new = second.take(added)
    rows = np.array([row_of[key] for key in second.ids], np.int64)
    experts = tuple(models)
    columns = np.array([experts.index(name) for name in second.experts], np.int64)
    grown = partial(_overlay, n=len(row_of), n_experts=len(experts), rows=rows, columns=columns)
    measures: dict[str, Any] = {name: grown(getattr(first, name), getattr(second, name)) for name in MEASURES}
    return replace(
        first,
        ids=first.ids + new.ids,
        texts=first.texts + new.texts,
        tasks=first.tasks + new.tasks,
        families=first.families + new.families,
        bucket=np.concatenate([first.bucket, new.bucket]),
        experts=experts,
        models=tuple(models.values()),
        answers=_answers(first, second, len(row_of), len(experts), rows, columns),
        **measures,
    )


def _overlay(first: Floats, second: Floats, n: int, n_experts: int, rows: Ints, columns: Ints) -> Floats:
    merged = np.full((n, n_experts), np.nan)
    merged[: first.shape[0], : first.shape[1]] = first
    place = np.ix_(rows, columns)
    merged[place] = np.where(np.isnan(second), merged[place], second)
    return merged


def _answers(
    first: OutcomeTable, second: OutcomeTable, n: int, n_experts: int, rows: Ints, columns: Ints
) -> tuple[tuple[str | None, ...], ...] | None:
    if first.answers is None and second.answers is None:
        return None
    merged: list[list[str | None]] = [[None] * n_experts for _ in range(n)]
    for i, kept in enumerate(first.answers or ()):
        merged[i][: len(kept)] = kept
    for row, newer in zip(rows, second.answers or (), strict=False):
        for column, answer in zip(columns, newer, strict=True):
            if answer is not None:
                merged[row][column] = answer
    return tuple(tuple(row) for row in merged)
