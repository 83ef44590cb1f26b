"""What a short text says, and words and lists in another shape."""

import json
from random import Random

from ...probe_families.members import pool
from ..shapes import Draw, Field, Lesson, ask_literal, ask_text, join_words
from .vocabulary import CITIES, COLOURS, DAYS, FOODS, JOBS, MONTHS, NAMES, PETS, THINGS

# An attribute of a person: values, sentences that state it, questions that ask for it.
ATTRIBUTES = {
    "job": (
        JOBS,
        (
            "{0} is a {1}.",
            "{0} works as a {1}.",
            "{0} has been a {1} for years.",
            "{0}, a {1}, was there.",
            "The {1} {0} came too.",
        ),
        (
            "What does {0} do for a living?",
            "Which profession has {0}?",
            "{0} works as what?",
            "What is {0} by trade?",
            "What work does {0} do?",
        ),
    ),
    "city": (
        CITIES,
        (
            "{0} lives in {1}.",
            "{0} moved to {1}.",
            "{0} comes from {1}.",
            "{0} has a flat in {1}.",
            "{0} wrote from {1}.",
        ),
        (
            "Which city is {0} connected with?",
            "Where does {0} live or come from?",
            "Name the city of {0}.",
            "In which town would one look for {0}?",
        ),
    ),
    "pet": (
        PETS,
        ("{0} owns a {1}.", "{0} has a {1}.", "{0} bought a {1}.", "{0} feeds a {1}."),
        ("What animal does {0} have?", "Which pet belongs to {0}?", "Name {0}'s pet."),
    ),
    "food": (
        FOODS,
        ("{0} ordered {1}.", "{0} likes {1} best.", "{0} had {1} for lunch.", "{0} made {1}."),
        ("What did {0} eat or drink?", "Which food goes with {0}?", "What is on {0}'s table?"),
    ),
    "day": (
        DAYS,
        ("{0} arrives on {1}.", "{0} has time on {1}.", "{0} was born on a {1}.", "{0} works only on {1}."),
        (
            "Which day belongs to {0}?",
            "What day is named for {0}?",
            "When, that is on what weekday, is it for {0}?",
        ),
    ),
    "thing": (
        THINGS,
        ("{0} carried a {1}.", "{0} lost a {1}.", "{0} found an old {1}.", "{0} sold the {1}."),
        (
            "What object is {0} connected with?",
            "Which thing is told of {0}?",
            "What did {0} carry, lose, find or sell?",
        ),
    ),
}
ASIDES = (
    "It was a long day.",
    "The weather was fine.",
    "Nobody was surprised.",
    "They had tea.",
    "It began to rain.",
    "The bus was late.",
)
FRAMES = (
    "{0} {1}",
    "{0}\n{1}",
    "Text: {0}\n{1}",
    "Read this: {0} {1}",
    "{1} {0}",
    'Here is a note: "{0}" {1}',
    "Passage: {0}\nQuestion: {1}\nAnswer:",
)
DEALS = (
    ("{0} gave {1} a {2}.", "gave away the {2}", "got the {2}"),
    ("{0} sent {1} the {2}.", "sent the {2}", "was sent the {2}"),
    ("{1} was given a {2} by {0}.", "gave the {2}", "was given the {2}"),
    ("{0} lent a {2} to {1}.", "lent the {2}", "borrowed the {2}"),
    ("{0} phoned {1} about the {2}.", "phoned", "was phoned"),
    ("{0} carried the {2} while {1} slept.", "carried the {2}", "slept"),
    ("{0} forgot the {2}, but {1} remembered it.", "forgot the {2}", "remembered the {2}"),
    ("{0} won the {2}; {1} lost.", "won the {2}", "lost"),
    ("{0} cleaned the {2} and {1} helped.", "cleaned the {2}", "helped"),
    ("{0} hid the {2}. {1} found it.", "hid the {2}", "found the {2}"),
    ("Not {0} but {1} took the {2}.", "did not take the {2}", "took the {2}"),
    ("The {2} belongs to {0}, not to {1}.", "owns the {2}", "does not own the {2}"),
)
MENUS = ("Menu: {0}. {1}", "Prices: {0}. {1}", "The shop sells {0}. {1}", "On the board it says {0}. {1}")
PRICE_QUESTIONS = (
    "How much does the {0} cost?",
    "What must one pay for {0}?",
    "Find the price of {0}.",
    "{0} costs how much?",
)
SCENES = (
    "Beside the {0} {1} stood a {2} {3}.",
    "I saw a {0} {1} and a {2} {3}.",
    "The {1} is {0}, the {3} {2}.",
    "He put the {0} {1} under the {2} {3}.",
    "A {0} {1} for her, a {2} {3} for him.",
)
COLOUR_QUESTIONS = (
    "Which colour has the {0}?",
    "What is the colour of the {0}?",
    "The {0} is of which colour?",
    "Tell me the {0}'s colour.",
)
CONTACTS = (
    "Reach {1} under {0} from nine to five.",
    "For tickets write {0} or come by.",
    "{1} asked us to use {0} from now on.",
    "Lost keys? Tell {0} about it.",
    "The form goes to {0}; copies stay here.",
    "{1}: {0}, second floor",
    "My new one is {0}, said {1}.",
)
MAIL_QUESTIONS = (
    "Find the e-mail address: {0}",
    "{0} Which mail address is in the text?",
    "Extract the email from: {0}",
    "What is the address for mail here? {0}",
)
MAIL_ENDINGS = ("example", "org", "com", "net")
PHONE_QUESTIONS = (
    "Find the telephone number: {0}",
    "{0} Which number does one call?",
    "Extract the phone number from: {0}",
)
MOVES = (
    "The {0} was put off from {1} to {2}.",
    "Not on {1} but on {2} is the {0}.",
    "The {0} planned for {1} will be on {2}.",
    "We had the {0} on {1}; the next one is on {2}.",
    "{1} does not suit, so the {0} is on {2}.",
)
EVENTS = ("concert", "lesson", "wedding", "match", "dinner", "visit", "race", "talk", "party", "interview")
MOVE_QUESTIONS = (
    "When is the {0}?",
    "For which day is the {0} fixed now?",
    "Name the day of the coming {0}.",
    "What is the right day for the {0}?",
)


