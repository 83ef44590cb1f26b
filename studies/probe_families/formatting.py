"""Answers whose form is what is asked for."""

import json

from .shapes import Family, Item, family, words

KIND = "formatting"


def _literal(name: str, template: str, rows: list[tuple[str, str]]) -> Family:
    items = [Item(template.format(*subject.split("|")), {"text": wanted}, wanted) for subject, wanted in rows]
    return family(KIND, name, "literal", 32, items)


def _json(name: str, template: str, rows: list[tuple[str, dict[str, object]]]) -> Family:
    items = [
        Item(template.format(*subject.split("|")), {"value": value}, json.dumps(value))
        for subject, value in rows
    ]
    return family(KIND, name, "json", 64, items)


_CASED = ("hello", "river", "good morning", "python", "orange", "see you soon", "window")

FAMILIES = (
    _literal("uppercase", 'Write "{0}" in capital letters.', [(text, text.upper()) for text in _CASED]),
    _literal(
        "lowercase",
        "Change to lowercase: {0}",
        [
            (text.upper(), text)
            for text in ("fish", "mountain", "thank you", "paper", "cloud", "the end", "bottle")
        ],
    ),
    _literal(
        "shouted_answer",
        "{0} Reply in capitals only, one word.",
        [
            ("What is the capital of Austria?", "VIENNA"),
            ("What do cows drink as calves?", "MILK"),
            ("Which colour is the sun usually painted?", "YELLOW"),
            ("Which animal says miaow?", "CAT"),
            ("What is frozen water called?", "ICE"),
            ("Which meal comes in the morning?", "BREAKFAST"),
            ("Which season is the coldest?", "WINTER"),
        ],
    ),
    _json(
        "json_person",
        'Return only JSON with the keys "name" and "age". {0} is {1} years old.',
        [
            (f"{name}|{age}", {"name": name, "age": age})
            for name, age in [
                ("Anna", 31),
                ("Boris", 8),
                ("Chen", 45),
                ("Dora", 60),
                ("Emil", 19),
                ("Fay", 27),
                ("Gus", 52),
            ]
        ],
    ),
    _json(
        "json_product",
        "Product: {0}, price: {1}. Turn this into a JSON object with the fields product and price.",
        [
            (f"{product}|{price}", {"product": product, "price": price})
            for product, price in [
                ("pen", 2),
                ("lamp", 35),
                ("bag", 20),
                ("cup", 7),
                ("desk", 150),
                ("ball", 9),
                ("clock", 40),
            ]
        ],
    ),
    family(
        KIND,
        "bullets",
        "bullets",
        48,
        [
            Item(
                f'Make a bulleted list, each line starting with "-", out of: {", ".join(things)}',
                # The words are given: only the form can be wrong.
                {"count": len(things), "marker": "-", "pool": list(things)},
                "\n".join(f"- {thing}" for thing in things),
            )
            for things in [
                ("milk", "eggs", "bread"),
                ("red", "green", "blue"),
                ("wash", "dry", "fold"),
                ("north", "south", "east", "west"),
                ("pen", "paper"),
                ("sofa", "table", "lamp"),
                ("spring", "summer", "winter"),
            ]
        ],
    ),
    family(
        KIND,
        "numbered",
        "bullets",
        64,
        [
            Item(
                f"Number these steps 1., 2., 3., each on its own line: {'; '.join(steps)}",
                {"count": len(steps), "marker": "1.", "pool": list(steps)},
                "\n".join(f"{i}. {step}" for i, step in enumerate(steps, 1)),
            )
            for steps in [
                ("boil water", "add tea", "wait"),
                ("open the door", "go in", "close the door"),
                ("dig a hole", "plant the seed", "water it"),
                ("wake up", "get dressed", "eat"),
                ("stop", "look", "listen"),
                ("mix flour and eggs", "bake the cake", "let it cool"),
                ("choose a book", "read it", "return it"),
            ]
        ],
    ),
    words(
        KIND,
        "initials",
        "Give only the initials, like J. D. for Jane Doe: {0}",
        [
            # With spaces, without, and bare: all three are initials; a sentence around them is not.
            ("Mark Stone", "M. S.|MS|M.S."),
            ("Laura Hill", "L. H.|LH|L.H."),
            ("Pavel Novak", "P. N.|PN|P.N."),
            ("Rita King", "R. K.|RK|R.K."),
            ("Adam Bell", "A. B.|AB|A.B."),
            ("Tina Wolf", "T. W.|TW|T.W."),
        ],
        grader="exact",
        rivals=False,
        max_tokens=16,
    ),
    _json(
        "json_title",
        'The book "{0}" has {1} pages. Put title and pages into one JSON object.',
        [
            (f"{title}|{pages}", {"title": title, "pages": pages})
            for title, pages in [
                ("The Lake", 210),
                ("Cold Rain", 95),
                ("My Uncle", 340),
                ("Bread", 128),
                ("Night Bus", 64),
                ("The Last Key", 411),
                ("Seven Doors", 187),
            ]
        ],
    ),
    _literal(
        "caps_lock",
        "My caps lock is on. How does {0} look when I type it?",
        [
            (text, text.upper())
            for text in ("tiger", "bread", "green", "castle", "music", "winter", "small dog")
        ],
    ),
)
