from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from evals.replay import RecordedExtractor, pool_of, replay
from evals.run_all import cheapest, mean_of_four, task_table
from policies import EncoderUse, Objective, PanelRule, Policy
from routers import Artifact, ExpertProfile, Features, OutcomeTable, Query, Tier, fit_artifact, query_of
from studies.tiers import compare, render

WORDS = ["sum", "add", "times", "capital", "river", "poem"]


class CountingExtractor:
    """Reads six words; the cheap tier only sees the first two."""

    fingerprints: dict[Tier, str] = {"static": "reader-static", "encoder": "reader-encoder"}  # noqa: RUF012
    n_read = 0

    def extract(self, queries: Any, tier: Tier, reuse: Features | None = None) -> Features:
        self.n_read += len(queries) * (tier == "encoder")
        texts = [query.text for query in queries]
        known = WORDS[:2] if tier == "static" else WORDS
        noise = [[byte / 2000 for byte in sha256(text.encode()).digest()[:4]] for text in texts]
        dense = np.array([[word in text for word in known] + [0.3] for text in texts], np.float32)
        dense = np.concatenate([dense, np.array(noise, np.float32)], axis=1)
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        none = np.full((len(texts), 1), -1, np.int64)
        return Features(tier, dense, none, np.zeros((len(texts), 2)))


def table(n: int = 600) -> OutcomeTable:
    """`calc` is right on the first three words, `bard`, ten times dearer, on the last three."""
    texts = [f"{WORDS[i % 6]} number {'abcdefgh'[i % 8]} {i}" for i in range(n)]
    numeric = np.arange(n) % 6 < 3
    score = np.stack([numeric, ~numeric], 1).astype(float)
    return OutcomeTable.build(
        texts,
        ["calc", "bard"],
        {"score": score, "cost_usd": np.tile([0.001, 0.01], (n, 1))},
        tasks=[WORDS[i % 6] for i in range(n)],
        bucket=np.arange(n) % 100,
    )


@pytest.fixture(scope="module")
def outcomes() -> OutcomeTable:
    return table()


@pytest.fixture(scope="module")
def extractor(outcomes: OutcomeTable) -> RecordedExtractor:
    return RecordedExtractor.of(outcomes.texts, CountingExtractor())


@pytest.fixture(scope="module")
def artifact(outcomes: OutcomeTable, extractor: RecordedExtractor) -> Artifact:
    return fit_artifact(outcomes, extractor)


def test_every_text_is_read_once_however_often_it_is_asked_for(outcomes: OutcomeTable) -> None:
    reader = CountingExtractor()
    extractor = RecordedExtractor.of([*outcomes.texts, *outcomes.texts], reader, chunk=100)
    queries = [query_of(text) for text in outcomes.texts[::-1]]
    np.testing.assert_array_equal(
        extractor.extract(queries, "encoder").dense,
        CountingExtractor().extract(queries, "encoder").dense,
    )
    assert reader.n_read == len(outcomes)


@pytest.mark.parametrize(("use", "tiers"), [("always", {"encoder"}), ("never", {"static"})])
def test_the_policy_says_which_tier_decides(
    outcomes: OutcomeTable,
    artifact: Artifact,
    extractor: RecordedExtractor,
    use: EncoderUse,
    tiers: set[str],
) -> None:
    result = replay(outcomes, artifact, extractor, Policy("p", encoder=use))
    assert {decision.tier for decision in result.decisions} == tiers
    assert set(result.consulted.tolist()) == {use == "always"}


def test_adaptive_consults_the_encoder_only_below_the_margin(
    outcomes: OutcomeTable, artifact: Artifact, extractor: RecordedExtractor
) -> None:
    artifact = replace(artifact, margin=0.75)
    adaptive = replay(outcomes, artifact, extractor, Policy("p", encoder="adaptive"))
    never = replay(outcomes, artifact, extractor, Policy("p", encoder="never"))
    always = replay(outcomes, artifact, extractor, Policy("p", encoder="always"))
    unsure = np.array([decision.margin for decision in never.decisions]) < artifact.margin
    np.testing.assert_array_equal(adaptive.consulted, unsure)
    assert 0 < unsure.mean() < 1
    np.testing.assert_array_equal(adaptive.picks, np.where(unsure, always.picks, never.picks))
    assert never.score.mean() < adaptive.score.mean() <= always.score.mean()


