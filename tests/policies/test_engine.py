from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies import (
    Consult,
    Decision,
    Engine,
    Fleet,
    Infeasible,
    Objective,
    Policy,
    Require,
    RoutingHints,
    Scale,
    UnknownFlag,
    decision_record,
    explain,
)
from routers import ExpertProfile, Floats, Prediction, Query, Tier

NAMES = ("large", "medium", "small")
POOL = tuple(ExpertProfile(name, name) for name in NAMES)
QUERY = Query("What is the boiling point of water?", n_input_tokens=9)


def predict(
    quality: Sequence[float],
    cost: Sequence[float] = (3.0, 2.0, 1.0),
    latency: Sequence[float] = (3.0, 2.0, 1.0),
    names: Sequence[str] = NAMES,
    tier: Tier = "static",
    evidence: bool = True,
) -> Prediction:
    n = len(names)
    rows = (quality, [0.1] * n, [20.0] * n, cost, latency)
    mean, std, tokens, usd, seconds = (np.array([row], float) for row in rows)
    return Prediction(tuple(names), tier, mean, std, tokens, usd, seconds, np.full(n, evidence))


def decide(prediction: Prediction, policy: Policy | None = None, **given: Any) -> Decision:
    engine = Engine([ExpertProfile(name, name) for name in prediction.experts], Scale(3.0, 3.0))
    fleet = given.pop("fleet", Fleet.idle(len(prediction.experts)))
    query = given.pop("query", QUERY)
    return engine.decide(policy or Policy("auto"), [query], prediction, fleet, **given)[0]


def test_without_weights_the_best_predicted_expert_is_chosen() -> None:
    assert decide(predict([0.5, 0.9, 0.7])).chosen == "medium"


def test_a_cost_weight_trades_quality_for_money() -> None:
    prediction = predict([0.90, 0.89, 0.20])
    assert decide(prediction).chosen == "large"
    assert decide(prediction, Policy("p", Objective(cost=0.1))).chosen == "medium"


def test_a_latency_weight_counts_the_wait_before_the_call() -> None:
    prediction = predict([0.9, 0.9, 0.9], cost=[1, 1, 1], latency=[1, 1, 1])
    fleet = Fleet(np.ones(3, bool), np.array([9.0, 0.0, 9.0]))
    assert decide(prediction, Policy("p", Objective(latency=0.5)), fleet=fleet).chosen == "medium"


def test_fallbacks_follow_in_order_of_utility() -> None:
    plan = decide(predict([0.5, 0.9, 0.7]), Policy("auto", n_fallbacks=1)).plan
    assert plan.experts == ("medium", "small")


def test_equal_utility_goes_to_the_cheaper_then_by_name() -> None:
    assert decide(predict([0.5, 0.5, 0.5])).chosen == "small"
    assert decide(predict([0.5, 0.5, 0.5], cost=[1, 1, 1])).chosen == "large"


def test_an_unknown_price_counts_as_the_dearest() -> None:
    prediction = predict([0.8, 0.8, 0.1], cost=[np.nan, 2.0, 1.0])
    decision = decide(prediction, Policy("p", Objective(cost=0.3)))
    assert decision.chosen == "medium"


def test_an_unknown_price_fails_every_cap() -> None:
    policy = Policy("p", require=Require(max_cost_usd=100.0))
    decision = decide(predict([0.9, 0.8, 0.1], cost=[np.nan, 2.0, 1.0]), policy)
    assert decision.chosen == "medium"
    assert "price unknown" in decision.rejections["large"]


def test_unhealthy_experts_are_never_planned() -> None:
    fleet = Fleet(np.array([False, True, True]), np.zeros(3), {"large": "cooling down for 4 s"})
    decision = decide(predict([0.9, 0.5, 0.4]), fleet=fleet)
    assert "large" not in decision.plan.experts
    assert decision.rejections["large"] == "cooling down for 4 s"


