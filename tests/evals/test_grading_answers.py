"""What each grader takes for a right answer, and what it does not."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.grading import GRADERS, ExpectedError, check_expected, grade


@dataclass(frozen=True)
class GradedPrompt:
    grader: str
    expected: Any
    prompt: str = "?"


PARIS = GradedPrompt(
    "text", {"accept": ["Paris"], "reject": ["London", "Rome", "Lyon"]}, "What is the capital of France?"
)
SEVEN = GradedPrompt("number", {"value": 7}, "What is 3 + 4?")
BIG = GradedPrompt("number", {"value": 1888264}, "What is 4817 * 392?")
WARM = GradedPrompt("number", {"value": 77, "tolerance": 0.5})
YES = GradedPrompt("yes_no", {"answer": True})
NO = GradedPrompt("yes_no", {"answer": False})
FRUIT = GradedPrompt("choice", {"answer": "B", "options": {"A": "carrot", "B": "apple", "C": "chair"}})
PLANTS = GradedPrompt(
    "keywords", {"groups": [["plant", "plants"], ["light", "sunlight"]], "reject": ["animal"]}
)
THREE = GradedPrompt("members", {"pool": ["red", "green", "blue", "pink", "brown"], "count": 3})
SORTED = GradedPrompt("order", {"items": ["apple", "mango", "pear"], "given": "pear, apple, mango"})
LOUD = GradedPrompt("literal", {"text": "HELLO"})
SPELLED = GradedPrompt("pattern", {"pattern": r"d-o-g\.?"})
DASHES = GradedPrompt("bullets", {"count": 3, "marker": "-", "pool": ["milk", "eggs", "bread"]})
PERSON = GradedPrompt("json", {"value": {"name": "Anna", "age": 31}})
HOUSE = GradedPrompt("translation", {"accept": ["casa"]})
INITIALS = GradedPrompt("exact", {"accept": ["M. S.", "MS"]})

RIGHT = [
    (PARIS, "Paris"),
    (PARIS, "paris."),
    (PARIS, "**Paris**"),
    (PARIS, "The capital of France is Paris."),
    (PARIS, "Sure! The answer is “Paris”. It lies on the Seine."),
    (PARIS, "It is not Lyon but Paris."),
    (PARIS, "What is the capital of France? Paris"),
    (SEVEN, "7"),
    (SEVEN, "seven"),
    (SEVEN, "3 + 4 = 7"),
    (SEVEN, "**7**"),
    (SEVEN, "3 + 4 = 7\n\nThis is a classic example of addition."),
    (SEVEN, "The answer is 7."),
    (SEVEN, "The sum of 3 and 4 is 7."),
    (SEVEN, "3 plus 4 equals 7."),
    (SEVEN, "1 week is 7 days."),
    (SEVEN, "7 apples"),
    (SEVEN, "A week has seven days."),
    (BIG, "1,888,264"),
    (BIG, "4817 * 392 = 1888264."),
    (BIG, "\\boxed{1888264}"),
    (WARM, "25 °C is 77.0 °F"),
    (WARM, "about 77.3 degrees"),
    (YES, "Yes."),
    (YES, "yes, it is"),
    (YES, "True"),
    (YES, "That is correct."),
    (NO, "No, that is not correct."),
    (NO, "False. It is larger."),
    (NO, "That statement is not true."),
    (FRUIT, "B"),
    (FRUIT, "b) apple"),
    (FRUIT, "The answer is B."),
    (FRUIT, "An apple is a fruit."),
    (PLANTS, "It is how plants turn light into sugar."),
    (PLANTS, "Plants do it.\nThey need sunlight for that."),
    (THREE, "red, green, blue"),
    (THREE, "1. Red: like fire\n2. Green: like grass\n3. Blue: like the sea"),
    (THREE, "Three colours are red, pink and brown."),
    (SORTED, "apple, mango, pear"),
    (SORTED, "- Apple\n- Mango\n- Pear"),
    (SORTED, "pear, apple, mango in order: apple, mango and pear."),
    (LOUD, "HELLO"),
    (LOUD, '"HELLO"'),
    (LOUD, 'In capitals, "hello" is HELLO.'),
    (LOUD, "Here you are:\nHELLO"),
    (SPELLED, "d-o-g"),
    (DASHES, "- milk\n- eggs\n- bread"),
    (DASHES, "Here you go:\n\n- Eggs\n- Milk\n- Bread\n"),
    (PERSON, '{"name": "Anna", "age": 31}'),
    (PERSON, 'Here:\n```json\n{"age": "31", "name": "anna"}\n```\nBye'),
    (HOUSE, "casa"),
    (HOUSE, "la casa"),
    (HOUSE, 'The Spanish word for house is "casa".'),
    (INITIALS, "M.S."),
    (INITIALS, "ms"),
]

WRONG = [
    (PARIS, ""),
    (PARIS, "I don't know."),
    (PARIS, "London"),
    (PARIS, "Parisian"),
    (PARIS, "It is not Paris."),
    (PARIS, "Paris is not the capital."),
    (PARIS, "Paris or London"),
    (PARIS, "Maybe Paris."),
    (PARIS, "It could be Paris."),
    (PARIS, "London. Some say Paris."),
    (PARIS, "Berlin, Madrid, Paris, Vienna, Oslo"),
    (PARIS, "Paris. Actually, it is Lyon."),
    (PARIS, "Is it Paris?"),
    (PARIS, "word " * 80 + "Paris"),
    (SEVEN, "3 + 4"),
    (SEVEN, "What is 3 + 4?"),
    (SEVEN, "8"),
    (SEVEN, "17"),
    (SEVEN, "7.5"),
    (SEVEN, "-7"),
    (SEVEN, "7 or 8"),
    (SEVEN, "between 6 and 7"),
    (SEVEN, "I'm not sure, perhaps 7"),
    (SEVEN, "1, 2, 3, 4, 5, 6, 7"),
    (SEVEN, "7 * 2 = 14"),
    (SEVEN, "3 + 4 = 7, so the answer is 9"),
    (BIG, "1,888"),
    (WARM, "78"),
    (YES, "No."),
    (YES, "Yes and no."),
    (YES, "yes no"),
    (YES, "Well, dogs are lovely and I have always liked them, and the answer would be yes"),
    (YES, "I don't know, yes?"),
    (YES, "That is not correct."),
    (NO, "Yes, no doubt."),
    (NO, "It is known."),
    (FRUIT, "A"),
    (FRUIT, "A) carrot B) apple C) chair"),
    (FRUIT, "A and B"),
    (FRUIT, "The answer is B or the answer is C"),
    (PLANTS, "plants light"),
    (PLANTS, "Plants are green."),
    (PLANTS, "An animal that eats plants in the light of the day."),
    (PLANTS, "Plants do not need light or anything of that sort."),
    (THREE, "red, green"),
    (THREE, "red, red, red"),
    (THREE, "red, wood, stone, green, dog, blue, cat, cow, iron"),
    (THREE, "red, green, blue, pink, brown, red, green, blue, pink, brown, red"),
    (SORTED, "pear, apple, mango"),
    (SORTED, "apple, pear, mango"),
    (SORTED, "apple, banana, mango, pear"),
    (SORTED, "apple, mango"),
    (LOUD, "hello"),
    (LOUD, "Hello"),
    (LOUD, "HELLOO"),
    (LOUD, "HELLO WORLD"),
    (SPELLED, "d-o-g-g"),
    (SPELLED, "dog"),
    (DASHES, "milk, eggs, bread"),
    (DASHES, "- milk\n- eggs"),
    (DASHES, "- milk\n- milk\n- milk"),
    (DASHES, "* milk\n* eggs\n* bread"),
    (PERSON, '{"name": "Anna"}'),
    (PERSON, '{"name": "Anna", "age": 32}'),
    (PERSON, '{"name": "Anna", "age": 31, "job": "nurse"}'),
    (PERSON, '{"name": "Anna", "age": 31'),
    (PERSON, "Anna is 31"),
    (HOUSE, "casa de mujer"),
    (HOUSE, "mi hermana casa blanca"),
    (HOUSE, "hogar"),
    (INITIALS, "M. S. T."),
    (INITIALS, "The initials are many"),
]


@pytest.mark.parametrize(("asked", "answer"), RIGHT)
def test_right_answers_score_one(asked: GradedPrompt, answer: str) -> None:
    assert grade(answer, asked) == 1.0


@pytest.mark.parametrize(("asked", "answer"), WRONG)
def test_wrong_and_hedging_answers_score_zero(asked: GradedPrompt, answer: str) -> None:
    assert grade(answer, asked) == 0.0


ASKED = [PARIS, SEVEN, YES, FRUIT, PLANTS, THREE, SORTED, LOUD, SPELLED, DASHES, PERSON, HOUSE, INITIALS]


@given(answer=st.text(max_size=300), at=st.integers(0, len(ASKED) - 1))
def test_no_text_makes_a_grader_fail(answer: str, at: int) -> None:
    assert 0.0 <= grade(answer, ASKED[at]) <= 1.0


@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6))
def test_a_stated_result_counts_and_the_numbers_of_the_question_do_not(a: int, b: int) -> None:
    asked = GradedPrompt("number", {"value": a + b}, f"What is {a} + {b}?")
    assert grade(f"{a} + {b} = {a + b}", asked) == 1.0
    assert grade(f"The sum of {a:,} and {b:,} is {a + b:,}.", asked) == 1.0
    assert grade(f"{a} + {b} = {a + b + 1}", asked) == 0.0


def test_a_very_long_answer_is_graded_by_its_start() -> None:
    assert grade("Paris. " + "x " * 200_000, PARIS) == 1.0


def test_an_unknown_grader_is_named_with_those_there_are() -> None:
    with pytest.raises(ExpectedError, match=r"unknown grader 'telepathy'; there are bullets, choice"):
        grade("x", GradedPrompt("telepathy", {}))


@pytest.mark.parametrize("name", sorted(GRADERS))
@pytest.mark.parametrize(
    "expected", [None, [], "x", {}, {"accept": []}, {"value": "7"}, {"tests": ["("], "name": "f"}]
)
def test_unusable_expectations_are_refused_by_field(name: str, expected: object) -> None:
    with pytest.raises(ExpectedError, match="expected"):
        check_expected(name, expected)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ExpectedError, match="not a regular expression"):
        check_expected("pattern", {"pattern": "("})
