"""The calendar: weekdays, spans, lengths of months."""

from datetime import date, timedelta

from .shapes import Family, Item, family, numbers, words, yes_no

KIND = "dates"
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _weekdays() -> Family:
    dates = [
        date(2024, 7, 4),
        date(2023, 12, 25),
        date(2020, 2, 29),  # a leap day
        date(1999, 12, 31),
        date(2025, 5, 1),
        date(2022, 10, 12),
        date(2019, 3, 17),
    ]
    items = []
    for day in dates:
        right = _DAYS[day.weekday()]
        # An answer that names several days has not decided.
        wrong = [name for name in _DAYS if name != right]
        items.append(
            Item(f"What day of the week was {day.isoformat()}?", {"accept": [right], "reject": wrong}, right)
        )
    return family(KIND, "weekday_of_date", "text", 48, items)


def _later() -> Family:
    starts = [
        (date(2024, 1, 30), 5),
        (date(2023, 6, 10), 30),
        (date(2024, 2, 27), 3),  # across a leap day
        (date(2025, 12, 25), 10),  # across a new year
        (date(2022, 8, 1), 45),
        (date(2021, 4, 15), 20),
        (date(2024, 11, 28), 7),
    ]
    items = []
    for start, n_days in starts:
        end = start + timedelta(days=n_days)
        forms = [
            end.isoformat(),
            f"{end:%B} {end.day}",
            f"{end.day} {end:%B}",
            f"{end:%B} {end.day}th",
            f"{end.day}th of {end:%B}",
        ]
        # 1st, 22nd, 31st; all other days, 11 to 13 among them, end in th.
        if end.day in (1, 2, 3, 21, 22, 23, 31):
            ending = {1: "st", 2: "nd", 3: "rd"}[end.day % 10]
            forms += [f"{end:%B} {end.day}{ending}", f"{end.day}{ending} of {end:%B}"]
        prompt = f"Which date is {n_days} days after {start.isoformat()}?"
        items.append(Item(prompt, {"accept": forms, "reject": [start.isoformat()]}, forms[0]))
    return family(KIND, "days_after", "text", 48, items)


def _spans() -> Family:
    pairs = [
        ("2024-03-01", "2024-03-15"),
        ("2023-01-01", "2023-12-31"),
        ("2024-02-20", "2024-03-05"),  # 14: February has 29 days
        ("2022-05-10", "2022-06-10"),
        ("2021-09-01", "2021-09-30"),
        ("2020-01-31", "2020-03-01"),
        ("2025-07-04", "2025-08-08"),
    ]
    rows = [
        (f"How many days are there from {a} to {b}?", (date.fromisoformat(b) - date.fromisoformat(a)).days)
        for a, b in pairs
    ]
    return numbers(KIND, "days_between", [(prompt, float(n)) for prompt, n in rows])


FAMILIES = (
    _weekdays(),
    _later(),
    _spans(),
    words(
        KIND,
        "next_day",
        "If today is {0}, which day is tomorrow?",
        [(day, _DAYS[(i + 1) % 7]) for i, day in enumerate(_DAYS)],
    ),
    numbers(
        KIND,
        "days_in_month",
        [
            (f"The month of {month} has how many days?", n)
            for month, n in [
                ("January", 31),
                ("April", 30),
                ("June", 30),
                ("July", 31),
                ("September", 30),
                ("December", 31),
                ("May", 31),
            ]
        ],
    ),
    yes_no(
        KIND,
        "leap_year",
        "Was {0} a leap year? Reply with yes or no.",
        [
            ("2020", True),
            ("1900", False),  # divisible by 100 and not by 400 (Gregorian calendar)
            ("2000", True),  # divisible by 400
            ("2019", False),
            ("1996", True),
            ("2023", False),
            ("2012", True),
        ],
    ),
    words(
        KIND,
        "month_number",
        "Name month number {0} of the year.",
        [
            ("1", "January"),
            ("3", "March"),
            ("5", "May"),
            ("8", "August"),
            ("10", "October"),
            ("11", "November"),
            ("12", "December"),
        ],
    ),
)