def _an(text: str) -> str:
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text


def find_attribute(random: Random) -> Lesson:
    """One attribute of one of two people."""
    people = random.sample(NAMES, 2)
    kind, other = random.sample(sorted(ATTRIBUTES), 2)
    values, sentences, questions = ATTRIBUTES[kind]
    right, wrong = random.sample(values, 2)
    said = [random.choice(sentences).format(people[0], right)]
    if random.random() < 0.7:
        said.append(random.choice(sentences).format(people[1], wrong))
    else:
        values, sentences, _ = ATTRIBUTES[other]
        said.append(random.choice(sentences).format(people[0], random.choice(values)))
        wrong = "nothing"
    if random.random() < 0.3:
        said.append(random.choice(ASIDES))
    random.shuffle(said)
    question = random.choice(questions).format(people[0])
    return ask_text(_an(random.choice(FRAMES).format(" ".join(said), question)), right, [wrong])


def find_person(templates: tuple[str, ...], questions: tuple[str, ...]) -> Draw:
    """Who did it, of two people."""

    def draw(random: Random) -> Lesson:
        first, second = random.sample(NAMES, 2)
        thing = random.choice(THINGS)
        sentence, of_first, of_second = random.choice(DEALS)
        right, wrong, deed = random.choice(((first, second, of_first), (second, first, of_second)))
        asked = random.choice(questions).format(deed.format("", "", thing))
        text = _an(sentence.format(first, second, thing))
        return ask_text(random.choice(templates).format(text, asked), right, [wrong])

    return draw


