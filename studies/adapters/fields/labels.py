"""Texts under a label, and questions with a verdict."""

from random import Random

from ..shapes import Draw, Field, Lesson, ask_text, ask_yes_no, is_probed, join_words
from .vocabulary import CITIES, COLOURS, DAYS, FOODS, JOBS, MONTHS, NAMES, PETS, THINGS, draw_numbers

GOOD = (
    "I would come back any time.",
    "Everything worked at once.",
    "Great value!",
    "Fast, neat and friendly.",
    "My children adore it.",
    "It does exactly what it promises.",
    "I could not put it down.",
    "Delicious, every bite.",
    "A joy from start to end.",
    "The team was patient and kind.",
    "Sturdy, light and pretty.",
    "I recommend it to all my friends.",
    "Five stars.",
    "Better than I had hoped.",
    "The view was stunning.",
    "So comfortable that I slept ten hours.",
    "Clear pictures and a lovely sound.",
    "They solved my problem in a minute.",
    "A perfect evening.",
    "The best present I ever got.",
    "Superb service.",
    "It made me smile all day.",
    "Fresh, tasty and cheap.",
    "I am delighted.",
    "The author writes with wit and heart.",
    "Spotless rooms and a warm welcome.",
    "Easy to use, even for my grandmother.",
    "Thanks for the quick help!",
    "This app saves me hours.",
    "I enjoyed it very much.",
    "What a treat.",
    "Impressive and elegant.",
    "The guide knew so much, we loved it.",
    "It still runs perfectly after years.",
)
BAD = (
    "Never again.",
    "It stopped working on the second day.",
    "Far too expensive for what it is.",
    "Slow, dirty and unfriendly.",
    "My children hated it.",
    "Nothing was as described.",
    "I gave up after ten pages.",
    "The soup tasted of soap.",
    "We waited two hours and left hungry.",
    "They were rude on the phone.",
    "Cheap plastic that cracks.",
    "I warn all my friends.",
    "One star is too much.",
    "Worse than I had feared.",
    "The room smelled of smoke.",
    "So uncomfortable that my back hurts.",
    "Blurred pictures and awful sound.",
    "They ignored all my letters.",
    "A ruined evening.",
    "I sent it back the same day.",
    "Poor service.",
    "It made me angry.",
    "Stale, bland and overpriced.",
    "I am disappointed.",
    "The story makes no sense.",
    "Hair in the sink and a broken lamp.",
    "Hard to use and full of errors.",
    "Nobody helped us.",
    "This app crashes all the time.",
    "I regret buying it.",
    "What a mess.",
    "Ugly and badly made.",
    "The guide was bored, and so were we.",
    "It leaks everywhere.",
)
MOODS = (
    ("positive", "negative"),
    ("positive", "negative"),
    ("good", "bad"),
    ("happy", "unhappy"),
    ("praise", "complaint"),
    ("favourable", "unfavourable"),
    ("pleased", "annoyed"),
    ("likes it", "hates it"),
)
MOOD_ORDERS = (
    'Review: "{0}" Is it {1} or {2}?',
    "{0} - {1} or {2}?",
    'What is the tone of this text, {1} or {2}? "{0}"',
    "{1} or {2}? {0}",
    "Decide whether the comment is {1} or {2}: {0}",
    "Comment: {0}\nLabel ({1}/{2}):",
    "Sentiment ({1} or {2}) of: {0}",
    'A guest wrote: "{0}" Choose {1} or {2}.',
    "Say {1} or {2} for this opinion: {0}",
)
SUBJECTS = (
    "",
    "",
    "",
    "The hotel: ",
    "About the book: ",
    "Restaurant visit. ",
    "New phone. ",
    "On the tour: ",
    "My headphones: ",
    "The concert. ",
    "The course: ",
)
HEADLINES = {
    "weather": (
        "Storm reaches the coast tonight",
        "Sunny days ahead after weeks of rain",
        "Snow closes mountain roads",
        "Heat wave breaks records",
        "Fog delays flights in the morning",
    ),
    "music": (
        "Orchestra opens the season with Mozart",
        "Singer announces new album",
        "Young pianist wins prize",
        "Band returns for ten concerts",
        "How the guitar conquered the world",
    ),
    "health": (
        "Doctors advise more sleep",
        "New vaccine passes trial",
        "Walking keeps the heart young",
        "Hospital opens second clinic",
        "Why sugar harms your teeth",
    ),
    "technology": (
        "New chip doubles the speed of laptops",
        "Robot learns to fold shirts",
        "Browser update fixes errors",
        "Phone maker shows thinner screen",
        "Hackers attack software company",
    ),
    "travel": (
        "Ten islands for your holiday",
        "Night trains return to Europe",
        "Cheap flights to Lisbon",
        "How to pack a suitcase",
        "Hotels on the coast are full",
    ),
    "business": (
        "Bank raises interest rates",
        "Car maker reports higher profit",
        "Shares fall after weak sales",
        "Two airlines merge",
        "Shop chain closes ten branches",
    ),
    "science": (
        "Telescope finds distant galaxy",
        "Bees can count, study shows",
        "Fossil of giant bird discovered",
        "Physicists measure tiny particle",
        "Probe lands on an asteroid",
    ),
    "sports": (
        "Goalkeeper saves two penalties",
        "Marathon runner beats own record",
        "Coach leaves club after defeat",
        "Swimmer takes gold",
        "Cyclists climb the last mountain",
    ),
    "cooking": (
        "A quick sauce for noodles",
        "Secrets of a soft cake",
        "What to do with leftover rice",
        "Grill vegetables like a chef",
        "The right knife for onions",
    ),
    "politics": (
        "Mayor resigns after vote",
        "Senate debates school reform",
        "Minister visits neighbours for talks",
        "Opposition wins seats",
        "Government plans new budget",
    ),
    "fashion": (
        "Wide trousers are back",
        "Designer shows winter coats",
        "Which shoes go with a blue dress",
        "Silk scarves for spring",
    ),
    "education": (
        "School starts one hour later",
        "Teachers ask for smaller classes",
        "University opens new library",
        "Pupils learn to read with dogs",
    ),
}
TOPIC_ORDERS = (
    "Headline: {0}\nSection ({1})?",
    "Put this headline under one of: {1}. {0}",
    '"{0}" Is that about {2}?',
    "Choose the section ({1}) for: {0}",
    "{0} - {2}?",
    "Assign a category from [{1}]: {0}",
    "In which part of the newspaper is this, {2}? {0}",
)
FEELINGS = {
    "joy": (
        "We won, we won!",
        "I have passed all my tests!",
        "She said yes, I am so glad!",
        "Holidays at last, hooray!",
        "The baby smiled at me, how sweet!",
        "Best party ever!",
    ),
    "anger": (
        "Stop shouting at me, you idiot!",
        "They cheated me and I hate them.",
        "Who broke my bike? I will make him pay!",
        "That is an outrage!",
        "I have had enough of your lies!",
        "Get out of my house now!",
    ),
    "fear": (
        "Did you hear that noise? I dare not move.",
        "I cannot look down, it is too high.",
        "What if the dog bites me?",
        "Please do not leave me alone in this forest.",
        "My heart races, something is behind the door.",
        "I am afraid of the operation.",
    ),
    "sadness": (
        "My cat died last night.",
        "I miss my brother so much.",
        "She left and I cannot stop crying.",
        "Nobody came to my birthday.",
        "All is lost.",
        "I feel so lonely these days.",
    ),
    "surprise": (
        "What? I did not expect you here!",
        "Wow, where does that come from?",
        "I cannot believe my eyes!",
        "Really? Since when?",
        "Oh, a letter from the king?",
    ),
    "disgust": (
        "Yuck, there is a worm in my salad.",
        "This milk smells rotten.",
        "Ugh, what a filthy toilet.",
        "That slime makes me sick.",
    ),
}
FEELING_ORDERS = (
    '"{0}" Which feeling is that: {1}?',
    "{0} Is the person showing {2}?",
    "Emotion ({1}): {0}",
    "Name the emotion, {2}: {0}",
    "Pick {2} for: {0}",
)
KINDS = {
    "animal": (
        "wolf",
        "frog",
        "salmon",
        "eagle",
        "spider",
        "pig",
        "tiger",
        "bee",
        "whale",
        "goose",
        "lizard",
        "crab",
        "monkey",
        "mole",
        "camel",
        "worm",
    ),
    "plant": (
        "rose",
        "pine",
        "fern",
        "daisy",
        "grass",
        "cactus",
        "ivy",
        "birch",
        "lily",
        "clover",
        "palm tree",
        "maple",
        "sunflower",
        "nettle",
        "bamboo",
    ),
    "object": (
        "hammer",
        "chair",
        "bottle",
        "lamp",
        "key",
        "clock",
        "bucket",
        "mirror",
        "scissors",
        "wallet",
        "pillow",
        "plate",
        "candle",
        "umbrella",
        "brush",
    ),
    "food": (
        "bread",
        "cheese",
        "rice",
        "soup",
        "pizza",
        "butter",
        "noodles",
        "honey",
        "cake",
        "salad",
        "ham",
        "jam",
        "yoghurt",
    ),
    "vehicle": (
        "truck",
        "bus",
        "tram",
        "bicycle",
        "ferry",
        "helicopter",
        "tractor",
        "van",
        "scooter",
        "submarine",
    ),
    "profession": (
        "butcher",
        "tailor",
        "surgeon",
        "judge",
        "plumber",
        "librarian",
        "postman",
        "soldier",
        "waiter",
        "gardener",
    ),
    "country": (
        "Peru",
        "Norway",
        "Egypt",
        "Japan",
        "Kenya",
        "Chile",
        "Poland",
        "Vietnam",
        "Morocco",
        "Canada",
    ),
    "colour": ("red", "green", "yellow", "purple", "orange", "white", "pink", "turquoise"),
    "instrument": ("trumpet", "cello", "drum", "harp", "oboe", "banjo", "organ", "clarinet"),
    "clothing": ("jacket", "trousers", "scarf", "sock", "glove", "shirt", "skirt", "hat", "coat"),
    "metal": ("iron", "copper", "silver", "tin", "zinc", "lead", "steel"),
    "fruit": ("banana", "cherry", "peach", "mango", "grape", "lemon", "plum", "fig"),
    "body part": ("knee", "elbow", "nose", "thumb", "ear", "shoulder", "ankle", "chin"),
    "building": ("church", "castle", "school", "museum", "barn", "theatre", "hotel"),
}
KINDS = {
    kind: tuple(word for word in members if not is_probed(word, kind)) for kind, members in KINDS.items()
}
OVERLAPS = {
    frozenset(pair)
    for pair in (
        ("food", "fruit"),
        ("plant", "fruit"),
        ("object", "instrument"),
        ("object", "clothing"),
        ("food", "animal"),
        ("object", "vehicle"),
        ("colour", "fruit"),
        ("object", "metal"),
        ("food", "plant"),
        ("colour", "metal"),
    )
}
KIND_ORDERS = (
    "{0}: {2}?",
    "Is {0} a kind of {2}?",
    "What is {0}: {1}?",
    "Classify {0} as {2}.",
    "Category of {0} ({1}):",
    "Choose from {1}: {0}",
    "{0} - choose {2}.",
    "Does {0} belong to {2}?",
    "Which fits {0}, {2}?",
    "{3}? {0}",
)
MESSAGES = {
    ("spam", "not spam"): (
        (
            "You won a million, click here!",
            "Cheap pills without a doctor!!!",
            "Claim your free prize today",
            "Earn cash fast from home, no work",
            "Your account is locked, send your password",
        ),
        (
            "Shall we meet at noon?",
            "The minutes of the meeting are attached.",
            "Mum, I will be late.",
            "Your library book is due on May 3.",
            "Can you send me the recipe?",
        ),
    ),
    ("question", "statement"): (
        (
            "Where did you put the keys",
            "How old is your brother",
            "What time does the train leave",
            "Who wants some tea",
            "Why is the door open",
        ),
        (
            "The keys are on the table",
            "My brother is nine",
            "The train leaves at six",
            "I would like some tea",
            "She opened the door",
        ),
    ),
    ("formal", "informal"): (
        (
            "Dear Madam, we regret to inform you of a delay.",
            "Yours faithfully, the board of directors",
            "We kindly request your presence.",
            "Please find enclosed the contract.",
        ),
        (
            "Hey buddy, what's up?",
            "lol see ya later",
            "gonna grab some food, you in?",
            "Yo, that was so cool!",
        ),
    ),
    ("indoors", "outdoors"): (
        (
            "Lying on the sofa by the stove",
            "Washing up in the kitchen",
            "In bed with a book",
            "Working in the cellar",
        ),
        ("Climbing a rock", "Sailing on the lake", "Picking apples in the orchard", "Camping in the forest"),
    ),
    ("dangerous", "harmless"): (
        (
            "The bridge may collapse at any moment.",
            "There is poison in the glass.",
            "A lion has escaped from the zoo.",
            "Smoke comes from the engine, run!",
            "The wire is live and sparks fly.",
        ),
        (
            "The cushions come in three colours.",
            "We baked a cake this morning.",
            "A pigeon sits on the roof.",
            "The shop has new postcards.",
            "The parcel can wait until next week.",
        ),
    ),
    ("past", "future"): (
        ("We went to the sea.", "She had a red car.", "They built it long ago.", "I wrote to him yesterday."),
        (
            "We will go to the sea.",
            "She is going to buy a car.",
            "They will build it next year.",
            "I shall write to him tomorrow.",
        ),
    ),
}
MESSAGE_ORDERS = (
    "{0} - is this {1} or {2}?",
    "Text: {0}\nAnswer {1} or {2}.",
    "{1} or {2}: {0}",
    "Mark as {1} or {2}. {0}",
    'Would you call "{0}" {1} or {2}?',
    "Tag [{1} | {2}]: {0}",
)
VERDICT_ENDS = ("", "", " Answer yes or no.", " Yes or no?", " Reply with yes or no only.", " (yes/no)")


