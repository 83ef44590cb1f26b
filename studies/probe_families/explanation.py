"""What things are, are for, and why: graded by what an explanation must mention."""

from .shapes import keywords

KIND = "explanation"

FAMILIES = (
    keywords(
        KIND,
        "one_sentence",
        "Explain in one sentence what {0} is.",
        [
            (
                "photosynthesis",
                "plant|plants & light|sunlight|sun|solar",
                "Plants use sunlight to make sugar.",
            ),
            (
                "gravity",
                "force|attraction|pull|pulls|attracts & mass|masses|earth|objects|object|bodies",
                "Gravity is the force between masses.",
            ),
            (
                "a volcano",
                "lava|magma|molten|ash|erupt|erupts|eruption|eruptions",
                "It is a mountain from which lava comes.",
            ),
            (
                "a democracy",
                "people|citizens|citizen & vote|votes|voting|elect|elected|elections|power|govern|government",
                "The people elect those who govern.",
            ),
            ("evaporation", "liquid|water & gas|vapor|vapour", "It is how a liquid becomes a gas."),
            (
                "an earthquake",
                "ground|earth|crust|tectonic|surface"
                " & shake|shakes|shaking|movement|movements|vibration|waves|sudden|release|vibrations",
                "It is a sudden shaking of the ground.",
            ),
            (
                "a desert",
                "dry|arid|little rain|rainfall|precipitation|lack of water|water",
                "It is a very dry region with few plants.",
            ),
            (
                "the internet",
                "network|networks & computer|computers|devices|information|connected|connects",
                "It is a network of connected computers.",
            ),
        ],
    ),
    keywords(
        KIND,
        "used_for",
        "What is a {0} used for?",
        [
            ("thermometer", "temperature|temperatures|fever", "A thermometer measures the temperature."),
            (
                "telescope",
                "star|stars|planets|distant|far|space|celestial|sky|astronomy",
                "We look at the stars with a telescope.",
            ),
            ("umbrella", "rain|wet|sun", "It protects people from the rain."),
            ("refrigerator", "cold|cool|fresh|preserve|food|chill", "It keeps our food cold."),
            (
                "microscope",
                "small|tiny|magnify|cells|microscopic|magnified",
                "One sees very small things with it.",
            ),
            ("compass", "direction|directions|north|navigate|navigation", "A compass shows where north is."),
            ("clock", "time|hours", "A clock tells us the time."),
            ("pillow", "head|sleep|sleeping|rest|neck", "You rest your head on it."),
        ],
    ),
    keywords(
        KIND,
        "why",
        "Why {0}? Keep it short.",
        [
            ("do we wear coats in winter", "warm|cold|warmth|heat", "We wear them to keep warm."),
            (
                "do plants need sunlight",
                "photosynthesis|energy|food|grow|growth",
                "They need its energy to grow.",
            ),
            (
                "do people brush their teeth",
                "clean|cavities|plaque|decay|hygiene|bacteria|healthy",
                "They keep their teeth clean that way.",
            ),
            (
                "does ice float on water",
                "dense|density|lighter|less dense|denser",
                "Ice is less dense than water.",
            ),
            ("do cars need fuel", "energy|engine|power|run|move|combustion", "The engine burns it to move."),
            (
                "should we wash our hands",
                "germs|bacteria|dirt|disease|diseases|illness|clean|infection|infections|viruses|hygiene",
                "It removes germs from the skin.",
            ),
            ("do we sleep", "rest|recover|energy|body|brain|restore|repair", "The body and brain must rest."),
            (
                "do birds build nests",
                "eggs|egg|young|chicks|offspring|babies|shelter|hatchlings",
                "They lay their eggs in them.",
            ),
        ],
    ),
    keywords(
        KIND,
        "define",
        "Define the word {0}.",
        [
            ("island", "water|sea|ocean|surrounded & land|landmass", "Land with water all around it."),
            (
                "doctor",
                "medical|medicine|patients|sick|health|treat|treats|illness|healthcare|physician",
                "A person who treats sick people.",
            ),
            ("winter", "season & cold|coldest|snow|colder", "The cold season of the year."),
            (
                "orphan",
                "parents|parent & child|dead|died|lost|without|no|death|person",
                "A child whose parents are dead.",
            ),
            ("library", "book|books|reading|information", "A place where people borrow books."),
            ("bakery", "bread|cakes|baked|pastries|bake|bakes|baking", "A shop that sells fresh bread."),
            (
                "thief",
                "steal|steals|stealing|stolen|theft|robs|takes|steals",
                "Someone who steals from other people.",
            ),
            ("peninsula", "land|landmass & water|sea|surrounded|ocean", "Land with water on three sides."),
        ],
    ),
    keywords(
        KIND,
        "who_does",
        "Tell a child what a {0} does.",
        [
            ("firefighter", "fire|fires", "A firefighter puts out fires."),
            (
                "teacher",
                "teach|teaches|teaching|learn|students|children|school|lessons|pupils|learning|knowledge",
                "A teacher helps children to learn.",
            ),
            (
                "farmer",
                "grow|grows|crop|crops|animals|food|farm|plants|vegetables",
                "A farmer grows our food.",
            ),
            (
                "pilot",
                "plane|planes|fly|flies|airplane|aircraft|airplanes|flying|aeroplane",
                "A pilot flies big planes.",
            ),
            ("dentist", "tooth|teeth|mouth|dental", "A dentist looks after your teeth."),
            ("baker", "bread|cake|cakes|bake|bakes|dough|baked|pastries", "A baker makes fresh bread."),
            (
                "judge",
                "law|court|decide|decides|trial|laws|legal|justice|fair",
                "A judge decides in a court.",
            ),
            (
                "tailor",
                "clothes|clothing|sew|sews|suit|suits|fabric|garments|cloth|dress",
                "A tailor makes and mends clothes.",
            ),
        ],
    ),
    keywords(
        KIND,
        "difference",
        "In a sentence or two: what is the difference between {0} and {1}?",
        [
            (
                "a lake|an ocean",
                "salt|salty|fresh|freshwater|saltwater|larger|smaller|bigger|size",
                "A lake has fresh water, and the other one is salty.",
            ),
            (
                "day|night",
                "light|sun|sunlight|daylight|bright & dark|darkness|moon|stars|absence",
                "It is light when the sun is up and dark when it is not.",
            ),
            (
                "a bicycle|a motorcycle",
                "engine|motor|pedal|pedals|human|powered|motorized",
                "Only one of them has an engine; the other has pedals.",
            ),
            (
                "weather|climate",
                "long|long-term|years|average|term|decades"
                " & short|short-term|day|daily|current|specific|temporary",
                "One is short and local, the other the average of many years.",
            ),
            (
                "a fruit|a vegetable",
                "seed|seeds|sweet|flower|root|roots|leaves|ovary|stem|stems",
                "One has seeds and grows from a flower.",
            ),
            (
                "a novel|a poem",
                "verse|rhyme|lines|prose|story|rhythm|longer|shorter|narrative|fictional|stanzas",
                "One is a long story in prose, the other is written in verse.",
            ),
            (
                "a solid|a liquid",
                "shape|flow|flows|fixed|volume|particles|rigid",
                "One keeps its shape and the other can flow.",
            ),
        ],
    ),
)