def test_nobody_left_is_infeasible_and_says_whether_time_helps() -> None:
    fleet = Fleet(np.zeros(3, bool), np.zeros(3), dict.fromkeys(NAMES, "cooling down"))
    with pytest.raises(Infeasible) as caught:
        decide(predict([0.9, 0.5, 0.4]), fleet=fleet)
    assert caught.value.temporary
    with pytest.raises(Infeasible) as caught:
        decide(predict([0.9, 0.5, 0.4]), Policy("p", require=Require(min_quality=0.99)))
    assert not caught.value.temporary
    assert set(caught.value.rejections) == set(NAMES)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        (Query("x", 900, max_output_tokens=200), "context window"),
        (Query("x", 9, needs=frozenset({"vision"})), "images"),
        (Query("x", 9, has_tools=True), "tools"),
    ],
)
def test_what_an_expert_cannot_carry_rules_it_out(query: Query, word: str) -> None:
    small = ExpertProfile("small", "small", context_tokens=1000, abilities=frozenset())
    engine = Engine([ExpertProfile("large", "large"), small])
    prediction = predict([0.1, 0.9], [1, 1], [1, 1], names=("large", "small"))
    decision = engine.decide(Policy("auto"), [query], prediction, Fleet.idle(2))[0]
    assert decision.chosen == "large"
    assert word in decision.rejections["small"]


HEARS = ExpertProfile("hears", "m", abilities=frozenset({"audio", "vision"}))
SEES = ExpertProfile("sees", "m", abilities=frozenset({"vision"}))
UNKNOWN = ExpertProfile("unknown", "m")
POINTS = ExpertProfile("points", "m", content_parts=frozenset({"pointcloud"}))
READERS = (UNKNOWN, SEES, HEARS, POINTS)


@pytest.mark.parametrize(
    ("needs", "require", "chosen", "rejections"),
    [
        (
            {"audio"},
            Require(),
            "hears",
            {
                "unknown": "is not known to hear audio, as hears is",
                "points": "is not known to hear audio, as hears is",
                "sees": "cannot hear audio",
            },
        ),
        ({"audio", "vision"}, Require(models=frozenset({"unknown", "hears"})), "hears", None),
        # Where none is left that is known to hear, one that may is asked.
        ({"audio"}, Require(exclude=frozenset({"hears"})), "unknown", {"sees": "cannot hear audio"}),
        ({"files"}, Require(), "unknown", {"sees": "cannot read files", "hears": "cannot read files"}),
        # What it lists counts as known, though its abilities are not.
        ({"pointcloud"}, Require(), "points", None),
    ],
)
def test_an_expert_of_unknown_abilities_is_asked_where_none_is_known_to_have_them(
    needs: set[str], require: Require, chosen: str, rejections: dict[str, str] | None
) -> None:
    names = tuple(profile.name for profile in READERS)
    prediction = predict([0.9, 0.8, 0.3, 0.2], [1] * 4, [1] * 4, names=names)
    query = Query("x", 9, needs=frozenset(needs))
    (decision,) = Engine(READERS).decide(Policy("p", require=require), [query], prediction, Fleet.idle(4))
    assert decision.chosen == chosen
    assert chosen not in decision.rejections
    assert rejections is None or rejections.items() <= decision.rejections.items()


def test_a_fallback_is_known_to_read_the_request_too() -> None:
    prediction = predict([0.9, 0.8, 0.3, 0.2], [1] * 4, [1] * 4, names=tuple(p.name for p in READERS))
    query = Query("x", 9, needs=frozenset({"vision"}))
    (decision,) = Engine(READERS).decide(Policy("p", n_fallbacks=3), [query], prediction, Fleet.idle(4))
    assert decision.plan.experts == ("sees", "hears")


