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
)
