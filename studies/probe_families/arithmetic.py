"""Sums, products, percentages: what a calculator answers."""

from random import Random

from .shapes import Family, numbers

KIND = "arithmetic"
N_PROMPTS = 8


# A seed for each family, so that a new family leaves the prompts of the others as they are.
def _make_random(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - prompts, not secrets


def _products() -> Family:
    rng = _make_random(1)
    pairs = [(rng.randint(12, 9999), rng.randint(3, 990)) for _ in range(N_PROMPTS)]
    return numbers(KIND, "products", [(f"What is {a} * {b}?", a * b) for a, b in pairs])


def _small_sums() -> Family:
    pairs = [(3, 5), (2, 6), (4, 4), (7, 2), (5, 6), (9, 3), (8, 7), (1, 9)]
    return numbers(KIND, "small_sums", [(f"{a} + {b} = ?", a + b) for a, b in pairs])


def _long_sums() -> Family:
    rng = _make_random(2)
    rows = []
    for _ in range(N_PROMPTS):
        a, b, c = (rng.randint(110, 9800) for _ in range(3))
        rows.append((f"Please add up {a}, {b} and {c} for me.", a + b + c))
    return numbers(KIND, "long_sums", rows)


def _differences() -> Family:
    rng = _make_random(3)
    pairs = [(rng.randint(500, 9000), rng.randint(20, 480)) for _ in range(N_PROMPTS)]  # a > b
    return numbers(KIND, "differences", [(f"How much is {a} minus {b}?", a - b) for a, b in pairs])


def _quotients() -> Family:
    rng = _make_random(4)
    pairs = [(rng.randint(3, 60), rng.randint(4, 90)) for _ in range(N_PROMPTS)]
    # A product is divided, so that every answer is whole.
    return numbers(KIND, "quotients", [(f"Divide {a * b} by {b}.", a) for a, b in pairs])


def _percentages() -> Family:
    # All come out whole, so that rounding plays no part.
    pairs = [(20, 350), (5, 240), (75, 88), (12, 400), (35, 620), (8, 150), (60, 45), (15, 980)]
    rows = [(f"Could you tell me what {p}% of {n} is?", p * n / 100) for p, n in pairs]
    return numbers(KIND, "percentages", rows)


def _brackets() -> Family:
    rng = _make_random(5)
    rows = []
    for _ in range(N_PROMPTS):
        a, b, c = rng.randint(3, 40), rng.randint(3, 40), rng.randint(3, 12)
        rows.append((f"Evaluate ({a} + {b}) * {c} - {a}", (a + b) * c - a))
    return numbers(KIND, "brackets", rows)


def _powers() -> Family:
    bases = [7, 9, 12, 15, 21, 25, 31, 44]
    return numbers(
        KIND, "squares", [(f"Calculate the square of {n}. Give the number.", n * n) for n in bases]
    )


FAMILIES = (
    _products(),
    _small_sums(),
    _long_sums(),
    _differences(),
    _quotients(),
    _percentages(),
    _brackets(),
    _powers(),
)