def find_price(templates: tuple[str, ...], questions: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        things = random.sample((*THINGS, *FOODS), random.choice((2, 3, 4)))
        prices = random.sample(range(1, 60), len(things))
        currency = random.choice(("${0}", "{0} euros", "{0} dollars", "£{0}"))
        shown = ", ".join(
            f"{thing} {currency.format(price)}" for thing, price in zip(things, prices, strict=True)
        )
        n = random.randrange(len(things))
        question = random.choice(questions).format(things[n])
        right, *wrong = (currency.format(price) for price in (prices[n], *prices[:n], *prices[n + 1 :]))
        return ask_text(random.choice(templates).format(shown, question), right, wrong)

    return draw


def find_colour(random: Random) -> Lesson:
    things, colours = random.sample(THINGS, 2), random.sample(COLOURS, 2)
    n = random.randrange(2)
    text = _an(random.choice(SCENES).format(colours[0], things[0], colours[1], things[1]))
    question = random.choice(COLOUR_QUESTIONS).format(things[n])
    return ask_text(random.choice(FRAMES).format(text, question), colours[n], [colours[1 - n]])


def find_contact(mail_questions: tuple[str, ...], phone_questions: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        name = random.choice(NAMES)
        user = random.choice(
            (
                name.casefold(),
                f"{name[0].casefold()}{random.randint(1, 99)}",
                random.choice(THINGS),
                "info",
                "desk",
            )
        )
        host, ending = random.choice((*THINGS, "example", "mail")), random.choice(MAIL_ENDINGS)
        mail = f"{user}@{host}.{ending}"
        phone = f"{random.randint(100, 999)}-{random.randint(1000, 9999)}"
        right, questions = random.choice(
            ((mail, mail_questions), (mail, mail_questions), (phone, phone_questions))
        )
        return ask_text(random.choice(questions).format(random.choice(CONTACTS).format(right, name)), right)

    return draw


def find_day(random: Random) -> Lesson:
    days, event = random.sample(DAYS, 2), random.choice(EVENTS)
    text = random.choice(MOVES).format(event, *days)
    question = random.choice(MOVE_QUESTIONS).format(event)
    return ask_text(random.choice(FRAMES).format(text, question), days[1], [days[0]])


def find_name_of_kind(random: Random) -> Lesson:
    """The word of a kind that a sentence holds."""
    kind, values = random.choice(
        (
            ("city", CITIES),
            ("person", NAMES),
            ("month", MONTHS),
            ("day", DAYS),
            ("animal", PETS),
            ("profession", JOBS),
            ("colour", COLOURS),
        )
    )
    right = random.choice(values)
    sentences = {
        "city": (
            "We spent a week in {0}.",
            "The office in {0} is closed.",
            "Snow fell in {0} last night.",
            "The road to {0} is long.",
        ),
        "person": (
            "Only {0} knew the way.",
            "I met {0} at the station.",
            "The letter was from {0}.",
            "Then {0} began to sing.",
        ),
        "month": ("The garden opens in {0}.", "Last {0} was very wet.", "Rent is due in {0}."),
        "day": ("The bins are emptied on {0}.", "See you on {0}!", "Since {0} it has been cold."),
        "animal": ("The {0} slept on the sofa.", "A {0} ran over the road.", "There is a {0} in the yard."),
        "profession": ("The {0} closed his door.", "Ask the {0} for help.", "My aunt is a {0}."),
        "colour": ("The wall was {0}.", "Two {0} cushions lay there.", "Paint it {0}!"),
    }[kind]
    question = random.choice(
        (
            "Which {0} is named?",
            "Name the {0} in the sentence.",
            "What {0} does the text mention?",
            "Find the {0}.",
        )
    )
    return ask_text(
        _an(random.choice(FRAMES).format(random.choice(sentences).format(right), question.format(kind))),
        right,
    )


RECORDS = (
    (
        "city",
        "country",
        "{0} lies in {1}.",
        CITIES,
        ("France", "Italy", "Spain", "Japan", "Egypt", "Peru", "Kenya"),
    ),
    ("name", "job", "{0} works as a {1}.", NAMES, JOBS),
    ("name", "city", "{0} lives in {1}.", NAMES, CITIES),
    ("item", "colour", "The {0} is {1}.", THINGS, COLOURS),
    ("animal", "owner", "The {0} belongs to {1}.", PETS, NAMES),
    ("dish", "cost", "{0} costs {1} euros.", FOODS, range(2, 40)),
    ("item", "count", "There are {1} pieces of {0}.", FOODS, range(2, 40)),
    ("player", "points", "{0} has {1} points.", NAMES, range(1, 99)),
    ("day", "hours", "On {0} we work {1} hours.", DAYS, range(2, 12)),
    ("month", "days", "{0}: {1} days", MONTHS, range(28, 32)),
    ("thing", "weight", "thing: {0}, weight: {1}", THINGS, range(1, 90)),
)
JSON_ORDERS = (
    'Write a JSON object with "{1}" and "{2}": {0}',
    "{0} Give this as JSON with the fields {1} and {2}.",
    "Convert to JSON (keys {1}, {2}): {0}",
    "JSON only, keys {1} and {2}. {0}",
    'Make JSON with the keys "{1}" and "{2}" of this sentence: {0}',
    "As JSON with {1} and {2}: {0}",
)


def write_json(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        first, second, sentence, firsts, seconds = random.choice(RECORDS)
        value = {first: random.choice(firsts), second: random.choice(seconds)}
        prompt = random.choice(templates).format(sentence.format(*value.values()), first, second)
        return Lesson(_an(prompt), json.dumps(value), "json", {"value": value})

    return draw


BULLETS = (
    'Write as a list with "-" before each item: {0}',
    "Bullet points with dashes: {0}",
    "Put each of these on a line of its own that begins with -: {0}",
    "Make bullets (-) of {0}.",
    "{0} as a bulleted list with hyphens, please.",
)
NUMBERED = (
    "Write a numbered list: {0}",
    "Turn this into numbered lines: {0}",
    "Give each item a number (1., 2., …) and a line: {0}",
    "{0} as a numbered list, one item a line.",
    "List with 1. 2. 3.: {0}",
)
VERBS = (
    "open",
    "clean",
    "close",
    "take",
    "find",
    "move",
    "paint",
    "carry",
    "check",
    "hide",
    "sell",
    "fold",
    "drop",
    "lift",
    "turn over",
)


def write_list(templates: tuple[str, ...], *, is_numbered: bool = False) -> Draw:
    def draw(random: Random) -> Lesson:
        items = random.sample(THINGS, random.choice((2, 3, 3, 4)))
        if random.random() < 0.5:
            items = [
                f"{verb} the {item}"
                for verb, item in zip(random.sample(VERBS, len(items)), items, strict=True)
            ]
        lines = [f"{n}. {item}" if is_numbered else f"- {item}" for n, item in enumerate(items, 1)]
        expected = {"count": len(items), "marker": "1." if is_numbered else "-", "pool": items}
        shown = random.choice((", ", "; ", ", ")).join(items) if random.random() < 0.8 else join_words(items)
        return Lesson(random.choice(templates).format(shown), "\n".join(lines), "bullets", expected)

    return draw


UPPER = (
    "In capitals: {0}",
    "Change to uppercase: {0}",
    "{0} - the same in upper case, please",
    "Shout this in capitals: {0}",
    'Make "{0}" all caps.',
    "Uppercase of {0}?",
)
LOWER = (
    "In small letters: {0}",
    "Write {0} without capitals.",
    '"{0}" in lower case, please',
    "Lowercase of {0}?",
    "Make {0} all small.",
)


def change_case(templates: tuple[str, ...], *, is_upper: bool) -> Draw:
    def draw(random: Random) -> Lesson:
        word = random.choice((*THINGS, *FOODS, *PETS, *JOBS, *CITIES, *COLOURS))
        if random.random() < 0.2:
            word = f"{random.choice(COLOURS)} {random.choice(THINGS)}"
        given, answer = (word.lower(), word.upper()) if is_upper else (word.upper(), word.lower())
        return ask_literal(random.choice(templates).format(given), answer)

    return draw


SURNAMES = tuple(
    pool("""
    Adams Baker Clark Dunn Evans Fox Grant Hunt Irwin Jones Kent Long Mills North Owen Page Reed Scott
    Turner Vance Webb Young
""")
)
INITIALS = (
    "Initials of {0}, with dots:",
    "Write the initials: {0}",
    "{0}: initials, please",
    "Shorten {0} to initials.",
)


def write_initials(random: Random) -> Lesson:
    name = f"{random.choice(NAMES)} {random.choice(SURNAMES)}"
    answer = " ".join(f"{part[0]}." for part in name.split())
    return Lesson(random.choice(INITIALS).format(name), answer, "exact", {"accept": [answer]})


def find_letter(random: Random) -> Lesson:
    word = random.choice((*THINGS, *FOODS, *PETS, *COLOURS)).split()[0]
    place, letter = random.choice((("first", word[0]), ("first", word[0]), ("last", word[-1])))
    asked = random.choice(
        (
            "The {0} letter of {1} is?",
            "What is the {0} letter of the word {1}?",
            "Give me the {0} letter of {1}.",
        )
    )
    return Lesson(asked.format(place, word), letter.upper(), "exact", {"accept": [letter]})


def spell(random: Random) -> Lesson:
    word = random.choice([word for word in (*THINGS, *PETS) if len(word) <= 6])
    sign, name = random.choice(((" ", "spaces"), (".", "dots"), (", ", "commas")))
    asked = random.choice(
        ("Spell {0} with {1} between the letters.", "Write the letters of {0} one by one, parted by {1}.")
    )
    return ask_literal(asked.format(word, name), sign.join(word))


FIELD = Field(
    name="clerk",
    system="You copy out what is asked.",
    lessons=(
        (4, find_attribute),
        (
            3,
            find_person(
                FRAMES, ("Who {0}?", "Who was it that {0}?", "Name the one who {0}.", "Which person {0}?")
            ),
        ),
        (1.5, find_price(MENUS, PRICE_QUESTIONS)),
        (1.5, find_colour),
        (1.5, find_contact(MAIL_QUESTIONS, PHONE_QUESTIONS)),
        (1.5, find_day),
        (1.5, find_name_of_kind),
        (2.5, write_json(JSON_ORDERS)),
        (1, write_list(BULLETS)),
        (1, write_list(NUMBERED, is_numbered=True)),
        (1.5, change_case(UPPER, is_upper=True)),
        (1, change_case(LOWER, is_upper=False)),
        (0.7, write_initials),
        (0.7, find_letter),
        (0.7, spell),
    ),
    tests={
        "extraction/who_acted": find_person(("Report: {0} The question is: {1}",), ("Tell me who {0}.",)),
        "extraction/where_to_write": find_contact(
            ("Where must I write to? {0}",), ("What must I dial? {0}",)
        ),
        "extraction/kiosk": find_price(("A kiosk asks these prices: {0}. {1}",), ("How expensive is {0}?",)),
        "formatting/json_stored": write_json(
            ("Store this in a JSON record whose fields are {1} and {2}. {0}",)
        ),
        "formatting/with_dashes": write_list(
            ("Rewrite the following so that every item has a dash in front and its own line: {0}",)
        ),
        "formatting/ordinal_list": write_list(
            ("I need ordinal lines such as 1. and 2. for: {0}",), is_numbered=True
        ),
        "formatting/block_letters": change_case(("Please convert {0} into block letters",), is_upper=True),
    },
)
