"""Promises of the decision rule that once had no test; each fails when its promise is broken."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies import (
    Decision,
    Engine,
    Fleet,
    Objective,
    Panel,
    PanelRule,
    Policy,
    Require,
    RoutingHints,
    Scale,
    explain,
    tighten,
)
from routers import ExpertProfile, Prediction, Query

NAMES = ("a", "b", "c", "d")
QUERY = Query("Who wrote Faust?", 10)
MODELS = st.none() | st.frozensets(st.sampled_from(NAMES))


def predict(
    quality: Sequence[float],
    cost: Sequence[float] | None = None,
    latency: Sequence[float] | None = None,
    category: str | None = None,
) -> Prediction:
    n = len(quality)
    ones = [1.0] * n
    categories = None if category is None else (category,)
    rows = (quality, [0.1] * n, [20.0] * n, cost or ones, latency or ones)
    mean, std, tokens, usd, seconds = (np.array([row]) for row in rows)
    return Prediction(NAMES[:n], "static", mean, std, tokens, usd, seconds, np.ones(n, bool), categories)


def decide(
    prediction: Prediction,
    policy: Policy,
    *,
    pool: Sequence[ExpertProfile] | None = None,
    query: Query = QUERY,
    fleet: Fleet | None = None,
    hints: RoutingHints | None = None,
) -> Decision:
    n = len(prediction.experts)
    engine = Engine(pool or [ExpertProfile(name, "m", 0.01, 0.01) for name in prediction.experts], Scale())
    return engine.decide(policy, [query], prediction, fleet or Fleet.idle(n), [hints])[0]


@given(MODELS, MODELS)
def test_a_request_tightens_the_models_of_its_policy_and_never_loosens_them(
    policy: frozenset[str] | None, request: frozenset[str] | None
) -> None:
    allowed = tighten(Require(models=policy), Require(models=request)).models
    for name in NAMES:
        expected = all(models is None or name in models for models in (policy, request))
        assert (allowed is None or name in allowed) == expected


def test_a_request_cannot_name_a_model_that_its_policy_leaves_out() -> None:
    policy = Policy("p", require=Require(models=frozenset({"a", "b"})))
    hints = RoutingHints(Require(models=frozenset({"b", "c"})))
    decision = decide(predict([0.8, 0.1, 0.9]), policy, hints=hints)
    assert decision.plan.experts == ("b",)


@pytest.mark.parametrize("cost", [[9.0, 1.0, 1.0], [1.0, 9.0, 1.0], [1.0, 1.0, 9.0]])
def test_the_automatic_aggregator_is_the_best_expert_and_not_the_cheapest(cost: list[float]) -> None:
    # The weight on cost ranks the cheap ones first, so that order by utility and order by quality differ.
    policy = Policy("p", Objective(cost=1.0), panel=PanelRule(k=2))
    plan = decide(predict([0.6, 0.9, 0.7], cost), policy).plan
    assert isinstance(plan, Panel)
    assert plan.aggregator == "b"


def test_a_reason_gives_the_difference_with_its_sign() -> None:
    reasons = {row["expert"]: row["reason"] for row in explain(decide(predict([0.9, 0.7]), Policy("p")))}
    assert reasons["b"] == "utility 0.200 lower: quality -0.200, other goals +0.000"
    cheaper = decide(predict([0.9, 0.7], [2.0, 1.0]), Policy("p", Objective(cost=0.5)))
    reasons = {row["expert"]: row["reason"] for row in explain(cheaper)}
    assert reasons["a"] == "utility 0.300 lower: quality +0.200, other goals -0.500"


def test_a_reason_says_when_a_higher_utility_was_passed_over() -> None:
    decision = decide(predict([0.9, 0.7], category="maths"), Policy("p", mapping={"maths": ("b",)}))
    reasons = {row["expert"]: row["reason"] for row in explain(decision)}
    assert reasons["a"].startswith("utility 0.200 higher, but category maths")
    assert reasons["a"].endswith("quality +0.200, other goals +0.000")


def test_a_mapping_leaves_the_others_in_their_order_and_keeps_the_margin() -> None:
    prediction = predict([0.2, 0.9, 0.5, 0.6], category="maths")
    plain = decide(prediction, Policy("p"))
    mapped = decide(prediction, Policy("p", mapping={"maths": ("c",)}))
    assert [NAMES[e] for e in plain.order] == ["b", "d", "c", "a"]
    assert [NAMES[e] for e in mapped.order] == ["c", "b", "d", "a"]
    assert mapped.margin == plain.margin == pytest.approx(0.3)


def test_fastest_counts_the_queue_before_the_call() -> None:
    prediction = predict([0.9, 0.9], latency=[1.0, 2.0])
    policy = Policy("p", Objective(first=("fastest",)))
    queue = Fleet(np.ones(2, bool), np.array([5.0, 0.0]))
    assert decide(prediction, policy).chosen == "a"
    assert decide(prediction, policy, fleet=queue).chosen == "b"


RULES = [
    (Require(exclude=frozenset({"a"})), "excluded"),
    (Require(models=frozenset({"b"})), "not among the models"),
    (Require(labels=frozenset({("region", "eu")})), "lacks label region=eu"),
    (Require(), "context window"),
    (Require(), "cannot answer this"),
    (Require(), "images"),
    (Require(), "tools"),
    (Require(max_cost_usd=0.5), "cost"),
    (Require(max_latency_s=0.5), "latency"),
    (Require(min_quality=0.5), "quality"),
    (Require(), "down"),
]


@pytest.mark.parametrize("n", range(len(RULES)))
def test_the_first_rule_that_an_expert_fails_names_its_reason(n: int) -> None:
    """An expert that fails every rule from the n-th on is told the n-th."""
    words = [word for _, word in RULES[n:]]
    require = Require()
    for rule, _ in RULES[n:]:
        require = tighten(require, rule)
    query = Query(
        "x",
        10,
        max_output_tokens=1000 if "context window" in words else None,
        needs=frozenset({"vision"} if "images" in words else ()),
        has_tools="tools" in words,
    )
    if "cannot answer this" in words:
        query = replace(query, declined={"a": "cannot answer this"})
    able = ExpertProfile("b", "m", labels=frozenset({("region", "eu")}))
    failing = ExpertProfile("a", "m", context_tokens=100, abilities=frozenset())
    fleet = Fleet(np.array([False, True]), np.zeros(2), {"a": "down"})
    prediction = predict([0.1, 0.9], [1.0, 0.1], [1.0, 0.1])
    decision = decide(
        prediction, Policy("p"), pool=[failing, able], query=query, fleet=fleet, hints=RoutingHints(require)
    )
    assert decision.chosen == "b"
    assert words[0] in decision.rejections["a"]
