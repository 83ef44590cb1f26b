"""Protocols: which queries are trained on and which are tested, as values.

Buckets are the unit of every split, so near-duplicates are never on both sides.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from routers import Bools, DataError, Ints, OutcomeTable

# Buckets are 0-99 and near-duplicates share one; 20 of them make a fold.
N_FOLDS = 5
IN_DOMAIN = ("mmlu", "gsm8k", "cmmlu", "arc_challenge", "humaneval")
OUT_OF_DOMAIN = ("math_prealgebra", "mbpp", "ceval")
MULTIPLE_CHOICE = frozenset({"mmlu", "cmmlu", "ceval", "arc_challenge", "arc_easy"})
"""Tasks of RouterDC's tables scored by probability: any above 0 counts as right, as its authors count."""
N_LABELS = 1500
N_COMPLETE = 20
"""Queries with an outcome of every expert that figures need at least, where a table has gaps."""


@dataclass(frozen=True, slots=True)
class TrainTestSplit:
    """One training and one test part, as rows of the layout's table; `seed` also seeds what is fitted."""

    seed: int
    train: Ints
    test: Ints


@dataclass(frozen=True, slots=True)
class EvalProtocol:
    """A protocol applied to a table. Every seed tests a query at most once.

    domains: task groups to average over, `in_domain` and `out_of_domain`, where the protocol has them
    n_left_out: queries that would be tested if every expert had been measured on them
    """

    name: str
    table: OutcomeTable
    splits: tuple[TrainTestSplit, ...]
    seeds: tuple[int, ...]
    domains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    n_left_out: int = 0

    def texts(self) -> list[str]:
        """Texts that are trained on or tested: what must be read."""
        used = np.unique(
            np.concatenate([rows for split in self.splits for rows in (split.train, split.test)])
        )
        return [self.table.texts[row] for row in used.tolist()]


def kfold(table: OutcomeTable, seeds: Sequence[int]) -> EvalProtocol:
    """Every bucket tested once a seed: folds are `bucket // 20` for seed 0, shuffled buckets for the others.

    Raises:
        DataError: fewer than two folds have queries.
    """
    splits = []
    for seed in seeds:
        # Worked case: bucket 57 of seed 0 is at place 57, so 57 · 5 // 100 = fold 2.
        fold = _shuffle_buckets(table, seed)[table.bucket] * N_FOLDS // 100
        kinds = np.unique(fold)
        if len(kinds) < 2:
            raise DataError(f"kfold: buckets of two folds at least are needed, not of {len(kinds)}")
        splits += [_cut(seed, fold != kind, fold == kind) for kind in kinds]
    return EvalProtocol(
        "kfold", table, tuple(splits), tuple(seeds), notes=(f"{len(kinds)} folds of buckets a seed",)
    )


def holdout(table: OutcomeTable, seeds: Sequence[int], buckets: Sequence[int]) -> EvalProtocol:
    """The given buckets are tested, the others trained on.

    Raises:
        DataError: a part is empty.
    """
    inside = np.isin(table.bucket, list(buckets))
    if inside.all() or not inside.any():
        raise DataError("holdout: --test must leave queries both to train and to test on")
    splits = tuple(_cut(seed, ~inside, inside) for seed in seeds)
    note = f"{int(inside.sum())} of {len(table)} queries held out, in {len(set(buckets))} buckets"
    return EvalProtocol("holdout", table, splits, tuple(seeds), notes=(note,))


def routerdc(table: OutcomeTable, seeds: Sequence[int], source_split: Sequence[str]) -> EvalProtocol:
    """RouterDC's own split: train on the five training tasks, test on their test parts and three other tasks.

    Raises:
        DataError: a task or its part is missing.
    """
    score = table.score.copy()
    chosen = np.isin(table.tasks, list(MULTIPLE_CHOICE))
    # The comparison alone would turn NaN, an unmeasured outcome, into a measured 0.
    score[chosen] = np.where(np.isnan(score[chosen]), np.nan, score[chosen] > 0)
    table = replace(table, score=score)
    part_of = np.array(source_split)
    train = (part_of == "train") & np.isin(table.tasks, IN_DOMAIN)
    test = (part_of == "test") & np.isin(table.tasks, (*IN_DOMAIN, *OUT_OF_DOMAIN))
    for part, tasks in ((train, IN_DOMAIN), (test, (*IN_DOMAIN, *OUT_OF_DOMAIN))):
        found = {task for task, inside in zip(table.tasks, part, strict=True) if inside}
        if missing := [task for task in tasks if task not in found]:
            side = "train" if part is train else "test"
            raise DataError(f"routerdc: no {side} query of task {missing[0]!r}")
    return EvalProtocol(
        "routerdc",
        table,
        tuple(_cut(seed, train, test) for seed in seeds),
        tuple(seeds),
        {"in_domain": IN_DOMAIN, "out_of_domain": OUT_OF_DOMAIN},
        ("a score above 0 counts as 1 for multiple choice, in training and test",),
    )


