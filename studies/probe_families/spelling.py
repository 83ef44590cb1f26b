"""Plurals, misspellings, letters of words."""

from .shapes import Item, family, pick, words

KIND = "spelling"

FAMILIES = (
    words(
        KIND,
        "plural",
        'What is the plural of "{0}"?',
        [
            ("child", "children"),
            ("mouse", "mice"),
            ("foot", "feet"),
            ("box", "boxes"),
            ("city", "cities"),
            ("knife", "knives"),
            ("woman", "women"),
            ("leaf", "leaves"),
        ],
    ),
    words(
        KIND,
        "past_tense",
        "Write the past tense of the verb {0}.",
        [
            ("go", "went"),
            ("run", "ran"),
            ("eat", "ate"),
            ("see", "saw"),
            ("buy", "bought"),
            ("swim", "swam"),
            ("walk", "walked"),
            ("write", "wrote"),
        ],
    ),
    words(
        KIND,
        "correct_it",
        "This word is misspelled: {0}. Please write it correctly.",
        [
            ("freind", "friend"),
            ("becuase", "because"),
            ("recieve", "receive"),
            ("tommorow", "tomorrow"),
            ("definately", "definitely"),
            ("wich", "which"),
            ("beleive", "believe"),
            ("untill", "until"),
        ],
    ),
    pick(
        KIND,
        "which_spelling",
        "Which spelling is right, {0}?",
        [
            ("necessary or neccesary", "necessary", "neccesary"),
            ("seperate or separate", "separate", "seperate"),
            ("calendar or calender", "calendar", "calender"),
            ("wierd or weird", "weird", "wierd"),
            ("beautiful or beutiful", "beautiful", "beutiful"),
            ("goverment or government", "government", "goverment"),
            ("surprise or suprise", "surprise", "suprise"),
        ],
    ),
    family(
        KIND,
        "first_letter",
        "exact",
        16,
        [
            Item(
                f'With which letter does "{word}" begin? Answer with that letter only.',
                {"accept": [word[0]]},
                word[0].upper(),
            )
            for word in ("table", "orange", "lion", "winter", "guitar", "python", "yellow")
        ],
    ),
    family(
        KIND,
        "spell_out",
        "pattern",
        32,
        [
            Item(
                f"Spell the word {word} letter by letter, with a hyphen between the letters.",
                # In any case, with or without quotation marks and spaces around the hyphens.
                {"pattern": r"(?i)[\"']?" + r"\s*-\s*".join(word) + r"[\"'.]*"},
                "-".join(word),
            )
            for word in ("dog", "green", "lamp", "river", "apple", "train", "sky")
        ],
    ),
)
