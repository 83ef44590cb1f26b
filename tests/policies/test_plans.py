import pytest

from policies import GatherResult, Single, Verdict


def walk(plan: Single, verdicts: list[Verdict]) -> list[str]:
    steps, asked = plan.attempts(), []
    try:
        attempt = next(steps)
        for verdict in verdicts:
            asked.append(attempt.expert)
            attempt = steps.send(verdict)
        asked.append(attempt.expert)
    except StopIteration:
        pass
    return asked


def test_an_answer_ends_the_ladder() -> None:
    assert walk(Single(("a", "b", "c")), ["answered"]) == ["a"]


def test_a_refusal_is_not_taken_elsewhere() -> None:
    assert walk(Single(("a", "b")), ["refused"]) == ["a"]


def test_each_failure_moves_one_rung_down() -> None:
    assert walk(Single(("a", "b", "c")), ["moved_on", "moved_on", "moved_on"]) == ["a", "b", "c"]


@pytest.mark.parametrize("n", [1, 3])
def test_only_the_last_attempt_says_it_is_the_last(n: int) -> None:
    steps = Single(tuple("abc"[:n])).attempts()
    attempts = [next(steps)] + [steps.send("moved_on") for _ in range(n - 1)]
    assert [a.last for a in attempts] == [False] * (n - 1) + [True]


def test_a_single_plan_is_sequential_and_says_its_kind() -> None:
    plan = Single(("a", "b"))
    assert (plan.kind, plan.is_sequential, plan.aggregator) == ("single", True, None)
    assert plan.summary() == {"experts": ["a", "b"]}


def test_answers_of_which_nothing_is_said_are_none_and_none_was_refused() -> None:
    assert GatherResult() == GatherResult(answers={}, refused=False)


def test_a_plan_without_experts_asks_none() -> None:
    assert list(Single(()).attempts()) == []