@pytest.mark.parametrize(
    ("profile", "asked", "fits"),
    [
        ({}, 100, True),
        ({"prefix_tokens": 1}, 100, False),
        ({"prefix_tokens": 1, "max_output_tokens": 99}, 100, True),
        ({"prefix_tokens": 1, "max_output_tokens": 100}, 100, False),
        ({"max_output_tokens": 50}, 5000, True),
        ({"prefix_tokens": 101}, None, False),
    ],
)
def test_a_window_holds_the_conversation_and_the_longest_answer(
    profile: dict[str, Any], asked: Any, fits: Any
) -> None:
    small = ExpertProfile("small", "small", context_tokens=1000, **profile)
    engine = Engine([ExpertProfile("large", "large"), small])
    prediction = predict([0.1, 0.9], [1, 1], [1, 1], names=("large", "small"))
    query = Query("x", 900, max_output_tokens=asked)
    decision = engine.decide(Policy("auto"), [query], prediction, Fleet.idle(2))[0]
    assert decision.chosen == ("small" if fits else "large")
    if not fits:
        assert decision.rejections == {"small": "context window 1000 < 1001 tokens"}


def test_a_tool_that_has_no_answer_is_left_out() -> None:
    decision = decide(predict([0.9, 0.5, 0.4]), query=Query("x", 1, declined={"large": "cannot answer this"}))
    assert decision.chosen == "medium"
    assert "cannot answer" in decision.rejections["large"]


def test_labels_are_required_of_every_planned_expert() -> None:
    pool = [ExpertProfile("a", "a"), ExpertProfile("b", "b", labels=frozenset({("region", "eu")}))]
    policy = Policy("p", require=Require(labels=frozenset({("region", "eu")})))
    prediction = predict([0.9, 0.1], [1, 1], [1, 1], names=("a", "b"))
    decision = Engine(pool).decide(policy, [QUERY], prediction, Fleet.idle(2))[0]
    assert decision.plan.experts == ("b",)
    assert decision.rejections == {"a": "lacks label region=eu"}


def test_a_hint_tightens_and_never_loosens() -> None:
    policy = Policy("p", require=Require(exclude=frozenset({"large"}), max_cost_usd=2.5))
    hint = RoutingHints(Require(max_cost_usd=9.0, models=frozenset({"large", "medium"})))
    decision = decide(predict([0.9, 0.5, 0.4]), policy, hints=[hint])
    assert decision.plan.experts == ("medium",)


def test_without_evidence_the_default_expert_answers_and_says_so() -> None:
    prediction = predict([0.5, 0.5, 0.5], tier="prior", evidence=False)
    decision = decide(prediction, Policy("auto", default="medium"))
    assert decision.chosen == "medium"
    assert "no evidence" in decision.reason
    assert decide(prediction).chosen == "large"


def test_without_evidence_operator_guesses_are_weighed() -> None:
    pool = [ExpertProfile("a", "a", quality=0.2), ExpertProfile("b", "b", quality=0.8)]
    prediction = predict([0.2, 0.8], [1, 1], [1, 1], names=("a", "b"), tier="prior", evidence=False)
    assert Engine(pool).decide(Policy("p"), [QUERY], prediction, Fleet.idle(2))[0].chosen == "b"


def test_every_candidate_is_explained() -> None:
    fleet = Fleet(np.array([True, False, True]), np.zeros(3), {"medium": "down"})
    candidates = explain(decide(predict([0.9, 0.5, 0.4]), fleet=fleet))
    assert [(c["expert"], c["eligible"]) for c in candidates] == [
        ("large", True),
        ("small", True),
        ("medium", False),
    ]
    assert all(c["reason"] for c in candidates)


def drive(
    policy: Policy,
    answers: Mapping[str, Prediction | None],
    n: int = 1,
    margin: float = 0.1,
    draws: Floats | None = None,
) -> tuple[list[Decision], list[tuple[str, list[int]]]]:
    engine = Engine(POOL, Scale(3.0, 3.0))
    steps = engine.route(policy, [QUERY] * n, Fleet.idle(3), margin=margin, draws=draws)
    consulted: list[tuple[str, list[int]]] = []
    consult: Consult = next(steps)
    try:
        while True:
            consulted.append((consult.tier, consult.rows.tolist()))
            consult = steps.send(answers[consult.tier])
    except StopIteration as end:
        return end.value, consulted


