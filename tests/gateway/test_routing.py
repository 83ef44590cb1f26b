"""The online driver: the engine's consultations answered, failures admitted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from gateway.errors import NothingEligible, Unavailable
from gateway.routing.embedding_batcher import Budget, EmbeddingBatcher
from gateway.routing.router import MAX_TOGETHER, Router
from policies import Decision, Engine, Fleet, Policy, Require, RoutingHints
from routers import ExpertProfile, FeatureExtractor, Features, Floats32, Prediction, Query, Tier
from tests.fakes.parsed import to_policy

POOL = (ExpertProfile("small", "p/small", 0.0, 0.0), ExpertProfile("large", "p/large", 1e-6, 1e-6))
IDLE = Fleet.idle(2)


class TwoMinds:
    """A forecaster that likes `small` on a static look and `large` on a closer one."""

    margin = 0.5
    warnings: tuple[str, ...] = ()

    def __init__(self, tiers: tuple[Tier, ...] = ("static", "encoder")) -> None:
        self.tiers = tiers
        self.asked: list[Tier] = []
        self.n_queries: list[int] = []
        self.broken = False
        self.numbers: dict[str, float] = {}
        """What is predicted for `large`, by the text that it is predicted for."""

    def predict(self, queries: Sequence[Query], features: Features | None) -> Prediction:
        self.n_queries.append(len(queries))
        if self.broken and features is not None:
            raise ValueError("shapes differ")
        tier: Tier = "prior" if features is None else features.tier
        self.asked.append(tier)
        quality = {"prior": [0.5, 0.4], "static": [0.6, 0.5], "encoder": [0.2, 0.9]}[tier]
        rows = np.array([quality] * len(queries))
        for row, query in enumerate(queries):
            if features is not None and query.text in self.numbers:
                rows[row, 1] = self.numbers[query.text]
        return Prediction(
            ("small", "large"), tier, rows, rows * 0, rows * 100, rows * 0.001, rows, np.array([True, True])
        )


class FakeExtractor:
    def __init__(self) -> None:
        self.broken = False
        self.poison = ""

    def extract(self, queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        if self.broken or any(query.text == self.poison for query in queries):
            raise RuntimeError("no table")
        n = len(queries)
        return Features(tier, np.zeros((n, 4), np.float32), np.zeros((n, 2), np.int64), np.zeros((n, 3)))


class Encoder:
    fingerprint = "fake"
    dim = 4

    def __init__(self) -> None:
        self.broken = False

    def embed(self, texts: Sequence[str]) -> Floats32:
        if self.broken:
            raise RuntimeError("the session died")
        return np.ones((len(texts), 4), np.float32)


class Made:
    def __init__(
        self, budget: Budget | None = None, tiers: tuple[Tier, ...] = ("static", "encoder"), **more: Any
    ) -> None:
        self.forecaster = TwoMinds(tiers)
        self.extractor = FakeExtractor()
        self.encoder = Encoder()
        self.batcher = (
            EmbeddingBatcher(self.encoder, budget=budget) if more.pop("with_encoder", True) else None
        )
        self.routing = Router(
            Engine(POOL),
            cast("Any", self.forecaster),
            cast("FeatureExtractor", self.extractor),
            self.batcher,
            **more,
        )

    async def decide(self, hints: RoutingHints | None = None, fleet: Fleet = IDLE, **policy: Any) -> Any:
        return await self.routing.decide(to_policy("hello there", Policy("auto", **policy), hints), fleet)


@pytest.fixture
async def setup() -> AsyncIterator[Made]:
    setup = Made()
    yield setup
    assert setup.batcher is not None
    setup.batcher.close()


@pytest.mark.parametrize(
    ("use", "chosen", "tiers"),
    [
        ("never", "small", ["static"]),
        ("always", "large", ["encoder"]),
        ("adaptive", "large", ["static", "encoder"]),
    ],
)
async def test_a_policy_says_how_closely_to_look(
    setup: Made, use: str, chosen: str, tiers: list[Tier]
) -> None:
    decision = await setup.decide(encoder=use)
    assert (decision.chosen, setup.forecaster.asked) == (chosen, tiers)
    assert setup.routing.degraded is None
    assert "degraded" not in decision.reason


async def test_a_clear_margin_needs_no_closer_look(setup: Made) -> None:
    setup.forecaster.margin = 0.05
    assert (await setup.decide()).tier == "static"
    assert setup.routing.n_consulted == 0


async def test_consultations_are_counted(setup: Made) -> None:
    await setup.decide()
    await setup.decide(encoder="never")
    assert (setup.routing.n_decided, setup.routing.n_consulted) == (2, 1)


async def test_a_spent_budget_lets_the_first_decision_stand() -> None:
    budget = Budget(n_waiting=8, share=0.1, n_threads=1, clock=lambda: 0.0)
    budget.spend(1000)
    setup = Made(budget)
    decision = await setup.decide()
    assert (decision.chosen, decision.tier, setup.routing.n_consulted) == ("small", "static", 0)


async def test_a_spent_budget_does_not_bind_a_policy_that_always_looks_closely() -> None:
    budget = Budget(n_waiting=8, share=0.1, n_threads=1, clock=lambda: 0.0)
    budget.spend(1000)
    assert (await Made(budget).decide(encoder="always")).tier == "encoder"


@pytest.mark.parametrize("use", ["always", "adaptive"])
async def test_a_failing_encoder_degrades_and_says_so_until_it_works_again(setup: Made, use: str) -> None:
    setup.encoder.broken = True
    decision = await setup.decide(encoder=use)
    assert (decision.chosen, decision.tier) == ("small", "static")
    assert decision.reason.endswith("; degraded: the encoder failed")
    assert setup.routing.degraded == "the encoder failed"
    setup.encoder.broken = False
    decision = await setup.decide(encoder=use)
    assert decision.tier == "encoder"
    assert setup.routing.degraded is None
    assert "degraded" not in decision.reason


async def test_with_no_embedder_at_all_the_prior_decides_and_says_so(setup: Made) -> None:
    setup.encoder.broken = setup.extractor.broken = True
    decision = await setup.decide()
    assert (decision.tier, decision.chosen) == ("prior", "small")
    assert "degraded: the static embedder failed" in decision.reason


async def test_an_encoder_missing_from_the_start_is_admitted_where_it_is_wanted() -> None:
    setup = Made(with_encoder=False, degraded="there is no encoder")
    assert setup.routing.degraded == "there is no encoder"
    assert (await setup.decide()).reason.endswith("degraded: there is no encoder")
    assert "degraded" not in (await setup.decide(encoder="never")).reason


async def test_without_an_artifact_the_prior_decides_and_nothing_is_degraded() -> None:
    setup = Made(tiers=("prior",), with_encoder=False)
    decision = await setup.decide()
    assert (decision.tier, setup.routing.degraded) == ("prior", None)


async def test_what_nobody_can_meet_is_the_requests_fault(setup: Made) -> None:
    with pytest.raises(NothingEligible, match="small: quality") as caught:
        await setup.decide(RoutingHints(Require(min_quality=0.99)))
    assert (caught.value.status, caught.value.param) == (400, "router")


async def test_when_everybody_is_out_the_client_is_told_when_to_come_again(setup: Made) -> None:
    out = Fleet(np.zeros(2, bool), np.zeros(2), {"small": "cooling down", "large": "cooling down"})
    with pytest.raises(Unavailable) as caught:
        await setup.decide(fleet=out)
    assert caught.value.status == 503
    assert caught.value.headers()


async def test_requests_that_come_together_are_predicted_together(setup: Made) -> None:
    asked = [setup.decide(encoder="never") for _ in range(MAX_TOGETHER + 4)]
    decisions = await asyncio.gather(*asked)
    assert setup.forecaster.n_queries == [MAX_TOGETHER, 4]
    assert {decision.chosen for decision in decisions} == {"small"}
    assert {decision.quality.shape for decision in decisions} == {(2,)}


async def test_a_request_that_is_refused_costs_no_other_of_its_turn_a_decision(setup: Made) -> None:
    strict = RoutingHints(Require(min_quality=0.99))
    asked = [setup.decide(hints, encoder="never") for hints in (None, strict, None)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [getattr(one, "chosen", type(one)) for one in found] == ["small", NothingEligible, "small"]
    assert setup.forecaster.n_queries == [3]
    assert setup.routing.degraded is None


async def test_a_bug_of_the_engine_is_not_taken_for_one_of_the_embedder(
    setup: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide, policies = Engine.decide, iter(["first", "second"])

    def fail_once(self: Engine, *given: Any) -> list[Decision]:
        if next(policies) == "first":
            raise ZeroDivisionError
        return decide(self, *given)

    monkeypatch.setattr(Engine, "decide", fail_once)
    asked = [setup.decide(encoder="never") for _ in range(2)]
    bug, decision = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(bug, ZeroDivisionError)
    assert decision.chosen == "small"  # type: ignore[union-attr]
    assert setup.routing.degraded is None


async def test_all_requests_of_a_turn_are_decided_before_one_goes_on(
    setup: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    decide = Engine.decide

    def record(self: Engine, *given: Any) -> list[Decision]:
        seen.append("decided")
        return decide(self, *given)

    async def ask() -> None:
        await setup.decide(encoder="never")
        seen.append("went on")

    monkeypatch.setattr(Engine, "decide", record)
    await asyncio.gather(ask(), ask(), ask())
    assert seen == ["decided"] * 3 + ["went on"] * 3


async def test_a_client_that_leaves_takes_no_prediction_with_it(setup: Made) -> None:
    tasks = [asyncio.ensure_future(setup.decide(encoder="never")) for _ in range(3)]
    await asyncio.sleep(0)  # all three wait for this turn's prediction
    tasks[1].cancel()
    await asyncio.gather(tasks[0], tasks[2])
    assert setup.forecaster.n_queries == [2]
    assert tasks[1].cancelled()


async def test_a_text_that_trips_the_embedder_costs_no_other_its_prediction(setup: Made) -> None:
    setup.extractor.poison = "poison"
    policy = Policy("auto", encoder="never")
    asked = [setup.routing.decide(to_policy(text, policy), IDLE) for text in ("fine", "poison", "well")]
    decisions = await asyncio.gather(*asked)
    assert [decision.tier for decision in decisions] == ["static", "prior", "static"]


@pytest.mark.parametrize("use", ["never", "adaptive", "always"])
async def test_a_failing_predictor_degrades_to_the_prior_and_says_so_until_it_works_again(
    setup: Made, use: str
) -> None:
    setup.forecaster.broken = True
    decision = await setup.decide(encoder=use)
    assert decision.tier == "prior"
    assert decision.reason.endswith("; degraded: the predictor failed")
    assert setup.routing.degraded == "the predictor failed"
    (many,) = await setup.routing.decide_many([to_policy("a", Policy("auto", encoder="never"))], IDLE)
    assert isinstance(many, Decision)
    assert many.tier == "prior"
    setup.forecaster.broken = False
    assert (await setup.decide(encoder=use)).tier != "prior"
    assert setup.routing.degraded is None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("use", ["never", "adaptive", "always"])
async def test_what_is_no_number_is_no_prediction(setup: Made, use: str, number: float) -> None:
    setup.forecaster.numbers["hello there"] = number
    decision = await setup.decide(encoder=use)
    assert (decision.tier, decision.chosen) == ("prior", "small")
    assert decision.reason.endswith("; degraded: the predictor failed")
    assert setup.routing.n_degraded == {"predictor": 1}


async def test_a_predictor_that_fails_on_the_encoders_vectors_leaves_the_static_tier(setup: Made) -> None:
    predict = setup.forecaster.predict

    def fail_on_vectors(queries: Sequence[Query], features: Features | None) -> Prediction:
        if features is not None and features.tier == "encoder":
            raise ValueError("shapes differ")
        return predict(queries, features)

    setup.forecaster.predict = fail_on_vectors  # type: ignore[method-assign]
    for use in ("always", "adaptive"):
        decision = await setup.decide(encoder=use)
        assert decision.tier == "static"
        assert decision.reason.endswith("; degraded: the predictor failed")


async def test_a_text_without_a_number_costs_no_other_line_its_prediction(setup: Made) -> None:
    setup.forecaster.numbers["poison"] = float("nan")
    requests = [to_policy(text, Policy("auto", encoder="never")) for text in ("a", "b", "poison", "c", "d")]
    decisions = await setup.routing.decide_many(requests, IDLE)
    assert all(isinstance(one, Decision) for one in decisions)
    tiers = [one.tier for one in decisions if isinstance(one, Decision)]
    assert tiers == ["static", "static", "prior", "static", "static"]
    assert setup.routing.n_degraded == {"predictor": 1}


async def test_a_failure_has_one_line_in_the_log_and_quotes_no_prompt(
    setup: Made, caplog: pytest.LogCaptureFixture
) -> None:
    setup.forecaster.numbers["hello"] = float("nan")
    for text in ("hello", "fine") * 3:
        await setup.routing.decide(to_policy(text, Policy("auto", encoder="never")), IDLE)
    assert [record.getMessage() for record in caplog.records] == [
        "the predictor failed: it predicted what is no number"
    ]
    caplog.clear()

    def quote(queries: Sequence[Query], tier: Tier, reuse: Features | None = None) -> Features:
        raise ValueError(f"could not convert string to float: {queries[0].text!r}")

    setup.extractor.extract = quote  # type: ignore[method-assign]
    await setup.decide(encoder="never")
    (record,) = caplog.records
    assert record.getMessage().startswith("the static embedder failed: ValueError in test_routing.py:")


async def test_many_are_decided_at_once_each_with_its_own_refusal(setup: Made) -> None:
    strict = RoutingHints(Require(min_quality=0.99))
    hints = [None, strict, None]
    requests = [to_policy(f"question {n}", Policy("auto"), hint) for n, hint in enumerate(hints)]
    found = await setup.routing.decide_many(requests, IDLE)
    assert [getattr(one, "chosen", type(one)) for one in found] == ["large", NothingEligible, "large"]


async def test_who_decides_patiently_looks_closely_whatever_the_budget_and_leaves_it_alone() -> None:
    budget = Budget(n_waiting=8, share=0.1, n_threads=1, clock=lambda: 0.0)
    budget.spend(1000)
    setup = Made(budget)
    (decision,) = await setup.routing.decide_many([to_policy("hello", Policy("auto"))], IDLE)
    assert isinstance(decision, Decision)
    assert (decision.chosen, setup.routing.n_consulted) == ("large", 1)
    fresh = Budget(n_waiting=8, share=0.1, n_threads=1, clock=lambda: 0.0)
    credit = fresh._credit_s
    await Made(fresh).routing.decide_many([to_policy("hello", Policy("auto"))] * 5, IDLE)
    assert fresh._credit_s == credit
