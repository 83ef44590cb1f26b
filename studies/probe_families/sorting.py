"""Putting things in order, and finding the first or last of them."""

from .shapes import Family, Item, family, numbers, pick

KIND = "sorting"


def _order(name: str, template: str, rows: list[tuple[str, str]], *, max_tokens: int = 48) -> Family:
    """Rows of (given, in order), items parted by spaces."""
    items = []
    for given, wanted in rows:
        shown = ", ".join(given.split())
        expected = {"items": wanted.split(), "given": shown}
        items.append(Item(template.format(shown), expected, ", ".join(wanted.split())))
    return family(KIND, name, "order", max_tokens, items)


FAMILIES = (
    _order(
        "alphabet",
        "Sort these words alphabetically: {0}",
        [
            ("pear apple mango", "apple mango pear"),
            ("dog cat bird", "bird cat dog"),
            ("zebra lion", "lion zebra"),
            ("tea coffee water", "coffee tea water"),
            ("red green blue", "blue green red"),
            ("sun moon", "moon sun"),
            ("lamp chair table desk", "chair desk lamp table"),
        ],
    ),
    _order(
        "ascending",
        "Put the numbers {0} in order from smallest to largest.",
        [
            ("3 1 2", "1 2 3"),
            ("9 4", "4 9"),
            ("8 5 6", "5 6 8"),
            ("10 30 20", "10 20 30"),
            ("7 2 5 1", "1 2 5 7"),
            ("15 12 18", "12 15 18"),
            ("40 4 14", "4 14 40"),
        ],
    ),
    pick(
        KIND,
        "first_item",
        "Look at this list: {0}. What is its {1} item?",
        [
            ("pear, apple, mango|first", "pear", "apple|mango"),
            ("fork, knife, plate|last", "plate", "fork|knife"),
            ("Oslo, Rome, Cairo|first", "Oslo", "Rome|Cairo"),
            ("blue, white, green|last", "green", "blue|white"),
            ("lamp, sofa, rug, desk|first", "lamp", "sofa|rug|desk"),
            ("ham, eggs, toast|last", "toast", "ham|eggs"),
            ("drum, flute, harp|first", "drum", "flute|harp"),
        ],
    ),
    _order(
        "backwards",
        "I have this list: {0}. Please repeat it in reverse order.",
        [
            ("one two three", "three two one"),
            ("fork knife", "knife fork"),
            ("north east south", "south east north"),
            ("bread butter jam", "jam butter bread"),
            ("ant bee", "bee ant"),
            ("gold silver bronze", "bronze silver gold"),
            ("a b c d", "d c b a"),
        ],
    ),
    numbers(
        KIND,
        "largest",
        [
            (f"Which number is the largest: {given}?", value)
            for given, value in [
                ("4, 9, 2", 9),
                ("31, 13, 22", 31),
                ("7, 70, 17", 70),
                ("100, 99, 98", 100),
                ("5, 3", 5),
                ("12, 21, 20", 21),
                ("6, 60, 600", 600),
            ]
        ],
        max_tokens=40,
    ),
    pick(
        KIND,
        "biggest_thing",
        "Of these, name the {0}: {1}.",
        [
            ("heaviest|a feather, a truck, an apple", "truck", "feather|apple"),
            ("smallest|an ant, a cow, a dog", "ant", "cow|dog"),
            ("fastest|a snail, a jet plane, a bicycle", "jet|jet plane|plane", "snail|bicycle"),
            ("hottest|ice, fire, milk", "fire", "ice|milk"),
            ("largest|a city, a country, a village", "country", "city|village"),
            ("oldest|a baby, a grandfather, a schoolboy", "grandfather", "baby|schoolboy"),
            ("longest|a second, a year, a week", "year", "second|week"),
        ],
    ),
    numbers(
        KIND,
        "more_of_two",
        [
            (f"Which is more, {a} or {b}?", max(a, b))
            for a, b in [(3, 8), (15, 5), (40, 14), (99, 101), (7, 70), (250, 205), (12, 21)]
        ],
        max_tokens=40,
    ),
    _order(
        "by_date",
        "These years belong on a time line: {0}. Begin with the earliest.",
        [
            ("1990 1850 1920", "1850 1920 1990"),
            ("2001 1999", "1999 2001"),
            ("1800 1700 1900", "1700 1800 1900"),
            ("1515 1492 1648", "1492 1515 1648"),
            ("1945 1914", "1914 1945"),
            ("1066 1789 1215", "1066 1215 1789"),
            ("1969 1903 1957 1927", "1903 1927 1957 1969"),
        ],
    ),
    numbers(
        KIND,
        "cheapest_price",
        [
            (
                f"A shop asks {first} dollars, its neighbour {second}, a third one {third}. "
                "Who sells cheapest asks how much?",
                value,
            )
            for first, second, third, value in [
                (12, 9, 15, 9),
                (30, 45, 20, 20),
                (7, 8, 11, 7),
                (100, 90, 95, 90),
                (19, 91, 29, 19),
                (250, 205, 502, 205),
                (6, 60, 16, 6),
            ]
        ],
        max_tokens=40,
    ),
    pick(
        KIND,
        "at_the_end",
        "People stand in a line: {0}. Who stands at the {1} of the line?",
        [
            ("Anna, Ben, Chloe|end", "Chloe", "Anna|Ben"),
            ("Max, Eva, Tom|front", "Max", "Eva|Tom"),
            ("Ida, Paul, Ruth, Omar|end", "Omar", "Ida|Paul|Ruth"),
            ("Lea, Ken, Sue|front", "Lea", "Ken|Sue"),
            ("Hugo, Amy|end", "Amy", "Hugo"),
            ("Dora, Emil, Finn|end", "Finn", "Dora|Emil"),
            ("Rita, Jack, Noah, Liv|front", "Rita", "Jack|Noah|Liv"),
        ],
    ),
)