def test_adaptive_looks_twice_only_where_the_margin_is_small() -> None:
    close, clear = predict([0.50, 0.52, 0.1]), predict([0.9, 0.1, 0.1])
    (decision,), consulted = drive(
        Policy("auto"), {"static": close, "encoder": predict([0.9, 0.1, 0.1], tier="encoder")}
    )
    assert [tier for tier, _ in consulted] == ["static", "encoder"]
    assert (decision.chosen, decision.tier) == ("large", "encoder")
    (decision,), consulted = drive(Policy("auto"), {"static": clear})
    assert (decision.tier, len(consulted)) == ("static", 1)


@pytest.mark.parametrize(("static", "n_looks"), [([0.9, 0.1, 0.2], 1), ([0.50, 0.52, 0.1], 2)])
def test_adaptive_exploration_is_as_probable_as_it_says_and_consults_no_more(
    static: Any, n_looks: int
) -> None:
    policy, n_draws = Policy("p", explore=0.3), 1000
    answers = {"static": predict(static), "encoder": predict([0.1, 0.2, 0.9], tier="encoder")}
    by_expert: dict[str, list[float]] = {name: [] for name in NAMES}
    for draw in (np.arange(n_draws) + 0.5) / n_draws:
        (decision,), consulted = drive(policy, answers, draws=np.array([draw]))
        assert len(consulted) == n_looks
        by_expert[decision.chosen].append(decision.propensity)
    for propensities in by_expert.values():
        assert propensities == pytest.approx([len(propensities) / n_draws] * len(propensities))
    best = "large" if n_looks == 1 else "small"
    assert {name: len(by_expert[name]) for name in NAMES} == {
        name: 800 if name == best else 100 for name in NAMES
    }


def test_a_declined_second_look_leaves_the_first_decision() -> None:
    (decision,), consulted = drive(Policy("auto"), {"static": predict([0.50, 0.52, 0.1]), "encoder": None})
    assert (decision.chosen, decision.tier, len(consulted)) == ("medium", "static", 2)


@pytest.mark.parametrize(("use", "tier"), [("always", "encoder"), ("never", "static")])
def test_always_and_never_look_once(use: Any, tier: Tier) -> None:
    decisions, consulted = drive(Policy("p", encoder=use), {tier: predict([0.5, 0.5, 0.5], tier=tier)})
    assert consulted == [(tier, [0])]
    assert [decision.tier for decision in decisions] == [tier]


unit = st.floats(0, 1, allow_nan=False)
three = st.tuples(unit, unit, unit)


@given(quality=three, cost=three, weight=unit, expert=st.integers(0, 2), more=unit)
def test_a_dearer_expert_never_ranks_higher_for_being_dearer(
    quality: Any, cost: Any, weight: float, expert: Any, more: Any
) -> None:
    policy = Policy("p", Objective(cost=weight))
    before = decide(predict(quality, cost), policy).order.tolist().index(expert)
    dearer = [c + more * (e == expert) for e, c in enumerate(cost)]
    assert decide(predict(quality, dearer), policy).order.tolist().index(expert) >= before


@given(quality=three, cost=three, weight=unit, cap=unit, tighter=unit)
def test_a_tighter_cap_never_spends_more(
    quality: Any, cost: Any, weight: float, cap: float, tighter: float
) -> None:
    def spend(limit: float) -> float | None:
        try:
            decision = decide(predict(quality, cost), Policy("p", require=Require(max_cost_usd=limit)))
        except Infeasible:
            return None
        return float(cost[NAMES.index(decision.chosen)])

    loose, tight = spend(cap), spend(min(cap, tighter))
    assert tight is None or (loose is not None and tight <= min(cap, tighter))


@given(quality=three, cost=three, weight=unit, out=st.sampled_from(NAMES))
def test_leaving_an_expert_out_never_reorders_the_others(
    quality: Any, cost: Any, weight: float, out: str
) -> None:
    policy = Policy("p", Objective(cost=weight), n_fallbacks=2)
    all_three = [name for name in decide(predict(quality, cost), policy).plan.experts if name != out]
    without = decide(predict(quality, cost), policy, hints=[RoutingHints(Require(exclude=frozenset({out})))])
    assert list(without.plan.experts) == all_three