def routellm(table: OutcomeTable, seeds: Sequence[int], n_labels: int = N_LABELS) -> EvalProtocol:
    """Two experts, MMLU: buckets are drawn until they hold `n_labels` queries, the other buckets are tested.

    Raises:
        DataError: not two experts, or too few MMLU queries.
    """
    if table.n_experts != 2:
        raise DataError(f"routellm: two experts are needed, not {table.n_experts}; see --experts")
    table = table.take(np.array([task.startswith("mmlu") for task in table.tasks], bool))
    splits = []
    for seed in seeds:
        place = _shuffle_buckets(table, seed + 1)[table.bucket]  # seed 0 would take the first buckets
        order = np.argsort(place, kind="stable")  # (n_queries,) rows, bucket by bucket
        last = place[order[n_labels - 1]] if len(order) > n_labels else 100
        # The bucket that the labels end in is neither trained on nor tested: its queries are near-duplicates.
        test = place > last
        if not test.any():
            raise DataError(f"routellm: {len(table)} MMLU queries leave none to test after {n_labels} labels")
        inside = np.zeros(len(table), bool)
        inside[order[:n_labels]] = True
        splits.append(_cut(seed, inside, test))
    notes = (f"{n_labels} labels a seed; what is left of their last bucket is neither trained on nor tested",)
    return EvalProtocol("routellm", table, tuple(splits), tuple(seeds), notes=notes)


def keep_complete(protocol: EvalProtocol, data: Path) -> EvalProtocol:
    """The same protocol, tested only where every expert was measured: all figures are of the same queries.

    Training parts keep their gaps; `data` is where the table came from, for the advice of an error.

    Raises:
        DataError: too few such queries, or an expert without an outcome to train on.
    """
    every_column = list(range(protocol.table.n_experts))
    if _count_untrained(protocol, every_column) or not _is_enough(protocol, every_column):
        raise DataError(_advise(protocol, data))
    complete = _find_complete(protocol, every_column)
    tested = np.unique(np.concatenate([split.test for split in protocol.splits]))
    splits = [replace(split, test=split.test[complete[split.test]]) for split in protocol.splits]
    return replace(
        protocol,
        splits=tuple(split for split in splits if split.test.size),
        n_left_out=int((~complete[tested]).sum()),
    )


def _find_complete(protocol: EvalProtocol, columns: Sequence[int]) -> Bools:
    """(n_queries,) whether all of these experts were measured."""
    return np.asarray((~np.isnan(protocol.table.score[:, columns])).all(axis=1))


def _count_untrained(protocol: EvalProtocol, columns: Sequence[int]) -> int:
    """Pairs of an expert and a split whose training part holds no outcome of it."""
    known: Bools = np.asarray(~np.isnan(protocol.table.mask_declined()[:, columns]))
    return sum(int((~known[split.train].any(axis=0)).sum()) for split in protocol.splits)


def _count_complete(protocol: EvalProtocol, columns: Sequence[int]) -> list[tuple[int, int]]:
    """Per seed how many tested queries these experts were all measured on, and how many are tested."""
    complete = _find_complete(protocol, columns)
    tested = [
        np.concatenate([split.test for split in protocol.splits if split.seed == seed])
        for seed in protocol.seeds
    ]
    return [(int(complete[rows].sum()), len(rows)) for rows in tested]


def _is_enough(protocol: EvalProtocol, columns: Sequence[int]) -> bool:
    return all(n >= min(N_COMPLETE, total) for n, total in _count_complete(protocol, columns))


def _advise(protocol: EvalProtocol, data: Path) -> str:
    """What is missing, whose outcomes are fewest, and what to type."""
    names = protocol.table.experts
    outcomes = (~np.isnan(protocol.table.mask_declined())).sum(axis=0)
    every_column = list(range(len(names)))
    fewest = int(np.argmin(outcomes))
    n, total = min(_count_complete(protocol, every_column))
    wrong = (
        f"{n} of {total} tested queries have an outcome of every expert, {N_COMPLETE} are needed"
        if not _is_enough(protocol, every_column)
        else "an expert has no outcome in a training part"
    )
    ways = []
    if columns := _find_comparable(protocol):
        ways.append(f"compare without it: `--experts {shlex.quote(','.join(names[c] for c in columns))}`")
    if data.name.endswith(".jsonl.gz"):
        experts, out = shlex.quote(",".join(names)), shlex.quote(str(data))
        ways.append(f"measure all on the same probes: `thalamus profile --experts {experts} --out {out}`")
    advice = ", or ".join(ways) or "add outcomes of the same prompts for every expert"
    return f"score: {wrong}; expert {names[fewest]!r} has the fewest outcomes ({outcomes[fewest]}); {advice}"


def _find_comparable(protocol: EvalProtocol) -> list[int]:
    """Columns of experts that can be compared; empty where no two can."""
    outcomes = (~np.isnan(protocol.table.mask_declined())).sum(axis=0)
    columns = np.argsort(outcomes, kind="stable").tolist()[1:]  # the one with the fewest is named as left out
    while len(columns) > 1:
        if not _count_untrained(protocol, columns) and _is_enough(protocol, columns):
            return sorted(columns)
        # One at a time: the expert without which most queries are complete, the fewest outcomes at a tie.
        rests = [[other for other in columns if other != column] for column in columns]
        columns = min(
            rests,
            key=lambda rest: (
                _count_untrained(protocol, rest),
                -min(_count_complete(protocol, rest))[0],
                -int(outcomes[rest].sum()),
            ),
        )
    return []


def _shuffle_buckets(table: OutcomeTable, seed: int) -> Ints:
    """(100,) place of each bucket; as it is for seed 0. Only buckets that have queries change places."""
    place = np.arange(100)
    if seed:
        # Only used buckets are permuted; else sparse tables would get folds of very different size.
        used = np.unique(table.bucket)
        place[used] = np.random.default_rng(seed).permutation(used)
    return place


def _cut(seed: int, train: Bools, test: Bools) -> TrainTestSplit:
    return TrainTestSplit(seed, np.flatnonzero(train), np.flatnonzero(test))
