"""The outcome table: which expert scored what on which query, and what it cost.

On disk a table is JSON lines, gzipped where the name ends in `.gz`. The first line describes the table, each
further line is one query; value lists are in the order of the header's experts, null marks an
unmeasured value, and a field that was measured for no expert is left out:

    {"schema": "thalamus.outcomes/1", "experts": [{"name": "a", "model": "openai/a"}, …], "source": …, …}
    {"id": "q1", "text": "…", "task": "maths", "family": "sum", "bucket": 17, "score": [1.0, null], …}

Equal tables give equal bytes.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from .errors import DataError
from .outcome_format import MEASURES, SCHEMA, read
from .text_files import write_file
from .types import Bools, Floats, Ints

N_BUCKETS = 100
_DIGITS = re.compile(r"\d+")
_NOISE = re.compile(r"\W+")


def bucket_of(key: str) -> int:
    """A fixed hash of a family, or of a text with case, numbers and punctuation taken off, in [0, 100)."""
    plain = _NOISE.sub(" ", _DIGITS.sub("0", key.casefold())).strip()
    # of 64 bits: no bias that counts
    return int.from_bytes(hashlib.sha256(plain.encode()).digest()[:8]) % N_BUCKETS


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where outcomes come from, under which licence, and what `cost_usd` means in them."""

    source: str = ""
    licence: str = ""
    cost_basis: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Queries × experts; every measure is (n_queries, n_experts) with NaN where unmeasured.

    bucket:     (n_queries,) in [0, 100), the unit of every split: near-twins share one
    score:      in [0, 1]
    score_std:  how uncertain a score is that was judged and not computed, a standard deviation
    confidence: mean token log-probability of the answer, ≤ 0
    declined:   1 where the expert declined the query, so that the next one is called
    propensity: probability in (0, 1] with which the expert was asked, of outcomes from traffic
    answers:    per query the experts' answers in order, None where there is none; None for no answers at all
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    tasks: tuple[str, ...]
    families: tuple[str, ...]
    bucket: Ints
    experts: tuple[str, ...]
    models: tuple[str, ...]
    score: Floats
    cost_usd: Floats
    input_tokens: Floats
    output_tokens: Floats
    latency_s: Floats
    confidence: Floats
    declined: Floats
    answers: tuple[tuple[str | None, ...], ...] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    score_std: Floats = field(default_factory=lambda: np.empty(0))
    propensity: Floats = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        for name in ("score_std", "propensity"):
            if not getattr(self, name).size:  # few tables know them
                object.__setattr__(self, name, np.full(self.score.shape, np.nan))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_experts(self) -> int:
        return len(self.experts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over experts and rows; provenance does not enter."""
        digest = hashlib.sha256(json.dumps([self.experts, self.models]).encode())
        for n in range(len(self)):
            digest.update(_row_line(self, n).encode())
        return digest.hexdigest()

    def measures(self) -> dict[str, Floats]:
        return {name: getattr(self, name) for name in MEASURES}

    def _each(self, change: Callable[[Floats], Floats]) -> dict[str, Any]:
        return {name: change(values) for name, values in self.measures().items()}

    def take(self, rows: Ints | Bools) -> Self:
        """The same experts on some of the queries, in the order given."""
        index = np.arange(len(self))[rows]

        def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in index)

        return replace(
            self,
            ids=pick(self.ids),
            texts=pick(self.texts),
            tasks=pick(self.tasks),
            families=pick(self.families),
            bucket=self.bucket[index],
            answers=None if self.answers is None else pick(self.answers),
            **self._each(lambda values: values[index]),
        )

    def only(self, experts: Sequence[str]) -> Self:
        """The same queries for some of the experts, in the order given.

        Raises:
            DataError: an expert is not in the table.
        """
        if missing := [name for name in experts if name not in self.experts]:
            raise DataError(f"no expert {missing[0]!r} in the table; it holds {', '.join(self.experts)}")
        columns = [self.experts.index(name) for name in experts]
        return replace(
            self,
            experts=tuple(experts),
            models=tuple(self.models[c] for c in columns),
            answers=self.answers and tuple(tuple(row[c] for c in columns) for row in self.answers),
            **self._each(lambda values: values[:, columns]),
        )

    def folds(self, n_folds: int = 5) -> Ints:
        """(n_queries,) fold of each query; queries of one bucket share it.

        Buckets are cut evenly (`bucket // 20` for five folds) unless that leaves a fold with less than half
        of its share; then at equal counts of queries.
        """
        even = self.bucket * n_folds // N_BUCKETS
        if len(self) == 0 or np.bincount(even, minlength=n_folds).min() * 2 * n_folds >= len(self):
            return even
        sizes = np.bincount(self.bucket, minlength=N_BUCKETS)
        before = np.cumsum(sizes) - sizes
        fold_of_bucket = np.minimum((before + sizes / 2) * n_folds // len(self), n_folds - 1).astype(np.int64)
        return fold_of_bucket[self.bucket]

    def best_single(self) -> int:
        """Column of the expert with the highest mean score; the first of equals."""
        means = _column_means(self.score)
        return int(np.argmax(np.where(np.isnan(means), -np.inf, means)))

    def former_experts(self) -> dict[str, str]:
        """The columns of former models, `NAME@MODEL`, each with the name that now is of another model."""
        names = {former_name(name, model): name for name in self.experts for model in self.models}
        return {name: names[name] for name in self.experts if name in names}

    def explain_unusable(self) -> dict[str, tuple[str, bool]]:
        """Experts that nothing can be learned of: why, and whether they declined every prompt."""
        former = self.former_experts()
        usable: Bools = np.asarray((~np.isnan(self.mask_declined())).any(axis=0))
        scored: Ints = np.asarray((~np.isnan(self.score)).sum(axis=0))
        reasons: dict[str, tuple[str, bool]] = {}
        for name, is_usable, n_scored in zip(self.experts, usable.tolist(), scored.tolist(), strict=True):
            if name in former:
                reasons[name] = f"it is a former model of {former[name]}", not is_usable and n_scored > 0
            elif not is_usable:
                why = f"it declined all {n_scored} prompts" if n_scored else "it has no score"
                reasons[name] = why, n_scored > 0
        return reasons

    def mask_declined(self) -> Floats:
        """The score with what an expert declined left out: how good it is where it answers at all."""
        return np.where(self.declined == 1, np.nan, self.score)

    def count_declined(self) -> Ints:
        """(n_experts,) how many prompts each expert declined."""
        counts: Ints = np.asarray((self.declined == 1).sum(axis=0))
        return counts

    def effective_counts(self) -> Floats:
        """(n_experts,) as how many certain outcomes the scores count.

        A score of deviation σ counts 1 / (1 + 4σ²): one as uncertain as a coin's throw, σ = ½, counts half.
        """
        weight = 1 / (1 + 4 * np.nan_to_num(self.score_std) ** 2)
        counts: Floats = np.where(np.isnan(self.score), 0.0, weight).sum(axis=0)
        return counts

    def oracle(self) -> Floats:
        """(n_queries,) best score any expert reached; NaN where no expert was scored."""
        best = np.where(np.isnan(self.score), -np.inf, self.score).max(axis=1, initial=-np.inf)
        return np.where(np.isinf(best), np.nan, best)

    def means(self) -> dict[str, Floats]:
        """Per measure the (n_experts,) means over what was measured; NaN where nothing was."""
        return {name: _column_means(values) for name, values in self.measures().items()}

    def save(self, path: Path | str) -> None:
        """Write the table, whole or not at all; equal tables give equal bytes."""
        lines = [_header_line(self), *(_row_line(self, n) for n in range(len(self)))]
        data = ("\n".join(lines) + "\n").encode()
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, gzip.compress(data, 9, mtime=0) if target.suffix == ".gz" else data)

    @classmethod
    def load(cls, path: Path | str) -> "OutcomeTable":
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing, damaged or not an outcome table; names file, row and field.
        """
        header, rows = read(Path(path))
        names = [expert["name"] for expert in header["experts"]]
        missing = [None] * len(names)
        table = cls(
            ids=tuple(row["id"] for row in rows),
            texts=tuple(row["text"] for row in rows),
            tasks=tuple(row.get("task", "") for row in rows),
            families=tuple(row.get("family", "") for row in rows),
            bucket=np.array([row["bucket"] for row in rows], np.int64),
            experts=tuple(names),
            models=tuple(expert["model"] for expert in header["experts"]),
            answers=tuple(tuple(row.get("answers") or missing) for row in rows)
            if any("answers" in row for row in rows)
            else None,
            provenance=Provenance(**{f.name: str(header.get(f.name, "")) for f in fields(Provenance)}),
            **{
                name: np.array([row.get(name) or missing for row in rows], np.float64).reshape(-1, len(names))
                for name in MEASURES
            },
        )
        check(table, where=lambda n: f"{path}, line {n + 2}")
        return table

    @classmethod
    def build(
        cls,
        texts: Sequence[str],
        experts: Sequence[str],
        measures: Mapping[str, Floats],
        *,
        ids: Sequence[str] | None = None,
        tasks: Sequence[str] | None = None,
        families: Sequence[str] | None = None,
        bucket: Ints | None = None,
        models: Sequence[str] | None = None,
        answers: Sequence[Sequence[str | None]] | None = None,
        provenance: Provenance | None = None,
    ) -> "OutcomeTable":
        """A checked table from its parts; what is left out is unknown, buckets come from family or text.

        Raises:
            DataError: shapes disagree, ids or experts repeat, or a value is out of its range.
        """
        n = len(texts)
        shape = (n, len(experts))
        kin = tuple(families) if families is not None else ("",) * n
        table = cls(
            ids=tuple(ids) if ids is not None else tuple(f"q{i}" for i in range(n)),
            texts=tuple(texts),
            tasks=tuple(tasks) if tasks is not None else ("",) * n,
            families=kin,
            bucket=_buckets(texts, kin) if bucket is None else np.asarray(bucket, np.int64),
            experts=tuple(experts),
            models=tuple(models) if models is not None else tuple(experts),
            answers=None if answers is None else tuple(tuple(row) for row in answers),
            provenance=provenance or Provenance(),
            **{name: np.asarray(measures.get(name, np.full(shape, np.nan)), np.float64) for name in MEASURES},
        )
        check(table)
        return table


_RANGES: dict[str, tuple[float, float]] = {
    "score": (0, 1),
    "score_std": (0, 1),
    "cost_usd": (0, np.inf),
    "input_tokens": (0, np.inf),
    "output_tokens": (0, np.inf),
    "latency_s": (0, np.inf),
    "confidence": (-np.inf, 0),
    "declined": (0, 1),
    "propensity": (0, 1),
}


def check(table: OutcomeTable, where: Callable[[int], str] = "row {}".format) -> None:
    """Refuse a table that contradicts itself; `where` words a row for the message.

    Raises:
        DataError: names the row and the field.
    """
    n = len(table)
    for name in ("texts", "tasks", "families", "bucket"):
        if len(getattr(table, name)) != n:
            raise DataError(f"{name}: {len(getattr(table, name))} values for {n} queries")
    if not table.experts:
        raise DataError("experts: the table names none")
    if len(set(table.experts)) < table.n_experts or len(table.models) != table.n_experts:
        raise DataError("experts: each needs a name of its own and a model")
    if len(set(table.ids)) < n:
        seen: set[str] = set()
        row = next(i for i, key in enumerate(table.ids) if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DataError(f"{where(row)}: id {table.ids[row]!r} occurs twice")
    outside = np.flatnonzero((table.bucket < 0) | (table.bucket >= N_BUCKETS))
    if outside.size:
        raise DataError(
            f"{where(int(outside[0]))}: bucket {table.bucket[outside[0]]} is not in 0–{N_BUCKETS - 1}"
        )
    for name, values in table.measures().items():
        _check_measure(table, name, values, where)


def _check_measure(table: OutcomeTable, name: str, values: Floats, where: Callable[[int], str]) -> None:
    if values.shape != (len(table), table.n_experts):
        raise DataError(f"{name}: shape {values.shape}, expected {(len(table), table.n_experts)}")
    low, high = _RANGES[name]
    wrong = np.argwhere((values < low) | (values > high) | np.isinf(values))
    if wrong.size:
        row, column = (int(i) for i in wrong[0])
        asked = f"in [{low:g}, {high:g}]" if np.isfinite([low, high]).all() else "≥ 0" if low == 0 else "≤ 0"
        raise DataError(
            f"{where(row)}: {name} of {table.experts[column]} is {values[row, column]:g}, not {asked}"
        )


def _buckets(texts: Sequence[str], families: Sequence[str]) -> Ints:
    keys = (family or text for text, family in zip(texts, families, strict=True))
    return np.fromiter(map(bucket_of, keys), np.int64, len(texts))


def _column_means(values: Floats) -> Floats:
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    totals = np.where(known, values, 0.0).sum(axis=0)
    means: Floats = np.divide(totals, counts, out=np.full(values.shape[1], np.nan), where=counts > 0)
    return means


def _header_line(table: OutcomeTable) -> str:
    origin = table.provenance
    header = {
        "schema": SCHEMA,
        "experts": [{"name": n, "model": m} for n, m in zip(table.experts, table.models, strict=True)],
        **{f.name: getattr(origin, f.name) for f in fields(origin) if getattr(origin, f.name)},
    }
    return json.dumps(header, ensure_ascii=False)


def _row_line(table: OutcomeTable, n: int) -> str:
    row: dict[str, Any] = {"id": table.ids[n], "text": table.texts[n]}
    if table.tasks[n]:
        row["task"] = table.tasks[n]
    if table.families[n]:
        row["family"] = table.families[n]
    row["bucket"] = int(table.bucket[n])
    for name, values in table.measures().items():
        if not np.isnan(values[n]).all():
            row[name] = [None if v != v else v for v in values[n].tolist()]
    if table.answers is not None and any(answer is not None for answer in table.answers[n]):
        row["answers"] = list(table.answers[n])
    return json.dumps(row, ensure_ascii=False)


def merge_outcomes(first: OutcomeTable, second: OutcomeTable) -> OutcomeTable:
    """Union of queries (by id) and experts (by name); a cell that `second` has a score for is its own.

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
    scored = ~np.isnan(second.score)  # (n_queries, n_experts) of the second table
    grown = partial(
        _overlay, scored=scored, n=len(row_of), n_experts=len(experts), rows=rows, columns=columns
    )
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


def add_outcomes(earlier: OutcomeTable, fresh: OutcomeTable) -> OutcomeTable:
    """Union that keeps all of `earlier`, also where a prompt or an expert's model has changed since.

    The row of a prompt that was worded differently stays as `ID~HASH`, the column of an expert's former model
    as `NAME@MODEL`. Where the wording or the model comes back, so does what was measured of it.
    """
    models = dict(zip(earlier.experts, earlier.models, strict=True))
    names: dict[str, str] = {}
    for name, model in zip(fresh.experts, fresh.models, strict=True):
        if models.get(name, model) != model and former_name(name, models[name]) not in models:
            names[name] = former_name(name, models[name])
        if (former := former_name(name, model)) in models and models.get(name) != model:
            names[former] = name
    texts = dict(zip(earlier.ids, earlier.texts, strict=True))
    ids: dict[str, str] = {}
    for key, text in zip(fresh.ids, fresh.texts, strict=True):
        if texts.get(key, text) != text and _former_id(key, texts[key]) not in texts:
            ids[key] = _former_id(key, texts[key])
        if (before := _former_id(key, text)) in texts and texts.get(key) != text:
            ids[before] = key
    kept = replace(
        earlier,
        experts=tuple(names.get(name, name) for name in earlier.experts),
        ids=tuple(ids.get(key, key) for key in earlier.ids),
    )
    return replace(merge_outcomes(kept, fresh), provenance=_join(earlier.provenance, fresh.provenance))


def former_name(name: str, model: str) -> str:
    """What the outcomes of an expert are called once it stands for another model."""
    return f"{name}@{model}"


def _former_id(key: str, text: str) -> str:
    return f"{key}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _join(first: Provenance, second: Provenance) -> Provenance:
    """What either says of its outcomes, each statement once."""

    def both(name: str) -> str:
        said = [part for origin in (first, second) for part in getattr(origin, name).split("; ") if part]
        return "; ".join(dict.fromkeys(said))

    return Provenance(**{f.name: both(f.name) for f in fields(Provenance)})


def _overlay(
    first: Floats, second: Floats, scored: Bools, n: int, n_experts: int, rows: Ints, columns: Ints
) -> Floats:
    merged = np.full((n, n_experts), np.nan)
    merged[: first.shape[0], : first.shape[1]] = first
    place = np.ix_(rows, columns)
    # Whole cells: an answer after a refusal must not keep the mark of the refusal.
    merged[place] = np.where(np.isnan(second) & ~scored, merged[place], second)
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
