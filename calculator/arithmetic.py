"""Questions that are wholly arithmetic."""

import re
from collections.abc import Callable
from fractions import Fraction

from .expressions import ExpressionParser, divide
from .numbers import format_number, limit_size, power
from .tokens import tokenise
from .types import Directives, NotComputable

_LEAD = re.compile(
    r"(?:what (?:number|value|result|total|answer)?s? ?(?:do|would|will|can) (?:you|i|we|one) (?:get|have"
    r"|obtain)"
    r"(?: (?:if|when|by|from))?(?: (?:you|i|we|one))?|what (?:results|happens|comes out) (?:when|if|from)"
    r"(?: (?:you|i|we))?|write|print|output|return|(?:reply|answer|respond) with|only|just|answer"
    r"|what's|whats|what is|what are|what does|what do|what would|what will|what number is|what value is"
    r"|how much is|how much does|how many is|calculate|compute|evaluate|determine|find|work out|figure out"
    r"|solve|simplify|tell me|give me|show me|give|state|can you|could you|would you|will you|i need to know"
    r"|i need|i want to know|i would like to know|i'd like to know|do you know|let me know|help me|the|an?"
    r"|value of|exact value of|result of|results of|result when|answer to|answer of|answer for|outcome of"
    r"|output of|solution to|you get if you|you get when you|you get if|you get when|you get by|i get if i"
    r"|i get when i|we get if we|we get when we|get if you|get when you|if you|when you|if i|if we|what"
    r" you get if you"
    r"|what happens when you|do|perform|carry out|following|expression|calculation|simple|quick"
    r"|equation|decimal value of|decimal form of|quick math|math problem|mental math|as a decimal,? what is"
    r"|so|ok|okay|and|now|hey|quickly|then|is|what|i get if i|for|of)\b[ ,:]*"
)
_TAIL = re.compile(
    r"(?:\s*=\s*\??|\s*(?:is )?equals?(?: to)?|\s+(?:make|makes|give|gives|yield|come to|comes to|work out to"
    r"|evaluate to|result in|total|is|equal to what|equals what|is what|add up to|sum to|amount to|be)"
    r"|,? what (?:do you get|do i get|do we get|is the (?:result|answer|total|value|outcome|sum|product))"
    r"|\s+altogether|\s+in total|\s+together)\s*\??$"
)
# These look like divisions but are names, dates, ratios and telephone numbers.
_IDIOM = re.compile(
    r"(?:9/11|24/7|7/7|7/11|50/50|20/20|4/20|1/6|3/11|11/9|11/11|26/11|7-11|9-1-1|80-20|80/20|60/40|5/7"
    r"|\d{1,4}[-/]\d{1,2}[-/]\d{1,4}|\d{3}-\d{4}|\d{3}-\d{3}-\d{4})"
)
_ORDERED = re.compile(
    r"\b(?:calculate|compute|evaluate|work out|simplify|divided|minus|divide|decimal|fraction|=)"
)
_PERCENT_OF = (
    re.compile(
        r"(?:what |which )?(?:percent|percentage|per cent|%) of (?P<whole>.+?) (?:is|does) (?P<part>.+?)(?:"
        r" make)?"
    ),
    re.compile(
        r"(?:what |which )?(?:percent|percentage|per cent|%) is (?P<part>.+?) (?:out )?of (?P<whole>.+)"
    ),
    re.compile(r"(?P<part>.+?) is what (?:percent|percentage|per cent|%) of (?P<whole>.+)"),
    re.compile(
        r"(?P<part>.+?) (?:out )?of (?P<whole>.+?) (?:as|is|in) (?:an? |what )?(?:percent|percentage|per"
        r" cent|%)"
    ),
)
_AS_PERCENT = re.compile(
    r"(?:convert |express |write |change |turn )?(?P<value>.+?) (?:as|to|into) (?:an? )?(?:percent"
    r"|percentage|per cent|%)"
)
_AS_DECIMAL = re.compile(
    r"(?:convert |express |write |change |turn )(?P<value>.+?)(?: (?:as|to|into) (?:an? )?decimal(?:"
    r" number| form)?)?"
)
_GOES_INTO = re.compile(
    r"how (?:many|often) (?:times )?(?:does|do|can|will) (?P<small>.+?) (?:go|fit|goes) into (?P<large>.+)"
)
_COMPARE = re.compile(
    r"(?:which|what)(?: number| one| value| of these| of the two)?(?: is| is the)? "
    r"(?P<which>larger|greater|bigger|higher|largest|greatest|biggest|highest|smaller|less|lower|smallest"
    r"|least|lowest)"
    r"(?: number| one| value)?[ ,:]+(?P<left>.+?),? or (?P<right>.+)"
)
_DIVISIBLE = re.compile(
    r"is (?P<large>\d{1,60}) (?:evenly |exactly )?(?:divisible by|a multiple of) (?P<small>\d{1,60})"
)
_EVEN_ODD = re.compile(
    r"is (?:the number )?(?P<n>-?\d{1,60}) (?:an? )?(?P<which>even|odd)(?: number)?(?: or (?:an? )?(?:odd"
    r"|even)(?: number)?)?"
)


