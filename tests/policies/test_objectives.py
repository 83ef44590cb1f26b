"""Weighted goals by rank, and goals that come before all weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies import (
    Decision,
    Engine,
    Fleet,
    Goal,
    Objective,
    Policy,
    Require,
    RoutingHints,
    Scale,
    Unreachable,
    decision_record,
    resolve_target,
)
from policies.objectives import ranks
from routers import ExpertProfile, Prediction, Query, Sweep

NAMES = ("a", "b", "c", "d")
QUERY = Query("x", 9)


def pool(sizes: Sequence[float | None] = (70, 8, 1, None), **more: Sequence[Any]) -> list[ExpertProfile]:
    rows = [dict(zip(more, values, strict=True)) for values in zip(*more.values(), strict=True)] or [{}] * 4
    return [
        ExpertProfile(name, name, parameters_b=size, **row)
        for name, size, row in zip(NAMES, sizes, rows, strict=True)
    ]


def predict(
    quality: Sequence[float],
    cost: Sequence[float] = (1, 1, 1, 1),
    latency: Sequence[float] = (1, 1, 1, 1),
    length: Sequence[float] = (1, 1, 1, 1),
    evidence: bool = True,
    deviation: float = 0.1,
) -> Prediction:
    rows = (quality, [deviation] * 4, length, cost, latency)
    mean, std, tokens, usd, seconds = (np.array([row], float) for row in rows)
    return Prediction(NAMES, "static", mean, std, tokens, usd, seconds, np.full(4, evidence))


def decide(
    profiles: list[ExpertProfile],
    prediction: Prediction,
    objective: Objective,
    hint: RoutingHints | None = None,
) -> Decision:
    policy = Policy("p", objective, n_fallbacks=3)
    return Engine(profiles, Scale()).decide(policy, [QUERY], prediction, Fleet.idle(4), [hint])[0]


def goals(**weights: float) -> Objective:
    return Objective(goals=tuple(weights.items()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("burden", "expected"),
    [
        ([70, 8, 1, np.nan], [2 / 3, 1 / 3, 0, 1]),
        ([5, 5, 1], [0.75, 0.75, 0]),
        ([np.nan, np.nan], [0.5, 0.5]),
        ([3], [0]),
        ([], []),
    ],
)
def test_ranks_run_from_best_to_worst_and_equals_share(burden: list[float], expected: list[float]) -> None:
    assert ranks(np.array(burden, float)).tolist() == pytest.approx(expected)


def test_a_weight_on_size_prefers_the_smaller_and_an_unknown_size_counts_as_the_largest() -> None:
    decision = decide(pool(), predict([0.6, 0.6, 0.6, 0.6]), goals(size=0.3))
    assert decision.plan.experts == ("c", "b", "a", "d")
    assert decision.utility.tolist() == pytest.approx([0.4, 0.5, 0.6, 0.3])


def test_a_weight_is_what_the_whole_way_from_worst_to_best_is_worth() -> None:
    quality = [0.70, 0.60, 0.45, 0.1]
    assert decide(pool((4, 3, 2, 1)), predict(quality), goals(size=0.29)).chosen == "a"
    assert decide(pool((4, 3, 2, 1)), predict(quality), goals(size=0.31)).chosen == "b"


def test_ranks_are_taken_over_those_who_are_eligible() -> None:
    hint = RoutingHints(Require(exclude=frozenset({"c", "d"})))
    decision = decide(pool(), predict([0.6, 0.5, 0.9, 0.9]), goals(size=0.2), hint)
    assert decision.utility[:2].tolist() == pytest.approx([0.4, 0.5])
    assert decision.chosen == "b"


@pytest.mark.parametrize(
    ("objective", "chosen"),
    [
        (goals(recency=0.1), "b"),
        (goals(security=0.1), "c"),
        (goals(readability=0.1), "d"),
        (goals(brevity=0.1), "d"),
        (goals(detail=0.1), "a"),
        (Objective(first=("latest",)), "b"),
        (Objective(first=("cheapest",)), "c"),
        (Objective(first=("fastest",)), "d"),
        (Objective(first=("smallest",)), "c"),
    ],
)
def test_each_goal_looks_at_its_own_attribute(objective: Objective, chosen: str) -> None:
    ratings = [(("security", n), ("readability", 3 - n)) for n in (1, 2, 3, 0)]
    profiles = pool(
        released=("2024-07-18", "2025-08-07", None, "2023-01-01"), ratings=[frozenset(r) for r in ratings]
    )
    prediction = predict([0.6] * 4, cost=(4, 3, 1, 2), latency=(4, 3, 2, 1), length=(90, 20, 30, 10))
    assert decide(profiles, prediction, objective).chosen == chosen


def test_the_smallest_is_taken_among_the_nearly_best_only() -> None:
    prediction = predict([0.70, 0.69, 0.60, 0.71])
    assert decide(pool(), prediction, Objective(first=("smallest",))).plan.experts == ("b", "a", "d", "c")
    assert decide(pool(), prediction, Objective(first=("smallest",), within=0.2)).chosen == "c"
    assert decide(pool(), prediction, Objective(first=("smallest",), within=0.0)).chosen == "d"


def test_a_reason_says_what_came_first() -> None:
    decision = decide(pool(), predict([0.70, 0.69, 0.60, 0.71]), Objective(first=("smallest", "cheapest")))
    assert decision.reason == (
        "the smallest, then the cheapest within 0.02 of the best quality of 4: quality 0.69"
    )
    assert "higher, but the smallest" in decision_record(decision)["candidates"][2]["reason"]


def guess(*quality: float | None) -> list[ExpertProfile]:
    """A pool of which nothing is measured."""
    return pool(quality=quality)


@pytest.mark.parametrize(
    ("guesses", "cost", "chosen"),
    [
        ((0.95, 0.9, 0.9, 0.95), (5, 1, 2, 4), "b"),  # what `init` assumes of a provider's two models
        ((0.95, 0.7, 0.3, None), (5, 1, 0, 4), "b"),  # a guess far below the best is heeded
        ((0.95, 0.7, None, None), (5, 1, 0, 4), "c"),  # of c nothing is said, so nothing speaks against it
        ((None, None, None, None), (5, 1, 2, 4), "b"),
        ((0.95, 0.9, None, None), (5, np.nan, np.nan, np.nan), "a"),  # an unknown price is no low one
    ],
)
def test_until_something_is_measured_the_cheapest_goes_by_known_prices(
    guesses: tuple[float | None, ...], cost: tuple[float, ...], chosen: str
) -> None:
    prior = predict([g or 0.5 for g in guesses], cost=cost, evidence=False, deviation=0.25)
    decision = decide(guess(*guesses), prior, Objective(first=("cheapest",)))
    assert decision.chosen == chosen
    assert "of 4 that may be as good, as nothing is measured" in decision.reason


def test_a_distance_that_is_named_counts_for_guesses_as_it_is() -> None:
    prior = predict([0.95, 0.9, 0.9, 0.95], cost=(5, 1, 2, 4), evidence=False, deviation=0.25)
    for within, chosen in ((0.01, "d"), (0.06, "b")):
        objective = Objective(first=("cheapest",), within=within)
        assert decide(guess(0.95, 0.9, 0.9, 0.95), prior, objective).chosen == chosen


def test_beside_measured_experts_a_guess_counts_as_it_is() -> None:
    prediction = predict([0.9, 0.8, 0.5, 0.5], cost=(5, 1, 9, 9), deviation=0.25)
    prediction.evidence[1:] = False
    decision = decide(guess(None, 0.8, 0.5, 0.5), prediction, Objective(first=("cheapest",)))
    assert decision.chosen == "a"


def ask_unmeasured(
    objective: Objective | None, profiles: list[ExpertProfile], default: str | None = "a", cost: float = 0.3
) -> Decision:
    """A request's own objective, where the policy has a weight on cost and perhaps a default."""
    values = [profile.quality or 0.5 for profile in profiles]
    prior = predict(values, cost=(4, 1, 2, np.nan), evidence=False, deviation=0.25)
    policy = Policy("p", Objective(cost=cost), default=default)
    hint = RoutingHints(objective=objective)
    return Engine(profiles, Scale(cost_usd=4)).decide(policy, [QUERY], prior, Fleet.idle(4), [hint])[0]


