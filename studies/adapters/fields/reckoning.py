"""Word problems of one or two steps, series of numbers, counts."""

from random import Random

from ..shapes import Draw, Field, Lesson, ask_number
from .vocabulary import NAMES, PETS, THINGS

GOODS = (
    "apples",
    "pears",
    "coins",
    "stamps",
    "cards",
    "shells",
    "beads",
    "books",
    "pencils",
    "buttons",
    "nuts",
    "cakes",
    "eggs",
    "roses",
    "stones",
    "stickers",
    "balls",
    "keys",
    "tickets",
    "letters",
    "candles",
    "lemons",
    "plates",
    "sweets",
    "toys",
    "cups",
    "nails",
    "photos",
    "potatoes",
    "bricks",
)
PLACES = ("bag", "basket", "drawer", "jar", "cupboard", "bowl", "crate", "pocket", "tin", "shop")
# By sign; {0} {1} are names, {2} goods, {3} a place, {4} {5} the numbers.
STORIES = {
    "+": (
        "{0} had {4} {2} and found {5} more. How many {2} are there in all?",
        "In the {3} lie {4} {2}. {0} puts in {5} others. How many {2} lie there now?",
        "{0} picked {4} {2}, {1} picked {5}. How many {2} did they pick together?",
        "There were {4} {2}; then {5} were added. What is the number of {2}?",
        "{0} read {4} pages on Monday and {5} pages on Tuesday. How many pages is that?",
        "{0} is {4} years old. How old will {0} be in {5} years?",
        "{1} is {5} years younger than {0}, and {1} is {4}. What is {0}'s age?",
        "{4} people sit in a bus. {5} people get on. How many sit in it?",
        "{0} gets {5} {2} from {1} and has {4} already. Total?",
        "A shirt costs {4} euros and a hat {5} euros. What do both cost?",
        "{0} walked {4} km in the morning and {5} km in the evening. How far was it altogether?",
        "{1} has {4} {2}. {0} has {5} more than {1}. How many {2} has {0}?",
        "{0} weighs {4} kilos and gains {5}. What is the new weight?",
        "In a class are {4} girls and {5} boys. How many children is that?",
    ),
    "-": (
        "{0} had {4} {2} and lost {5}. How many {2} remain?",
        "In the {3} were {4} {2}. {0} ate {5} of them. How many {2} remain in the {3}?",
        "{0} had {4} {2} and handed {5} to {1}. How many {2} does {0} keep?",
        "Of {4} {2} {5} broke. How many {2} are whole?",
        "{0} has {4} euros and spends {5}. How much money is left over?",
        "{0} is {4} years old. How old was {0} {5} years ago?",
        "{0} is {4}, and {1} is {5} years younger. How old is {1}?",
        "{4} birds sit on a roof; {5} fly away. How many still sit there?",
        "A rope is {4} metres long. {0} cuts off {5} metres. How long is the rest?",
        "{0} has {4} {2}, {1} has {5}. How many more {2} does {0} have than {1}?",
        "A book has {4} pages. {0} has read {5}. How many pages are to be read?",
        "{0} baked {4} cakes and sold {5}. How many cakes were not sold?",
        "{4} {2} lay in the {3}, but {1} removed {5}. How many are in it after that?",
        "The shop had {4} {2}. By noon {5} were sold. What number of {2} is left?",
    ),
    "*": (
        "{4} bags hold {5} {2} each. How many {2} are there?",
        "{0} buys {4} {2} at {5} euros each. What must {0} pay?",
        "{0} works {5} hours a day. How many hours are that in {4} days?",
        "A table has {5} places. How many places have {4} tables?",
        "{0} saves {5} euros a week. How much is saved after {4} weeks?",
        "{4} rows of {5} trees: how many trees?",
        "Each of {4} children gets {5} {2}. How many {2} are needed?",
        "{0} runs {5} km per hour for {4} hours. How many km does {0} run?",
        "A ticket is {5} dollars. How much are {4} tickets?",
        "One {3} holds {5} {2}. How many {2} do {4} of them hold?",
        "A page shows {5} photos. How many are on {4} pages?",
        "{0} drives at {5} km an hour. How far does {0} come in {4} hours?",
    ),
    "/": (
        "{4} {2} are put into {5} bags, the same number in each. How many are in one bag?",
        "{0} shares {4} {2} among {5} friends. How many does each friend get?",
        "{5} tickets cost {4} euros. What does one ticket cost?",
        "{0} reads {4} pages in {5} days, the same number every day. How many pages a day?",
        "A ribbon of {4} cm is cut into {5} equal pieces. How long is a piece?",
        "{4} children form {5} teams of the same size. How many are in a team?",
        "How many bags of {5} {2} can {0} fill with {4} {2}?",
        "{0} earns {4} euros in {5} hours. How much is that an hour?",
        "{5} boxes hold {4} {2} in all, each the same. How many does one box hold?",
    ),
}
SERIES = (
    "What number follows {0}?",
    "Next number: {0}, ?",
    "{0}, ... What comes after that?",
    "Which number continues the row {0}?",
    "Complete: {0}, __",
    "The numbers are {0}. What is the next one?",
    "{0}. And then?",
    "Go on by one number: {0}",
)
WORD_COUNTS = (
    "How many words has the sentence: {0}",
    'Number of words in "{0}"?',
    "{0} How many words is that?",
    "How many words did I write? {0}",
)
LETTER_COUNTS = (
    "How many letters are in {0}?",
    "Number of letters of {0}?",
    "{0}: how many letters?",
    "How long is the word {0}, in letters?",
)
LETTER_TIMES = (
    "How many times is {1} in the word {0}?",
    "Count the letter {1} in {0}.",
    "{0}: how many {1}?",
)
AMOUNTS = {"dozen": 12, "pair": 2, "score": 20, "decade": 10, "century": 100, "fortnight": 14}