def answer_arithmetic(core: str, directives: Directives) -> str:
    """The answer in digits.

    Raises:
        NotComputable: not wholly arithmetic.
        Refused: arithmetic without a result that could be given.
    """
    for special in (
        _answer_percentage,
        _answer_goes_into,
        _answer_comparison,
        _answer_divisibility,
        _answer_parity,
        _convert,
    ):
        found = special(core, directives)
        if found is not None:
            return found
    body = _strip_phrasing(core)
    if _IDIOM.fullmatch(body) and not _ORDERED.search(core):
        raise NotComputable
    value, n_operations = _evaluate(body)
    if not n_operations and not directives.is_rounded:
        raise NotComputable
    currency = "$" if "$" in body else ""
    return _prefix_currency(format_number(value, directives), currency)


def _strip_phrasing(core: str) -> str:
    body = core
    while found := _LEAD.match(body):
        body = body[found.end() :]
    while found := _TAIL.search(body):
        body = body[: found.start()]
    return body.strip(" ,?")


def _evaluate(text: str) -> tuple[Fraction, int]:
    parser = ExpressionParser(tokenise(text))
    value = _parse_statement(parser)
    parser.accept("together")
    parser.expect_end()
    return value, parser.n_operations


def _parse_statement(parser: ExpressionParser) -> Fraction:
    """An expression, or an order such as `subtract 5 from 12`."""
    verb = parser.accept(*_ORDERS)
    if not verb:
        return parser.parse_sum()
    parser.n_operations += verb != "round"
    return limit_size(_ORDERS[verb](parser))


def _add(parser: ExpressionParser) -> Fraction:
    values = parser.parse_items()
    if parser.accept("to", "with"):
        values.append(parser.parse_sum())
    if len(values) < 2:
        raise NotComputable
    return sum(values, Fraction(0))


def _subtract(parser: ExpressionParser) -> Fraction:
    what = parser.parse_sum()
    parser.expect("from")
    return parser.parse_sum() - what


def _multiply(parser: ExpressionParser) -> Fraction:
    left = parser.parse_sum()
    parser.expect("by", "and", "with")
    return left * parser.parse_sum()


def _divide(parser: ExpressionParser) -> Fraction:
    left = parser.parse_sum()
    if parser.expect("by", "into") == "into":
        return divide(parser.parse_sum(), left)
    return divide(left, parser.parse_sum())


def _parse_operand(parser: ExpressionParser) -> Fraction:
    return parser.parse_sum()


def _build_change(sign: int) -> Callable[[ExpressionParser], Fraction]:
    def by(parser: ExpressionParser) -> Fraction:
        value = parser.parse_sum()
        parser.expect("by")
        change = parser.parse_sum()
        return value * (1 + sign * change) if parser.has_just_read("%") else value + sign * change

    return by


_ORDERS: dict[str, Callable[[ExpressionParser], Fraction]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "square": lambda parser: power(parser.parse_sum(), Fraction(2)),
    "cube": lambda parser: power(parser.parse_sum(), Fraction(3)),
    "halve": lambda parser: parser.parse_sum() / 2,
    "raise": _parse_operand,
    "increase": _build_change(1),
    "decrease": _build_change(-1),
    "round": _parse_operand,
}


def _answer_percentage(core: str, directives: Directives) -> str | None:
    for pattern in _PERCENT_OF:
        if found := pattern.fullmatch(core):
            try:
                part, whole = _evaluate(found["part"])[0], _evaluate(found["whole"])[0]
            except NotComputable:
                continue
            sign = "" if directives.number_only else "%"
            return format_number(100 * divide(part, whole), directives) + sign
    return None


def _convert(core: str, directives: Directives) -> str | None:
    body = re.sub(r"^(?:what is|what's|how much is) ", "", core)
    if found := _AS_PERCENT.fullmatch(body):
        return format_number(100 * _evaluate(found["value"])[0], directives) + (
            "" if directives.number_only else "%"
        )
    if found := _AS_DECIMAL.fullmatch(body):
        return format_number(_evaluate(_strip_phrasing(found["value"]))[0], directives)
    return None


def _answer_goes_into(core: str, directives: Directives) -> str | None:
    found = _GOES_INTO.fullmatch(core)
    if found is None:
        return None
    times = divide(_evaluate(found["large"])[0], _evaluate(found["small"])[0])
    if times.denominator != 1 and not directives.is_rounded:
        # 7 into 30 goes 4 times: what is left over is not asked for.
        times = Fraction(int(times))
    return format_number(times, directives)


def _answer_comparison(core: str, directives: Directives) -> str | None:
    found = _COMPARE.fullmatch(core)
    if found is None:
        return None
    left, right = _evaluate(found["left"])[0], _evaluate(found["right"])[0]
    if left == right:
        return "They are equal."
    wants_left = (left > right) == (found["which"][:3] in ("lar", "gre", "big", "hig"))
    return found["left" if wants_left else "right"].strip()


def _answer_divisibility(core: str, directives: Directives) -> str | None:
    found = _DIVISIBLE.fullmatch(core)
    if found is None:
        return None
    small = int(found["small"])
    return "Yes" if small and int(found["large"]) % small == 0 else "No"


def _answer_parity(core: str, directives: Directives) -> str | None:
    found = _EVEN_ODD.fullmatch(core)
    if found is None:
        return None
    is_even = int(found["n"]) % 2 == 0
    if " or " in found.group():
        return "even" if is_even else "odd"
    return "Yes" if is_even == (found["which"] == "even") else "No"


def _prefix_currency(text: str, currency: str) -> str:
    return f"-{currency}{text[1:]}" if text.startswith("-") else f"{currency}{text}"
