import calendar
import math
import time
from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator import answer
from calculator.numbers import SMALL_WORDS, format_number, parse_number_words, root
from calculator.types import Directives

TODAY = date(2025, 6, 11)
SIGNS = {"+": ("+", " plus "), "-": (" - ", " minus "), "*": ("*", " × ", " times "), "/": (" / ", " ÷ ")}
numbers = st.integers(0, 10**6).map(lambda n: (str(n), Fraction(n))) | st.decimals("0", "1000", places=2).map(
    lambda d: (str(d), Fraction(d))
)


@st.composite
def draw_joined(draw: st.DrawFn, parts: st.SearchStrategy[tuple[str, Fraction]]) -> tuple[str, Fraction]:
    (left, a), sign, (right, b) = draw(parts), draw(st.sampled_from("+-*/")), draw(parts)
    if sign == "/" and b == 0:
        sign = "+"
    value = {"+": a + b, "-": a - b, "*": a * b}.get(sign)
    return f"({left}{draw(st.sampled_from(SIGNS[sign]))}{right})", a / b if value is None else value


@given(st.recursive(numbers, draw_joined, max_leaves=8).filter(lambda pair: "(" in pair[0]))
def test_expressions_equal_their_value_in_fractions(expression: tuple[str, Fraction]) -> None:
    text, value = expression
    found = answer(f"What is {text}?", TODAY)
    assert found is not None
    assert found.text == format_number(value)
    assert abs(Fraction(found.text) - value) <= max(Fraction(1, 2 * 10**6), abs(value) / 10**5)


@given(
    st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=12),
    st.integers(0, 99),
)
def test_precedence_is_the_usual_one(tail: list[tuple[str, int]], head: int) -> None:
    text = str(head) + "".join(f" {sign} {n}" for sign, n in tail)
    found = answer(text, TODAY)
    assert found is not None
    assert found.text == str(eval(text))


@given(st.integers(1, 999_999))
def test_spelled_numbers_are_read_as_their_digits(number: int) -> None:
    def below_thousand(n: int) -> list[str]:
        by_value = {value: word for word, value in SMALL_WORDS.items()}
        hundreds = [by_value[n // 100], "hundred"] if n >= 100 else []
        rest = n % 100
        if rest > 20 and rest % 10:
            return [*hundreds, by_value[rest // 10 * 10], by_value[rest % 10]]
        return [*hundreds, *([by_value[rest]] if rest or not hundreds else [])]

    thousands = [*below_thousand(number // 1000), "thousand"] if number >= 1000 else []
    words = [*thousands, *(below_thousand(number % 1000) if number % 1000 or not thousands else [])]
    assert parse_number_words(words) == (number, len(words))


@given(st.fractions(min_value=0, max_value=10**9), st.integers(2, 5))
def test_roots_are_exact_on_perfect_powers_and_close_elsewhere(value: Fraction, degree: int) -> None:
    assert root(value**degree, degree) == value
    assert math.isclose(float(root(value, degree)), float(value) ** (1 / degree), rel_tol=1e-9, abs_tol=1e-30)


@given(st.fractions(), st.integers(0, 8))
def test_rounding_is_off_by_at_most_half_a_unit(value: Fraction, n_places: int) -> None:
    text = format_number(value, Directives(n_places=n_places))
    assert abs(Fraction(text) - value) <= Fraction(1, 2 * 10**n_places)
    assert len(text.partition(".")[2]) == n_places


@given(st.dates(), st.dates())
def test_days_between_dates_equal_their_difference(one: date, other: date) -> None:
    found = answer(f"How many days are there between {one} and {other}? Give only the number.", TODAY)
    assert found is not None
    assert found.text == str(abs((other - one).days))


@given(st.dates(date(1000, 1, 1), date(9000, 1, 1)), st.integers(0, 100_000))
def test_a_date_moved_forth_and_back_is_itself(start: date, n_days: int) -> None:
    forth = answer(f"What date is {n_days} days after {start}?", TODAY)
    assert forth is not None
    assert forth.text == (start + timedelta(days=n_days)).isoformat()
    back = answer(f"What date is {n_days} days before {forth.text}?", TODAY)
    assert back is not None
    assert back.text == start.isoformat()


@given(st.dates(date(1000, 1, 1)))
def test_weekdays_are_the_calendars_in_any_notation(day: date) -> None:
    month = calendar.month_name[day.month]
    for text in (day.isoformat(), f"{month} {day.day}, {day.year}", f"{day.day} {month} {day.year}"):
        found = answer(f"What day of the week is {text}?", TODAY)
        assert found is not None
        assert found.text == calendar.day_name[day.weekday()]


PAIRS = [
    ("miles", "km"),
    ("pounds", "kg"),
    ("gallons", "litres"),
    ("hours", "days"),
    ("mph", "m/s"),
    ("GB", "bits"),
]


@given(st.sampled_from(PAIRS), st.integers(1, 10**6))
def test_a_conversion_there_and_back_is_the_number_again(pair: tuple[str, str], number: int) -> None:
    one, other = pair
    there = answer(f"Convert {number} {one} to {other}. Just the number to 12 decimal places.", TODAY)
    assert there is not None
    back = answer(f"Convert {there.text} {other} to {one}. Just the number to 3 decimal places.", TODAY)
    assert back is not None
    assert back.text == f"{number}.000"


@given(st.text(max_size=700) | st.text("0123456789+-*/^%!().,= what is of days km", max_size=700))
def test_any_text_gives_an_answer_or_none(text: str) -> None:
    found = answer(text, TODAY)
    assert found is None or found.text


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "(" * 290 + "1+1" + ")" * 290,
        "-" * 590 + "1",
        "9" * 100_000,
        "9**9**9",
        "2^2^2^2^2^2^2^2",
        "400!*400!",
        "1.0000000000001^99999",
        "(9^999)^(9^9)",
        "what is " * 70,
        "how many a in " * 40,
        "how many days between " + "a and " * 90,
        "how many days are there " * 24,
        "what is 5 in " * 45,
        "a, " * 190,
        "one hundred and " * 37,
        "rounded to " * 50,
    ],
    ids=lambda text: text[:20],
)
def test_adversarial_text_takes_bounded_time(text: str) -> None:
    began_s = time.process_time()
    answer(text, TODAY)
    assert time.process_time() - began_s < 1  # hundreds of times what it takes: exponential growth, not speed