def feel_mood(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        good, bad = random.choice(MOODS)
        is_good = random.random() < 0.5
        text = random.choice(SUBJECTS) + " ".join(
            random.sample(GOOD if is_good else BAD, random.choice((1, 1, 2)))
        )
        labels = [good, bad]
        if random.random() < 0.3:
            labels.reverse()
        return ask_text(
            random.choice(templates).format(text, *labels),
            good if is_good else bad,
            [bad if is_good else good],
        )

    return draw


def choose_label(
    texts: dict[str, tuple[str, ...]], templates: tuple[str, ...], *, has_article: bool = False
) -> Draw:
    """One of two to four labels, in any order."""

    def draw(random: Random) -> Lesson:
        right = random.choice(sorted(texts))
        others = [
            label for label in sorted(texts) if label != right and frozenset((label, right)) not in OVERLAPS
        ]
        wrong = random.sample(others, random.choice((1, 2, 2, 3)))
        labels = random.sample([right, *wrong], len(wrong) + 1)
        text = random.choice(texts[right])
        if (
            has_article
            and text[0].islower()
            and random.random() < 0.5
            and right not in ("food", "metal", "colour")
        ):
            text = f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
        said = join_words(labels, "or")
        prompt = random.choice(templates).format(text, ", ".join(labels), said, said.capitalize())
        return ask_text(prompt, right, wrong)

    return draw


def sort_message(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        labels, texts = random.choice(list(MESSAGES.items()))
        n = random.randrange(2)
        shown = random.choice((labels, labels[::-1]))
        return ask_text(
            random.choice(templates).format(random.choice(texts[n]), *shown), labels[n], [labels[1 - n]]
        )

    return draw


def is_of_kind(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        kind = random.choice(sorted(KINDS))
        is_true = random.random() < 0.5
        source = kind
        while not is_true and (source == kind or frozenset((source, kind)) in OVERLAPS):
            source = random.choice(sorted(KINDS))
        word = random.choice(KINDS[source])
        shown = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
        return ask_yes_no(
            random.choice(templates).format(word, shown) + random.choice(VERDICT_ENDS), is_true=is_true
        )

    return draw


def compare_numbers(templates: tuple[tuple[str, bool], ...]) -> Draw:
    """Templates of two numbers, and whether the first is said to be the larger one."""

    def draw(random: Random) -> Lesson:
        first, second = draw_numbers(random, 2)
        template, is_larger = random.choice(templates)
        return ask_yes_no(
            template.format(first, second) + random.choice(VERDICT_ENDS),
            is_true=(first > second) == is_larger,
        )

    return draw


ABLE = (
    ("a horse", "run"),
    ("a pigeon", "fly"),
    ("a bee", "fly"),
    ("a child", "laugh"),
    ("a frog", "jump"),
    ("a parrot", "talk"),
    ("a doctor", "read"),
    ("a wolf", "howl"),
    ("a ship", "float"),
    ("a lion", "roar"),
    ("a teacher", "write"),
    ("a goat", "climb"),
    ("a whale", "swim"),
    ("a plane", "fly"),
    ("a knife", "cut"),
    ("fire", "burn"),
    ("a baby", "cry"),
    ("ice", "melt"),
    ("a snake", "bite"),
    ("a singer", "sing"),
)
UNABLE = (
    ("a table", "run"),
    ("a carrot", "fly"),
    ("a brick", "fly"),
    ("a spoon", "laugh"),
    ("a house", "jump"),
    ("a tree", "talk"),
    ("a goldfish", "read"),
    ("a chair", "howl"),
    ("a cow", "fly"),
    ("a stone", "talk"),
    ("a shoe", "write"),
    ("a lake", "climb"),
    ("a hill", "swim"),
    ("a cup", "think"),
    ("a sock", "cut"),
    ("a bottle", "cry"),
    ("a wall", "walk"),
    ("a pencil", "eat"),
    ("a cloud", "bite"),
    ("a cabbage", "sing"),
)
TRUE = (
    "Snow is white.",
    "A week has seven days.",
    "Fire is hot.",
    "Cats have tails.",
    "Spain is in Europe.",
    "A square has four sides.",
    "Milk comes from cows.",
    "Birds lay eggs.",
    "The sea is salty.",
    "Winter is colder than summer.",
    "Bread is made from flour.",
    "Humans need air.",
    "Lions eat meat.",
    "A triangle has three corners.",
    "The night is dark.",
    "Trees have roots.",
    "Rain is wet.",
    "London is in England.",
    "Spiders spin webs.",
    "A minute has sixty seconds.",
)
FALSE = (
    "Snow is black.",
    "A week has nine days.",
    "Fire is cold.",
    "Cats have wings.",
    "Spain is in Asia.",
    "A square has six sides.",
    "Milk comes from stones.",
    "Dogs lay eggs.",
    "The sea is made of wine.",
    "Winter is hotter than summer.",
    "Bread is made from sand.",
    "Humans need no air.",
    "Sheep eat lions.",
    "A triangle has ten corners.",
    "The night is bright green.",
    "Trees have engines.",
    "Rain is dry.",
    "London is in Brazil.",
    "Ants make honey cakes.",
    "A minute has five seconds.",
)


def judge_ability(random: Random) -> Lesson:
    is_true = random.random() < 0.5
    subject, verb = random.choice(ABLE if is_true else UNABLE)
    asked = random.choice(
        ("Can {0} {1}?", "Is {0} able to {1}?", "Is it possible for {0} to {1}?", "Could {0} {1}?")
    )
    return ask_yes_no(asked.format(subject, verb) + random.choice(VERDICT_ENDS), is_true=is_true)


def judge_statement(random: Random) -> Lesson:
    is_true = random.random() < 0.5
    text = random.choice(TRUE if is_true else FALSE)
    asked, is_plain = random.choice(
        (
            ("Is this correct? {0}", True),
            ("{0} Is that so?", True),
            ("Do you agree? {0}", True),
            ("{0} Right or wrong?", False),
            ("True or false: {0}", False),
            ("{0} True or false?", False),
        )
    )
    if is_plain:
        return ask_yes_no(asked.format(text), is_true=is_true)
    words = ("Right", "Wrong") if "Right" in asked else ("True", "False")
    return ask_text(asked.format(text), words[not is_true], [words[is_true]])


def judge_text(templates: tuple[str, ...]) -> Draw:
    """What a sentence says, and what it says not."""
    facts = (
        ("{0} has a {1}.", "does {0} have a {1}?", (NAMES, PETS)),
        ("{0} works as a {1}.", "is {0} a {1}?", (NAMES, JOBS)),
        ("{0} lives in {1}.", "does {0} live in {1}?", (NAMES, CITIES)),
        ("{0} likes {1}.", "does {0} like {1}?", (NAMES, FOODS)),
        ("The {0} is {1}.", "is the {0} {1}?", (THINGS, COLOURS)),
        ("{0} was born in {1}.", "was {0} born in {1}?", (NAMES, MONTHS)),
        ("{0} comes on {1}.", "does {0} come on {1}?", (NAMES, DAYS)),
    )
    denials = (
        ("There is no {0} in the {1}.", "is there {0} in the {1}?"),
        ("All {0} were sold.", "are there {0} left to buy?"),
        ("Nobody bought the {0}.", "was the {0} bought?"),
    )
    grants = (
        ("The {1} is full of {0}.", "is there {0} in the {1}?"),
        ("Everybody bought {0}.", "was {0} bought?"),
        ("There is plenty of {0}.", "is there {0}?"),
    )

    def draw(random: Random) -> Lesson:
        is_true = random.random() < 0.5
        if random.random() < 0.3:
            text, question = random.choice(grants if is_true else denials)
            values = random.choice(FOODS), random.choice(("kitchen", "cellar", "shop", "box"))
            said, asked = text.format(*values), question.format(*values)
        else:
            text, question, (firsts, seconds) = random.choice(facts)
            first, (second, other) = random.choice(firsts), random.sample(seconds, 2)
            said, asked = text.format(first, second), question.format(first, second if is_true else other)
        prompt = random.choice(templates).format(said, asked, asked[0].upper() + asked[1:])
        return ask_yes_no(prompt + random.choice(VERDICT_ENDS), is_true=is_true)

    return draw


def find_letter(random: Random) -> Lesson:
    word = random.choice((*THINGS, *FOODS, *PETS)).split()[0]
    is_true = random.random() < 0.5
    letters = (
        sorted(set(word))
        if is_true
        else [letter for letter in "abcdefghiklmnoprstuvwxyz" if letter not in word]
    )
    asked = random.choice(
        (
            'Is there a letter {1} in "{0}"?',
            "Is {1} one of the letters of {0}?",
            "The word {0}: is it written with {1}?",
        )
    )
    return ask_yes_no(
        asked.format(word, random.choice(letters)) + random.choice(VERDICT_ENDS), is_true=is_true
    )


TEXT_ORDERS = (
    "{0} {2}",
    "Text: {0} Question: {2}",
    "{0} Now, {1}",
    "We know this: {0} {2}",
    "{2} {0}",
    "If it is true that {0} {1}",
)
KIND_QUESTIONS = (
    "Is {0} {1}?",
    "Would you say that {0} is {1}?",
    "{0} is {1}, correct?",
    "Do people call {0} {1}?",
    "Is it right that {0} is {1}?",
)
NUMBER_QUESTIONS = (
    ("Is {0} more than {1}?", True),
    ("Is {0} larger than {1}?", True),
    ("{0} > {1}?", True),
    ("Is {0} less than {1}?", False),
    ("{0} is smaller than {1}. Correct?", False),
    ("Does {0} exceed {1}?", True),
    ("{0} is bigger than {1}, right?", True),
)
FIELD = Field(
    name="label",
    system="You choose the right label.",
    lessons=(
        (4, feel_mood(MOOD_ORDERS)),
        (2.5, choose_label(HEADLINES, TOPIC_ORDERS)),
        (2, choose_label(FEELINGS, FEELING_ORDERS)),
        (3, choose_label(KINDS, KIND_ORDERS, has_article=True)),
        (2, sort_message(MESSAGE_ORDERS)),
        (3, is_of_kind(KIND_QUESTIONS)),
        (2, compare_numbers(NUMBER_QUESTIONS)),
        (1.5, judge_ability),
        (1.5, judge_statement),
        (2.5, judge_text(TEXT_ORDERS)),
        (1, find_letter),
    ),
    tests={
        "classification/note_tag": sort_message(
            ("A tag for this note is wanted, {1} or {2}. The note: {0}",)
        ),
        "classification/public_post": feel_mood(
            ("Somebody posted this: {0} Does the author sound {1} or {2}?",)
        ),
        "classification/newspaper_page": choose_label(
            HEADLINES, ("An editor has the pages {1}. Where does he print: {0}",)
        ),
        "classification/fitting_word": choose_label(
            KINDS, ("Among {2}, which word describes {0}?",), has_article=True
        ),
        "yes_no/called_so": is_of_kind(("My son asks whether {0} can be called {1}.",)),
        "yes_no/do_i_have_more": compare_numbers((("I have {0}, you have {1}. Do I have more?", True),)),
        "yes_no/from_letter": judge_text(("From a letter: {0} According to it, {1}",)),
    },
)
