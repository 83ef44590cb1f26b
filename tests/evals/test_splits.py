from dataclasses import replace

import numpy as np
import pytest

from evals.splits import IN_DOMAIN, OUT_OF_DOMAIN, EvalProtocol, holdout, kfold, routellm, routerdc
from routers import DataError, OutcomeTable


def table(n: int = 400, tasks: tuple[str, ...] = ("mmlu_a", "mmlu_b"), n_experts: int = 2) -> OutcomeTable:
    score = np.random.default_rng(0).random((n, n_experts))
    return OutcomeTable.build(
        [f"query {i}" for i in range(n)],
        [f"e{e}" for e in range(n_experts)],
        {"score": score},
        tasks=[tasks[i % len(tasks)] for i in range(n)],
        bucket=np.arange(n) * 7 % 100,
    )


def count_straddling(protocol: EvalProtocol) -> int:
    """Buckets that are trained on and tested by the same cut."""
    bucket = protocol.table.bucket
    return sum(len(set(bucket[split.train]) & set(bucket[split.test])) for split in protocol.splits)


def test_every_query_is_tested_once_a_seed_and_twins_never_straddle() -> None:
    protocol = kfold(table(), [0, 3])
    assert count_straddling(protocol) == 0
    for seed in (0, 3):
        tested = np.concatenate([split.test for split in protocol.splits if split.seed == seed])
        assert sorted(tested.tolist()) == list(range(400))


def test_seed_zero_folds_by_bucket_and_others_shuffle_the_buckets_in_use() -> None:
    held = table()
    part = held.take(held.bucket < 80)
    first, second = kfold(part, [0]), kfold(part, [1])
    assert [sorted({b // 20 for b in part.bucket[split.test].tolist()}) for split in first.splits] == [
        [0],
        [1],
        [2],
        [3],
    ]
    assert len(second.splits) == 4
    assert {tuple(split.test) for split in first.splits} != {tuple(split.test) for split in second.splits}


def test_holdout_tests_the_buckets_that_are_named() -> None:
    protocol = holdout(table(), [0, 1], range(80, 100))
    assert [split.seed for split in protocol.splits] == [0, 1]
    assert all((protocol.table.bucket[split.test] >= 80).all() for split in protocol.splits)
    assert count_straddling(protocol) == 0
    with pytest.raises(DataError, match="to train and to test on"):
        holdout(table(), [0], range(100))


def test_routellm_trains_on_that_many_labels_of_other_buckets() -> None:
    held = table(tasks=("mmlu_a", "gsm8k"))
    protocol = routellm(held, [0, 1, 2], 50)
    assert set(protocol.table.tasks) == {"mmlu_a"}
    assert [len(split.train) for split in protocol.splits] == [50] * 3
    assert count_straddling(protocol) == 0
    assert len({tuple(split.train) for split in protocol.splits}) == 3
    with pytest.raises(DataError, match="leave none to test"):
        routellm(held, [0], 200)
    with pytest.raises(DataError, match="two experts are needed, not 3"):
        routellm(table(n_experts=3), [0], 10)


def test_routerdc_trains_on_five_tasks_and_counts_any_probability_as_right() -> None:
    tasks = (*IN_DOMAIN, *OUT_OF_DOMAIN, "arc_easy")
    held = table(tasks=tasks)
    held = replace(held, score=np.where(held.score < 0.3, 0.0, held.score))
    splits = ["train" if i % 2 else "test" for i in range(len(held))]
    protocol = routerdc(held, [0], splits)
    (split,) = protocol.splits
    trained = {protocol.table.tasks[row] for row in split.train}
    assert trained == set(IN_DOMAIN)
    assert {protocol.table.tasks[row] for row in split.test} == {*IN_DOMAIN, *OUT_OF_DOMAIN}
    choice = np.isin(protocol.table.tasks, ["mmlu", "ceval"])
    assert set(np.unique(protocol.table.score[choice])) == {0.0, 1.0}
    np.testing.assert_array_equal(
        protocol.table.score[np.array(held.tasks) == "gsm8k"],
        held.score[np.array(held.tasks) == "gsm8k"],
    )
    with pytest.raises(DataError, match="no train query of task 'mmlu'"):
        routerdc(held, [0], ["test"] * len(held))