def test_the_default_answers_until_a_request_asks_for_something_else() -> None:
    profiles = guess(0.95, 0.9, 0.9, 0.95)
    for same in (None, Objective(cost=0.3)):
        assert ask_unmeasured(same, profiles).reason == "no evidence: the policy's default expert"
    assert ask_unmeasured(Objective(cost=0.5), profiles).chosen == "b"
    assert ask_unmeasured(Objective(), guess(0.9, 0.95, 0.9, 0.9)).chosen == "b"


def test_a_weight_on_cost_goes_by_known_prices_where_no_quality_is_known() -> None:
    decision = ask_unmeasured(Objective(cost=0.1), pool())
    assert (decision.chosen, decision.reason) == ("b", "best of 4 by weights alone: quality unknown")
    # The policy's own weight too, where it names no default.
    assert ask_unmeasured(None, pool(), default=None).chosen == "b"
    assert ask_unmeasured(None, pool(), default=None, cost=0.0).reason.startswith("no evidence: the first")


def test_what_tells_no_two_experts_apart_leaves_the_default() -> None:
    assert "default" in ask_unmeasured(Objective(), pool()).reason
    prior = predict([0.5] * 4, cost=(0, 0, 0, np.nan), evidence=False)
    hint = RoutingHints(objective=Objective(cost=0.5, latency=0.5))
    decision = Engine(pool()).decide(Policy("p", default="c"), [QUERY], prior, Fleet.idle(4), [hint])[0]
    assert (decision.chosen, decision.reason) == ("c", "no evidence: the policy's default expert")


