from dataclasses import replace

import numpy as np
import pytest

from evals.evaluate import (
    FRONTIER,
    RouterSpec,
    evaluate_picks,
    evaluate_predictions,
    evaluate_random,
    evaluate_router,
)
from evals.measures import MEASURES, Run
from evals.replay import RecordedExtractor
from evals.run_all import aggregate_runs, build_context, list_jobs, run_jobs
from evals.splits import holdout, kfold
from routers import PREDICTORS, FeatureExtractor, FitSettings, HashingEmbedder, OutcomeTable, cross_fit

CONSTANT = RouterSpec("constant", "constant", {}, "static")
KNN = RouterSpec("knn:k=20", "knn", {"k": 20}, "static")


def table(n: int = 120) -> OutcomeTable:
    """`calc` is right on sums, `bard`, ten times dearer, on poems and on every third sum."""
    sums = np.arange(n) % 2 == 0
    score = np.stack([sums, ~sums | (np.arange(n) % 3 == 0)], 1).astype(float)
    texts = [f"add {i} and {i + 1} now" if s else f"write a poem on {i} roses" for i, s in enumerate(sums)]
    return OutcomeTable.build(
        texts,
        ["calc", "bard"],
        {"score": score, "cost_usd": np.tile([0.001, 0.01], (n, 1))},
        tasks=["sum" if s else "poem" for s in sums],
        bucket=np.arange(n) % 100,
    )


@pytest.fixture(scope="module")
def outcomes() -> OutcomeTable:
    return table()


@pytest.fixture(scope="module")
def read(outcomes: OutcomeTable) -> RecordedExtractor:
    return RecordedExtractor.of(outcomes.texts, FeatureExtractor(HashingEmbedder()))


@pytest.fixture(scope="module")
def runs(outcomes: OutcomeTable, read: RecordedExtractor) -> dict[str, Run]:
    protocol = kfold(outcomes, [0, 1])
    jobs = [job for job in list_jobs(protocol, [KNN, CONSTANT]) if job.name != "mean_of_four"]
    done = run_jobs(protocol, read, jobs, lambda what, n, total: None, n_workers=1)
    return {run.name: run for run in aggregate_runs(protocol, jobs, done)}


def measure_of(runs: dict[str, Run], outcomes: OutcomeTable, name: str, measure: str) -> float:
    context = build_context(kfold(outcomes, [0, 1]))
    return float(MEASURES[measure].of(runs[name], context, np.ones((1, len(outcomes))))[0])


def test_all_routers_baselines_and_references_are_there(outcomes: OutcomeTable) -> None:
    jobs = list_jobs(kfold(outcomes, [0, 1]), [KNN, CONSTANT])
    assert len(jobs) == 13 * 10
    assert list(dict.fromkeys(job.name for job in jobs)) == [
        "knn:k=20",
        "constant",
        "best_single",
        "mean_of_four",
        "naive_ridge",
        "rules",
        "blind_mix",
        "cheapest",
        "random",
        "single:calc",
        "single:bard",
        "true_task",
        "oracle",
    ]


def test_routers_come_first_and_references_last(runs: dict[str, Run]) -> None:
    assert [run.kind for run in runs.values()] == ["router"] * 2 + ["baseline"] * 8 + ["reference"] * 2


def test_known_routers_score_what_they_must(runs: dict[str, Run], outcomes: OutcomeTable) -> None:
    assert measure_of(runs, outcomes, "oracle", "accuracy") == 1
    assert measure_of(runs, outcomes, "oracle", "regret") == 0
    assert measure_of(runs, outcomes, "oracle", "optimal") == 1
    assert measure_of(runs, outcomes, "true_task", "accuracy") == 1
    assert measure_of(runs, outcomes, "knn:k=20", "accuracy") > 0.97
    assert measure_of(runs, outcomes, "best_single", "accuracy") == pytest.approx(2 / 3)
    assert measure_of(runs, outcomes, "cheapest", "accuracy") == 0.5
    assert measure_of(runs, outcomes, "random", "accuracy") == pytest.approx((0.5 + 2 / 3) / 2)
    assert measure_of(runs, outcomes, "random", "cost_usd") == pytest.approx(0.0055)
    assert measure_of(runs, outcomes, "random", "optimal_strict") == 0.5


def test_the_best_single_expert_is_the_one_that_the_training_part_names(
    outcomes: OutcomeTable, read: RecordedExtractor
) -> None:
    turned = replace(outcomes, score=np.where(outcomes.bucket[:, None] < 80, [[1.0, 0.0]], [[0.0, 1.0]]))
    protocol = holdout(turned, [0], range(80, 100))
    jobs = [job for job in list_jobs(protocol, [CONSTANT]) if job.name in ("constant", "best_single")]
    done = run_jobs(protocol, read, jobs, lambda what, n, total: None, n_workers=1)
    for run in aggregate_runs(protocol, jobs, done):
        tested = run.single[0, turned.bucket >= 80]
        assert (tested == 0).all(), run.name
        np.testing.assert_array_equal(run.score[0, turned.bucket >= 80], tested)


