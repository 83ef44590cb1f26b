"""Panels as plans, driven by lists; and how they are recruited."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import (
    Attempt,
    Decision,
    Engine,
    Fleet,
    Gather,
    GatherResult,
    Infeasible,
    Panel,
    PanelRule,
    Policy,
    Require,
    RoutingHints,
    Single,
    Verdict,
    decision_record,
    decode_plan,
)
from policies.panel import choose_winner, is_decisive
from policies.voting import Vote
from routers import ExpertProfile, Prediction, Query


def perform(plan: Panel, spoken: Mapping[str, str], *, refused: bool = False) -> tuple[str | None, list[str]]:
    """Who gives the answer, and who was called; `spoken` holds what each healthy expert says."""
    called: list[str] = []
    steps = plan.attempts()
    try:
        step = next(steps)
        while True:
            if isinstance(step, Gather):
                called += step.experts
                step = steps.send(GatherResult({e: spoken[e] for e in step.experts if e in spoken}, refused))
            else:
                called.append(step.expert)
                if step.expert in spoken:
                    return step.expert, called
                step = steps.send("moved_on")
    except StopIteration as done:
        return done.value, called


def panel(aggregator: str | None = "judge", **more: Any) -> Panel:
    return Panel(("a", "b", "c"), (0.6, 0.6, 0.6), aggregator, form="number", **more)


def test_members_who_agree_need_no_aggregator() -> None:
    assert perform(panel(), {"a": "4", "b": "5", "c": "5", "judge": "9"}) == ("b", ["a", "b", "c"])


def test_members_who_do_not_agree_go_to_the_aggregator() -> None:
    assert perform(panel(), {"a": "4", "b": "5", "c": "6", "judge": "9"})[0] == "judge"


def test_the_aggregator_reads_what_was_answered_best_member_first() -> None:
    steps = Panel(("a", "b"), (0.2, 0.9), "judge").attempts()
    next(steps)
    asked = steps.send(GatherResult({"a": "first\nguess", "b": "second\nguess"}))
    assert asked == Attempt("judge", last=False, answers={"b": "second\nguess", "a": "first\nguess"})
    assert isinstance(asked, Attempt)
    assert list(asked.answers or ()) == ["b", "a"]


def test_an_aggregator_that_was_named_is_asked_even_when_members_agree() -> None:
    assert perform(panel(ballot=False), {"a": "4", "b": "4", "c": "4", "judge": "9"})[0] == "judge"


def test_the_vote_counts_where_the_aggregator_fails() -> None:
    spoken = {"a": "4", "b": "5", "c": "5"}
    assert perform(panel(ballot=False), spoken) == ("b", ["a", "b", "c", "judge"])


def test_the_best_member_is_heard_where_aggregator_and_vote_fail() -> None:
    plan = Panel(("a", "b"), (0.2, 0.9), "judge")
    assert perform(plan, {"a": "long\nprose", "b": "other\nprose"})[0] == "b"


def test_an_answer_that_can_be_read_does_not_go_before_a_better_one_that_cannot() -> None:
    plan = Panel(("a", "b", "c"), (0.4, 0.9, 0.5), None)
    assert perform(plan, {"a": "four", "b": "it depends\non the beast", "c": "two\nlines"})[0] == "b"


def test_without_an_aggregator_the_larger_vote_wins() -> None:
    assert perform(panel(None), {"a": "4", "b": "5", "c": "6"})[0] == "a"


@pytest.mark.parametrize("ballot", [False, True])
def test_one_answer_alone_is_the_answer(ballot: Any) -> None:
    assert perform(panel(ballot=ballot), {"b": "5", "judge": "9"}) == ("b", ["a", "b", "c"])


def test_fallbacks_are_asked_when_every_member_failed() -> None:
    plan = panel(fallbacks=("d", "e"))
    assert perform(plan, {"e": "7", "judge": "9"}) == ("e", ["a", "b", "c", "d", "e"])


def test_nobody_answers_when_all_failed() -> None:
    assert perform(panel(), {}) == (None, ["a", "b", "c"])


def test_a_refused_request_is_not_taken_elsewhere() -> None:
    assert perform(panel(fallbacks=("d",)), {"d": "7"}, refused=True) == (None, ["a", "b", "c"])


ANSWERS = st.sampled_from(["1", "2", "so it is 2", "I do not know", ""])


@given(
    st.dictionaries(st.sampled_from("abcdefg"), ANSWERS),
    st.sampled_from([None, "a", "d", "g"]),
    st.booleans(),
)
def test_whoever_fails_somebody_answers_while_one_can(
    spoken: Any, aggregator: str | None, ballot: Any
) -> None:
    plan = Panel(("a", "b", "c"), (0.7, 0.5, 0.3), aggregator, ("e", "f"), ballot, "number")
    given_by, called = perform(plan, spoken)
    asked = called[: len(called) - 1] if aggregator in called[3:] else called
    assert len(set(asked)) == len(asked)
    if set(spoken) & {"a", "b", "c", "e", "f"}:
        assert given_by in spoken
    else:
        assert given_by is None


def prediction(quality: Sequence[float], cost: Sequence[float], tokens: float = 100.0) -> Prediction:
    n = len(quality)
    one = np.ones((1, n))
    return Prediction(
        experts=tuple("abcdefgh"[:n]),
        tier="static",
        quality=np.array([quality]),
        quality_std=one * 0.1,
        output_tokens=one * tokens,
        cost_usd=np.array([cost]),
        latency_s=one,
        evidence=np.ones(n, bool),
    )


def decide(
    rule: PanelRule,
    quality: Sequence[float],
    cost: Sequence[float],
    *,
    hints: RoutingHints | None = None,
    query: Query | None = None,
    pool: Sequence[ExpertProfile] | None = None,
    prices: float | None = 0.01,
) -> Decision:
    predicted = prediction(quality, cost)
    pool = pool or [ExpertProfile(name, "m", prices, prices) for name in predicted.experts]
    policy = Policy("panel", panel=rule)
    asked = query or Query("Who wrote Faust?", 10)
    options = None if hints is None else [hints]
    return Engine(pool).decide(policy, [asked], predicted, Fleet.idle(len(quality)), options)[0]


def panel_of(decision: Decision) -> Panel:
    assert isinstance(decision.plan, Panel)
    return decision.plan


def test_the_best_k_are_recruited_and_the_rest_stand_behind() -> None:
    decision = decide(PanelRule(k=2), [0.1, 0.9, 0.5, 0.7], [1, 1, 1, 1])
    assert decision.plan == Panel(("b", "d"), (0.9, 0.7), "b", ("c", "a"), True, None)
    assert (decision.chosen, decision.reason.partition(";")[0]) == ("b", "panel")


def test_a_decision_tells_members_and_aggregator() -> None:
    record = decision_record(decide(PanelRule(k=2, aggregator="c"), [0.1, 0.9, 0.5], [1, 1, 1]))["plan"]
    assert record == {"kind": "panel", "experts": ["b", "c", "a"], "members": ["b", "c"], "aggregator": "c"}


def test_every_candidate_tells_its_part_in_the_panel() -> None:
    found = decision_record(decide(PanelRule(k=2, aggregator="a"), [0.1, 0.9, 0.5, 0.4], [1, 1, 1, 1]))
    parts = {one["expert"]: (one["role"], one["reason"]) for one in found["candidates"]}
    assert {name: role for name, (role, _) in parts.items()} == {
        "a": "aggregator",
        "b": "member",
        "c": "member",
        "d": "fallback",
    }
    assert parts["b"][1].startswith("member of the panel; chosen: panel")
    assert parts["c"][1].startswith("member of the panel; utility ")
    assert parts["a"][1].startswith("aggregator of the panel; utility ")
    assert parts["d"][1].startswith("utility ")


def test_a_member_that_also_aggregates_is_both() -> None:
    found = decision_record(decide(PanelRule(k=2, aggregator="b"), [0.1, 0.9, 0.5], [1, 1, 1]))
    assert [one["role"] for one in found["candidates"]] == ["member and aggregator", "member", "fallback"]


@pytest.mark.parametrize(("aggregator", "ballot"), [("vote", True), ("auto", True), ("c", False)])
def test_a_named_aggregator_goes_before_the_vote(aggregator: str, ballot: Any) -> None:
    assert panel_of(decide(PanelRule(2, aggregator), [0.1, 0.9, 0.5], [1, 1, 1])).ballot is ballot


def test_a_panel_that_votes_has_no_aggregator() -> None:
    assert decide(PanelRule(2, "vote"), [0.1, 0.9, 0.5], [1, 1, 1]).plan.aggregator is None


def test_nobody_aggregates_who_is_more_often_wrong_than_right_unless_named() -> None:
    assert decide(PanelRule(2), [0.3, 0.4], [1, 1]).plan.aggregator is None
    assert decide(PanelRule(2, "a"), [0.3, 0.4], [1, 1]).plan.aggregator == "a"


def test_a_tool_answers_but_does_not_aggregate() -> None:
    pool = [ExpertProfile("a", "m"), ExpertProfile("b", "m", labels=frozenset({("tool", "true")}))]
    plan = panel_of(decide(PanelRule(2), [0.5, 0.9], [0, 0], pool=pool))
    assert (plan.members, plan.aggregator) == (("b", "a"), "a")


def test_a_request_with_tools_is_for_one_expert() -> None:
    decision = decide(PanelRule(3), [0.1, 0.9, 0.5], [1, 1, 1], query=Query("Do it", 10, has_tools=True))
    assert decision.plan == Single(("b", "c", "a"))


def test_a_cap_leaves_out_who_would_exceed_it() -> None:
    plan = panel_of(decide(PanelRule(3, max_cost_usd=2.5), [0.9, 0.8, 0.7, 0.6], [1, 9, 1, 1]))
    assert plan.members == ("a", "c")
    assert plan.aggregator is None
    assert "b" not in plan.experts


def test_without_a_cap_prices_nobody_knows_keep_nobody_out() -> None:
    plan = panel_of(decide(PanelRule(2), [0.9, 0.8], [np.nan, np.nan], prices=None))
    assert (plan.members, plan.aggregator) == (("a", "b"), "a")


def test_an_unknown_price_fits_under_no_cap() -> None:
    plan = decide(PanelRule(3, max_cost_usd=5), [0.9, 0.8, 0.7], [1, np.nan, 1]).plan
    assert "b" not in plan.experts


def test_a_request_can_lower_the_cap_of_the_whole_panel() -> None:
    hints = RoutingHints(require=Require(max_cost_usd=2.0))
    plan = panel_of(decide(PanelRule(3, max_cost_usd=9), [0.9, 0.8, 0.7], [1, 1, 1], hints=hints))
    assert plan.members == ("a", "b")


def test_a_cap_nobody_fits_under_is_refused_with_its_reason() -> None:
    with pytest.raises(Infeasible, match="over the panel's cap"):
        decide(PanelRule(3, max_cost_usd=0.5), [0.9, 0.8], [1, 1])


COSTS = st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=2, max_size=8)


@given(COSTS, st.floats(0, 3), st.integers(1, 5), st.sampled_from(["auto", "vote", "a"]), st.data())
def test_what_a_panel_is_expected_to_cost_is_under_its_cap(
    cost: Any, cap: float, k: int, aggregator: str, data: st.DataObject
) -> None:
    quality = [data.draw(st.floats(0, 1)) for _ in cost]
    price = data.draw(st.sampled_from([0.0, 1e-3]))
    try:
        plan = decide(PanelRule(k, aggregator, cap), quality, cost, prices=price).plan
    except Infeasible:
        assert not any(c <= cap for c in cost)
        return
    paid = dict(zip("abcdefgh", cost, strict=False))
    assert all(paid[name] <= cap for name in plan.experts)
    if isinstance(plan, Panel):
        spent = sum(paid[name] for name in plan.members)
        if plan.aggregator is not None:
            read = 100.0 * len(plan.members) * (price if paid[plan.aggregator] else 0.0)
            spent += paid[plan.aggregator] + read
        assert spent <= cap + 1e-9
        assert len(set(plan.members)) == len(plan.members) <= k


def test_a_panel_of_which_nothing_more_is_said_votes_first_and_has_no_aggregator() -> None:
    plan = Panel(("a", "b"), (0.5, 0.5))
    assert plan == Panel(("a", "b"), (0.5, 0.5), aggregator=None, fallbacks=(), ballot=True, form=None)
    assert (plan.kind, plan.is_sequential) == ("panel", False)


def test_a_panel_is_decoded_from_lists() -> None:
    plan = panel(fallbacks=("d",))
    parts = {name: list(part) if isinstance(part, tuple) else part for name, part in plan.parts().items()}
    assert decode_plan("panel", parts) == plan


def test_an_expert_of_several_parts_is_named_once() -> None:
    assert panel("a", fallbacks=("b", "d")).experts == ("a", "b", "c", "d")
    assert panel(None, fallbacks=("d",)).experts == ("a", "b", "c", "d")


def test_an_aggregator_that_answers_is_the_plans_answer() -> None:
    steps = panel(ballot=False).attempts()
    next(steps)
    steps.send(GatherResult({"a": "4", "b": "4"}))
    with pytest.raises(StopIteration) as done:
        steps.send("answered")
    assert done.value.value is None


@pytest.mark.parametrize("verdict", ["moved_on", "refused"])
def test_the_vote_counts_where_the_aggregator_gives_no_answer(verdict: Verdict) -> None:
    steps = panel(ballot=False).attempts()
    next(steps)
    steps.send(GatherResult({"a": "4", "b": "5", "c": "5"}))
    with pytest.raises(StopIteration) as done:
        steps.send(verdict)
    assert done.value.value == "b"


def test_the_fallbacks_are_asked_one_by_one_and_the_last_is_marked() -> None:
    steps = panel(fallbacks=("d", "e")).attempts()
    next(steps)
    assert steps.send(GatherResult()) == Attempt("d", last=False)
    assert steps.send("moved_on") == Attempt("e", last=True)


def test_answers_count_even_where_another_member_refused() -> None:
    assert perform(panel(), {"a": "4", "b": "4"}, refused=True)[0] == "a"


@pytest.mark.parametrize(("share", "decisive"), [(0.5, False), (0.51, True)])
def test_a_vote_decides_with_more_than_half_of_the_weight(share: float, decisive: bool) -> None:
    assert is_decisive(Vote("4", ("b",), share)) is decisive


@pytest.mark.parametrize(
    ("count", "winner"),
    [
        (None, "a"),
        (Vote("4", ("b",), 0.5), "a"),
        (Vote("4", ("b",), 0.6), "b"),
        (Vote("4", ("b", "c"), 0.4), "b"),
    ],
)
def test_voters_that_agree_or_decide_go_before_the_best_expert(count: Vote | None, winner: str) -> None:
    assert choose_winner(count, {"a": "x", "b": "4", "c": "4"}) == winner


@pytest.mark.parametrize(("quality", "aggregator"), [(0.5, "a"), (0.499, None)])
def test_an_automatic_aggregator_is_right_at_least_every_other_time(
    quality: float, aggregator: str | None
) -> None:
    assert decide(PanelRule(2), [quality, 0.3], [1, 1]).plan.aggregator == aggregator


@pytest.mark.parametrize(("cap", "members"), [(2.0, ("a", "b")), (1.99, ("a",)), (3.0, ("a", "b", "c"))])
def test_members_may_cost_as_much_as_the_cap_together(cap: float, members: tuple[str, ...]) -> None:
    plan = decide(PanelRule(3, "vote", max_cost_usd=cap), [0.9, 0.8, 0.7], [1, 1, 1]).plan
    assert plan.experts[: len(members)] == members
    assert isinstance(plan, Panel) is (len(members) > 1)


@pytest.mark.parametrize(("cap", "behind"), [(1.5, ("c",)), (1.49, ())])
def test_a_fallback_may_cost_as_much_as_the_cap_alone(cap: float, behind: tuple[str, ...]) -> None:
    plan = decide(PanelRule(2, "vote", max_cost_usd=cap), [0.9, 0.8, 0.7], [0.1, 0.1, 1.5]).plan
    assert plan.experts[2:] == behind


@pytest.mark.parametrize(("cap", "aggregator"), [(5.0, "a"), (4.99, None)])
def test_an_aggregator_reads_all_answers_at_its_price_and_answers_itself(
    cap: float, aggregator: str | None
) -> None:
    # Two members for 1 each, one more answer for 1, and 200 tokens at 0.01 to read.
    assert decide(PanelRule(2, max_cost_usd=cap), [0.9, 0.8], [1, 1]).plan.aggregator == aggregator


def test_an_aggregator_too_dear_is_replaced_by_the_next_best() -> None:
    plan = decide(PanelRule(2, max_cost_usd=5.0), [0.7, 0.6, 0.9], [1, 1, 8]).plan
    assert plan.aggregator == "a"


def test_a_free_aggregator_reads_for_nothing() -> None:
    plan = decide(PanelRule(2, max_cost_usd=0.0), [0.9, 0.8], [0, 0], prices=None).plan
    assert plan.aggregator == "a"


def test_an_aggregator_of_unknown_price_fits_under_no_cap() -> None:
    assert decide(PanelRule(2, max_cost_usd=99.0), [0.9, 0.8], [1, 1], prices=None).plan.aggregator is None


def test_the_lower_of_two_caps_counts() -> None:
    hints = RoutingHints(require=Require(max_cost_usd=9.0))
    plan = panel_of(decide(PanelRule(3, "vote", max_cost_usd=2), [0.9, 0.8, 0.7], [1, 1, 1], hints=hints))
    assert plan.members == ("a", "b")


def test_as_many_fallbacks_stand_behind_a_panel_as_the_policy_says() -> None:
    plan = panel_of(decide(PanelRule(2, "vote"), [0.9, 0.8, 0.7, 0.6, 0.5], [1] * 5))
    assert plan.fallbacks == ("c", "d")


def test_a_panel_of_one_is_a_single_expert() -> None:
    assert decide(PanelRule(1), [0.9, 0.8], [1, 1]).plan == Single(("a", "b"))


def test_a_panel_knows_the_form_its_question_asks_for() -> None:
    query = Query("What is 17*23?", 10)
    assert panel_of(decide(PanelRule(2), [0.9, 0.8], [1, 1], query=query)).form == "number"


def test_a_cap_under_which_none_fits_gives_the_cost_of_each() -> None:
    with pytest.raises(Infeasible) as refused:
        decide(PanelRule(3, max_cost_usd=0.5), [0.9, 0.8], [1, 2])
    assert not refused.value.temporary
    assert refused.value.rejections == {
        "a": "costs $1.000000, over the panel's cap of $0.500000",
        "b": "costs $2.000000, over the panel's cap of $0.500000",
    }
