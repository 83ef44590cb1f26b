"""Questions with a verdict."""

from .shapes import yes_no

KIND = "yes_no"

FAMILIES = (
    yes_no(
        KIND,
        "is_a",
        "Is {0}? Answer yes or no.",
        [
            ("a dog an animal", True),
            ("a rose a kind of car", False),
            ("gold a metal", True),
            ("Paris a fruit", False),
            ("a violin a musical instrument", True),
            ("an elephant smaller than a mouse", False),
            ("ice frozen water", True),
            ("the Moon made of cheese", False),
        ],
    ),
    yes_no(
        KIND,
        "can_it",
        "Can {0}?",
        [
            ("birds sing", True),
            ("a stone swim", False),
            ("fish breathe under water", True),
            ("people live without any water for a year", False),
            ("a cat climb a tree", True),
            ("a car fly to the Moon", False),
            ("bees make honey", True),
            ("trees walk", False),
        ],
    ),
    yes_no(
        KIND,
        "larger",
        "Yes or no: {0} is greater than {1}.",
        [
            ("7|12", False),
            ("50|5", True),
            ("100|99", True),
            ("3|30", False),
            ("18|81", False),
            ("64|46", True),
            ("1000|10", True),
            ("2|9", False),
        ],
    ),
    yes_no(
        KIND,
        "statement",
        'True or false? "{0}"',
        [
            ("The Earth goes around the Sun.", True),
            ("Humans have three arms.", False),
            ("Water boils at 100 degrees Celsius at sea level.", True),
            ("Sugar tastes salty.", False),
            ("There are 24 hours in a day.", True),
            ("Spiders are plants.", False),
            ("The Pacific is an ocean.", True),
            ("Snow is hot.", False),
        ],
    ),
    yes_no(
        KIND,
        "from_text",
        "{0} Going by this alone, {1}? Say yes or no.",
        [
            ("The shop is open every day.|is the shop open on Monday", True),
            ("Nobody came to the party.|did many people come", False),
            ("Lucas has two sisters.|does Lucas have a sister", True),
            ("The soup contains no meat.|is there meat in the soup", False),
            ("It rained all week.|did it rain", True),
            ("The train left an hour ago.|is the train still at the station", False),
            ("Emma passed all her exams.|did Emma pass", True),
        ],
    ),
    yes_no(
        KIND,
        "word_has_letter",
        'Does the word "{0}" contain the letter {1}? A plain yes or no will do.',
        [
            ("apple|p", True),
            ("tree|z", False),
            ("house|u", True),
            ("dog|x", False),
            ("garden|g", True),
            ("music|a", False),
            ("lemon|m", True),
        ],
    ),
    yes_no(
        KIND,
        "eatable",
        "Would a sensible person eat {0}? Just say yes or no.",
        [
            ("a sandwich", True),
            ("a brick", False),
            ("a boiled egg", True),
            ("a bar of soap", False),
            ("a bowl of rice", True),
            ("a battery", False),
            ("a pair of boots", False),
        ],
    ),
)
