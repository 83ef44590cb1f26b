from typing import Any

import numpy as np
import pytest

from evals.replay import majority_right, oracle_of, replay_plan
from policies import Panel, Single
from routers import OutcomeTable

SCORE = np.array([[1.0, 0.0, 1.0, 0.4], [np.nan, 0.0, 1.0, 1.0], [np.nan, np.nan, np.nan, 0.7]])


def table(answers: Any = None) -> OutcomeTable:
    cost = np.array([[1.0, 2.0, 4.0, 8.0]] * 3)
    texts = ("How many legs has a spider?", "How many has an ant?", "Why?")
    return OutcomeTable.build(texts, "abcd", {"score": SCORE, "cost_usd": cost}, answers=answers)


PANEL = Panel(("a", "b", "c"), (0.5, 0.5, 0.5), "d", ("d",), form="number")


def test_one_expert_is_looked_up() -> None:
    printed = replay_plan(Single(("c", "a")), table(), 0)
    assert (printed.pick, printed.score, printed.cost_usd, printed.by_proxy) == (2, 1.0, 4.0, False)


def test_whoever_was_not_measured_failed() -> None:
    assert replay_plan(Single(("a", "c")), table(), 1).pick == 2


def test_without_answers_a_panel_is_right_where_most_members_are() -> None:
    printed = replay_plan(PANEL, table(), 0)
    assert (printed.pick, printed.score, printed.cost_usd, printed.by_proxy) == (0, 1.0, 7.0, True)
    assert replay_plan(PANEL, table(), 1).score == 0.0  # one of the two that were measured is not most


def test_with_answers_the_vote_itself_is_scored() -> None:
    answers = [["8", "six", "It has 8 legs.", "8"], [None, "4", "6", "6"], [None] * 4]
    printed = replay_plan(PANEL, table(answers), 0)
    assert (printed.pick, printed.score, printed.cost_usd, printed.by_proxy) == (0, 1.0, 7.0, False)


def test_an_aggregator_was_never_recorded_so_the_vote_counts() -> None:
    answers = [["8", "6", "7", "8"], [None] * 4, [None] * 4]
    assert replay_plan(PANEL, table(answers), 0).pick == 0


def test_fallbacks_are_looked_up_where_no_member_was_measured() -> None:
    printed = replay_plan(PANEL, table(), 2)
    assert (printed.pick, printed.score, printed.cost_usd) == (3, 0.7, 8.0)


def test_nobody_measured_is_unknown() -> None:
    assert np.isnan(replay_plan(Single(("a",)), table(), 2).score)


@pytest.mark.parametrize(
    ("row", "votes", "right"),
    [
        (0, [1, 0, 1, 1], 1),
        (0, [1, 1, 0, 0], 0),
        (0, [1, 2, 0, 0], 0),
        (0, [2, 1, 0, 0], 1),
        (1, [3, 0, 1, 0], 1),
    ],
)
def test_more_than_half_must_be_right_and_twice_counts_twice(row: Any, votes: Any, right: Any) -> None:
    assert majority_right(SCORE[[row]], np.array([votes])).tolist() == [right]


def test_the_oracle_of_some_is_their_best() -> None:
    assert oracle_of(SCORE[:1], np.array([[0, 1, 0, 1]])).tolist() == [0.4]
    assert np.isnan(oracle_of(SCORE[2:], np.array([[1, 1, 0, 0]]))).all()
