from dataclasses import replace
from typing import Any

import numpy as np

from policies import Engine, Fleet, Policy, Require, RoutingHints
from routers import ExpertProfile, Prediction, Query

POOL = tuple(ExpertProfile(name, f"x/{name}") for name in ("a", "b", "c"))
MAPPING = {"maths": ("b", "c"), "general": ("c",)}
POLICY = Policy("coe", mapping=MAPPING, n_fallbacks=1)


def prediction(*categories: str | None, quality: tuple[float, ...] = (0.9, 0.5, 0.1)) -> Prediction:
    n = len(categories)
    names = None if None in categories else tuple(str(name) for name in categories)
    unknown = np.full((n, 3), np.nan)
    return Prediction(
        experts=("a", "b", "c"),
        tier="static",
        quality=np.tile(quality, (n, 1)),
        quality_std=np.zeros((n, 3)),
        output_tokens=np.ones((n, 3)),
        cost_usd=unknown,
        latency_s=unknown,
        evidence=np.ones(3, bool),
        categories=names,
    )


def decide(*categories: str | None, policy: Policy = POLICY, fleet: Fleet | None = None, **how: Any) -> Any:
    queries = [Query("q", 1) for _ in categories]
    return Engine(POOL).decide(policy, queries, prediction(*categories), fleet or Fleet.idle(3), **how)


def test_the_category_says_who_answers_and_who_stands_behind() -> None:
    (decision,) = decide("maths")
    assert decision.plan.experts == ("b", "c")
    assert decision.reason == "category maths: mapped to b"
    assert decision.order.tolist() == [1, 2, 0]


def test_a_category_without_a_mapping_is_general() -> None:
    assert [one.chosen for one in decide("maths", "prose", "general")] == ["b", "c", "c"]


def test_where_no_category_is_names_all_is_general_and_the_reason_says_so() -> None:
    (decision,) = decide(None)
    assert (decision.chosen, decision.reason) == ("c", "category unknown, so general: mapped to c")


def test_constraints_and_the_fleet_hold_before_the_mapping() -> None:
    (hinted,) = decide("maths", hints=[RoutingHints(Require(exclude=frozenset({"b"})))])
    assert hinted.plan.experts == ("c", "a")
    down = Fleet(np.array([True, False, False]), np.zeros(3), {"b": "down", "c": "down"})
    (left,) = decide("maths", fleet=down)
    assert left.chosen == "a"
    assert left.reason.startswith("category maths: no expert mapped to it is eligible; best of 1")


def test_without_general_what_is_not_mapped_is_weighed() -> None:
    (decision,) = decide("prose", policy=replace(POLICY, mapping={"maths": ("b",)}))
    assert decision.chosen == "a"


def test_no_mapping_leaves_everything_as_it_was() -> None:
    (decision,) = decide("maths", policy=Policy("plain"))
    assert decision.chosen == "a"
