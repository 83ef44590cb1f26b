# ruff: noqa: E501 (the table of units: one unit a line, with all its names)
"""Questions that convert a quantity from one unit to another."""

import re
from dataclasses import dataclass
from fractions import Fraction

from .numbers import format_number, parse_number_words
from .types import Directives, NotComputable


@dataclass(frozen=True, slots=True)
class Unit:
    """value in the dimension's first unit = `factor` · value + `offset`."""

    dimension: str
    factor: Fraction
    offset: Fraction = Fraction(0)


# dimension → one line per unit: exact factor, then all names. Sources: the SI brochure, the international
# yard and pound agreement of 1959, the UK Units of Measurement Regulations 1995 (imperial gallon 4.54609 l), the
# US gallon of 231 cubic inches. Years and months have several averages in use: only the common ones stand here.
_TABLE = {
    "length": """
        1 m metre metres meter meters
        1000 km kilometre kilometres kilometer kilometers kms klick klicks
        1/10 dm decimetre decimetres decimeter decimeters
        1/100 cm centimetre centimetres centimeter centimeters cms
        1/1000 mm millimetre millimetres millimeter millimeters mms
        1/1000000 μm um micrometre micrometres micrometer micrometers micron microns
        1/1000000000 nm nanometre nanometres nanometer nanometers
        0.0254 in inch inches " ''
        0.3048 ft foot feet '
        0.9144 yd yard yards yds
        1609.344 mi mile miles statute_mile statute_miles
        1852 nmi nautical_mile nautical_miles
        201.168 furlong furlongs
        1.8288 fathom fathoms
        9460730472580800 light_year light_years lightyear lightyears ly
        149597870700 au astronomical_unit astronomical_units""",
    "mass": """
        1 g gram grams gramme grammes gm gms
        1000 kg kilogram kilograms kilogramme kilogrammes kilo kilos kgs
        1/1000 mg milligram milligrams milligramme milligrammes
        1/1000000 μg ug mcg microgram micrograms
        1000000 t tonne tonnes metric_ton metric_tons metric_tonne metric_tonnes
        453.59237 lb lbs pound pounds
        28.349523125 oz ounce ounces
        6350.29318 st stone stones
        907184.74 ton tons us_ton us_tons short_ton short_tons
        1016046.9088 long_ton long_tons imperial_ton imperial_tons uk_ton uk_tons
        1/5 carat carats
        0.06479891 grain grains""",
    "volume": """
        1 l litre litres liter liters ltr
        1/1000 ml millilitre millilitres milliliter milliliters cc cubic_centimetre cubic_centimetres cubic_centimeter cubic_centimeters cm^3
        1/100 cl centilitre centilitres centiliter centiliters
        1/10 dl decilitre decilitres deciliter deciliters
        100 hl hectolitre hectolitres hectoliter hectoliters
        1000 m^3 cubic_metre cubic_metres cubic_meter cubic_meters
        3.785411784 gal gallon gallons us_gallon us_gallons
        0.946352946 qt quart quarts us_quart us_quarts
        0.473176473 pt pint pints us_pint us_pints
        0.2365882365 cup cups us_cup us_cups
        0.0295735295625 fl_oz fluid_ounce fluid_ounces us_fluid_ounce us_fluid_ounces
        0.01478676478125 tbsp tablespoon tablespoons us_tablespoon us_tablespoons
        0.00492892159375 tsp teaspoon teaspoons us_teaspoon us_teaspoons
        4.54609 imperial_gallon imperial_gallons uk_gallon uk_gallons
        1.1365225 imperial_quart imperial_quarts uk_quart uk_quarts
        0.56826125 imperial_pint imperial_pints uk_pint uk_pints
        0.0284130625 imperial_fluid_ounce imperial_fluid_ounces uk_fluid_ounce uk_fluid_ounces
        28.316846592 cubic_foot cubic_feet ft^3
        0.016387064 cubic_inch cubic_inches in^3
        764.554857984 cubic_yard cubic_yards""",
    "area": """
        1 m^2 square_metre square_metres square_meter square_meters sqm sq_m
        1000000 km^2 square_kilometre square_kilometres square_kilometer square_kilometers sq_km
        1/10000 cm^2 square_centimetre square_centimetres square_centimeter square_centimeters sq_cm
        1/1000000 mm^2 square_millimetre square_millimetres square_millimeter square_millimeters
        10000 ha hectare hectares
        4046.8564224 acre acres
        0.09290304 ft^2 square_foot square_feet sq_ft sqft
        0.00064516 in^2 square_inch square_inches sq_in
        0.83612736 yd^2 square_yard square_yards sq_yd
        2589988.110336 mi^2 square_mile square_miles sq_mi""",
    "time": """
        1 s second seconds sec secs
        1/1000 ms millisecond milliseconds msec msecs
        1/1000000 μs us microsecond microseconds
        1/1000000000 ns nanosecond nanoseconds
        60 min minute minutes mins
        3600 h hour hours hr hrs
        86400 d day days
        604800 wk week weeks wks
        1209600 fortnight fortnights""",
    "calendar": """
        1 month months
        3 quarter_year quarter_years
        12 year years yr yrs
        120 decade decades
        1200 century centuries
        12000 millennium millennia millenniums""",
    "speed": """
        1 m/s metre_per_second metres_per_second meter_per_second meters_per_second mps
        5/18 km/h kph kmh kilometre_per_hour kilometres_per_hour kilometer_per_hour kilometers_per_hour
        1000 km/s kilometres_per_second kilometers_per_second kilometre_per_second kilometer_per_second
        0.44704 mph mile_per_hour miles_per_hour mi/h
        0.3048 ft/s feet_per_second foot_per_second fps
        463/900 kn kt knot knots kts""",
    "data": """
        1 bit bits
        8 b byte bytes
        1000 kbit kilobit kilobits
        1000000 mbit megabit megabits
        1000000000 gbit gigabit gigabits
        1000000000000 tbit terabit terabits
        8000 kb kilobyte kilobytes
        8000000 mb megabyte megabytes
        8000000000 gb gigabyte gigabytes
        8000000000000 tb terabyte terabytes
        8000000000000000 pb petabyte petabytes
        8192 kib kibibyte kibibytes
        8388608 mib mebibyte mebibytes
        8589934592 gib gibibyte gibibytes
        8796093022208 tib tebibyte tebibytes""",
    "angle": """
        1 degree degrees deg °
        1/60 arcminute arcminutes
        1/3600 arcsecond arcseconds
        360 revolution revolutions full_turn full_turns""",
    "count": """
        1 item items
        12 dozen dozens
        20 score
        144 gross""",
}
# Kelvin = factor · value + offset; 45967/180 is 459.67 · 5/9.
_TEMPERATURES = {
    "celsius centigrade c °c degree_celsius degrees_celsius degree_centigrade degrees_centigrade degree_c degrees_c deg_c": (
        "1",
        "273.15",
    ),
    "fahrenheit f °f degree_fahrenheit degrees_fahrenheit degree_f degrees_f deg_f": ("5/9", "45967/180"),
    "kelvin kelvins k °k degree_kelvin degrees_kelvin": ("1", "0"),
}