def test_the_oracle_breaks_ties_in_favour_of_the_cheaper(
    runs: dict[str, Run], outcomes: OutcomeTable
) -> None:
    assert measure_of(runs, outcomes, "oracle", "cost_usd") == pytest.approx(0.0055)
    assert measure_of(runs, outcomes, "oracle", "optimal_strict") == 1


def test_a_constant_router_is_the_best_single_in_all_it_does(
    runs: dict[str, Run], outcomes: OutcomeTable
) -> None:
    for measure in ("accuracy", "cost_usd", "regret"):
        assert measure_of(runs, outcomes, "constant", measure) == measure_of(
            runs, outcomes, "best_single", measure
        )


def test_the_engine_and_the_bare_rule_decide_alike(outcomes: OutcomeTable, read: RecordedExtractor) -> None:
    train, test = outcomes.take(outcomes.bucket < 80), outcomes.take(outcomes.bucket >= 80)
    decided = evaluate_router(train, test, KNN, read, 0)
    assert decided.quality is not None
    _, out_of_fold = cross_fit(train, read, FitSettings("knn", {"k": 20}, tiers=("static",)))
    bare = evaluate_predictions(train, test, out_of_fold["static"], decided.quality)
    np.testing.assert_array_equal(decided.picks, bare.picks)
    np.testing.assert_array_equal(decided.saving_share, bare.saving_share)
    np.testing.assert_array_equal(decided.at_budget, bare.at_budget)
    assert decided.rate > 0


def test_seeds_are_tested_each_and_the_frontier_ends_at_the_cheapest(
    runs: dict[str, Run], outcomes: OutcomeTable
) -> None:
    knn = runs["knn:k=20"]
    assert knn.score.shape == (2, len(outcomes))
    assert not np.isnan(knn.score).any()
    assert len(knn.rate) == 10
    assert len(knn.frontier) == len(FRONTIER)
    assert knn.frontier[-1, 2] == pytest.approx(0.001)
    np.testing.assert_array_equal(knn.share.sum(axis=1), 2.0)


def test_without_costs_there_is_no_frontier_and_no_saving(
    outcomes: OutcomeTable, read: RecordedExtractor
) -> None:
    bare = replace(outcomes, cost_usd=np.full_like(outcomes.cost_usd, np.nan))
    result = evaluate_router(bare, bare, CONSTANT, read, 0)
    assert np.isnan(result.at_budget).all()
    assert np.isnan(result.frontier).all()
    assert result.score.mean() == pytest.approx(2 / 3)


def test_partial_tables_work_throughout(outcomes: OutcomeTable, read: RecordedExtractor) -> None:
    holes = outcomes.score.copy()
    holes[::4, 0] = np.nan
    partial = replace(outcomes, score=holes)
    protocol = kfold(partial, [0])
    jobs = [job for job in list_jobs(protocol, [KNN]) if job.split == 0]
    found = {
        run.name: run
        for run in aggregate_runs(
            protocol, jobs, run_jobs(protocol, read, jobs, lambda *printed: None, n_workers=1)
        )
    }
    ones = np.ones((1, len(partial)))
    for name, run in found.items():
        accuracy = float(MEASURES["accuracy"].of(run, build_context(protocol), ones)[0])
        assert 0 <= accuracy <= 1, name
    known = float(MEASURES["measured"].of(found["single:calc"], build_context(protocol), ones)[0])
    assert known == pytest.approx(0.75, abs=0.05)


def test_two_processes_find_what_one_does(outcomes: OutcomeTable, read: RecordedExtractor) -> None:
    protocol = kfold(outcomes, [0])
    jobs = [job for job in list_jobs(protocol, [KNN]) if job.name in ("knn:k=20", "true_task")]
    ticks: list[tuple[str, int, int]] = []
    alone = list(run_jobs(protocol, read, jobs, lambda *printed: None, n_workers=1))
    both = list(run_jobs(protocol, read, jobs, lambda *printed: ticks.append(printed), n_workers=2))
    assert len(both) == len(jobs)
    for job, result in both:
        twin = next(other for same, other in alone if same == job)
        np.testing.assert_array_equal(result.picks, twin.picks)
    assert ticks[-1] == ("fitting and deciding", len(jobs), len(jobs))


def test_simple_rules_pick_what_they_say(outcomes: OutcomeTable) -> None:
    rule = evaluate_picks(outcomes, np.ones(len(outcomes), np.int64))
    np.testing.assert_array_equal(rule.score, outcomes.score[:, 1])
    np.testing.assert_array_equal(evaluate_random(outcomes).share, 0.5)


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_every_predictor_can_be_evaluated(name: str, outcomes: OutcomeTable, read: RecordedExtractor) -> None:
    train, test = outcomes.take(outcomes.bucket < 40), outcomes.take(outcomes.bucket >= 80)
    result = evaluate_router(train, test, RouterSpec(name, name, {}, "static"), read, 0)
    assert result.quality is not None
    assert result.quality.shape == test.score.shape
    assert not np.isnan(result.score).any()
