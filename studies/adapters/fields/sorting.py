"""Lists: in order, reversed, their first, last, largest, their length."""

from random import Random

from ...probe_families.members import pool
from ..shapes import Draw, Field, Lesson, ask_number, ask_text, ask_yes_no, join_words
from .vocabulary import CITIES, NAMES, THINGS, draw_numbers

UP = (
    "Sort ascending: {0}",
    "Order these numbers from low to high: {0}",
    "{0}: arrange them so that the smallest comes first.",
    "Arrange in increasing order: {0}",
    "Write {0} again, sorted from the smallest to the biggest.",
    "Sort the list [{0}].",
    "Here are some numbers: {0}. List them in growing order.",
    "Rank from lowest to highest: {0}",
)
DOWN = (
    "Sort descending: {0}",
    "Order these numbers from high to low: {0}",
    "{0}: arrange them so that the largest comes first.",
    "Arrange in decreasing order: {0}",
    "Rank from highest to lowest: {0}",
)
ALPHABET = (
    "Alphabetical order, please: {0}",
    "Put these in the order of a dictionary: {0}",
    "Arrange {0} from A to Z.",
    "Order the words by the alphabet: {0}",
    "{0} - write them in alphabetical order.",
    "Sort A to Z: {0}",
)
REVERSE = (
    "Reverse this list: {0}",
    "Write the list backwards, last item first: {0}",
    "Turn the order around: {0}",
    "{0}. Say these from the last to the first.",
    "Give the items of [{0}] in the opposite order.",
)
LARGEST = (
    "Find the biggest number in {0}.",
    "What is the maximum of {0}?",
    "{0}: which one is the highest?",
    "Name the largest of these: {0}",
    "Pick the greatest number: {0}",
    "Which of {0} is the largest?",
)
SMALLEST = (
    "Find the smallest number in {0}.",
    "What is the minimum of {0}?",
    "{0}: which one is the lowest?",
    "Name the least of these: {0}",
    "Which of {0} is the smallest?",
)
PLACES = ("first", "second", "third", "fourth", "fifth")
POSITION = (
    "What comes {1} in this list: {0}?",
    "Name the {1} word of: {0}",
    "{0} - which is the {1} one?",
    "Give me the {1} entry of the list {0}.",
    "List: {0}. The {1} thing on it?",
    "In the row {0}, what stands {1}?",
)
LENGTH = (
    "How many items are in this list: {0}?",
    "{0}. How many is that?",
    "How many words are here: {0}?",
    "My bag holds {1}. How many things are in it?",
    "Count these: {0}",
    "We need {1}. How many things do we need?",
    "How long is the list {0}?",
)
GREATER = (
    "Which number is greater, {0} or {1}?",
    "{0} or {1}: which is bigger?",
    "Of {0} and {1}, which is higher?",
    "Name the larger one: {0}, {1}.",
    "What is bigger, {0} or {1}?",
    "Larger: {0} or {1}?",
)
LESS = (
    "Which number is smaller, {0} or {1}?",
    "{0} or {1}: which is less?",
    "Name the lower one: {0}, {1}.",
)
SIZES = tuple(
    pool("""
    grain of sand|ant|bee|coin|key|egg|apple|shoe|cat|goose|dog|goat|pig|pony|sofa|cow|car|van|elephant|
    house|church|ship|castle|hill|mountain|island
""")
)
"""From small and light to large and heavy."""
PACES = tuple(
    pool("""
    snail|turtle|walker|runner|cyclist|horse|motorbike|racing car|helicopter|airliner|rocket
""")
)
"""From slow to fast."""


def _order(prompt: str, items: list[str], given: list[str]) -> Lesson:
    return Lesson(prompt, ", ".join(items), "order", {"items": items, "given": ", ".join(given)})


def _draw_words(random: Random) -> list[str]:
    return random.sample(random.choice((THINGS, THINGS, NAMES, CITIES)), random.choice((2, 3, 3, 3, 4, 4, 5)))


def _draw_different_initials(random: Random) -> list[str]:
    """Words of which the first letter says the order, mostly: what a small model can learn."""
    while True:
        found = _draw_words(random)
        if len({word[0].casefold() for word in found}) == len(found) or random.random() < 0.1:
            return found


def sort_numbers(templates: tuple[str, ...], *, is_falling: bool = False) -> Draw:
    def draw(random: Random) -> Lesson:
        count = random.choice((2, 3, 3, 3, 4, 4, 5, 6))
        given = items = [str(n) for n in draw_numbers(random, count)]
        # A list that is in order already would be answered by an echo.
        while items == given:
            random.shuffle(given := given.copy())
            items = sorted(given, key=int, reverse=is_falling)
        return _order(random.choice(templates).format(", ".join(given)), items, given)

    return draw