def test_scores_and_costs_are_those_of_the_experts_chosen(
    outcomes: OutcomeTable, artifact: Artifact, extractor: RecordedExtractor
) -> None:
    result = replay(outcomes, artifact, extractor, Policy("p", encoder="always"))
    rows = np.arange(len(outcomes))
    np.testing.assert_array_equal(result.score, outcomes.score[rows, result.picks])
    np.testing.assert_array_equal(result.cost_usd, outcomes.cost_usd[rows, result.picks])
    assert [d.chosen for d in result.decisions] == [outcomes.experts[p] for p in result.picks]


def test_a_weight_on_cost_moves_queries_to_the_cheap_expert(
    outcomes: OutcomeTable, artifact: Artifact, extractor: RecordedExtractor
) -> None:
    policy = Policy("p", Objective(cost=2.0), encoder="always")
    assert replay(outcomes, artifact, extractor, policy).picks.tolist() == [0] * len(outcomes)


def test_the_pool_of_a_table_claims_nothing_unmeasured(outcomes: OutcomeTable) -> None:
    assert pool_of(outcomes) == (ExpertProfile("calc", "calc"), ExpertProfile("bard", "bard"))


def test_simple_baselines_of_a_known_table(outcomes: OutcomeTable, extractor: RecordedExtractor) -> None:
    assert cheapest(outcomes, 2).tolist() == [0, 0]
    np.testing.assert_array_equal(task_table(outcomes, outcomes), outcomes.score)
    x = extractor.extract([query_of(text) for text in outcomes.texts], "encoder")
    four = mean_of_four(outcomes, x, outcomes.texts, x)
    assert four.argmax(axis=1).tolist() == outcomes.score.argmax(axis=1).tolist()


def test_comparing_tiers_gives_every_router_its_figures(
    outcomes: OutcomeTable, extractor: RecordedExtractor
) -> None:
    part = outcomes.take(np.arange(300))
    folds = part.bucket // 34
    figures = compare(part, folds, [0, 1], extractor, "knn", lambda what, done, total: None)
    assert figures["encoder: always"]["consulted"] == 1
    assert figures["encoder: never"]["consulted"] == 0
    assert figures["knn encoder"]["accuracy"] > figures["best single"]["accuracy"]
    assert figures["knn encoder"]["accuracy"] == figures["encoder: always"]["accuracy"] == 1
    assert "| encoder: adaptive |" in render(figures)


def test_a_query_is_decided_alone_as_in_its_batch(
    outcomes: OutcomeTable, artifact: Artifact, extractor: RecordedExtractor
) -> None:
    policy = Policy("p", encoder="adaptive")
    whole = replay(outcomes, artifact, extractor, policy)
    for row in (0, 3, 17):
        alone = replay(outcomes.take(np.array([row])), artifact, extractor, policy)
        assert alone.decisions[0].chosen == whole.decisions[row].chosen
        assert isinstance(query_of(outcomes.texts[row]), Query)


def test_what_an_expert_declined_is_neither_learned_from_nor_sent_to_it(outcomes: OutcomeTable) -> None:
    declined = np.where(outcomes.score == 0.0, [[1.0, np.nan]], np.nan)
    printed = replace(outcomes, declined=declined)
    artifact = fit_artifact(printed, CountingExtractor())
    calc = artifact.experts[0]
    assert (calc.n, calc.score) == (300, 1.0)
    came = replay(printed, artifact, CountingExtractor(), Policy("p", encoder="never"))
    assert came.score.mean() == 1.0
    assert not (declined[np.arange(len(printed)), came.picks] == 1).any()


def test_a_panel_is_scored_by_the_proxy_where_no_answers_were_recorded(
    outcomes: OutcomeTable, artifact: Artifact, extractor: RecordedExtractor
) -> None:
    policy = Policy("p", encoder="always", panel=PanelRule(k=2))
    result = replay(outcomes, artifact, extractor, policy)
    assert result.by_proxy.all()
    np.testing.assert_array_equal(result.score, (outcomes.score >= 0.5).all(axis=1))
    np.testing.assert_allclose(result.cost_usd, outcomes.cost_usd.sum(axis=1))