def _read_table() -> dict[str, tuple[Unit, ...]]:
    table: dict[str, list[Unit]] = {}
    for dimension, lines in _TABLE.items():
        for line in lines.split("\n"):
            factor, *names = line.split() or [""]
            for name in names:
                table.setdefault(name.replace("_", " "), []).append(Unit(dimension, Fraction(factor)))
    for names_, (factor, offset) in _TEMPERATURES.items():
        unit = Unit("temperature", Fraction(factor), Fraction(offset))
        for name in names_.split():
            table.setdefault(name.replace("_", " "), []).append(unit)
    # Both meanings are kept; the other side of the conversion decides.
    for name in ("ounce", "ounces", "oz"):
        table[name].append(table["fluid ounce"][0])
    return {name: tuple(units) for name, units in table.items()}


UNITS: dict[str, tuple[Unit, ...]] = _read_table()
"""Name → its meanings; an ounce is a mass, or a volume when the other side is one."""


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
# In kelvin, to which every temperature is converted first.
_ABSOLUTE_ZERO = Fraction(0)
_SHOWN = {"celsius": "°C", "fahrenheit": "°F", "kelvin": "K", "c": "°C", "f": "°F", "k": "K", "kb": "kB"}
_SHOWN |= {name: name.upper() for name in ("mb", "gb", "tb", "pb")}
_SHOWN |= {name: name[:1].upper() + "iB" for name in ("kib", "mib", "gib", "tib")}


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with every meaning its unit has."""

    value: Fraction
    meanings: tuple[Unit, ...]


def answer_units(core: str, directives: Directives) -> str:
    """The converted quantity with its unit, or the number alone where that is asked for.

    Raises:
        NotComputable: not wholly a conversion between units of one dimension.
    """
    for form in _FORMS:
        found = form.fullmatch(core)
        if found is None:
            continue
        name = _TARGET_FILLER.sub("", found["target"].strip())
        if " and " in name and (text := _format_in_two_units(found["source"].strip(), name, directives)):
            return text
        targets = _find_meanings(name)
        source = _parse_quantities(found["source"].strip()) if targets else []
        if source and (value := _convert(source, targets)) is not None:
            number = format_number(value, directives)
            return number if directives.number_only else f"{number}{_format_label(name, number)}"
    raise NotComputable


def _format_in_two_units(source: str, name: str, directives: Directives) -> str | None:
    """`2 hours and 15 minutes`: whole ones of the first unit, the rest in the second."""
    first, _, second = name.partition(" and ")
    quantities = _parse_quantities(source)
    larger, smaller = (_convert(quantities, _find_meanings(unit)) for unit in (first, second))
    if not quantities or larger is None or smaller is None or not 0 < larger < smaller:
        return None
    n_whole = int(larger)
    rest = format_number((larger - n_whole) * smaller / larger, directives)
    return f"{n_whole}{_format_label(first, str(n_whole))} and {rest}{_format_label(second, rest)}"


def _convert(source: list[Quantity], targets: tuple[Unit, ...]) -> Fraction | None:
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


def _find_meanings(name: str) -> tuple[Unit, ...]:
    name = name.strip().removesuffix(".")
    return UNITS.get(name) or UNITS.get(name.replace(" per ", "/")) or UNITS.get(name.replace("-", " ")) or ()


def _parse_quantities(text: str) -> list[Quantity]:
    """`5 feet 10 inches` as two quantities; empty if any of the text is something else."""
    found: list[Quantity] = []
    rest = text
    while rest:
        quantity, rest = _parse_first_quantity(rest, alone=not found)
        if quantity is None or len(found) == 4:
            return []
        if found and not (_is_smaller(quantity, found[-1])):
            return []
        found.append(quantity)
        rest = re.sub(r"^,? ?(?:and )?", "", rest)
    return found


def _is_smaller(quantity: Quantity, before: Quantity) -> bool:
    return any(
        mine.dimension == other.dimension and mine.factor < other.factor
        for mine in quantity.meanings
        for other in before.meanings
    )


def _parse_first_quantity(text: str, alone: bool) -> tuple[Quantity | None, str]:
    value, rest = _parse_leading_number(text, alone)
    if value is None:
        return None, ""
    words = rest.split(" ")
    for n_words in range(min(4, len(words)), 0, -1):
        name = " ".join(words[:n_words]).strip(",")
        if meanings := _find_meanings(name):
            return Quantity(value, meanings), " ".join(words[n_words:])
    return None, ""


def _parse_leading_number(text: str, alone: bool) -> tuple[Fraction | None, str]:
    found = _SOURCE_NUMBER.match(text)
    if found:
        above, _, below = found["number"].replace(",", "").replace(" ", "").partition("/")
        value = Fraction(above) / (int(below or 1) or 1)
        rest = text[found.end() :]
        if extra := re.match(r"(?P<above>\d{1,3})/(?P<below>[1-9]\d{0,2}) ", rest):  # 2 1/2 hours
            value, rest = value + Fraction(int(extra["above"]), int(extra["below"])), rest[extra.end() :]
        return _add_half(value, rest)
    words = text.replace("-", " ").split()
    if spelled := parse_number_words(words):
        return _add_half(Fraction(spelled[0]), " ".join(words[spelled[1] :]))
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


def _add_half(value: Fraction, rest: str) -> tuple[Fraction, str]:
    whole = rest.removeprefix("and a half ")
    return (value, rest) if whole == rest else (value + Fraction(1, 2), whole)


def _format_label(name: str, number: str) -> str:
    if name.startswith("°"):
        return f" °{name[1:].upper()}"
    if number == "1" and name.removesuffix("s") in UNITS:
        name = name.removesuffix("s")
    return f" {_SHOWN.get(name, name)}"