@given(rows=st.lists(three, min_size=1, max_size=5))
def test_a_batch_equals_its_singles(rows: Any) -> None:
    engine, n = Engine(POOL), len(rows)
    one = predict([0, 0, 0])
    columns = (one.quality_std, one.output_tokens, one.cost_usd, one.latency_s)
    std, tokens, usd, seconds = (np.repeat(column, n, 0) for column in columns)
    batch = Prediction(NAMES, "static", np.array(rows), std, tokens, usd, seconds, one.evidence)
    together = engine.decide(Policy("p"), [QUERY] * n, batch, Fleet.idle(3))
    assert [d.plan for d in together] == [decide(predict(row)).plan for row in rows]


@given(share=st.floats(0.01, 1), draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_by_expert_all_ranks_sum_to_one(share: float, draws: list[float]) -> None:
    policy = Policy("p", explore=share)
    prediction = predict([0.9, 0.5, 0.4])
    seen = {
        d.chosen: d.propensity
        for draw in [*draws, 0.0, share * 0.5, share * 0.99, share]
        for d in [decide(prediction, policy, draws=np.array([draw]))]
    }
    others = share / 3
    for name, propensity in seen.items():
        assert propensity == pytest.approx(1 - share + others if name == "large" else others)


def test_exploration_reaches_every_eligible_expert_and_nobody_else() -> None:
    policy = Policy("p", explore=1.0, require=Require(exclude=frozenset({"small"})))
    chosen = {
        decide(predict([0.9, 0.5, 0.4]), policy, draws=np.array([u])).chosen
        for u in np.linspace(0, 0.999, 20)
    }
    assert chosen == {"large", "medium"}


def test_a_prediction_for_another_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="pool"):
        Engine(POOL).decide(
            Policy("p"), [QUERY], predict([1, 0], [1, 1], [1, 1], names=("x", "y")), Fleet.idle(2)
        )


def test_a_scale_ignores_what_is_unknown_and_never_divides_by_nothing() -> None:
    nan = float("nan")
    assert Scale.of(np.array([nan, 2.0, 1.0]), np.array([0.0, 0.0])) == Scale(2.0, 1.0)
    assert Scale.of(np.array([nan, nan]), np.array([nan, 3.0])) == Scale(1.0, 3.0)


def test_without_draws_a_policy_that_explores_takes_the_best() -> None:
    decision = decide(predict([0.5, 0.9, 0.7]), Policy("p", explore=0.5))
    assert (decision.chosen, decision.propensity) == ("medium", 1.0)


def test_the_largest_draw_that_explores_takes_the_last_expert() -> None:
    draws = np.array([np.nextafter(0.3, 0.0)])
    decision = decide(predict([0.5, 0.9, 0.7]), Policy("p", explore=0.3), draws=draws)
    assert decision.chosen == "large"
    assert decision.propensity == pytest.approx(0.1)


def test_an_unknown_flag_says_which_and_why() -> None:
    error = UnknownFlag("fastr", "fastr is not a flag")
    assert (error.name, str(error)) == ("fastr", "fastr is not a flag")


def test_equal_utility_is_explained_as_no_higher() -> None:
    reasons = [candidate["reason"] for candidate in explain(decide(predict([0.5, 0.5, 0.5])))]
    assert [reason.split(":")[0] for reason in reasons[1:]] == ["utility 0.000 lower"] * 2


def test_of_several_missing_labels_the_first_by_name_is_the_reason() -> None:
    require = Require(labels=frozenset({("region", "eu"), ("local", "true")}))
    with pytest.raises(Infeasible) as refused:
        decide(predict([0.5, 0.9, 0.7]), Policy("p", require=require))
    assert set(refused.value.rejections.values()) == {"lacks label local=true"}


def start(policy: Policy, tiers: Sequence[Tier]) -> Consult:
    return next(Engine(POOL).route(policy, [QUERY], Fleet.idle(3), tiers=tiers))


