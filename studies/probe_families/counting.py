"""Counting letters, words, items."""

from .shapes import numbers

KIND = "counting"

FAMILIES = (
    numbers(
        KIND,
        "letters",
        [
            (f'How many letters does the word "{w}" have?', len(w))
            for w in ("cat", "house", "banana", "window", "elephant", "sun", "garden", "book")
        ],
    ),
    numbers(
        KIND,
        "words",
        [
            (f"Count the words in this sentence: {s}", len(s.split()))
            for s in (
                "The dog barks.",
                "We went home early today.",
                "Rain fell all night long.",
                "She sings very well.",
                "Birds fly south in the winter.",
                "I like tea.",
                "They built a small wooden boat together.",
            )
        ],
    ),
    numbers(
        KIND,
        "items",
        [
            # A list has one comma fewer than things.
            (f"Shopping list: {items}. How many things are on it?", items.count(",") + 1)
            for items in (
                "milk, bread, eggs",
                "rice, beans",
                "salt, pepper, oil, flour",
                "apples, pears, plums, grapes, figs",
                "soap, towels, shampoo",
                "tea, coffee, sugar, honey, jam, butter",
                "nails, hammer, glue, tape",
            )
        ],
    ),
    numbers(
        KIND,
        "one_letter",
        [
            (
                f"In the word {word}, the letter {letter} occurs how often? Just the number.",
                word.count(letter),
            )
            for word, letter in [
                ("banana", "a"),
                ("apple", "p"),
                ("mississippi", "s"),
                ("letter", "t"),
                ("sun", "n"),
                ("book", "o"),
                ("pepper", "p"),
            ]
        ],
    ),
    numbers(
        KIND,
        "legs_and_parts",
        [
            ("How many legs does a dog have?", 4),
            ("How many legs does a spider have?", 8),
            ("How many wheels does a bicycle have?", 2),
            ("How many legs does an ant have?", 6),  # insects have six, spiders eight
            ("How many sides does a triangle have?", 3),
            ("How many eyes does a person normally have?", 2),
            ("How many wheels does a normal car have?", 4),
            ("How many strings does a violin have?", 4),
        ],
    ),
    numbers(
        KIND,
        "groups",
        [
            ("Tell me the number of days in one week.", 7),
            ("Tell me the number of months in one year.", 12),
            ("Tell me the number of minutes in one hour.", 60),
            # Law 3 of the Laws of the Game: at most eleven.
            ("Tell me the number of players on the field in one football (soccer) team.", 11),
            ("Tell me the number of letters in the English alphabet.", 26),
            ("Tell me the number of seasons in one year.", 4),
            ("Tell me the number of planets in our solar system.", 8),  # without Pluto (IAU, 2006)
            ("Tell me the number of cents in one dollar.", 100),
        ],
    ),
)
