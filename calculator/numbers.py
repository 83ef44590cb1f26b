"""Numbers as people write and read them, exact inside."""

# ruff: noqa: SIM905  lists of words read better as text

import math
from fractions import Fraction

from .types import Directives, Refused

MAX_BITS = 3400  # some 1,000 decimal digits
MAX_EXACT_PLACES = 10
DEFAULT_PLACES = 6

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL_WORDS = {word: n for n, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
SCALE_WORDS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
TOO_LARGE = "That number is too large for me to write out: it would have more than 1,000 digits."


def parse_number_words(words: list[str]) -> tuple[int, int] | None:
    """The number that the first words spell and how many words it took; None if they spell none.

    `["one", "hundred", "and", "five", "plus"]` gives `(105, 4)`.
    """
    total = group = n_taken = 0
    last = 10**15  # what came before must be larger in scale than what follows
    for n, word in enumerate(words):
        if word in SMALL_WORDS and _can_follow(SMALL_WORDS[word], last):
            group, last = group + SMALL_WORDS[word], SMALL_WORDS[word]
        elif word == "hundred" and 0 < group < 10:
            group, last = group * 100, 100
        elif word in SCALE_WORDS and word != "hundred" and group:
            total, group, last = total + group * SCALE_WORDS[word], 0, 100
        elif (
            word == "and" and last >= 100 and n_taken and words[n + 1 : n + 2] and words[n + 1] in SMALL_WORDS
        ):
            continue
        else:
            break
        n_taken = n + 1
    return (total + group, n_taken) if n_taken else None


def _can_follow(value: int, last: int) -> bool:
    # `twenty three` goes on; `thirteen three`, `twenty ten` and `twenty three four` do not.
    return last >= 100 or (last >= 20 and last % 10 == 0 and 0 < value < 10)


def limit_size(value: Fraction) -> Fraction:
    """The value itself, unless it has grown beyond what a reader can take in.

    Raises:
        Refused: numerator or denominator beyond `MAX_BITS`.
    """
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise Refused(TOO_LARGE)
    return value


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent, its size estimated before it is computed.

    Raises:
        Refused: too large, or without a real value.
    """
    if base == 0 and exponent < 0:
        raise Refused("That is undefined: it divides by zero.")
    if exponent.denominator == 1:
        n_bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base not in (0, 1, -1) and n_bits * abs(exponent.numerator) > 2 * MAX_BITS:
            raise Refused(TOO_LARGE)
        # ±1 and 0 to a huge power would loop over the exponent's bits only, which is cheap.
        return limit_size(base**exponent.numerator)
    if exponent.denominator > 12:
        raise Refused("I only take roots up to the twelfth.")
    return power(root(base, exponent.denominator), Fraction(exponent.numerator))


def root(value: Fraction, degree: int) -> Fraction:
    """The real root: exact where it is rational, else to 40 digits after the point.

    Raises:
        Refused: an even root of a negative number.
    """
    if value < 0:
        if degree % 2 == 0:
            raise Refused("That has no real value: it takes an even root of a negative number.")
        return -root(-value, degree)
    # In lowest terms a root is rational only where numerator and denominator are both perfect powers.
    above, below = _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    if above**degree == value.numerator and below**degree == value.denominator:
        return Fraction(above, below)
    # The degree-th root of value · scale^degree is scale times the root sought.
    scale = 10**40
    return Fraction(_integer_root(value.numerator * scale**degree // value.denominator, degree), scale)


def _integer_root(value: int, degree: int) -> int:
    """Largest integer whose `degree`-th power does not exceed `value` (Newton from above)."""
    if degree == 2 or value < 2:
        return math.isqrt(value) if degree == 2 else value
    # A power of two that is not below the root: from there Newton's sequence falls until it reaches the
    # floor (Brent and Zimmermann, Modern Computer Arithmetic, section 1.5).
    guess = 1 << -(-value.bit_length() // degree)
    while True:
        better = ((degree - 1) * guess + value // guess ** (degree - 1)) // degree
        if better >= guess:
            return guess
        guess = better


def format_number(value: Fraction, directives: Directives | None = None) -> str:
    """The number in digits: integers plain, short decimals exact, others rounded half away from zero."""
    wish = directives or Directives()
    if wish.as_fraction and value.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    if wish.n_significant is not None and value:
        return _format_fixed(value, wish.n_significant - 1 - _magnitude(value))
    if wish.n_places is not None:
        return _format_fixed(value, wish.n_places)
    n_places = _count_exact_places(value)
    if n_places is not None:
        return _strip_zeros(_format_fixed(value, n_places))
    if abs(value) >= Fraction(1, 1000):
        return _strip_zeros(_format_fixed(value, DEFAULT_PLACES))
    return _strip_zeros(_format_fixed(value, min(DEFAULT_PLACES - 1 - _magnitude(value), 60)))


def _count_exact_places(value: Fraction) -> int | None:
    """Digits after the point that write the value exactly, if they are few."""
    for n_places in range(MAX_EXACT_PLACES + 1):
        if 10**n_places % value.denominator == 0:
            return n_places
    return None


def _magnitude(value: Fraction) -> int:
    """Exponent of the leading digit: 0 for 7, 2 for 123, −3 for 0.00456."""
    size = abs(value)
    # The lengths give the exponent or one more: 1/3 has 1 − 1 = 0, and its exponent is −1.
    exponent = len(str(size.numerator)) - len(str(size.denominator))
    return exponent if size >= Fraction(10) ** exponent else exponent - 1


def _format_fixed(value: Fraction, n_places: int) -> str:
    scaled = abs(value) * Fraction(10) ** n_places
    # ⌊(2a + b) / 2b⌋ is a / b rounded half up, in whole numbers: a float would lose digits.
    digits = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    sign = "-" if value < 0 and digits else ""
    if n_places <= 0:
        return f"{sign}{digits * 10**-n_places}"
    text = str(digits).rjust(n_places + 1, "0")
    return f"{sign}{text[:-n_places]}.{text[-n_places:]}"


def _strip_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