@pytest.mark.parametrize(
    ("use", "tiers", "tier"),
    [
        ("always", ("static", "encoder"), "encoder"),
        ("always", ("static",), "static"),
        ("adaptive", ("static", "encoder"), "static"),
        ("adaptive", ("encoder",), "encoder"),
        ("never", ("encoder",), "prior"),
        ("adaptive", (), "prior"),
    ],
)
def test_the_first_tier_is_the_cheapest_that_the_policy_and_the_driver_have(
    use: Any, tiers: Sequence[Tier], tier: Tier
) -> None:
    assert start(Policy("p", encoder=use), tiers).tier == tier


def test_the_first_prediction_cannot_be_declined() -> None:
    steps = Engine(POOL).route(Policy("p"), [QUERY], Fleet.idle(3))
    next(steps)
    with pytest.raises(ValueError, match="only the second prediction can be declined"):
        steps.send(None)


def route_rows(
    policy: Policy, rows: Sequence[Sequence[float]], closer: Sequence[float], margin: float, **given: Any
) -> tuple[list[Decision], list[int]]:
    """The decisions for the rows, and which rows were predicted a second time, each as `closer`."""

    def to_prediction(rows: Sequence[Sequence[float]], tier: Tier) -> Prediction:
        one, ones = predict([0.0] * 3, tier=tier), np.ones((len(rows), 3))
        return replace(
            one,
            quality=np.array(rows, float).reshape(len(rows), 3),
            quality_std=ones,
            output_tokens=ones,
            cost_usd=ones,
            latency_s=ones,
        )

    steps = Engine(POOL).route(policy, [QUERY] * len(rows), Fleet.idle(3), margin=margin, **given)
    next(steps)
    asked: list[int] = []
    try:
        asked = steps.send(to_prediction(rows, "static")).rows.tolist()
        steps.send(to_prediction([closer] * len(asked), "encoder"))
    except StopIteration as done:
        return done.value, asked
    raise AssertionError("a third prediction was asked for")


def test_only_unsure_queries_are_predicted_again() -> None:
    rows = [[0.9, 0.1, 0.1], [0.5, 0.6, 0.1], [0.1, 0.9, 0.1]]
    decisions, asked = route_rows(Policy("p"), rows, [0.1, 0.1, 0.9], margin=0.2)
    assert asked == [1]
    assert [(d.chosen, d.tier) for d in decisions] == [
        ("large", "static"),
        ("small", "encoder"),
        ("medium", "static"),
    ]


@pytest.mark.parametrize(("margin", "asked"), [(0.25, []), (0.26, [0])])
def test_a_lead_as_large_as_the_margin_is_sure_enough(margin: float, asked: list[int]) -> None:
    assert route_rows(Policy("p"), [[0.75, 0.5, 0.0]], [0.1, 0.1, 0.9], margin)[1] == asked


def test_without_a_margin_no_query_is_predicted_again() -> None:
    steps = Engine(POOL).route(Policy("p"), [QUERY], Fleet.idle(3))
    next(steps)
    with pytest.raises(StopIteration):
        steps.send(predict([0.5, 0.5, 0.5]))


def test_a_second_prediction_is_decided_with_the_hints_and_draws_of_its_query() -> None:
    hints = [None, RoutingHints(Require(exclude=frozenset({"small"})))]
    rows = [[0.9, 0.1, 0.1], [0.5, 0.6, 0.1]]
    decisions, asked = route_rows(
        Policy("p", explore=0.5), rows, [0.1, 0.2, 0.9], 0.2, hints=hints, draws=np.array([0.0, 0.9])
    )
    assert asked == [1]
    assert decisions[1].chosen == "medium"
    assert decisions[1].propensity == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("require", "rejections"),
    [
        (Require(max_cost_usd=2.0), {"large": "cost $3.000000 > cap $2.000000"}),
        (Require(max_latency_s=2.0), {"large": "latency 3.00 s > limit 2.00 s"}),
        (
            Require(min_quality=0.5),
            {"small": "quality 0.25 < floor 0.50"},
        ),
        (Require(exclude=frozenset({"small"})), {"small": "excluded"}),
        (Require(models=frozenset({"large", "medium"})), {"small": "not among the models asked for"}),
    ],
)
def test_an_expert_at_the_bound_passes_and_one_past_it_hears_why_not(
    require: Require, rejections: dict[str, str]
) -> None:
    decision = decide(predict([0.75, 0.5, 0.25]), Policy("p", require=require))
    assert decision.rejections == rejections


