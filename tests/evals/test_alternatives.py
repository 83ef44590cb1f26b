import json
import sys
from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest

from evals.alternatives import N_TIERS, TierReadings, evaluate_blind_mix, evaluate_tiers, read_tiers, rules
from evals.commands.eval import evaluate
from evals.replay import RecordedExtractor
from evals.report import Facts, ReportRequest, markdown_of, page_of
from evals.run_all import list_jobs
from evals.splits import kfold
from routers import FeatureExtractor, HashingEmbedder, OutcomeTable, query_of

READINGS = TierReadings(
    {f"{kind} {n}": (0.9, 0.9, 0.95, 1.0) if kind == "easy" else (0.5, 0.6, 0.7, 0.8) for n in range(100)
     for kind in ("easy", "hard")},
    0.75,
)  # fmt: skip


def table() -> OutcomeTable:
    """`small` is right on what is easy, `large`, ten times dearer, on all, `idle` on nothing."""
    easy = np.repeat([True, False], 100)
    return OutcomeTable.build(
        [f"easy {n}" for n in range(100)] + [f"hard {n}" for n in range(100)],
        ["large", "small", "idle"],
        {
            "score": np.stack([np.ones(200), easy, np.zeros(200)], 1).astype(float),
            "cost_usd": np.tile([0.010, 0.001, 0.002], (200, 1)),
        },
        bucket=np.arange(200) % 100,
    )


def test_tiers_that_tell_easy_from_hard_save_what_can_be_saved() -> None:
    held = table()
    result = evaluate_tiers(held, held, READINGS)
    assert result.score.mean() == 1
    assert result.cost_usd.mean() == pytest.approx(0.0055)  # of equal scores the cheaper ladder
    assert result.saving.mean() == 1
    assert result.saving_usd.mean() == pytest.approx(0.0055)
    assert result.saving_share[:100, 1].all()
    assert not result.share[:, 2].any()


def test_no_ladder_gives_a_harder_tier_a_cheaper_expert() -> None:
    """Where the cheap expert is right on the hard tier alone, a ladder cannot say so."""
    held = table()
    turned = replace(held, score=np.stack([np.ones(200), np.repeat([0.0, 1.0], 100), np.zeros(200)], 1))
    assert evaluate_tiers(turned, turned, READINGS).cost_usd.mean() == pytest.approx(0.010)


def test_a_budget_is_met_on_the_training_part() -> None:
    held = table()
    result = evaluate_tiers(held, held, READINGS)
    # Up to .0055 dollars the cheapest expert alone fits, above that the ladder of both: half of the budgets.
    assert result.at_budget.mean() == pytest.approx(0.75, abs=0.01)
    assert result.at_budget_usd.mean() <= np.linspace(0.001, 0.010, 50).mean()


def test_a_blind_mix_is_as_good_as_its_share_of_the_dear_expert() -> None:
    held = table()
    result = evaluate_blind_mix(held, held)
    assert result.score.mean() == 1  # free of a budget: the best single expert
    assert result.at_budget.mean() == pytest.approx(0.75, abs=0.03)  # halfway between .5 and 1
    assert result.at_budget_usd.mean() == pytest.approx(0.0055, rel=0.05)
    assert result.saving_usd.mean() == pytest.approx(0.010)


def test_a_blind_mix_leaves_out_who_is_below_the_line_of_two_others() -> None:
    held = table().only(["small", "large"])
    middle = np.full((200, 1), 0.6)  # between .5 at .001 and 1 at .010 the line is at .78 for .006
    both = OutcomeTable.build(
        held.texts,
        ["small", "middle", "large"],
        {
            "score": np.concatenate((held.score[:, :1], middle, held.score[:, 1:]), axis=1),
            "cost_usd": np.tile([0.001, 0.006, 0.010], (200, 1)),
        },
        bucket=held.bucket,
    )
    result = evaluate_blind_mix(both, both)
    np.testing.assert_array_equal(result.at_budget, evaluate_blind_mix(held, held).at_budget)


def test_without_costs_only_the_free_choice_is_made() -> None:
    bare = replace(table(), cost_usd=np.full((200, 3), np.nan))
    for result in (evaluate_tiers(bare, bare, READINGS), evaluate_blind_mix(bare, bare)):
        assert result.score.mean() == 1
        assert np.isnan(result.at_budget).all()


def test_rules_learn_from_length_and_keywords_alone() -> None:
    texts = [f"Solve {n} + {n} = ?" for n in range(40)] + [f"Write a poem on {n} roses" for n in range(40)]
    score = np.repeat([[1.0, 0.0], [0.0, 1.0]], 40, axis=0)
    held = OutcomeTable.build(texts, ["calc", "bard"], {"score": score})
    x = FeatureExtractor(HashingEmbedder()).extract([query_of("")], "static")
    said = rules(held, x, ("Calculate 7 = ?", "write a letter", "hello"), x)
    np.testing.assert_array_equal(said, [[1, 0], [0, 1], [0.5, 0.5]])


def test_the_installed_litellm_rates_four_tiers() -> None:
    readings = read_tiers(["hello", "Prove the theorem on integrals. " * 40])
    assert readings.missing == ""
    assert 0 < readings.threshold < 1
    for chances in readings.success.values():
        assert len(chances) == N_TIERS
        assert all(before <= after for before, after in pairwise(chances))


@pytest.fixture
def without_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "litellm.router_strategy.complexity_router.tier_predictor"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))


@pytest.mark.usefixtures("without_predictor")
def test_a_litellm_without_tiers_is_said_in_its_row() -> None:
    held = table()
    assert "heuristic_v2" not in {job.name for job in list_jobs(kfold(held, [0]), [], read_tiers(held.texts))}
    facts = report(held)
    assert "has no tier predictor" in facts["unavailable"]["heuristic_v2"]
    assert facts["baselines"]["heuristic_v2"]["accuracy"] is None
    assert "| heuristic_v2 (litellm" in markdown_of(facts)
    assert "heuristic_v2 (litellm" in page_of(facts)


def test_alternatives_are_rows_of_a_report() -> None:
    facts = report(table())
    assert facts["unavailable"] == {}
    for name in ("rules", "heuristic_v2", "blind_mix"):
        assert facts["baselines"][name]["area"]["value"] > 0.4, name
        assert any(name in (pair["first"], pair["second"]) for pair in facts["pairs"])


def report(held: OutcomeTable) -> Facts:
    read = RecordedExtractor.of(held.texts, FeatureExtractor(HashingEmbedder()))
    request = ReportRequest("t", "c", "2026-01-01T00:00:00+00:00", "none", n_draws=20)
    facts = evaluate(kfold(held, [0]), [], read, request, lambda what, done, total: None, 1)
    assert json.loads(json.dumps(facts, allow_nan=False))
    return facts
