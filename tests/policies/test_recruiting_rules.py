"""Whom a rule recruits for a panel: how many, drawn how, who is trimmed, and who aggregates where tried."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from policies import Decision, Engine, Fleet, Panel, PanelRule, Policy, Single, decision_record
from policies.recruiting import find_rare
from policies.voting import vote
from routers import ExpertProfile, Floats, Prediction, Query

NAMES = "abcd"


def decide(
    rule: PanelRule, quality: Sequence[float], text: str = "q", sample: Any = None, **more: Any
) -> Decision:
    n = len(quality)
    one = np.ones((1, n))
    predicted = Prediction(
        tuple(NAMES[:n]),
        "static",
        np.array([quality]),
        one / 10,
        one * 9,
        one * 0,
        one,
        np.ones(n, bool),
        **more,
    )
    pool = [ExpertProfile(name, "m") for name in predicted.experts]
    engine = Engine(pool, sample_of=lambda tier: sample)
    return engine.decide(Policy("p", panel=rule), [Query(text, 9)], predicted, Fleet.idle(n))[0]


def members(rule: PanelRule, quality: Sequence[float], **more: Any) -> tuple[str, ...]:
    plan = decide(rule, quality, **more).plan
    return plan.members if isinstance(plan, Panel) else plan.experts[:1]


@pytest.mark.parametrize(
    ("quality", "asked"),
    [([0.9, 0.5, 0.5, 0.5], "a"), ([0.9, 0.9, 0.5, 0.5], "ab"), ([0.9, 0.9, 0.9, 0.9], "abc")],
)
def test_as_many_are_asked_as_have_the_mass(quality: Any, asked: str) -> None:
    assert members(PanelRule(3, size="mass", mass=0.7), quality) == tuple(asked)


def test_a_clear_query_needs_no_panel() -> None:
    assert isinstance(decide(PanelRule(3, size="mass"), [0.9, 0.1, 0.1]).plan, Single)


@pytest.mark.parametrize(("min_gain", "asked"), [(0.5, "a"), (0.2, "ab"), (0.12, "abc"), (0.0, "abcd")])
def test_members_are_asked_while_they_gain(min_gain: float, asked: str) -> None:
    # A right answer among theirs becomes likelier by .5, then by .25 and .125.
    assert members(PanelRule(4, size="gain", min_gain=min_gain), [0.5] * 4) == tuple(asked)


def test_draws_follow_the_chances_and_are_the_same_for_the_same_query() -> None:
    rule = PanelRule(1, draw="without_replacement")
    quality = [0.50, 0.50 + np.log(3) / 50]  # three times as likely
    drawn = Counter(members(rule, quality, text=f"query {n}")[0] for n in range(600))
    assert 0.70 < drawn["b"] / 600 < 0.80
    assert len({members(rule, quality, text="query 1") for _ in range(5)}) == 1


def test_without_replacement_nobody_is_drawn_twice_and_random_draws_all_alike() -> None:
    found = [
        members(PanelRule(3, draw="without_replacement"), [0.9, 0.5, 0.5, 0.5], text=str(n))
        for n in range(50)
    ]
    assert all(len(set(one)) == 3 for one in found)
    first = Counter(
        members(PanelRule(2, draw="random"), [0.9, 0.1, 0.1, 0.1], text=str(n))[0] for n in range(400)
    )
    assert min(first[name] for name in NAMES) > 60


def test_who_is_drawn_twice_has_two_votes_and_is_asked_once() -> None:
    rule = PanelRule(3, draw="with_replacement")
    plans = [decide(rule, [0.5, 0.5, 0.5], text=str(n)).plan for n in range(60)]
    panels = [plan for plan in plans if isinstance(plan, Panel)]
    assert all(len(set(plan.members)) == len(plan.members) for plan in panels)
    double = next(plan for plan in panels if plan.votes)
    assert (len(double.members), sorted(double.votes)) == (2, [1, 2])
    assert double.summary()["votes"] == list(double.votes)
    twice = double.members[double.votes.index(2)]
    said = {name: "yes" if name == twice else "no" for name in double.members}
    found = vote(
        said,
        dict.fromkeys(double.members, 0.5),
        "yes_no",
        dict(zip(double.members, double.votes, strict=True)),
    )
    assert found is not None
    assert found.answer == "yes"
    assert any(isinstance(plan, Single) for plan in plans)  # all three draws alike


def sample_of(*shares: float) -> Floats:
    """A hundred queries, for each of which one expert is clearly the best, in these shares."""
    rows = np.repeat(np.arange(len(shares)), [round(100 * share) for share in shares])
    return np.where(np.arange(len(shares)) == rows[:, None], 0.9, 0.1)


def test_who_is_hardly_ever_recruited_is_not_recruited() -> None:
    sample = sample_of(0.60, 0.36, 0.04)
    quality = [0.1, 0.2, 0.9]
    assert members(PanelRule(1, trim=0.05), quality, sample=sample) == ("b",)
    assert members(PanelRule(1, trim=0.03), quality, sample=sample) == ("c",)
    assert members(PanelRule(1, trim=0.05), quality) == ("c",)  # nothing is known of other queries
    assert members(PanelRule(1, trim=1.0), quality, sample=sample) == ("c",)  # all are rare: none is


def test_an_expert_that_was_not_measured_is_not_trimmed() -> None:
    sample = np.where(np.arange(3) == 2, np.nan, sample_of(0.5, 0.5, 0.0))
    assert members(PanelRule(1, trim=0.05), [0.1, 0.2, 0.9], sample=sample) == ("c",)


def test_of_drawn_panels_the_share_is_that_of_queries_on_which_one_is_asked() -> None:
    chances = np.array([[0.98, 0.02]] * 10)
    share = 1 - 0.98**3
    assert find_rare(PanelRule(3, draw="with_replacement", trim=share + 0.01), chances).tolist() == [
        False,
        True,
    ]
    assert find_rare(PanelRule(3, draw="with_replacement", trim=share - 0.01), chances).tolist() == [
        False,
        False,
    ]


def test_what_recruits_may_differ_from_what_predicts_and_may_know_nothing() -> None:
    recruiting = np.array([[0.1, np.nan, 0.9]])
    assert members(PanelRule(2), [0.5, 0.6, 0.1], recruiting=recruiting) == ("c", "b")


def test_chances_of_a_published_rule_are_drawn_by_as_they_are() -> None:
    chances = np.array([[0.0, 1.0, 0.0]])
    rule = PanelRule(3, draw="with_replacement")
    assert members(rule, [0.9, 0.1, 0.9], recruiting=chances, shares=True) == ("b",)


@pytest.mark.parametrize(("weighs", "aggregator"), [([0.5, 0.9, np.nan], "b"), ([0.5, 0.6, np.nan], None)])
def test_the_aggregator_that_was_measured_best_is_asked_if_it_beats_the_best_member(
    weighs: Any, aggregator: str | None
) -> None:
    quality = [0.6, 0.2, 0.2]
    # Among .6, .2, .2 one is right with 1 − .4 · .8 · .8 = .744: times .9 is .67, times .6 .45.
    plan = decide(PanelRule(3), quality, weighs=np.array([weighs])).plan
    assert plan.aggregator == aggregator


def test_skills_are_named_in_the_record() -> None:
    decision = decide(PanelRule(2), [0.6, 0.2], skills=(("algebra", "law"),))
    assert decision_record(decision)["skills"] == ["algebra", "law"]
    assert "skills" not in decision_record(decide(PanelRule(2), [0.6, 0.2]))
