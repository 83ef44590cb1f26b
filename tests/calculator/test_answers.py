from datetime import date

import pytest

from calculator import Answer, answer, calculator

TODAY = date(2025, 6, 11)

ARITHMETIC = {
    "What is 4817*392?": "1888264",
    "What is 17 × 23?": "391",
    "what's 15% of 80": "12",
    "What is 15 percent of 200? Respond with the number only, no explanation.": "30",
    "square root of 144": "12",
    "What is the square root of 2 to 3 decimal places?": "1.414",
    "What's the cube root of 27?": "3",
    "Please compute 12 plus 7.": "19",
    "Compute 3/4 + 1/4. Answer with just the number.": "1",
    "What is the remainder when 17 is divided by 5?": "2",
    "17 mod 5": "2",
    "17 % 5": "2",
    "What is 10/3 rounded to 2 decimal places?": "3.33",
    "Give the answer to two decimal places: 22 / 7": "3.14",
    "Round 17.456 to 1 decimal place.": "17.5",
    "What is 17.456 rounded to the nearest integer?": "17",
    "Round 1234.5 to the nearest hundred.": "1200",
    "What is 2/3 to 4 significant figures?": "0.6667",
    "What do you get if you multiply 12 by 13?": "156",
    "If you multiply 12 by 13, what do you get?": "156",
    "What number do you get when 15 is added to 27?": "42",
    "Subtract 5 from 12": "7",
    "What is 8 less than 20?": "12",
    "Divide 144 by 12.": "12",
    "Add 12, 14 and 16.": "42",
    "What is the sum of 3, 5 and 7?": "15",
    "What is the product of 6 and 7?": "42",
    "What is the difference between 3 and 8?": "5",
    "What is the average of 10, 20 and 40?": "23.333333",
    "twelve plus seventy-three": "85",
    "one hundred and five times two": "210",
    "What is seven multiplied by eight?": "56",
    "What is 2 to the power of 10?": "1024",
    "what is 2 raised to the 10th power": "1024",
    "12 squared": "144",
    "What is 2^-2?": "0.25",
    "What is 12/4?": "3",
    "(2+3)*4": "20",
    "Evaluate (19 + 25) * 11 - 19": "465",
    "Please add up 1036, 1610 and 1500 for me.": "4146",
    "8 * (7 - 2)^2 / 4": "50",
    "2(3+4)": "14",
    "3 x 4": "12",
    "12 + 7 = ?": "19",
    "5!": "120",
    "-3 + 5": "2",
    "What is -5 squared": "-25",
    "0.1 + 0.2": "0.3",
    "What is 1,234 + 5,678?": "6912",
    "What is 3/8 as a decimal?": "0.375",
    "1/3 + 1/6 as a fraction": "1/2",
    "1/3 + 1/3": "0.666667",
    "Convert 0.75 to a percentage": "75%",
    "What percentage of 80 is 20?": "25%",
    "20 is what percent of 80?": "25%",
    "What is 20% off 50?": "40",
    "What is 15% of $80?": "$12",
    "Increase 80 by 15%": "92",
    "half of 90": "45",
    "three quarters of 80": "60",
    "What is 2/3 of 9?": "6",
    "How many times does 7 go into 84?": "12",
    "What is the greatest common divisor of 12 and 18?": "6",
    "Which is larger, 9.11 or 9.9?": "9.9",
    "Is 91 divisible by 7?": "Yes",
    "Is 7 even or odd?": "odd",
    "Hello! What is 3+4? Thanks!": "7",
    "Can you tell me what 23 times 19 is?": "437",
    "Calculate 7 * 8 and give only the final number.": "56",
    "Evaluate the expression: 3 + 4 * 2. Reply with only the number.": "11",
    "Write only the result of 31 - 45": "-14",
}
UNITS = {
    "How many kilometres are 5 miles?": "8.04672 kilometres",
    "How many kilometers are in 5 miles? Answer with just the number.": "8.04672",
    "convert 3 kg to pounds": "6.613868 pounds",
    "Convert 72 degrees Fahrenheit to Celsius. Round to one decimal place.": "22.2 °C",
    "What is -40 C in F?": "-40 °F",
    "What is 0 Kelvin in Celsius?": "-273.15 °C",
    "How many seconds are there in 3 hours?": "10800 seconds",
    "How many minutes in a day?": "1440 minutes",
    "5 feet 10 inches in cm": "177.8 cm",
    "What is 3 hours and 20 minutes in minutes?": "200 minutes",
    "2 1/2 hours in minutes": "150 minutes",
    "one and a half hours in minutes": "90 minutes",
    "what is 5 km in miles, rounded to 2 decimal places?": "3.11 miles",
    "How many grams are in half a kilogram?": "500 grams",
    "5 miles is how many kilometers?": "8.04672 kilometers",
    "In metres, how long is 3 km?": "3000 metres",
    "How many MB are in 2 GB?": "2000 MB",
    "How many bytes are in 4 KiB?": "4096 bytes",
    "Convert 90 km/h to m/s": "25 m/s",
    "How many ounces are in 2 pounds?": "32 ounces",
    "How many ounces in a cup?": "8 ounces",
    "How many months are in 4 years?": "48 months",
    "The sign says 5 miles. What is that in km?": "8.04672 km",
    "The rope is 3 m long. How many feet is that?": "9.84252 feet",
    "Convert 135 minutes to hours and minutes.": "2 hours and 15 minutes",
    "What is 70 inches in feet and inches?": "5 feet and 10 inches",
    "Express 100 cm in metres": "1 metre",
}
DATES = {
    "How many days are there between 2024-01-01 and 2024-03-01?": "60 days",
    "How many days are there from 5 May 2021 to 17 August 2021? Reply with only the number.": "104",
    "How many days between March 3 and April 5, 2024?": "33 days",
    "How many days since 2025-01-01?": "161 days",
    "How many days until Christmas?": "197 days",
    "How many days until January 1?": "204 days",
    "How many full years are there between 1990-05-17 and 2024-03-01?": "33 years",
    "How many years passed from 1914 to 1918?": "4 years",
    "What day of the week was July 4, 1976?": "Sunday",
    "On what weekday did 20 July 1969 fall?": "Sunday",
    "2024-12-25 is what day of the week?": "Wednesday",
    "What date is 45 days after 2024-01-15?": "2024-02-29",
    "What is the date 90 days after March 3, 2024?": "June 1, 2024",
    "What date comes 3 weeks after 1 May 2023?": "22 May 2023",
    "Add 100 days to November 5, 2023. Answer in YYYY-MM-DD format.": "2024-02-13",
    "What date is 10 days before March 5, 2024?": "February 24, 2024",
    "What is 2024-01-31 plus 1 month?": "2024-02-29",
    "What date is 4 years after 2096-02-29?": "2100-02-28",
    "Is 2024 a leap year?": "Yes",
    "Was 1900 a leap year? Answer yes or no.": "No",
    "How many days are in February 2024?": "29 days",
    "how many days in a leap year": "366 days",
    "What is today's date?": "June 11, 2025",
    "What day is it today?": "Wednesday",
    "What date will it be in 10 days?": "June 21, 2025",
    "What was the date 7 days ago?": "June 4, 2025",
    "If today is Wednesday, what day will it be in 10 days?": "Saturday",
    "If today is Monday, which day is tomorrow?": "Tuesday",
    "Which day is tomorrow if today is Monday?": "Tuesday",
    "What day was yesterday if tomorrow is Friday?": "Wednesday",
    "If yesterday was Sunday, what day is the day after tomorrow?": "Wednesday",
    "Which day comes right before Monday?": "Sunday",
    "The month of April has how many days?": "30 days",
    "Today is 2024-03-03. What date is it in 30 days?": "2024-04-02",
}
REFUSALS = {
    "9**9**9": "That number is too large for me to write out: it would have more than 1,000 digits.",
    "What is 1000000!": "That number is too large for me to write out.",
    "What is 1/0?": "That is undefined: it divides by zero.",
    "17 mod 0": "That is undefined: it divides by zero.",
    "What is the square root of -4?": "That has no real value: it takes an even root of a negative number.",
    "What date is 3 days after February 30, 2024?": "That date does not exist.",
    "What date is 9999999 days after 2024-01-01?": "That date is outside the years 1 to 9999.",
}
NOT_COMPUTATIONS = [
    "",
    "?",
    "Hello!",
    "42",
    "What is 9/11?",
    "What is 24/7?",
    "What is 1984?",
    "What is 911?",
    "What is 2024-03-05?",
    "Call 555-1234",
    "555-123-4567",
    "192.168.1.1",
    "Python 3.11",
    "What is the capital of France?",
    "Tom has 3 apples. What is 3+4?",
    "Tom has 3 apples. What is that in pears?",
    "The war lasted 6 years. What is that in history?",
    "Tom has 3 apples and buys 4 more. How many does he have?",
    "A train travels 60 miles in 1.5 hours. What is its speed?",
    "I have 3+4 apples, how many?",
    "solve 3x = 12",
    "2x - 3",
    "If x = 3, what is x + 4?",
    "200 + 10%",
    "6/2(1+2)",
    "What is 3+4? And who was Plato?",
    "Write a Python function that computes 3+4.",
    "Explain why 3+4 is 7.",
    "Prove that 2+2=4",
    "What is the sum of human knowledge?",
    "How do I convert kg to pounds?",
    "How many people are in 5 cars?",
    "How much is 20 pounds in dollars?",
    "convert 5 kg to metres",
    "convert 5 kg to metres and feet",
    "What is the boiling point of water in Fahrenheit?",
    "How tall is the Eiffel tower in feet?",
    "How far is a marathon in miles?",
    "convert 255 to binary",
    "What happened on July 4, 1776?",
    "What day did World War II end?",
    "When is Easter?",
    "How many days did the war last?",
    "What is 5 - 3 in French?",
    "Translate to German: three plus four",
    "What is -300 Celsius in Fahrenheit?",
]