def sort_words(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        given = items = _draw_different_initials(random)
        while items == given:
            random.shuffle(given := given.copy())
            items = sorted(given, key=str.casefold)
        return _order(random.choice(templates).format(", ".join(given)), items, given)

    return draw


def reverse(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        given = _draw_words(random)
        return _order(random.choice(templates).format(", ".join(given)), given[::-1], given)

    return draw


def find_extreme(templates: tuple[str, ...], *, is_least: bool = False) -> Draw:
    def draw(random: Random) -> Lesson:
        given = draw_numbers(random, random.choice((2, 3, 3, 4, 5)))
        shown = ", ".join(map(str, given))
        return ask_number(random.choice(templates).format(shown), min(given) if is_least else max(given))

    return draw


def compare_two(templates: tuple[str, ...], *, is_least: bool = False) -> Draw:
    def draw(random: Random) -> Lesson:
        given = draw_numbers(random, 2)
        return ask_number(random.choice(templates).format(*given), min(given) if is_least else max(given))

    return draw


def find_position(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        given = _draw_words(random)
        place = random.randrange(len(given))
        word = "last" if place == len(given) - 1 and random.random() < 0.8 else PLACES[place]
        prompt = random.choice(templates).format(", ".join(given), word)
        return ask_text(prompt, given[place], [item for item in given if item != given[place]])

    return draw


def count_items(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        given = random.sample(THINGS, random.randint(2, 7))
        prompt = random.choice(templates).format(", ".join(given), join_words(given))
        return ask_number(prompt, len(given))

    return draw


def compare_things(
    scale: tuple[str, ...], words: tuple[tuple[str, bool], ...], templates: tuple[str, ...]
) -> Draw:
    """Things on a scale; `words` name an end of it, and whether it is the upper one."""

    def draw(random: Random) -> Lesson:
        # Neighbours on the scale are a matter of taste.
        start = random.randrange(3)
        places = random.sample(range(start, len(scale), 3), random.choice((2, 3, 3)))
        word, is_upper = random.choice(words)
        things = [scale[place] for place in places]
        right = scale[max(places) if is_upper else min(places)]
        shown = [f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for thing in things]
        prompt = random.choice(templates).format(word, ", ".join(shown), join_words(shown, "or"))
        return ask_text(prompt, right, [thing for thing in things if thing != right])

    return draw


def is_sorted(random: Random) -> Lesson:
    given = draw_numbers(random, random.choice((3, 4)))
    if is_true := random.random() < 0.5:
        given.sort()
    is_true = is_true or given == sorted(given)
    return ask_yes_no(f"Are the numbers {', '.join(map(str, given))} in ascending order?", is_true=is_true)


_SIZE_WORDS = (
    ("biggest", True),
    ("largest of all", True),
    ("tiniest", False),
    ("lightest", False),
    ("largest", True),
)
_PACE_WORDS = (("slowest", False), ("quickest", True))
FIELD = Field(
    name="sort",
    system="You put lists in order.",
    lessons=(
        (3, sort_numbers(UP)),
        (1, sort_numbers(DOWN, is_falling=True)),
        (3, sort_words(ALPHABET)),
        (2, reverse(REVERSE)),
        (2, find_extreme(LARGEST)),
        (1, find_extreme(SMALLEST, is_least=True)),
        (2, compare_two(GREATER)),
        (1, compare_two(LESS, is_least=True)),
        (3, find_position(POSITION)),
        (2, count_items(LENGTH)),
        (
            2,
            compare_things(
                SIZES,
                _SIZE_WORDS,
                ("Which is the {0}: {2}?", "{1}: which one is the {0}?", "Pick the {0}: {1}"),
            ),
        ),
        (1, compare_things(PACES, _PACE_WORDS, ("Which is the {0}: {2}?", "{1}: which one is the {0}?"))),
        (0.5, is_sorted),
    ),
    tests={
        "sorting/lots": sort_numbers(("I drew the lots {0}. Please sort them, beginning with the lowest.",)),
        "sorting/telephone_book": sort_words(("Which order do {0} have in a telephone book?",)),
        "sorting/right_to_left": reverse(("Read {0} from right to left.",)),
        "sorting/top_score": find_extreme(("The scores were {0}. What was the top score?",)),
        "sorting/higher_price": compare_two(("I can pay {0} or {1} euros. What is the higher price?",)),
        "sorting/queue": find_position(("The queue is {0}. Who or what is {1}?",)),
        "counting/on_the_table": count_items(
            ("On the table lie {1}. State the number of things on the table.",)
        ),
    },
)
