"""Words and short phrases between English and its neighbours."""

from .shapes import words

KIND = "translation"

FAMILIES = (
    words(
        KIND,
        "to_spanish",
        "Translate to Spanish: {0}",
        [
            ("dog", "perro"),
            ("house", "casa"),
            ("water", "agua"),
            ("red", "rojo|roja"),  # adjectives agree in gender
            ("friend", "amigo|amiga"),
            ("book", "libro"),
            ("cat", "gato|gata"),
            ("good morning", "buenos días|buen día"),
        ],
        grader="translation",
    ),
    words(
        KIND,
        "to_french",
        'How do you say "{0}" in French?',
        [
            ("thank you", "merci"),
            ("yes", "oui"),
            ("bread", "pain|du pain"),
            ("hello", "bonjour|salut"),
            ("cat", "chat"),
            ("milk", "lait"),
            ("goodbye", "au revoir|adieu"),
        ],
        grader="translation",
    ),
    words(
        KIND,
        "to_german",
        "The German word for {0} is ...?",
        [
            ("house", "Haus"),
            ("dog", "Hund"),
            ("no", "nein"),
            ("water", "Wasser"),
            ("book", "Buch"),
            ("good", "gut"),
            ("beer", "Bier"),
        ],
        grader="translation",
    ),
    words(
        KIND,
        "from_spanish",
        'What does the Spanish word "{0}" mean in English?',
        [
            ("gracias", "thank you|thanks"),
            ("hola", "hello|hi"),
            ("amigo", "friend"),
            ("casa", "house|home"),
            ("sol", "sun"),
            ("leche", "milk"),
            ("noche", "night"),
            ("rojo", "red"),
        ],
        grader="translation",
    ),
    words(
        KIND,
        "from_french",
        "Put this French into English: {0}",
        [
            ("bonjour", "hello|good morning|good day|hi|good afternoon"),
            ("merci", "thank you|thanks"),
            ("le chat", "cat"),
            ("oui", "yes"),
            ("au revoir", "goodbye|bye"),
            ("l'école", "school"),
            ("fleur", "flower"),
        ],
        grader="translation",
    ),
    words(
        KIND,
        "which_language",
        'In what language is this written? "{0}"',
        [
            ("Guten Morgen, wie geht es Ihnen?", "German"),
            ("Je voudrais un café, s'il vous plaît.", "French"),
            ("¿Dónde está la biblioteca?", "Spanish"),
            ("The weather is nice today.", "English"),
            ("Buongiorno, come stai?", "Italian"),
            ("Onde fica a praia mais próxima?", "Portuguese"),
            ("Ich habe keine Zeit.", "German"),
            ("Nous sommes en vacances.", "French"),
        ],
        rivals=False,
        reject=[
            "Latin",
            "Dutch",
            "Russian",
            "Polish",
            "Spanish",
            "German",
            "French",
            "Italian",
            "Portuguese",
        ],
    ),
)
