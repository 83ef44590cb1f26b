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
)
