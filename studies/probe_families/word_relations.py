"""Opposites, synonyms, rhymes, groups."""

from .shapes import pick, words

KIND = "word_relations"

FAMILIES = (
    words(
        KIND,
        "opposite",
        'What is the opposite of "{0}"?',
        [
            ("hot", "cold"),
            ("up", "down"),
            ("big", "small|little|tiny"),
            ("day", "night"),
            ("open", "closed|close|shut"),
            # A negated form is an opposite too.
            ("happy", "sad|unhappy"),
            ("left", "right"),
            ("fast", "slow"),
        ],
    ),
    words(
        KIND,
        "antonym",
        "Antonym of {0}:",
        [
            ("rich", "poor"),
            ("early", "late"),
            ("heavy", "light"),
            ("love", "hate|hatred"),
            ("young", "old"),
            ("full", "empty"),
            ("true", "false"),
            ("strong", "weak"),
        ],
    ),
    words(
        KIND,
        "contrary",
        "The door was not {0}; it was quite the contrary. In one word, what was it?",
        [
            ("dirty", "clean"),
            ("narrow", "wide|broad"),
            ("tall", "short|low|small"),
            ("new", "old|ancient|worn"),
            ("thick", "thin"),
            ("soft", "hard|rigid"),
            ("dark", "light|bright"),
        ],
        rivals=False,
    ),
    words(
        KIND,
        "synonym",
        "Give me another word that means the same as {0}.",
        [
            ("begin", "start|commence|initiate|launch"),
            ("quick", "fast|rapid|swift|speedy|brisk"),
            ("large", "big|huge|great|massive|enormous|giant"),
            ("smart", "clever|intelligent|bright|brilliant|wise"),
            ("angry", "mad|furious|irate|enraged|cross|upset|irritated"),
            ("glad", "happy|pleased|delighted|joyful|cheerful"),
            ("frightened", "scared|afraid|terrified|fearful|alarmed"),
            ("silent", "quiet|still|mute|noiseless|hushed|speechless"),
        ],
        rivals=False,
    ),
    pick(
        KIND,
        "rhyme",
        "Which of these words rhymes with {0}: {1}?",
        [
            ("cat|dog, hat or tree", "hat", "dog|tree"),
            ("moon|spoon, star or lamp", "spoon", "star|lamp"),
            ("light|dark, lamp or night", "night", "dark|lamp"),
            ("ring|bell, king or gold", "king", "bell|gold"),
            ("boat|ship, water or goat", "goat", "ship|water"),
            ("day|play, week or hour", "play", "week|hour"),
            ("bear|lion, chair or forest", "chair", "lion|forest"),
        ],
    ),
    pick(
        KIND,
        "odd_one_out",
        "Find the odd one out: {0}.",
        [
            ("apple, pear, hammer, plum", "hammer", "apple|pear|plum"),
            ("dog, cat, horse, table", "table", "dog|cat|horse"),
            ("red, blue, green, bread", "bread", "red|blue|green"),
            ("car, bus, onion, train", "onion", "car|bus|train"),
            ("shirt, river, trousers, jacket", "river", "shirt|trousers|jacket"),
            ("piano, guitar, violin, carrot", "carrot", "piano|guitar|violin"),
            ("Monday, Friday, July, Sunday", "July", "Monday|Friday|Sunday"),
        ],
    ),
    words(
        KIND,
        "group_name",
        "{0} are all kinds of what?",
        [
            ("Roses, tulips and daisies", "flower|flowers|plant|plants"),
            ("Eagles, sparrows and owls", "bird|birds"),
            ("Oaks, pines and birches", "tree|trees"),
            ("Hammers, saws and drills", "tool|tools"),
            ("Sharks, salmon and tuna", "fish|fishes|seafood"),
            ("Violins, drums and flutes", "instrument|instruments|musical instruments"),
            ("Sofas, tables and chairs", "furniture"),
            ("Apples, bananas and grapes", "fruit|fruits"),
        ],
    ),
    pick(
        KIND,
        "choose_opposite",
        "Which is the opposite of {0}: {1}?",
        [
            # Wrong ones go with the word, so that the nearest in meaning is no answer.
            ("lock|unlock, door or key", "unlock", "door|key"),
            ("ugly|face, beautiful or monster", "beautiful", "face|monster"),
            ("war|soldier, peace or gun", "peace", "soldier|gun"),
            ("poverty|wealth, hunger or beggar", "wealth", "hunger|beggar"),
            ("friendship|hostility, partner or letter", "hostility", "partner|letter"),
            ("cellar|attic, wine or stairs", "attic", "wine|stairs"),
            ("profit|loss, money or bank", "loss", "money|bank"),
        ],
    ),
    pick(
        KIND,
        "none_of_kind",
        "All but one are {0}: {1}. Name the exception.",
        [
            ("cutlery|fork, spoon, apple, knife", "apple", "fork|spoon|knife"),
            ("cities|Rome, Oslo, banana, Cairo", "banana", "Rome|Oslo|Cairo"),
            ("pets|cat, hamster, lorry, dog", "lorry", "cat|hamster|dog"),
            ("drinks|tea, milk, juice, ladder", "ladder", "tea|milk|juice"),
            ("boats|ferry, canoe, pillow, ship", "pillow", "ferry|canoe|ship"),
            ("meals|breakfast, saddle, lunch, dinner", "saddle", "breakfast|lunch|dinner"),
            ("rooms|kitchen, bedroom, cellar, onion", "onion", "kitchen|bedroom|cellar"),
        ],
    ),
)