def _draw_numbers(sign: str, random: Random) -> tuple[int, int, int]:
    """Two numbers and what comes out; small ones more often."""
    if sign in "+-":
        top = random.choice((10, 20, 20, 50, 100))
        second, first = sorted((random.randint(1, top), random.randint(1, top)))
        if sign == "+":
            first, second = random.sample((first, second), 2)
            return first, second, first + second
        return (first, second, first - second) if first > second else (first + second, second, first)
    factor = random.randint(2, 9)
    other = random.choice(
        (random.randint(2, 10), random.randint(2, 12), 10 * random.randint(1, 12), 5 * random.randint(1, 12))
    )
    return (factor, other, factor * other) if sign == "*" else (factor * other, factor, other)


def tell_story(sign: str, stories: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        first, second, value = _draw_numbers(sign, random)
        names = random.sample(NAMES, 2)
        prompt = random.choice(stories).format(
            *names, random.choice(GOODS), random.choice(PLACES), first, second
        )
        # The calculation first: it says which one it is before the model must say what comes out.
        return ask_number(prompt, value, f"{first} {sign} {second} = {value}")

    return draw


def continue_series(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        start, step = random.randint(1, 30), random.choice((1, 2, 2, 3, 4, 5, 5, 6, 7, 10, 10, 20))
        if random.random() < 0.4:
            start = step
        count = random.choice((3, 4, 4, 5))
        row = [start + step * n for n in range(count + 1)]
        kind = random.random()
        if kind < 0.15:
            row.reverse()
        elif kind < 0.25:
            row = [start * 2**n for n in range(count + 1)]
        return ask_number(random.choice(templates).format(", ".join(map(str, row[:-1]))), row[-1])

    return draw


def count_words(random: Random) -> Lesson:
    words = [
        random.choice(NAMES),
        random.choice(("sees", "likes", "paints", "sells", "wants", "finds")),
        random.choice(("the", "a", "his", "her", "my")),
    ]
    words += [
        *random.sample(("old", "big", "red", "good", "little", "new"), random.randint(0, 2)),
        random.choice(THINGS),
    ]
    words += random.choice(("", "today", "every day", "in the garden", "and a dog", "again")).split()
    return ask_number(random.choice(WORD_COUNTS).format(" ".join(words) + "."), len(words))


def count_letters(random: Random) -> Lesson:
    word = random.choice((*THINGS, *PETS))
    if random.random() < 0.5:
        return ask_number(random.choice(LETTER_COUNTS).format(word), len(word))
    letter = random.choice(word)
    return ask_number(random.choice(LETTER_TIMES).format(word, letter), word.count(letter))


def tell_two_steps(random: Random) -> Lesson:
    first, second, third = random.randint(5, 40), random.randint(1, 20), random.randint(1, 4)
    name, goods = random.choice(NAMES), random.choice(GOODS)
    middle = first + second
    prompt = random.choice(
        (
            "{0} has {2} {1}, gets {3} more and loses {4}. How many {1} has {0} then?",
            "{2} {1} are in the bag. {3} come in, {4} go out. How many are inside?",
        )
    ).format(name, goods, first, second, third)
    return ask_number(
        prompt, middle - third, f"{first} + {second} = {middle}, {middle} - {third} = {middle - third}"
    )


def count_amount(random: Random) -> Lesson:
    word, value = random.choice(list(AMOUNTS.items()))
    unit = {
        "pair": " shoes",
        "dozen": " eggs",
        "score": " items",
        "decade": " years",
        "century": " years",
        "fortnight": " days",
    }[word]
    count = random.choice((1, 1, 2, 3, 4, 5))
    if count == 1:
        return ask_number(f"How many{unit} make a {word}?", value)
    plural = "centuries" if word == "century" else f"{word}s"
    return ask_number(
        f"How many{unit} are {count} {plural}?", count * value, f"{count} * {value} = {count * value}"
    )


FIELD = Field(
    name="reckon",
    system="You calculate.",
    lessons=(
        (4, tell_story("+", STORIES["+"])),
        (4, tell_story("-", STORIES["-"])),
        (3.5, tell_story("*", STORIES["*"])),
        (3, tell_story("/", STORIES["/"])),
        (3, continue_series(SERIES)),
        (1, tell_two_steps),
        (1.5, count_words),
        (1.5, count_letters),
        (0.7, count_amount),
    ),
    tests={
        "word_problems/choir": tell_story(
            "+", ("The choir has {4} singers. {5} join it. State how many sing in it from then on.",)
        ),
        "word_problems/windy_tree": tell_story(
            "-", ("On the tree hung {4} {2}. The wind took {5} down. How many still hang on it?",)
        ),
        "word_problems/spiders": tell_story(
            "*", ("A spider family has {4} members with {5} toys each. How many toys do they have?",)
        ),
        "word_problems/seated_guests": tell_story(
            "/", ("{4} guests are seated at {5} tables, equally many at each. How many sit at a table?",)
        ),
        "completion/machine_row": continue_series(
            ("A machine prints {0} and stops. Which number would it have printed after these?",)
        ),
    },
)
