"""Small stories with a number at the end."""

from .shapes import Family, numbers

KIND = "word_problems"


def _fill(name: str, template: str, rows: list[tuple[tuple[object, ...], float]]) -> Family:
    return numbers(KIND, name, [(template.format(*fields), value) for fields, value in rows], max_tokens=96)


FAMILIES = (
    _fill(
        "buys_more",
        "{0} has {1} {3} and buys {2} more. How many {3} does {0} have now?",
        [
            (("Tom", 3, 2, "apples"), 5),
            (("Lena", 5, 4, "pencils"), 9),
            (("Omar", 10, 5, "stickers"), 15),
            (("Ruth", 6, 6, "eggs"), 12),
            (("Ivan", 20, 10, "marbles"), 30),
            (("Grace", 8, 3, "books"), 11),
            (("Paolo", 14, 7, "stamps"), 21),
        ],
    ),
    _fill(
        "gives_away",
        "There were {1} {3} in the box. {0} took out {2} of them. How many are left in the box?",
        [
            (("Anna", 9, 4, "chocolates"), 5),
            (("Ben", 12, 5, "balls"), 7),
            (("Carla", 20, 8, "candles"), 12),
            (("Dev", 15, 6, "nails"), 9),
            (("Elif", 30, 11, "cards"), 19),
            (("Felix", 7, 2, "cookies"), 5),
            (("Gina", 18, 9, "crayons"), 9),
        ],
    ),
    _fill(
        "price",
        "One {0} costs {1} dollars. What do {2} of them cost, in dollars?",
        [
            (("ticket", 4, 3), 12),
            (("notebook", 2, 5), 10),
            (("lamp", 15, 2), 30),
            (("chair", 20, 4), 80),
            (("pizza", 9, 3), 27),
            (("mug", 6, 6), 36),
            (("plant", 7, 8), 56),
        ],
    ),
    _fill(
        "sharing",
        "{0} children share {1} {2} equally. Tell me how many each child gets.",
        [
            ((2, 10, "sweets"), 5),
            ((3, 12, "plums"), 4),
            ((4, 20, "cherries"), 5),
            ((5, 15, "nuts"), 3),
            ((6, 42, "grapes"), 7),
            ((3, 27, "biscuits"), 9),
            ((8, 64, "berries"), 8),
        ],
    ),
    _fill(
        "speed",
        "A {0} goes {1} miles every hour. How far, in miles, has it gone after {2} hours?",
        [
            (("car", 50, 2), 100),
            (("train", 80, 3), 240),
            (("bicycle", 12, 4), 48),
            (("bus", 40, 5), 200),
            (("boat", 15, 6), 90),
            (("truck", 45, 2), 90),
            (("horse", 10, 3), 30),
        ],
    ),
    _fill(
        "ages",
        "{0} is {2} years old. {1} is {3} years older than {0}. What is {1}'s age?",
        [
            (("Mia", "Noah", 10, 5), 15),
            (("Sara", "Leo", 7, 3), 10),
            (("Kim", "Ali", 21, 4), 25),
            (("Ida", "Max", 30, 12), 42),
            (("Jo", "Eva", 8, 8), 16),
            (("Uma", "Raj", 13, 6), 19),
            (("Finn", "Zoe", 40, 2), 42),
        ],
    ),
    _fill(
        "climb",
        "{0} climbs {1} steps, takes a rest and climbs {2} more. How many steps has {0} climbed?",
        [
            (("Ken", 8, 7), 15),
            (("Lucy", 20, 11), 31),
            (("Omar", 35, 10), 45),
            (("Rosa", 12, 12), 24),
            (("Igor", 40, 25), 65),
            (("Amy", 9, 6), 15),
            (("Jack", 50, 18), 68),
        ],
    ),
    _fill(
        "in_packs",
        "{0} come in packs of {1}. Someone opens {2} packs. How many pieces is that?",
        [
            (("Pens", 5, 3), 15),
            (("Bulbs", 4, 6), 24),
            (("Batteries", 8, 2), 16),
            (("Cards", 10, 7), 70),
            (("Nails", 50, 3), 150),
            (("Rolls", 6, 6), 36),
            (("Bottles", 12, 4), 48),
        ],
    ),
)
