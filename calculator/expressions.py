"""A parser of arithmetic, written or spelled, that computes with fractions as it reads.

sum     := term (("+" | "-") term)* ("less than" sum)?
term    := part (("*" | "/" | "x" | "mod" | "(") part)*
part    := unary ("of" unary)*           "15 % of 80", "2/3 of 9"
unary   := "-" unary | power
power   := postfix ("^" unary)?          from right to left
postfix := atom ("%" | "!" | "squared" | "cubed")*
atom    := number | "(" sum ")" | function of one | function of a list | fraction or multiple of a part
"""

import math
from collections.abc import Callable
from fractions import Fraction

from .numbers import limit_size, power, root
from .tokens import Token
from .types import NotComputable, Refused

# Bounded, so that a text of parentheses does not exhaust Python's stack.
MAX_DEPTH = 40
# 400! has 869 digits, the largest round number below the limit of 1,000.
MAX_FACTORIAL = 400
UNDEFINED = "That is undefined: it divides by zero."

Unary = Callable[[Fraction], Fraction]


def divide(above: Fraction, below: Fraction) -> Fraction:
    """above / below.

    Raises:
        Refused: division by zero.
    """
    if below == 0:
        raise Refused(UNDEFINED)
    return above / below


def remainder(above: Fraction, below: Fraction) -> Fraction:
    """What is left of above after taking below away as often as it goes; it has the sign of below."""
    if below == 0:
        raise Refused(UNDEFINED)
    return above % below


def factorial(value: Fraction) -> Fraction:
    """Of a whole number."""
    if value.denominator != 1 or value < 0:
        raise Refused("Factorials are defined for whole numbers from 0 on.")
    if value > MAX_FACTORIAL:
        raise Refused("That number is too large for me to write out.")
    return Fraction(math.factorial(int(value)))


def _median(values: list[Fraction]) -> Fraction:
    ranked, middle = sorted(values), len(values) // 2
    return ranked[middle] if len(values) % 2 else (ranked[middle - 1] + ranked[middle]) / 2


def _whole(values: list[Fraction]) -> list[int]:
    if any(value.denominator != 1 for value in values):
        raise NotComputable
    return [int(value) for value in values]


OF_ONE: dict[str, Unary] = {
    "sqrt": lambda v: root(v, 2),
    "√": lambda v: root(v, 2),
    "cbrt": lambda v: root(v, 3),
    "abs": abs,
    "negative": lambda v: -v,
    "reciprocal": lambda v: divide(Fraction(1), v),
    "factorial of": factorial,
    "square of": lambda v: v * v,
    "cube of": lambda v: v**3,
}
OF_LIST: dict[str, Callable[[list[Fraction]], Fraction]] = {
    "sum": lambda vs: sum(vs, Fraction(0)),
    "product": lambda vs: math.prod(vs, start=Fraction(1)),
    "mean": lambda vs: sum(vs, Fraction(0)) / len(vs),
    "median": _median,
    "max": max,
    "min": min,
    "gcd": lambda vs: Fraction(math.gcd(*_whole(vs))),
    "lcm": lambda vs: Fraction(math.lcm(*_whole(vs))),
}
OF_TWO: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "difference": lambda a, b: abs(a - b),
    "quotient": divide,
}
SHARES = {
    "half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4), "fifth": Fraction(1, 5),
    "tenth": Fraction(1, 10), "twice": Fraction(2), "thrice": Fraction(3),
}  # fmt: skip
PARTS = {"thirds": 3, "quarters": 4, "fifths": 5, "eighths": 8, "tenths": 10}