def test_an_unknown_price_is_said_with_the_cap() -> None:
    policy = Policy("p", require=Require(max_cost_usd=2.5))
    decision = decide(predict([0.9, 0.8, 0.1], cost=[np.nan, 2.0, 1.0]), policy)
    assert decision.rejections == {"large": "price unknown, cap $2.500000"}


def test_an_unknown_latency_passes_a_limit() -> None:
    policy = Policy("p", require=Require(max_latency_s=2.5))
    decision = decide(predict([0.9, 0.8, 0.1], latency=[np.nan, 2.0, 1.0]), policy)
    assert (decision.chosen, decision.rejections) == ("large", {})


def test_a_limit_on_latency_counts_the_wait_before_the_call() -> None:
    fleet = Fleet(np.ones(3, bool), np.array([0.0, 0.5, 1.5]))
    policy = Policy("p", require=Require(max_latency_s=2.5))
    decision = decide(predict([0.9, 0.8, 0.1], latency=[1.0, 2.0, 1.5]), policy, fleet=fleet)
    assert decision.rejections == {"small": "latency 3.00 s > limit 2.50 s"}


def test_an_unavailable_expert_of_which_nothing_is_said_is_unavailable() -> None:
    fleet = Fleet(np.array([True, False, True]), np.zeros(3))
    assert decide(predict([0.9, 0.8, 0.1]), fleet=fleet).rejections == {"medium": "unavailable"}


def test_time_helps_where_one_of_the_rejected_is_only_unavailable() -> None:
    fleet = Fleet(np.array([True, False, True]), np.zeros(3), {"medium": "cooling down"})
    require = Require(exclude=frozenset({"large", "small"}))
    with pytest.raises(Infeasible) as refused:
        decide(predict([0.9, 0.8, 0.1]), Policy("p", require=require), fleet=fleet)
    assert refused.value.temporary
    assert str(refused.value) == (
        "no expert meets the constraints (medium: cooling down; large: excluded; small: excluded)"
    )


@pytest.mark.parametrize(("n_fallbacks", "n_experts"), [(0, 1), (1, 2), (2, 3), (9, 3)])
def test_a_plan_has_the_first_expert_and_its_fallbacks(n_fallbacks: int, n_experts: int) -> None:
    plan = decide(predict([0.9, 0.8, 0.1]), Policy("p", n_fallbacks=n_fallbacks)).plan
    assert plan.experts == NAMES[:n_experts]


def test_the_reason_of_the_best_names_the_number_of_experts_and_the_basis() -> None:
    decision = decide(predict([0.9, 0.8, 0.1], tier="encoder"))
    assert decision.reason == "best of 3 by encoder: quality 0.90"
    assert decision.margin == pytest.approx(0.1)


def test_a_single_eligible_expert_leads_without_bound() -> None:
    decision = decide(predict([0.9, 0.8, 0.1]), Policy("p", require=Require(models=frozenset({"small"}))))
    assert (decision.reason, decision.margin) == ("best of 1 by static: quality 0.10", float("inf"))


def test_of_two_experts_the_margin_is_the_distance() -> None:
    decision = decide(predict([0.75, 0.5], [1, 1], [1, 1], names=("a", "b")))
    assert decision.margin == 0.25


GUESSED = [ExpertProfile("a", "a", quality=0.2), ExpertProfile("b", "b", quality=0.8)]


def decide_unmeasured(
    pool: Sequence[ExpertProfile], policy: Policy, evidence: Sequence[bool] = (False, False)
) -> Decision:
    prior = predict([0.2, 0.8], [1, 1], [1, 1], names=("a", "b"), tier="prior")
    return Engine(pool).decide(policy, [QUERY], replace(prior, evidence=np.array(evidence)), Fleet.idle(2))[0]


def test_an_operators_guess_is_said_to_be_one() -> None:
    assert decide_unmeasured(GUESSED, Policy("p")).reason == "best of 2 by guess: quality 0.80"


