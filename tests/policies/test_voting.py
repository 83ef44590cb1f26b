from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import detect_form, extract_answer, vote
from policies.voting import Form, weight

EVEN = dict.fromkeys("abcde", 0.5)


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("What is 17*23?", "number"),
        ("How many apples are left?", "number"),
        ("Is 7 prime? Answer yes or no.", "yes_no"),
        ("Pick one.\nA. red\nB. blue", "choice"),
        ("A. alone is no choice", None),
        ("Who wrote Faust?", None),
    ],
)
def test_the_form_a_question_asks_for(question: str, form: Form | None) -> None:
    assert detect_form(question) == form


@pytest.mark.parametrize(
    ("answer", "form", "meant"),
    [
        ("12 apples", "number", "12"),
        ("The answer is 1,888,264.", "number", "1888264"),
        ("so 3+4=7, and 7*2=14.", "number", "14"),
        ("The answer is 14, because 7*2=14 and not 15.", "number", "14"),
        ("Final answer: \\boxed{1/2}", "number", "1/2"),
        ("0.50", "number", "1/2"),
        ("−3", "number", "-3"),
        ("no idea", "number", None),
        ("**B**", "choice", "B"),
        ("b", "choice", "B"),
        ("a x", "choice", None),
        ("3+4=7. The answer is clear.", "number", "7"),
        ("B) because A is wrong", "choice", "B"),
        ("I think it is (C).", "choice", "C"),
        ("A dog is D", "choice", "D"),
        ("none of these", "choice", None),
        ("Yes, it is not.", "yes_no", "yes"),
        ("False.", "yes_no", "no"),
        ("perhaps", "yes_no", None),
        ("The Eiffel Tower.", None, "eiffel tower"),
        ("The answer is: the Eiffel Tower!", None, "eiffel tower"),
        ("1,000.0", None, "1000"),
        ("word " * 40, None, None),
        ("two\nlines", None, None),
        ("...", None, None),
    ],
)
def test_what_an_answer_comes_down_to(answer: str, form: Form | None, meant: str | None) -> None:
    assert extract_answer(answer, form) == meant


@given(st.text(max_size=200), st.sampled_from([None, "number", "choice", "yes_no", "text"]))
def test_any_text_is_read_without_an_error(answer: str, form: Form | None) -> None:
    assert extract_answer(answer, form) != ""


def test_most_votes_win_when_all_are_equally_good() -> None:
    won = vote({"a": "4", "b": "5", "c": "5."}, EVEN, "number")
    assert won is not None
    assert (won.answer, won.voters) == ("5", ("b", "c"))
    assert won.share == pytest.approx(2 / 3)


def test_an_expert_that_is_nearly_always_right_outvotes_two_that_are_not() -> None:
    won = vote({"a": "4", "b": "5", "c": "5"}, {"a": 0.99, "b": 0.6, "c": 0.6}, "number")
    assert won is not None
    assert won.answer == "4"
    assert won.share == pytest.approx((log(99) + log(9)) / (log(99) + log(9) + 2 * (log(0.6 / 0.4) + log(9))))


def test_of_equal_votes_the_better_experts_answer_wins() -> None:
    won = vote({"a": "4", "b": "5"}, EVEN, "number")
    assert won is not None
    assert won.answer == "4"


def test_the_best_voter_speaks_for_an_answer() -> None:
    won = vote({"a": "4", "b": "4"}, {"a": 0.3, "b": 0.8}, "number")
    assert won is not None
    assert won.voters == ("b", "a")


def test_what_cannot_be_read_has_no_vote_but_counts_against_the_share() -> None:
    won = vote({"a": "yes", "b": "well, it depends", "c": "hard to say"}, EVEN, "yes_no")
    assert won is not None
    assert won.share == pytest.approx(1 / 3)
    assert vote({"a": "well\nit depends"}, EVEN) is None


@given(st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["1", "2", "?"]), min_size=1), st.data())
def test_the_winner_is_an_answer_somebody_gave(answers: dict[str, str], data: st.DataObject) -> None:
    quality = {name: data.draw(st.floats(0, 1)) for name in answers}
    won = vote(answers, quality, "number")
    if won is None:
        assert set(answers.values()) == {"?"}
    else:
        assert all(answers[name] == won.answer for name in won.voters)
        assert 0 < won.share <= 1 + 1e-9


