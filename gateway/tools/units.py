"""Questions that convert a quantity from one unit to another."""

import re
from dataclasses import dataclass
from fractions import Fraction

from .numbers import number_from_words, written
from .types import Directives, NotComputable
from .unit_table import UNITS, Unit

_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?: ?/ ?\d{1,9})?"
_SOURCE_NUMBER = re.compile(rf"(?P<number>{_NUMBER})\s*-?\s*")
_ASK = (
    r"(?:(?:so|ok|okay|hey|can you|could you|would you|tell me|do you know|i need to know|i want to know"
    r"|calculate"
    r"|compute|work out|find|find out|determine|figure out|give|give me|quickly|just|the|value of"
    r"|conversion of)[ ,:]+)*"
)
_FORMS = tuple(
    re.compile(_ASK + form)
    for form in (
        # How many kilometres are 5 miles? How many seconds are there in 3 hours?
        r"how (?:many|much) (?P<target>.+?) (?:are|is|do|does|make|makes|make up|equal|equals|would|will"
        r"|can)(?: there| you have| you get| we have)?"
        r"(?: in| inside| within| contained in| to| equal to| equivalent to)? (?P<source>.+?)(?: (?:make"
        r"|equal|equals|be|contain|have|has|hold|correspond to|amount to|in total|come to))?",
        r"how (?:many|much) (?P<target>.+?) (?:in|per|to|for|equals?) (?P<source>.+)",
        # Convert 3 kg to pounds. 5 km in metres. What is 5 km in miles? 135 minutes in hours and minutes
        r"(?:convert|change|express|write|turn|transform|translate|give|state|rewrite|report|put) "
        r"(?P<source>.+?) (?:to|into|in|as|in terms of|in units of) (?P<target>.+?)",
        r"(?:what is|what's|whats|what are|how much is|how much are|how long is|how long are|how far is|how"
        r" tall is|how heavy is|how hot is|how cold is|how fast is|how big is|how large is|what would be"
        r"|what does|what do)?"
        r" ?(?P<source>.+?) (?:is |are |equals? |expressed |converted |measured |equivalent |when"
        r" converted |if converted |be |weigh |measure )?(?:in|to|into|as|in terms of) (?P<target>.+?)",
        # 5 miles is how many kilometres? 5 miles equals how many km?
        r"(?P<source>.+?) (?:is|are|equals?|=|makes?|is equal to|are equal to|is the same as|corresponds?"
        r" to|equates? to|comes? to|amounts? to|has|have|contains?) (?:how many|how much|what in|\?) ?"
        r"(?P<target>.+)",
        # What is the temperature in Fahrenheit when it is 20 °C? In metres, how long is 3 km?
        r"(?:what is|what's) (?:temperature|length|distance|weight|mass|volume|speed|duration|time) in "
        r"(?P<target>.+?) (?:of|if it is|when it is|if it's|when it's|for|that equals|equal to|equivalent"
        r" to|corresponding to) (?P<source>.+)",
        r"(?:in|into|to) (?P<target>[^,]+?), (?:what is|what's|how much is|how long is|how far is|how"
        r" heavy is|convert|express|how many is|how many are) (?P<source>.+)",
        r"(?:what is|what's) (?P<target>[a-z]+) (?:equivalent|value|equal) (?:of|to|for) (?P<source>.+)",
        # A road sign says 5 miles, what is that in km? If the rope is 3 m long, how many feet is that?
        r"(?:if )?(?:[a-z']+ ){1,5}(?:is|are|was|says|reads|shows|weighs|measures|lasts|lasted|takes|took"
        r"|holds"
        r"|travels at|runs) (?P<source>\d[^,?]*?)(?: long| wide| tall| high| deep| away| heavy| far)?,? "
        r"(?:how many|(?:what|how much|how long|how far|how heavy|how tall|how fast) is (?:that|this|it) in"
        r"|convert (?:that|this|it) (?:to|into)|express (?:that|this|it) in) "
        r"(?P<target>[a-z/° ]+?)(?: is (?:that|this|it)| are (?:that|those|there))?",
    )
)
_FILLER = re.compile(
    r"^(?:(?:a|an|the|one|there|exactly|in|temperature of|length of|distance of|weight of|mass of|volume"
    r" of|speed of|duration of|period of|total of|full|single|of) )+(?=\S)"
)
_TARGET_FILLER = re.compile(
    r"^(?:(?:the|number of|whole|total|units of|unit of|its|an?) )+|(?: (?:unit|units|scale|instead|please"
    r"|does|do))+$"
)
_ABSOLUTE_ZERO = Fraction(0)
_SHOWN = {"celsius": "°C", "fahrenheit": "°F", "kelvin": "K", "c": "°C", "f": "°F", "k": "K", "kb": "kB"}
_SHOWN |= {name: name.upper() for name in ("mb", "gb", "tb", "pb")}
_SHOWN |= {name: name[:1].upper() + "iB" for name in ("kib", "mib", "gib", "tib")}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with every meaning its unit has."""

    value: Fraction
    meanings: tuple[Unit, ...]


def units(core: str, directives: Directives) -> str:
    """The converted quantity with its unit, or the number alone where that is asked for.

    Raises:
        NotComputable: not wholly a conversion between units of one dimension.
    """
    for form in _FORMS:
        found = form.fullmatch(core)
        if found is None:
            continue
        name = _TARGET_FILLER.sub("", found["target"].strip())
        if " and " in name and (text := _in_two_units(found["source"].strip(), name, directives)):
            return text
        targets = _meanings(name)
        source = _quantities(found["source"].strip()) if targets else []
        if source and (value := _converted(source, targets)) is not None:
            number = written(value, directives)
            return number if directives.number_only else f"{number}{_label(name, number)}"
    raise NotComputable


def _in_two_units(source: str, name: str, directives: Directives) -> str | None:
    """`2 hours and 15 minutes`: whole ones of the first unit, the rest in the second."""
    first, _, second = name.partition(" and ")
    quantities = _quantities(source)
    larger, smaller = (_converted(quantities, _meanings(unit)) for unit in (first, second))
    if not quantities or larger is None or smaller is None or not 0 < larger < smaller:
        return None
    n_whole = int(larger)
    rest = written((larger - n_whole) * smaller / larger, directives)
    return f"{n_whole}{_label(first, str(n_whole))} and {rest}{_label(second, rest)}"


def _converted(source: list[Quantity], targets: tuple[Unit, ...]) -> Fraction | None:
    for target in targets:
        total = Fraction(0)
        for quantity in source:
            unit = next((u for u in quantity.meanings if u.dimension == target.dimension), None)
            if unit is None:
                break
            total += quantity.value * unit.factor + unit.offset
        else:
            if target.dimension == "temperature" and (len(source) > 1 or total < _ABSOLUTE_ZERO):
                return None
            return (total - target.offset) / target.factor
    return None


def _meanings(name: str) -> tuple[Unit, ...]:
    name = name.strip().removesuffix(".")
    return UNITS.get(name) or UNITS.get(name.replace(" per ", "/")) or UNITS.get(name.replace("-", " ")) or ()


def _quantities(text: str) -> list[Quantity]:
    """`5 feet 10 inches` as two quantities; empty if any of the text is something else."""
    found: list[Quantity] = []
    rest = text
    while rest:
        quantity, rest = _first_quantity(rest, alone=not found)
        if quantity is None or len(found) == 4:
            return []
        if found and not (_smaller(quantity, found[-1])):
            return []
        found.append(quantity)
        rest = re.sub(r"^,? ?(?:and )?", "", rest)
    return found


def _smaller(quantity: Quantity, before: Quantity) -> bool:
    return any(
        mine.dimension == other.dimension and mine.factor < other.factor
        for mine in quantity.meanings
        for other in before.meanings
    )


def _first_quantity(text: str, alone: bool) -> tuple[Quantity | None, str]:
    value, rest = _leading_number(text, alone)
    if value is None:
        return None, ""
    words = rest.split(" ")
    for n_words in range(min(4, len(words)), 0, -1):
        name = " ".join(words[:n_words]).strip(",")
        if meanings := _meanings(name):
            return Quantity(value, meanings), " ".join(words[n_words:])
    return None, ""


def _leading_number(text: str, alone: bool) -> tuple[Fraction | None, str]:
    found = _SOURCE_NUMBER.match(text)
    if found:
        above, _, below = found["number"].replace(",", "").replace(" ", "").partition("/")
        value = Fraction(above) / (int(below or 1) or 1)
        rest = text[found.end() :]
        if extra := re.match(r"(?P<above>\d{1,3})/(?P<below>[1-9]\d{0,2}) ", rest):  # 2 1/2 hours
            value, rest = value + Fraction(int(extra["above"]), int(extra["below"])), rest[extra.end() :]
        return _and_a_half(value, rest)
    words = text.replace("-", " ").split()
    if spelled := number_from_words(words):
        return _and_a_half(Fraction(spelled[0]), " ".join(words[spelled[1] :]))
    for words_, share in (
        ("half an ", 2),
        ("half a ", 2),
        ("a half ", 2),
        ("a quarter of an ", 4),
        ("a quarter of a ", 4),
    ):
        if text.startswith(words_):
            return Fraction(1, share), text.removeprefix(words_)
    stripped = _FILLER.sub("", text)
    return (Fraction(1), stripped) if alone and not stripped[:1].isdigit() else (None, "")


def _and_a_half(value: Fraction, rest: str) -> tuple[Fraction, str]:
    whole = rest.removeprefix("and a half ")
    return (value, rest) if whole == rest else (value + Fraction(1, 2), whole)


def _label(name: str, number: str) -> str:
    if name.startswith("°"):
        return f" °{name[1:].upper()}"
    if number == "1" and name.removesuffix("s") in UNITS:
        name = name.removesuffix("s")
    return f" {_SHOWN.get(name, name)}"