def test_the_policys_default_goes_before_guesses() -> None:
    decision = decide_unmeasured(GUESSED, Policy("p", default="a"))
    assert (decision.chosen, decision.reason) == ("a", "no evidence: the policy's default expert")
    assert decision.plan.experts == ("a", "b")


def test_a_default_that_is_not_eligible_leaves_the_first_that_is() -> None:
    policy = Policy("p", default="a", require=Require(exclude=frozenset({"a"})))
    decision = decide_unmeasured(GUESSED, policy)
    assert decision.chosen == "b"
    assert decision.reason == "no evidence: the first expert that meets the constraints"


def test_evidence_for_one_expert_is_a_basis_for_all() -> None:
    pool = [ExpertProfile("a", "a"), ExpertProfile("b", "b")]
    assert decide_unmeasured(pool, Policy("p"), (True, False)).reason == "best of 2 by guess: quality 0.80"
    assert decide_unmeasured(pool, Policy("p"), (False, True)).reason == "best of 2 by prior: quality 0.80"


def test_a_weight_of_the_request_replaces_that_of_the_policy() -> None:
    prediction = predict([0.9, 0.8, 0.7])
    hint = RoutingHints(objective=Objective(cost=0.0))
    policy = Policy("p", Objective(cost=1.0))
    assert decide(prediction, policy).chosen == "small"
    assert decide(prediction, policy, hints=[hint]).chosen == "large"
    assert decide(prediction, policy, hints=[RoutingHints()]).chosen == "small"


@pytest.mark.parametrize(
    ("draw", "order", "reason"),
    [
        (0.0, ["large", "medium", "small"], "best of 3 by static: quality 0.90"),
        (0.15, ["medium", "large", "small"], "explored with probability 0.100"),
        (0.25, ["small", "large", "medium"], "explored with probability 0.100"),
        (0.3, ["large", "medium", "small"], "best of 3 by static: quality 0.90"),
    ],
)
def test_a_draw_below_the_share_explores_and_leaves_the_best_next_in_line(
    draw: float, order: list[str], reason: str
) -> None:
    decision = decide(predict([0.9, 0.5, 0.4]), Policy("p", explore=0.3), draws=np.array([draw]))
    assert [NAMES[e] for e in decision.order] == order
    assert decision.reason == reason
    assert decision.margin == pytest.approx(0.4)
    assert decision.propensity == pytest.approx(0.8 if order[0] == "large" else 0.1)


def test_a_draw_rounded_up_to_one_expert_too_many_takes_the_last() -> None:
    share = 0.05  # 0.05 / (0.05 / 3) is 3 for the largest number below 0.05
    decision = decide(
        predict([0.9, 0.5, 0.4]), Policy("p", explore=share), draws=np.array([np.nextafter(share, 0.0)])
    )
    assert decision.chosen == "small"


def test_a_record_holds_the_whole_decision_and_none_for_what_is_not_known() -> None:
    prediction = predict([0.9, 0.12345678], [np.nan, 2.0], [1.0, np.nan], names=("a", "b"))
    decision = decide(prediction, Policy("p", require=Require(min_quality=0.5)))
    common = {"quality_std": 0.1, "output_tokens": 20.0, "tier": "static", "evidence": True}
    assert decision_record(decision) == {
        "policy": "p",
        "expert": "a",
        "plan": {"kind": "single", "experts": ["a"]},
        "head": None,
        "tier": "static",
        "reason": "best of 1 by static: quality 0.90",
        "margin": None,
        "propensity": 1.0,
        "candidates": [
            {
                **common,
                "expert": "a",
                "role": None,
                "quality": 0.9,
                "cost_usd": None,
                "latency_s": 1.0,
                "utility": 0.9,
                "eligible": True,
                "reason": "chosen: best of 1 by static: quality 0.90",
            },
            {
                **common,
                "expert": "b",
                "role": None,
                "quality": 0.123457,
                "cost_usd": 2.0,
                "latency_s": None,
                "utility": 0.123457,
                "eligible": False,
                "reason": "quality 0.12 < floor 0.50",
            },
        ],
    }
