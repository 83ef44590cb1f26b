"""Units with their exact definitions: what one of each is in the first unit of its dimension."""

# ruff: noqa: E501  a table: one unit per line

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """value in the dimension's first unit = `factor` · value + `offset`."""

    dimension: str
    factor: Fraction
    offset: Fraction = Fraction(0)


# dimension → one line per unit: exact factor, then all names. Sources: the SI brochure, the international yard
# and pound agreement of 1959, the UK Units of Measurement Regulations 1995 (imperial gallon 4.54609 l), the US
# gallon of 231 cubic inches. Years and months are the calendar's averages nobody agrees on: only common ones.
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
_TEMPERATURES = {
    "celsius centigrade c °c degree_celsius degrees_celsius degree_centigrade degrees_centigrade degree_c degrees_c deg_c": (
        "1",
        "273.15",
    ),
    "fahrenheit f °f degree_fahrenheit degrees_fahrenheit degree_f degrees_f deg_f": ("5/9", "45967/180"),
    "kelvin kelvins k °k degree_kelvin degrees_kelvin": ("1", "0"),
}


def _read() -> dict[str, tuple[Unit, ...]]:
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
    for name in ("ounce", "ounces", "oz"):
        table[name].append(table["fluid ounce"][0])
    return {name: tuple(units) for name, units in table.items()}


UNITS: dict[str, tuple[Unit, ...]] = _read()
"""Name → its meanings; an ounce is a mass, or a volume when the other side is one."""

LONGEST_NAME = max(len(name.split()) for name in UNITS)
SPACED = frozenset({"in", "a", "b", "c", "d", "f", "k", "t", "h", "us", "score", "second", "quarter"})
"""Names that are also words: taken for units only right after a number, or as the target of a conversion."""