class ExpressionParser:
    """Reads tokens from left to right; `n_operations` counts what was computed."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.n_operations = 0

    @property
    def kind(self) -> str:
        """Kind of the next token, empty at the end."""
        return self._tokens[self._at].kind if self._at < len(self._tokens) else ""

    def kind_after(self) -> str:
        """Kind of the token after the next."""
        return self._tokens[self._at + 1].kind if self._at + 1 < len(self._tokens) else ""

    def accept(self, *kinds: str) -> str:
        """Move on if the next token is one of `kinds`; gives which, or an empty string."""
        kind = self.kind
        if kind and kind in kinds:
            self._at += 1
            return kind
        return ""

    def expect(self, *kinds: str) -> str:
        """Move on over one of `kinds`.

        Raises:
            NotComputable: the next token is none of them.
        """
        taken = self.accept(*kinds)
        if not taken:
            raise NotComputable
        return taken

    def expect_end(self) -> None:
        """Raises NotComputable unless all has been read."""
        if self.kind:
            raise NotComputable

    def has_just_read(self, kind: str) -> bool:
        """Whether the token read last is of this kind."""
        return self._at > 0 and self._tokens[self._at - 1].kind == kind

    def parse_sum(self) -> Fraction:
        """A whole expression, up to the first token that cannot continue it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotComputable
        value = self._parse_term()
        while sign := self.accept("+", "-"):
            right = self._parse_term()
            if self.has_just_read("%"):
                raise NotComputable  # 200 + 10 %: of what?
            value = self._count_operation(value + right if sign == "+" else value - right)
        # `3 less than 10` is 10 − 3, and all that follows is the right side: `3 less than 10 + 2` is 9.
        if self.accept("from right"):
            value = self._count_operation(self.parse_sum() - value)
        self._depth -= 1
        return value

    def parse_items(self) -> list[Fraction]:
        """Two or more sums, separated by commas or `and`; also inside parentheses."""
        values = [self.parse_sum()]
        while self.accept(",", "and"):
            self.accept("and")
            values.append(self.parse_sum())
        self.n_operations += 1
        return values

    def _parse_term(self) -> Fraction:
        value, divides = self._parse_part(), False
        while True:
            if self.kind == "(" and not divides:
                value = self._count_operation(value * self._parse_part())
            elif sign := self.accept("*", "/", "x", "mod"):
                if sign == "x" and self.kind in ("-", "+"):
                    raise NotComputable  # 2x - 3 is algebra
                divides = divides or sign == "/"
                value = self._count_operation(self._apply(sign, value, self._parse_part()))
            elif self.kind == "%" and self.kind_after() in ("number", "("):
                self.accept("%")
                value = self._count_operation(remainder(value, self._parse_part()))
            else:
                return value

    @staticmethod
    def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
        if sign == "/":
            return divide(left, right)
        return remainder(left, right) if sign == "mod" else left * right

    def _parse_part(self) -> Fraction:
        value = self._parse_unary()
        if self.kind == "/" and self._is_fraction_of():
            self.accept("/")
            value = divide(value, self._parse_unary())
        while self.kind in ("of", "off"):
            if self._tokens[self._at - 1].kind not in ("%", "number"):
                raise NotComputable
            off = self.expect("of", "off") == "off"
            value = self._count_operation((1 - value if off else value) * self._parse_unary())
        return value

    def _is_fraction_of(self) -> bool:
        ahead = [token.kind for token in self._tokens[self._at : self._at + 3]]
        return ahead == ["/", "number", "of"]

    def _parse_unary(self) -> Fraction:
        # A loop, because a row of a thousand signs would be a recursion as deep. -2 ^ 2 is -4: the power
        # binds first.
        negative = False
        while self.accept("-"):
            negative = not negative
        value = self._parse_power()
        return -value if negative else value

    def _parse_power(self) -> Fraction:
        base = self._parse_postfix()
        if self.accept("to the"):
            exponent = self._expect_number()
            self.accept("ordinal")
            self.expect("power")
            return self._count_operation(power(base, exponent))
        if self.accept("^"):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise NotComputable
            # Read by recursion from the right: 2 ^ 3 ^ 2 is 2 ^ 9.
            exponent = self._parse_unary()
            self._depth -= 1
            self.accept("power")
            return self._count_operation(power(base, exponent))
        return base

    def _parse_postfix(self) -> Fraction:
        value = self._parse_atom()
        while True:
            if self.kind == "%" and self.kind_after() not in ("number", "("):
                self.accept("%")
                value = value / 100
            elif self.accept("!", "factorial"):
                value = self._count_operation(factorial(value))
            elif taken := self.accept("squared", "cubed"):
                value = self._count_operation(power(value, Fraction(2 if taken == "squared" else 3)))
            else:
                return value

    def _parse_atom(self) -> Fraction:
        self.accept("$")
        kind = self.kind
        if kind == "number":
            value = self._expect_number()
            if (part := self.accept(*PARTS)) and value.denominator == 1:
                return self._count_operation(value / PARTS[part] * self._parse_unary())
            return value
        self.accept(kind)
        if kind == "(":
            value = self.parse_sum()
            self.expect(")")
            return value
        if kind in SHARES:
            return self._count_operation(SHARES[kind] * self._parse_unary())
        if kind in OF_ONE:
            return self._count_operation(OF_ONE[kind](self._parse_unary()))
        if kind in OF_LIST or kind in OF_TWO:
            return self._parse_list_function(kind)
        if kind == "remainder":
            return self._parse_remainder()
        raise NotComputable

    def _parse_list_function(self, kind: str) -> Fraction:
        open_ = self.kind == "(" and self._is_list_in_parentheses()
        if open_:
            self.accept("(")
        values = self.parse_items()
        if open_:
            self.expect(")")
        if len(values) < 2 or (kind in OF_TWO and len(values) != 2):
            raise NotComputable
        return self._count_operation(OF_TWO[kind](*values) if kind in OF_TWO else OF_LIST[kind](values))

    def _is_list_in_parentheses(self) -> bool:
        depth = 0
        for token in self._tokens[self._at :]:
            depth += (token.kind == "(") - (token.kind == ")")
            if depth == 1 and token.kind == ",":
                return True
            if depth == 0:
                return False
        return False

    def _parse_remainder(self) -> Fraction:
        """`remainder when 17 is divided by 5`, `remainder of 17 divided by 5`, `… when dividing 17 by 5`."""
        if self.accept("divide"):
            above = self._parse_unary()
            self.expect("by")
        else:
            above = self._parse_unary()
            self.expect("/", "mod")
        return self._count_operation(remainder(above, self._parse_unary()))

    def _expect_number(self) -> Fraction:
        if self.kind != "number":
            raise NotComputable
        token = self._tokens[self._at]
        self._at += 1
        return token.value

    def _count_operation(self, value: Fraction) -> Fraction:
        self.n_operations += 1
        return limit_size(value)
