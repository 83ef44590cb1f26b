"""Conversions between units of measurement."""

from .shapes import numbers

KIND = "units"

FAMILIES = (
    numbers(
        KIND,
        "metres",
        [(f"Convert {n} kilometres to metres.", n * 1000) for n in (2, 3.5, 7, 12, 0.4, 25, 60)],
    ),
    numbers(
        KIND,
        "grams",
        [(f"How many grams are there in {n} kg?", n * 1000) for n in (1, 2.5, 4, 9, 0.75, 13, 30)],
    ),
    numbers(
        KIND,
        "minutes",
        [(f"{n} hours is how many minutes?", n * 60) for n in (2, 3, 5, 8, 1.5, 12, 24)],
    ),
    numbers(
        KIND,
        "fahrenheit",
        [
            # 37 °C is 98.6 °F; with 1 % tolerance 99 counts as well.
            (f"What is {c} degrees Celsius in Fahrenheit?", c * 9 / 5 + 32)
            for c in (0, 100, 25, 37, -10, 15, 60)
        ],
        tolerance_ratio=0.01,
    ),
    numbers(
        KIND,
        "inches",
        [(f"Express {n} feet in inches, please.", n * 12) for n in (1, 3, 5, 6, 10, 20, 15)],
    ),
    numbers(
        KIND,
        "kilometres",
        [
            # A mile is 1,609.344 m (yard and pound agreement, 1959); the usual 1.6 is within 1 %.
            (f"A road sign says {n} miles. What is that in km?", round(n * 1.609344, 2))
            for n in (5, 10, 26, 50, 62, 100, 3)
        ],
        tolerance_ratio=0.01,
    ),
    numbers(
        KIND,
        "pounds",
        [
            # A pound is 0.45359237 kg (the same agreement); the usual 2.2 is within 1 %.
            (f"My parcel weighs {n} kilograms. Give its weight in pounds (lb).", round(n * 2.204623, 2))
            for n in (1, 3, 5, 10, 22, 50, 80)
        ],
        tolerance_ratio=0.01,
    ),
)