@pytest.mark.parametrize(
    ("usd", "order", "reason"),
    [
        (4000.0, ("a", "b", "c", "d"), "no evidence"),
        (2000.0, ("b", "c", "a", "d"), "within the budget by price, as nothing is measured; no evidence"),
        (500.0, ("b", "c", "a", "d"), "none is within the budget by price: the cheapest; no evidence"),
    ],
)
def test_until_something_is_measured_a_budget_goes_by_known_prices(
    usd: float, order: tuple[str, ...], reason: str
) -> None:
    prior = predict([0.5] * 4, cost=(4, 1, 2, np.nan), evidence=False)
    decision = decide(pool(), prior, Objective(max_usd_per_1k=usd))
    assert decision.plan.experts == order
    assert decision.reason.startswith(reason)


def test_several_goals_come_first_in_their_order() -> None:
    prediction = predict([0.7] * 4, cost=(1, 9, 2, 3))
    profiles = pool((8, 1, 1, 1))
    assert decide(profiles, prediction, Objective(first=("smallest", "cheapest"))).plan.experts == (
        "c",
        "d",
        "b",
        "a",
    )


def test_who_could_still_become_first_sets_the_margin() -> None:
    decision = decide(pool(), predict([0.70, 0.69, 0.66, 0.1]), Objective(first=("smallest",)))
    assert decision.chosen == "b"
    assert decision.margin == pytest.approx(0.01)  # b nearly drops out
    decision = decide(pool(), predict([0.70, 0.70, 0.675, 0.1]), Objective(first=("smallest",)))
    assert decision.chosen == "b"
    assert decision.margin == pytest.approx(0.005)  # c nearly comes in


def test_goals_are_followed_where_nothing_is_known_of_quality() -> None:
    prior = predict([0.5] * 4, evidence=False)
    assert decide(pool(), prior, Objective()).chosen == "a"
    assert decide(pool(), prior, Objective(first=("smallest",))).chosen == "c"
    assert decide(pool(), prior, goals(size=0.1)).chosen == "c"