@pytest.mark.parametrize(
    ("quality", "form", "weighs"),
    [
        (0.5, "yes_no", 0.05),
        (0.5, "choice", log(3)),
        (0.5, "number", log(9)),
        (0.5, "text", log(9)),
        (0.5, None, log(9)),
        (0.0, "text", 0.05),
        (1.0, "yes_no", log(99)),
        (0.8, "yes_no", log(4)),
    ],
)
def test_a_vote_weighs_as_evidence_between_so_many_alternatives(
    quality: float, form: Form | None, weighs: float
) -> None:
    assert weight(quality, form) == pytest.approx(weighs)


@pytest.mark.parametrize(("n_chars", "read"), [(60, True), (61, False)])
def test_a_text_of_up_to_sixty_characters_can_agree(n_chars: int, read: bool) -> None:
    answer = "x" * n_chars
    assert extract_answer(answer) == (answer if read else None)


@pytest.mark.parametrize(
    ("answer", "form", "meant"),
    [
        ("1 and 2 and 3", "number", "3"),
        ("The answer is 1, then 2, then 3.", "number", "1"),
        ("The answer is 4.\nNo, the answer is 5.", "number", "5"),
        ("The sum of 2 and 3 is 5. The answer is clear to all.", "number", "5"),
        ("(A) or (B) or (C)", "choice", "A"),
        ("It is one of A and B and C", "choice", "C"),
        ("The answer is either B or C or D", "choice", "B"),
        ("C: because", "choice", "C"),
        ("B", "choice", "B"),
        ("K", "choice", None),
        ("yes and no", "yes_no", "yes"),
        ("no, true", "yes_no", "no"),
        ("TRUE", "yes_no", "yes"),
        ("12 apples", "text", "12 apples"),
        ("12", "text", "12"),
        ("1/4", "number", "1/4"),
        ("3 / 4", "number", "3/4"),
        ("2/08", "number", "1/4"),
        ("7/0", "number", "0"),
        ("-1,234.50", "number", "-2469/2"),
        ("An  Owl", None, "owl"),
        ("the", None, "the"),
    ],
)
def test_of_several_candidates_the_form_and_the_claim_decide(
    answer: str, form: Form, meant: str | None
) -> None:
    assert extract_answer(answer, form) == meant


@pytest.mark.parametrize(
    ("question", "form"),
    [
        ("A. red\nB. blue\nYes or no?", "choice"),
        ("True or false: 2 + 2 is 5?", "yes_no"),
        ("A. red\nA. blue", None),
    ],
)
def test_options_go_before_yes_or_no_and_that_before_a_number(question: str, form: Form | None) -> None:
    assert detect_form(question) == form


def test_no_answers_have_no_vote() -> None:
    assert vote({}, {}) is None


def test_a_share_is_of_the_weight_of_all() -> None:
    quality = {"a": 0.8, "b": 0.6}
    won = vote({"a": "yes", "b": "no"}, quality, "yes_no")
    assert won is not None
    assert won.share == pytest.approx(log(4) / (log(4) + log(1.5)))


def test_weights_of_one_answer_add_up() -> None:
    quality = {"a": 0.8, "b": 0.7, "c": 0.7}
    won = vote({"a": "yes", "b": "no", "c": "no"}, quality, "yes_no")
    assert won is not None
    assert (won.answer, won.voters) == ("no", ("b", "c"))
    assert won.share == pytest.approx(2 * log(7 / 3) / (2 * log(7 / 3) + log(4)))


@pytest.mark.parametrize(("quality", "weighs"), [(0.98, log(49)), (0.99, log(99)), (0.995, log(99))])
def test_no_prediction_is_sure_enough_to_decide_alone(quality: float, weighs: float) -> None:
    assert weight(quality, "yes_no") == pytest.approx(weighs)


def test_a_quality_just_better_than_chance_weighs_as_such() -> None:
    assert weight(0.52, "yes_no") == pytest.approx(log(0.52 / 0.48))
    assert weight(0.02, "number") == 0.05
    assert weight(0.2, "number") == pytest.approx(log(0.25) + log(9))