@pytest.mark.parametrize(
    ("tool", "question", "expected"),
    [
        (tool, question, expected)
        for tool, table in (("arithmetic", ARITHMETIC), ("units", UNITS), ("dates", DATES))
        for question, expected in table.items()
    ],
)
def test_a_computation_is_answered_exactly(tool: str, question: str, expected: str) -> None:
    assert answer(question, TODAY) == Answer(expected, tool)


@pytest.mark.parametrize(("question", "expected"), REFUSALS.items())
def test_a_computation_without_a_result_says_why(question: str, expected: str) -> None:
    found = answer(question, TODAY)
    assert found is not None
    assert found.text == expected


@pytest.mark.parametrize("question", NOT_COMPUTATIONS)
def test_what_is_not_wholly_a_computation_is_left_to_others(question: str) -> None:
    assert answer(question, TODAY) is None


@pytest.mark.parametrize(
    "wish",
    [
        "Show your work.",
        "Reply in words.",
        "Show the steps.",
        "Answer in a full sentence.",
        "Explain.",
        "Think step by step.",
        "Answer as JSON.",
        "Answer in French.",
    ],
)
@pytest.mark.parametrize("form", ["What is 17*23? {}", "{} What is 17*23?", "{}\n17*23"])
def test_a_wish_for_more_than_the_result_is_left_to_others(wish: str, form: str) -> None:
    assert answer(form.format(wish), TODAY) is None


@pytest.mark.parametrize(
    "wish", ["No explanation.", "Only the number, no words.", "Answer in one word.", "Work it out."]
)
def test_a_wish_for_the_bare_result_is_answered(wish: str) -> None:
    assert answer(f"What is 17*23? {wish}", TODAY) == Answer("391", "arithmetic")


def test_the_calculator_gives_the_text_alone() -> None:
    assert calculator("What is 4817*392?") == "1888264"
    assert calculator("Who wrote Hamlet?") is None


def test_today_is_what_the_caller_says() -> None:
    assert answer("What day is it today?", date(2000, 1, 1)) == Answer("Saturday", "dates")
