"""Sayings, sequences, analogies to be finished."""

from .shapes import numbers, words

KIND = "completion"

FAMILIES = (
    words(
        KIND,
        # Without rivals: `one` or `never` of another row may stand in a right answer.
        "proverb",
        'Finish the proverb: "{0} ..."',
        [
            ("An apple a day keeps the doctor", "away"),
            ("Actions speak louder than", "words"),
            ("Better late than", "never"),
            ("Practice makes", "perfect"),
            ("Two heads are better than", "one"),
            ("Where there is smoke, there is", "fire"),
            ("The early bird catches the", "worm"),
            ("All that glitters is not", "gold"),
        ],
        rivals=False,
    ),
    words(
        KIND,
        "sentence_end",
        "Complete the sentence: {0}",
        [
            ("Fish live in", "water|oceans|ocean|sea|the sea|aquariums|rivers|river"),
            ("The sun rises in the", "east|morning"),
            ("Water freezes into", "ice"),
            ("Cows give us", "milk|beef|leather"),
            ("At night we can see the moon and the", "stars|star|planets"),
            ("In winter the roof was covered with", "snow|ice|frost"),
            ("She opened the locked door with a", "key"),
            ("Two plus two makes", "four|4"),
        ],
        rivals=False,
    ),
    words(
        KIND,
        "next_in_line",
        "What comes next? {0}, ...",
        [
            ("Monday, Tuesday, Wednesday", "Thursday"),
            ("January, February, March", "April"),
            ("spring, summer, autumn", "winter"),
            ("A, B, C", "D"),
            ("first, second, third", "fourth"),
            ("morning, noon, afternoon", "evening|night"),
            ("May, June, July", "August"),
        ],
        reject=["Sunday", "Friday", "E"],
    ),
    numbers(
        KIND,
        "number_series",
        [
            (f"Continue the series with the next number only: {series}", value)
            for series, value in [
                ("2, 4, 6, 8", 10),
                ("5, 10, 15, 20", 25),
                ("1, 2, 3, 4", 5),
                ("10, 20, 30, 40", 50),
                ("1, 3, 5, 7", 9),
                ("100, 90, 80, 70", 60),
                ("2, 4, 8, 16", 32),  # doubles; the others step evenly
            ]
        ],
        max_tokens=32,
    ),
    words(
        KIND,
        "analogy",
        "{0} is to {1} as {2} is to what?",
        [
            ("Hot|cold|tall", "short|small|low"),
            ("Bird|nest|bee", "hive|beehive"),
            ("Puppy|dog|kitten", "cat"),
            ("Hand|glove|foot", "sock|shoe|boot"),
            ("Day|sun|night", "moon|stars"),
            ("Pen|write|knife", "cut|slice"),
            ("Boy|man|girl", "woman|lady"),
        ],
        rivals=False,
    ),
    words(
        KIND,
        "simile",
        "People say as {0} as ... what? Complete the comparison.",
        [
            ("cold", "ice"),
            ("busy", "a bee|bee"),
            ("white", "snow|a sheet|a ghost"),
            ("free", "a bird|bird"),
            ("light", "a feather|feather|air"),
            ("sly", "a fox|fox"),
            ("quiet", "a mouse|mouse|the grave"),
        ],
        rivals=False,
    ),
)
