"""Several members of a class, or any one."""

from .shapes import Family, Item, family

KIND = "listing"


def _pool(members: str) -> list[str]:
    """Members parted by `|`, or by spaces where there is none."""
    parts = members.split("|") if "|" in members else members.split()
    return [part.strip() for part in parts if part.strip()]


_FRUITS = _pool("""
    apple apples orange oranges banana bananas grape grapes strawberry strawberries mango mangoes
    mangos pear pears peach peaches pineapple cherry cherries lemon lemons lime grapefruit kiwi plum plums
    melon watermelon blueberry blueberries raspberry raspberries apricot fig papaya avocado
    pomegranate
""")
_VEGETABLES = _pool("""
    carrot carrots potato potatoes tomato tomatoes onion onions spinach broccoli cabbage lettuce
    cucumber cucumbers pea peas bean beans pepper peppers celery garlic cauliflower kale zucchini
    eggplant beet beets corn pumpkin radish turnip asparagus
""")
_ANIMALS = _pool("""
    dog dogs cat cats horse horses cow cows sheep goat goats pig pigs lion lions tiger tigers
    elephant elephants bear bears monkey monkeys rabbit rabbits mouse mice rat rats wolf wolves
    fox foxes deer giraffe giraffes zebra zebras whale whales dolphin dolphins kangaroo camel bat
    bats human humans squirrel squirrels hippopotamus rhinoceros gorilla chimpanzee panda seal
    seals otter leopard cheetah koala donkey
""")
_COLOURS = _pool("""
    red blue green yellow orange purple black white brown pink grey gray violet indigo cyan
    magenta turquoise gold silver beige
""")
_PLANETS = _pool("mercury venus earth mars jupiter saturn uranus neptune")
_COUNTRIES = _pool("""
    france|germany|italy|spain|portugal|austria|switzerland|belgium|netherlands|the netherlands|
    poland|sweden|norway|denmark|finland|greece|ireland|united kingdom|england|scotland|hungary|
    czech republic|romania|bulgaria|croatia|ukraine|iceland|serbia|slovakia|slovenia|estonia|latvia|
    lithuania|luxembourg|russia|albania|malta|cyprus|uk|the uk
""")
_INSTRUMENTS = _pool("""
    piano guitar violin drums drum flute trumpet cello saxophone clarinet harp trombone oboe
    banjo organ keyboard bass tuba viola accordion ukulele mandolin
""")
_TOOLS = _pool("""
    hammer screwdriver saw wrench drill pliers chisel axe file level tape shovel rake spade
    ladder knife
""")
_BIRDS = _pool("""
    eagle hawk sparrow owl robin crow pigeon dove penguin parrot duck goose swan chicken hen
    falcon raven ostrich flamingo peacock gull seagull stork heron hummingbird woodpecker turkey
    finch cardinal swallow parakeet canary bluebird warbler cockatoo sparrows eagles owls
    robins parrots penguins pigeons hawks ducks falcons vulture kingfisher nightingale
""")
_SPORTS = _pool("""
    football|soccer|tennis|basketball|baseball|hockey|ice hockey|golf|rugby|cricket|volleyball|
    swimming|running|cycling|boxing|badminton|skiing|gymnastics|table tennis|handball|athletics|
    track and field|surfing|judo|karate|wrestling
""")
_CLOTHES = _pool("""
    shirt shirts trousers pants jacket jackets coat coats dress dresses skirt sock socks shoe
    shoes hat hats scarf gloves sweater jeans t-shirt t-shirts tie belt shorts boots blouse suit
    cap hoodie
""")
_DRINKS = _pool("""
    water tea coffee milk juice beer wine lemonade soda cola cocoa smoothie whiskey vodka rum
    champagne cider
""")


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
            ("fruits", _FRUITS, 3, "apple, banana, cherry"),
            ("colours", _COLOURS, 3, "red, green, blue"),
            ("European countries", _COUNTRIES, 3, "France, Spain, Italy"),
            ("musical instruments", _INSTRUMENTS, 3, "piano, violin, flute"),
            ("planets", _PLANETS, 3, "Mars, Venus, Saturn"),
            ("vegetables", _VEGETABLES, 3, "carrot, onion, potato"),
            ("sports", _SPORTS, 3, "tennis, golf, rugby"),
            ("mammals", _ANIMALS, 3, "dog, horse, whale"),
        ],
    ),
    _members(
        "name_two",
        "Name two {0}, please.",
        [
            ("birds", _BIRDS, 2, "eagle and owl"),
            ("drinks", _DRINKS, 2, "tea and milk"),
            ("pieces of clothing", _CLOTHES, 2, "shirt and hat"),
            ("hand tools", _TOOLS, 2, "hammer and saw"),
            (
                "planets that are larger than the Earth",
                ["jupiter", "saturn", "uranus", "neptune"],
                2,
                "Jupiter and Saturn",
            ),
            (
                "big cats",
                _pool("""
                    lion lions tiger tigers leopard leopards jaguar jaguars cheetah cougar
                    panther
                """),
                2,
                "lion and tiger",
            ),
            ("primary colours", ["red", "blue", "yellow", "green"], 2, "red and blue"),
        ],
    ),
    _members(
        "such_as",
        "Can you give me a few examples of {0}? Three are enough.",
        [
            (
                "farm animals",
                _pool("""
                    cow cows pig pigs sheep goat goats horse horses chicken chickens hen hens
                    duck ducks donkey turkey turkeys cattle
                """),
                3,
                "cows, pigs and sheep",
            ),
            (
                "winter clothes",
                [*_CLOTHES, "mittens", "earmuffs", "scarves", "sweaters"],
                3,
                "coat, scarf, gloves",
            ),
            (
                "string instruments",
                _pool("violin guitar cello viola harp banjo bass ukulele mandolin lute"),
                3,
                "violin, cello, harp",
            ),
            (
                "citrus fruits",
                _pool("""
                    orange oranges lemon lemons lime limes grapefruit grapefruits tangerine
                    tangerines mandarin clementine pomelo
                """),
                3,
                "orange, lemon, lime",
            ),
            ("ball games", _SPORTS, 3, "football, tennis, basketball"),
            (
                "hot drinks",
                ["tea", "coffee", "cocoa", "hot chocolate", "espresso", "cappuccino", "latte", "cider"],
                3,
                "tea, coffee, cocoa",
            ),
            (
                "pets",
                [
                    *_ANIMALS,
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
                [*_BIRDS, "bat", "bee", "bird", "butterfly", "dragonfly", "mosquito", "eagle", "birds"],
                1,
                "a sparrow",
            ),
            (
                "metal",
                _pool("""
                    iron gold silver copper steel aluminium aluminum tin lead zinc nickel bronze
                    brass titanium platinum mercury
                """),
                1,
                "iron",
            ),
            ("ocean", ["pacific", "atlantic", "indian", "arctic", "southern"], 1, "the Atlantic"),
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
            ("season of the year", ["spring", "summer", "autumn", "fall", "winter"], 1, "summer"),
            (
                "tree",
                _pool("""
                    oak pine birch maple willow elm fir spruce cedar palm beech ash poplar
                    sequoia redwood
                """),
                1,
                "an oak",
            ),
            (
                "insect",
                _pool("""
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
                _pool("""
                    stove oven fridge refrigerator sink pot pots pan pans knife knives plate
                    plates spoon spoons fork forks cup cups dishes utensils microwave table
                    toaster cutlery
                """),
                2,
                "A stove and a sink.",
            ),
            (
                "a school bag",
                _pool("""
                    book books pen pens pencil pencils notebook notebooks ruler eraser lunchbox
                    paper folder calculator textbook textbooks
                """),
                2,
                "Books and pens.",
            ),
            (
                "a bathroom",
                _pool("""
                    toilet sink shower bath bathtub towel towels mirror soap toothbrush
                    toothpaste shampoo
                """),
                2,
                "A shower and a towel.",
            ),
            (
                "an office",
                _pool("""
                    desk desks chair chairs computer computers printer phone telephone paper pen
                    pens lamp keyboard files laptop
                """),
                2,
                "A desk and a computer.",
            ),
            (
                "a garden",
                _pool("""
                    flower flowers tree trees grass plant plants bush bushes bench shrubs
                    vegetables soil fountain herbs roses
                """),
                2,
                "Flowers and trees.",
            ),
            (
                "a toolbox",
                [*_TOOLS, "nails", "screws", "screwdrivers", "hammers", "wrenches"],
                2,
                "A hammer and a saw.",
            ),
            (
                "a library",
                _pool("""
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
            ("Countries in Europe", _COUNTRIES, 5, "Spain, Italy, Poland, Norway, Greece"),
            (
                "Months of the year",
                _pool("""
                    january february march april may june july august september october november
                    december
                """),
                5,
                "May, June, July, August, October",
            ),
            ("Vegetables", _VEGETABLES, 5, "carrot, leek, onion, potato, cabbage, beans"),
            ("Names of colours", _COLOURS, 5, "red, blue, green, pink, brown"),
            ("Sports", _SPORTS, 5, "golf, tennis, rugby, boxing, judo"),
            ("Fruits", _FRUITS, 5, "apple, pear, plum, fig, kiwi"),
        ],
    ),
)