unit = st.floats(0, 1, allow_nan=False)
four = st.tuples(unit, unit, unit, unit)
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine draws its examples slowly."""
GOALS: list[Goal] = ["size", "recency", "security", "readability", "brevity", "detail"]


@RELAXED
@given(quality=four, goal=st.sampled_from(GOALS))
def test_a_weight_of_nothing_changes_nothing(quality: tuple[float, ...], goal: Goal) -> None:
    plain = decide(pool(), predict(quality), Objective())
    weighed = decide(pool(), predict(quality), Objective(goals=((goal, 0.0),)))
    assert (plain.plan, plain.reason, plain.margin) == (weighed.plan, weighed.reason, weighed.margin)
    assert plain.utility.tobytes() == weighed.utility.tobytes()


@RELAXED
@given(
    quality=four,
    sizes=st.tuples(*[st.one_of(st.none(), st.integers(1, 5).map(float))] * 4),
    expert=st.integers(0, 3),
    smaller=st.integers(0, 5),
    objective=st.sampled_from(
        [
            goals(size=0.1),
            goals(size=1.0),
            Objective(first=("smallest",)),
            Objective(first=("smallest",), within=1),
        ]
    ),
)
def test_a_better_attribute_never_ranks_lower_for_being_better(
    quality: tuple[float, ...],
    sizes: tuple[float | None, ...],
    expert: int,
    smaller: int,
    objective: Objective,
) -> None:
    before = decide(pool(sizes), predict(quality), objective).order.tolist().index(expert)
    own = sizes[expert]
    better = [
        s if e != expert else float(smaller) if own is None else min(own, smaller)
        for e, s in enumerate(sizes)
    ]
    assert decide(pool(better), predict(quality), objective).order.tolist().index(expert) <= before


@RELAXED
@given(quality=four, cap=st.integers(1, 4), within=unit)
def test_what_comes_first_is_never_further_from_the_best_than_allowed(
    quality: tuple[float, ...], cap: int, within: float
) -> None:
    hint = RoutingHints(Require(models=frozenset(NAMES[:cap])))
    decision = decide(pool(), predict(quality), Objective(first=("smallest",), within=within), hint)
    assert quality[NAMES.index(decision.chosen)] >= max(quality[:cap]) - within - 1e-12


TABLE = Sweep(np.array([0.0, 0.1, 1.0]), np.array([0.010, 0.004, 0.001]), np.array([0.80, 0.78, 0.50]))


@pytest.mark.parametrize(
    ("target", "weight"),
    [
        ({"max_usd_per_1k": 10.0}, 0.0),
        ({"max_usd_per_1k": 9.995}, 0.1),
        ({"max_usd_per_1k": 5.0}, 0.1),
        ({"max_usd_per_1k": 1.0}, 1.0),
        ({"target_quality": 0.79}, 0.0),
        ({"target_quality": 0.70}, 0.1),
        ({"target_quality": 0.1}, 1.0),
        ({"target_quality": 0.78, "max_usd_per_1k": 5.0}, 0.1),
    ],
)
def test_a_target_is_the_weight_that_the_table_gives_for_it(target: dict[str, float], weight: float) -> None:
    objective = Objective(latency=0.2, first=("latest",), **target)  # type: ignore[arg-type]
    assert resolve_target(objective, TABLE) == Objective(cost=weight, latency=0.2, first=("latest",))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"max_usd_per_1k": 0.5}, "max_usd_per_1k: 0.5 is out of reach; the least they cost is 1"),
        ({"target_quality": 0.9}, "target_quality: 0.9 is out of reach; they reach 0.8000"),
        ({"target_quality": 0.79, "max_usd_per_1k": 5.0}, "out of reach for 5 dollars a thousand"),
    ],
)
def test_a_target_out_of_reach_is_refused_with_what_there_is(target: dict[str, float], message: str) -> None:
    with pytest.raises(Unreachable, match=message):
        resolve_target(Objective(**target), TABLE)  # type: ignore[arg-type]


def test_the_engine_weighs_cost_as_the_target_asks() -> None:
    engine = Engine(pool(), Scale(cost_usd=0.01), lambda tier: TABLE if tier == "static" else None)
    prediction = predict([0.80, 0.75, 0.1, 0.1], cost=(0.01, 0.001, 0.01, 0.01))
    for target, chosen in ((10.0, "a"), (5.0, "b")):
        policy = Policy("p", Objective(max_usd_per_1k=target))
        assert engine.decide(policy, [QUERY], prediction, Fleet.idle(4))[0].chosen == chosen


def test_without_a_table_a_target_is_refused_but_where_nothing_is_known_of_quality_it_asks_nothing() -> None:
    objective = Objective(target_quality=0.5)
    with pytest.raises(Unreachable, match="thalamus fit"):
        decide(pool(), predict([0.6] * 4), objective)
    assert "no evidence" in decide(pool(), predict([0.5] * 4, evidence=False), objective).reason


@pytest.mark.parametrize(("within", "chosen"), [(0.25, "b"), (0.2, "a")])
def test_an_expert_exactly_as_far_from_the_best_as_allowed_is_near(within: float, chosen: str) -> None:
    prediction = predict([0.75, 0.5, 0.0, 0.0])
    assert decide(pool(), prediction, Objective(first=("smallest",), within=within)).chosen == chosen


@pytest.mark.parametrize("goal", ["cheapest", "fastest"])
def test_an_unknown_cost_or_latency_comes_last(goal: Any) -> None:
    prediction = predict([0.7] * 4, cost=(np.nan, 3, 1, 2), latency=(np.nan, 3, 1, 2))
    assert decide(pool(), prediction, Objective(first=(goal,))).plan.experts == ("c", "d", "b", "a")


def test_an_unknown_release_and_an_unknown_rating_count_as_the_worst() -> None:
    profiles = pool(
        released=(None, "2020-01-01", None, None), ratings=[frozenset(), *[frozenset({("security", 0)})] * 3]
    )
    decision = decide(profiles, predict([0.6] * 4), goals(recency=0.3, security=0.3))
    assert decision.utility.tolist() == pytest.approx([0.1, 0.5, 0.3, 0.3])


def test_two_equal_experts_have_half_a_rank_each() -> None:
    assert ranks(np.array([4.0, 4.0])).tolist() == [0.5, 0.5]
    assert ranks(np.array([4.0, 5.0])).tolist() == [0.0, 1.0]


def test_weights_on_several_goals_add_up() -> None:
    decision = decide(
        pool((4, 3, 2, 1)), predict([1.0] * 4, length=(1, 2, 3, 4)), goals(size=0.3, brevity=0.6)
    )
    assert decision.utility.tolist() == pytest.approx([0.7, 0.6, 0.5, 0.4])


def test_an_objective_without_targets_needs_no_table() -> None:
    objective = Objective(cost=0.3)
    assert resolve_target(objective, None) is objective


def test_a_target_replaces_the_weight_on_cost() -> None:
    assert resolve_target(Objective(cost=0.7, target_quality=0.7), TABLE).cost == 0.1


def test_of_two_targets_the_cheapest_weight_that_meets_both_is_taken() -> None:
    both = Objective(max_usd_per_1k=10.0, target_quality=0.5)
    assert resolve_target(both, TABLE).cost == 1.0


def test_the_error_for_two_targets_names_both() -> None:
    message = "^target_quality: 0.79 is out of reach for 5 dollars a thousand$"
    with pytest.raises(Unreachable, match=message):
        resolve_target(Objective(target_quality=0.79, max_usd_per_1k=5.0), TABLE)


def test_the_error_for_a_budget_rounds_what_they_cost() -> None:
    table = Sweep(np.array([0.0]), np.array([0.00123456]), np.array([0.5]))
    with pytest.raises(Unreachable, match=r"out of reach; the least they cost is 1\.235$"):
        resolve_target(Objective(max_usd_per_1k=1.0), table)
