"""Several members of a class, or any one."""

from .members import (
    ANIMALS,
    BIRDS,
    CLOTHES,
    COLOURS,
    COUNTRIES,
    DRINKS,
    FRUITS,
    INSTRUMENTS,
    PLANETS,
    SPORTS,
    TOOLS,
    VEGETABLES,
    pool,
)
from .shapes import Family, Item, family

KIND = "listing"


def _members(
    name: str, template: str, rows: list[tuple[str, list[str], int, str]], *, max_tokens: int = 80
) -> Family:
    """Rows of (subject, pool, count, reference)."""
    items = [
        Item(template.format(subject), {"pool": pool, "count": count}, reference)
        for subject, pool, count, reference in rows
    ]
    return family(KIND, name, "members", max_tokens, items)


FAMILIES = (
    _members(
        "list_three",
        "List three {0}.",
        [
            ("fruits", FRUITS, 3, "apple, banana, cherry"),
            ("colours", COLOURS, 3, "red, green, blue"),
            ("European countries", COUNTRIES, 3, "France, Spain, Italy"),
            ("musical instruments", INSTRUMENTS, 3, "piano, violin, flute"),
            ("planets", PLANETS, 3, "Mars, Venus, Saturn"),
            ("vegetables", VEGETABLES, 3, "carrot, onion, potato"),
            ("sports", SPORTS, 3, "tennis, golf, rugby"),
            ("mammals", ANIMALS, 3, "dog, horse, whale"),
        ],
    ),
    _members(
        "name_two",
        "Name two {0}, please.",
        [
            ("birds", BIRDS, 2, "eagle and owl"),
            ("drinks", DRINKS, 2, "tea and milk"),
            ("pieces of clothing", CLOTHES, 2, "shirt and hat"),
            ("hand tools", TOOLS, 2, "hammer and saw"),
            (
                "planets that are larger than the Earth",
                # Mean radii: Earth 6,371 km, Neptune, the smallest of these, 24,622 km (IAU, 2015).
                ["jupiter", "saturn", "uranus", "neptune"],
                2,
                "Jupiter and Saturn",
            ),
            (
                "big cats",
                pool("""
                    lion lions tiger tigers leopard leopards jaguar jaguars cheetah cougar
                    panther
                """),
                2,
                "lion and tiger",
            ),
            # Of pigments (red, yellow, blue) or of light (red, green, blue).
            ("primary colours", ["red", "blue", "yellow", "green"], 2, "red and blue"),
        ],
    ),
    _members(
        "such_as",
        "Can you give me a few examples of {0}? Three are enough.",
        [
            (
                "farm animals",
                pool("""
                    cow cows pig pigs sheep goat goats horse horses chicken chickens hen hens
                    duck ducks donkey turkey turkeys cattle
                """),
                3,
                "cows, pigs and sheep",
            ),
            (
                "winter clothes",
                # Lenient: the pool holds shorts and shirts as well.
                [*CLOTHES, "mittens", "earmuffs", "scarves", "sweaters"],
                3,
                "coat, scarf, gloves",
            ),
            (
                "string instruments",
                pool("violin guitar cello viola harp banjo bass ukulele mandolin lute"),
                3,
                "violin, cello, harp",
            ),
            (
                "citrus fruits",
                pool("""
                    orange oranges lemon lemons lime limes grapefruit grapefruits tangerine
                    tangerines mandarin clementine pomelo
                """),
                3,
                "orange, lemon, lime",
            ),
            # Lenient: the pool holds sports without a ball as well.
            ("ball games", SPORTS, 3, "football, tennis, basketball"),
            (
                "hot drinks",
                ["tea", "coffee", "cocoa", "hot chocolate", "espresso", "cappuccino", "latte", "cider"],
                3,
                "tea, coffee, cocoa",
            ),
            (
                "pets",
                [
                    *ANIMALS,
                    "hamster",
                    "hamsters",
                    "parrot",
                    "fish",
                    "goldfish",
                    "turtle",
                    "guinea pig",
                    "bird",
                    "birds",
                ],
                3,
                "dog, cat, hamster",
            ),
        ],
    ),
    _members(
        "any_one",
        "Name one {0}.",
        [
            (
                "animal that can fly",
                # Lenient: of the birds penguin and ostrich do not fly.
                [*BIRDS, "bat", "bee", "bird", "butterfly", "dragonfly", "mosquito", "eagle", "birds"],
                1,
                "a sparrow",
            ),
            # Alloys count, and both spellings of aluminium.
            (
                "metal",
                pool("""
                    iron gold silver copper steel aluminium aluminum tin lead zinc nickel bronze
                    brass titanium platinum mercury
                """),
                1,
                "iron",
            ),
            # The Southern Ocean has stood on the maps of National Geographic since 2021.
            ("ocean", ["pacific", "atlantic", "indian", "arctic", "southern"], 1, "the Atlantic"),
            # Five to seven continents are taught; each name that one of the models has counts.
            (
                "continent",
                [
                    "africa",
                    "asia",
                    "europe",
                    "north america",
                    "south america",
                    "antarctica",
                    "australia",
                    "america",
                    "oceania",
                ],
                1,
                "Africa",
            ),
            # Fall is autumn in American English.
            ("season of the year", ["spring", "summer", "autumn", "fall", "winter"], 1, "summer"),
            (
                "tree",
                pool("""
                    oak pine birch maple willow elm fir spruce cedar palm beech ash poplar
                    sequoia redwood
                """),
                1,
                "an oak",
            ),
            (
                "insect",
                pool("""
                    ant bee fly beetle mosquito butterfly moth wasp grasshopper cricket ladybug
                    dragonfly cockroach
                """),
                1,
                "an ant",
            ),
        ],
        max_tokens=48,
    ),
    _members(
        "what_you_find",
        "Which things would one typically find in {0}? Mention at least two.",
        [
            (
                "a kitchen",
                pool("""
                    stove oven fridge refrigerator sink pot pots pan pans knife knives plate
                    plates spoon spoons fork forks cup cups dishes utensils microwave table
                    toaster cutlery
                """),
                2,
                "A stove and a sink.",
            ),
            (
                "a school bag",
                pool("""
                    book books pen pens pencil pencils notebook notebooks ruler eraser lunchbox
                    paper folder calculator textbook textbooks
                """),
                2,
                "Books and pens.",
            ),
            (
                "a bathroom",
                pool("""
                    toilet sink shower bath bathtub towel towels mirror soap toothbrush
                    toothpaste shampoo
                """),
                2,
                "A shower and a towel.",
            ),
            (
                "an office",
                pool("""
                    desk desks chair chairs computer computers printer phone telephone paper pen
                    pens lamp keyboard files laptop
                """),
                2,
                "A desk and a computer.",
            ),
            (
                "a garden",
                pool("""
                    flower flowers tree trees grass plant plants bush bushes bench shrubs
                    vegetables soil fountain herbs roses
                """),
                2,
                "Flowers and trees.",
            ),
            (
                "a toolbox",
                [*TOOLS, "nails", "screws", "screwdrivers", "hammers", "wrenches"],
                2,
                "A hammer and a saw.",
            ),
            (
                "a library",
                pool("""
                    book books shelf shelves table tables chair chairs magazine magazines
                    newspaper newspapers librarian computer computers bookshelves bookshelf
                    journals desk desks
                """),
                2,
                "Books and shelves.",
            ),
        ],
    ),
    _members(
        "five_of",
        "{0}: give me five.",
        [
            (
                "Animals of Africa",
                [
                    "lion",
                    "lions",
                    "elephant",
                    "elephants",
                    "giraffe",
                    "giraffes",
                    "zebra",
                    "zebras",
                    "hippo",
                    "hippos",
                    "hippopotamus",
                    "rhino",
                    "rhinos",
                    "rhinoceros",
                    "leopard",
                    "leopards",
                    "cheetah",
                    "cheetahs",
                    "hyena",
                    "hyenas",
                    "gorilla",
                    "gorillas",
                    "antelope",
                    "buffalo",
                    "ostrich",
                    "crocodile",
                    "chimpanzee",
                    "baboon",
                    "meerkat",
                    "gazelle",
                    "wildebeest",
                ],
                5,
                "lion, zebra, giraffe, elephant, hyena",
            ),
            ("Countries in Europe", COUNTRIES, 5, "Spain, Italy, Poland, Norway, Greece"),
            (
                "Months of the year",
                pool("""
                    january february march april may june july august september october november
                    december
                """),
                5,
                "May, June, July, August, October",
            ),
            ("Vegetables", VEGETABLES, 5, "carrot, leek, onion, potato, cabbage, beans"),
            ("Names of colours", COLOURS, 5, "red, blue, green, pink, brown"),
            ("Sports", SPORTS, 5, "golf, tennis, rugby, boxing, judo"),
            ("Fruits", FRUITS, 5, "apple, pear, plum, fig, kiwi"),
        ],
    ),
)
