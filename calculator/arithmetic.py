"""Questions that are wholly arithmetic."""

import re
from collections.abc import Callable
from fractions import Fraction

from .expressions import ExpressionParser, divided
from .numbers import limited, power, written
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


def arithmetic(core: str, directives: Directives) -> str:
    """The answer in digits.

    Raises:
        NotComputable: not wholly arithmetic.
        Refused: arithmetic without a result that could be given.
    """
    for special in (_percentage, _goes_into, _comparison, _divisibility, _parity, _converted):
        found = special(core, directives)
        if found is not None:
            return found
    body = _stripped(core)
    if _IDIOM.fullmatch(body) and not _ORDERED.search(core):
        raise NotComputable
    value, n_operations = _value(body)
    if not n_operations and not directives.rounds:
        raise NotComputable
    currency = "$" if "$" in body else ""
    return _with_currency(written(value, directives), currency)


def _stripped(core: str) -> str:
    body = core
    while found := _LEAD.match(body):
        body = body[found.end() :]
    while found := _TAIL.search(body):
        body = body[: found.start()]
    return body.strip(" ,?")


def _value(text: str) -> tuple[Fraction, int]:
    reader = ExpressionParser(tokenise(text))
    value = _statement(reader)
    reader.take("together")
    reader.done()
    return value, reader.n_operations


def _statement(reader: ExpressionParser) -> Fraction:
    """An expression, or an order such as `subtract 5 from 12`."""
    verb = reader.take(*_ORDERS)
    if not verb:
        return reader.sum()
    reader.n_operations += verb != "round"
    return limited(_ORDERS[verb](reader))


def _added(reader: ExpressionParser) -> Fraction:
    values = reader.items()
    if reader.take("to", "with"):
        values.append(reader.sum())
    if len(values) < 2:
        raise NotComputable
    return sum(values, Fraction(0))


def _subtracted(reader: ExpressionParser) -> Fraction:
    what = reader.sum()
    reader.need("from")
    return reader.sum() - what


def _multiplied(reader: ExpressionParser) -> Fraction:
    left = reader.sum()
    reader.need("by", "and", "with")
    return left * reader.sum()


def _quotient(reader: ExpressionParser) -> Fraction:
    left = reader.sum()
    if reader.need("by", "into") == "into":
        return divided(reader.sum(), left)
    return divided(left, reader.sum())


def _raised(reader: ExpressionParser) -> Fraction:
    return reader.sum()


def _grown(sign: int) -> Callable[[ExpressionParser], Fraction]:
    def by(reader: ExpressionParser) -> Fraction:
        value = reader.sum()
        reader.need("by")
        change = reader.sum()
        return value * (1 + sign * change) if reader.ended_with("%") else value + sign * change

    return by


_ORDERS: dict[str, Callable[[ExpressionParser], Fraction]] = {
    "add": _added,
    "subtract": _subtracted,
    "multiply": _multiplied,
    "divide": _quotient,
    "square": lambda reader: power(reader.sum(), Fraction(2)),
    "cube": lambda reader: power(reader.sum(), Fraction(3)),
    "halve": lambda reader: reader.sum() / 2,
    "raise": _raised,
    "increase": _grown(1),
    "decrease": _grown(-1),
    "round": _raised,
}


def _percentage(core: str, directives: Directives) -> str | None:
    for pattern in _PERCENT_OF:
        if found := pattern.fullmatch(core):
            try:
                part, whole = _value(found["part"])[0], _value(found["whole"])[0]
            except NotComputable:
                continue
            sign = "" if directives.number_only else "%"
            return written(100 * divided(part, whole), directives) + sign
    return None


def _converted(core: str, directives: Directives) -> str | None:
    body = re.sub(r"^(?:what is|what's|how much is) ", "", core)
    if found := _AS_PERCENT.fullmatch(body):
        return written(100 * _value(found["value"])[0], directives) + ("" if directives.number_only else "%")
    if found := _AS_DECIMAL.fullmatch(body):
        return written(_value(_stripped(found["value"]))[0], directives)
    return None


def _goes_into(core: str, directives: Directives) -> str | None:
    found = _GOES_INTO.fullmatch(core)
    if found is None:
        return None
    times = divided(_value(found["large"])[0], _value(found["small"])[0])
    if times.denominator != 1 and not directives.rounds:
        times = Fraction(int(times))
    return written(times, directives)


def _comparison(core: str, directives: Directives) -> str | None:
    found = _COMPARE.fullmatch(core)
    if found is None:
        return None
    left, right = _value(found["left"])[0], _value(found["right"])[0]
    if left == right:
        return "They are equal."
    wants_left = (left > right) == (found["which"][:3] in ("lar", "gre", "big", "hig"))
    return found["left" if wants_left else "right"].strip()


def _divisibility(core: str, directives: Directives) -> str | None:
    found = _DIVISIBLE.fullmatch(core)
    if found is None:
        return None
    small = int(found["small"])
    return "Yes" if small and int(found["large"]) % small == 0 else "No"


def _parity(core: str, directives: Directives) -> str | None:
    found = _EVEN_ODD.fullmatch(core)
    if found is None:
        return None
    is_even = int(found["n"]) % 2 == 0
    if " or " in found.group():
        return "even" if is_even else "odd"
    return "Yes" if is_even == (found["which"] == "even") else "No"


def _with_currency(text: str, currency: str) -> str:
    return f"-{currency}{text[1:]}" if text.startswith("-") else f"{currency}{text}"
