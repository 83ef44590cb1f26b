"""Words: their opposites, forms, groups, rhymes, translations and spellings, and how sayings end."""

from collections.abc import Mapping, Sequence
from random import Random

from ..shapes import Draw, Field, Lesson, ask_text, join_words, leave_out_probed
from .labels import KINDS, OVERLAPS


def _pairs(text: str) -> tuple[tuple[str, ...], ...]:
    """Rows parted by `|`, fields by `=`, without those that the bundled probes ask for."""
    rows = text.replace("\n", " ").split("|")
    return leave_out_probed(tuple(part.strip() for part in row.split("=")) for row in rows)


OPPOSITES = _pairs("""
    strong=weak|soft=hard|loud=quiet|near=far|above=below|inside=outside|buy=sell|win=lose|push=pull|
    give=take|friend=enemy|laugh=cry|begin=end|question=answer|true=false|alive=dead|deep=shallow|
    cheap=expensive|sharp=blunt|smooth=rough|brave=cowardly|lazy=busy|sweet=bitter|kind=cruel|
    awake=asleep|guilty=innocent|polite=rude|safe=dangerous|simple=complicated|many=few|more=less|
    first=last|north=south|east=west|left=right|before=after|ancient=modern|arrive=leave|accept=refuse|
    attack=defend|build=destroy|remember=forget|rise=fall|sink=float|send=receive|save=spend|
    victory=defeat|entrance=exit|summer=winter|morning=evening|tight=loose|straight=crooked|raw=cooked|
    public=private|tame=wild|noisy=silent|fresh=stale|maximum=minimum|increase=decrease|success=failure|
    top=bottom|front=back|dry=wet|find=lose|lend=borrow|generous=stingy
""")
SYNONYMS = _pairs("""
    glad=happy|tiny=small|huge=enormous|ill=sick|wealthy=rich|gift=present|road=street|child=kid|
    error=mistake|home=house|correct=right|silent=quiet|rapid=fast|shut=close|finish=end|speak=talk|
    assist=help|reply=answer|purchase=buy|choose=pick|weird=strange|odd=strange|scared=afraid|
    pretty=beautiful|couch=sofa|autumn=fall|physician=doctor|jump=leap|stone=rock|garbage=rubbish|
    journey=trip|hard=difficult|simple=easy|wonderful=great|terrible=awful|construct=build|repair=fix|
    permit=allow|guess=suppose|vanish=disappear|shout=yell|tired=weary|brave=courageous|ancient=old|
    aid=help|ocean=sea|woods=forest|sum=total|cap=hat|present=gift|sofa=couch|forest=woods
""")
PLURALS = _pairs("""
    book=books|dog=dogs|wolf=wolves|knife=knives|leaf=leaves|wife=wives|life=lives|half=halves|
    baby=babies|lady=ladies|party=parties|story=stories|cherry=cherries|key=keys|toy=toys|bus=buses|
    glass=glasses|dish=dishes|watch=watches|fox=foxes|church=churches|potato=potatoes|tomato=tomatoes|
    hero=heroes|photo=photos|piano=pianos|man=men|woman=women|ox=oxen|louse=lice|table=tables|car=cars|
    country=countries|family=families|brush=brushes|shelf=shelves|thief=thieves|peach=peaches|tax=taxes|
    class=classes|monkey=monkeys|bench=benches|fly=flies|loaf=loaves|radio=radios|puppy=puppies|
    calf=calves|body=bodies
""")
PASTS = _pairs("""
    sing=sang|swim=swam|drink=drank|begin=began|ring=rang|come=came|give=gave|take=took|speak=spoke|
    break=broke|steal=stole|drive=drove|ride=rode|rise=rose|fly=flew|know=knew|grow=grew|throw=threw|
    draw=drew|wear=wore|tell=told|sell=sold|find=found|hold=held|stand=stood|sit=sat|win=won|lose=lost|
    send=sent|build=built|spend=spent|sleep=slept|feel=felt|leave=left|meet=met|read=read|cut=cut|put=put|
    hit=hit|fall=fell|forget=forgot|hear=heard|pay=paid|catch=caught|fight=fought|walk=walked|play=played|
    stop=stopped|cry=cried|live=lived|work=worked|dance=danced|carry=carried|laugh=laughed|jump=jumped|
    bite=bit|hide=hid|shine=shone|shoot=shot|wake=woke|choose=chose|freeze=froze|blow=blew|lend=lent|
    keep=kept|sweep=swept|feed=fed|lead=led
""")
COMPARED = _pairs("""
    tall=taller=tallest|nice=nicer=nicest|happy=happier=happiest|bad=worse=worst|big=bigger=biggest|
    easy=easier=easiest|small=smaller=smallest|strong=stronger=strongest|far=farther=farthest|
    hot=hotter=hottest|young=younger=youngest|early=earlier=earliest|pretty=prettier=prettiest|
    large=larger=largest|cheap=cheaper=cheapest|thin=thinner=thinnest
""")
TRANSLATIONS = {
    "Spanish": _pairs("""
        milk=leche|table=mesa|window=ventana|night=noche|day=día|man=hombre|woman=mujer|boy=niño|girl=niña|
        white=blanco|black=negro|green=verde|blue=azul|yellow=amarillo|one=uno|two=dos|three=tres|
        fish=pescado|bread=pan|wine=vino|city=ciudad|street=calle|school=escuela|hand=mano|head=cabeza|
        heart=corazón|brother=hermano|sister=hermana|mother=madre|father=padre|summer=verano|winter=invierno|
        fire=fuego|earth=tierra|moon=luna|star=estrella|horse=caballo|bird=pájaro|tree=árbol|flower=flor|
        door=puerta|money=dinero|time=tiempo|world=mundo|good=bueno|bad=malo|big=grande|small=pequeño|
        new=nuevo|old=viejo|kitchen=cocina|car=coche|cheese=queso|egg=huevo
    """),
    "French": _pairs("""
        milk=lait|table=table|window=fenêtre|night=nuit|day=jour|man=homme|woman=femme|boy=garçon|girl=fille|
        white=blanc|black=noir|green=vert|red=rouge|yellow=jaune|one=un|two=deux|three=trois|fish=poisson|
        wine=vin|city=ville|street=rue|school=école|hand=main|head=tête|heart=cœur|brother=frère|sister=sœur|
        mother=mère|father=père|summer=été|winter=hiver|fire=feu|earth=terre|moon=lune|star=étoile|
        horse=cheval|bird=oiseau|tree=arbre|flower=fleur|door=porte|time=temps|world=monde|good=bon|
        bad=mauvais|big=grand|small=petit|new=nouveau|old=vieux|car=voiture|cheese=fromage|egg=œuf|king=roi|
        sea=mer
    """),
    "German": _pairs("""
        milk=Milch|table=Tisch|window=Fenster|night=Nacht|day=Tag|man=Mann|woman=Frau|boy=Junge|girl=Mädchen|
        white=weiß|black=schwarz|green=grün|blue=blau|yellow=gelb|one=eins|two=zwei|three=drei|fish=Fisch|
        wine=Wein|city=Stadt|street=Straße|school=Schule|hand=Hand|head=Kopf|heart=Herz|brother=Bruder|
        sister=Schwester|mother=Mutter|father=Vater|summer=Sommer|winter=Winter|fire=Feuer|earth=Erde|
        moon=Mond|star=Stern|horse=Pferd|bird=Vogel|tree=Baum|flower=Blume|door=Tür|money=Geld|time=Zeit|
        world=Welt|good=gut|bad=schlecht|big=groß|small=klein|new=neu|old=alt|car=Auto|cheese=Käse|egg=Ei|
        king=König|sea=Meer|apple=Apfel
    """),
}
RHYMES = (
    ("day", "play", "say", "way"),
    ("tree", "bee", "knee", "free"),
    ("house", "mouse", "blouse"),
    ("ball", "wall", "tall", "fall"),
    ("cake", "lake", "snake", "make"),
    ("dog", "frog", "fog", "log"),
    ("sun", "run", "gun", "fun"),
    ("bed", "red", "head", "bread"),
    ("sky", "fly", "cry", "high"),
    ("rain", "train", "chain", "brain"),
    ("hand", "sand", "land", "band"),
    ("door", "floor", "four", "more"),
    ("book", "cook", "hook", "look"),
    ("nose", "rose", "those", "toes"),
    ("bear", "chair", "hair", "pear"),
    ("well", "shell", "smell", "tell"),
    ("pan", "man", "fan", "can"),
    ("hop", "top", "shop", "stop"),
    ("hill", "bill", "pill", "mill"),
    ("late", "plate", "gate", "eight"),
)
MISSPELT = _pairs("""
    adress=address|begining=beginning|enviroment=environment|goverment=government|happend=happened|
    intresting=interesting|knowlege=knowledge|libary=library|neighbor hood=neighborhood|occured=occurred|
    peice=piece|posible=possible|realy=really|rember=remember|suprise=surprise|truely=truly|
    writting=writing|wich=which|beleive=believe|diffrent=different|exersise=exercise|hieght=height|
    imediately=immediately|langauge=language|machin=machine|mispell=misspell|nineth=ninth|
    ocasion=occasion|oppurtunity=opportunity|parliment=parliament|perfrom=perform|practise=practice|
    probaly=probably|shedule=schedule|scool=school|sincerly=sincerely|sucess=success|techer=teacher|
    untill=until|vegtable=vegetable|watter=water|wensday=Wednesday|yestarday=yesterday|buisness=business|
    colleage=colleague|foriegn=foreign|garantee=guarantee
""")
SAYINGS = _pairs("""
    Rome was not built in a=day|All that glitters is not=gold|When in Rome, do as the Romans=do|
    Out of sight, out of=mind|Time is=money|No pain, no=gain|Like father, like=son|Easy come, easy=go|
    Honesty is the best=policy|Love is=blind|Let sleeping dogs=lie|The more the=merrier|Haste makes=waste|
    Look before you=leap|Knowledge is=power|Silence is=golden|Curiosity killed the=cat|
    Every cloud has a silver=lining|The pen is mightier than the=sword|Seeing is=believing|
    Too many cooks spoil the=broth|as black as=coal|as brave as a=lion|as sly as a=fox|as strong as an=ox|
    as sweet as=honey|as blind as a=bat|as proud as a=peacock|as slow as a=snail|as green as=grass|
    as hard as a=rock|as quiet as a=mouse|as red as a=rose|as thin as a=rake|as gentle as a=lamb
""")
CHAINS = (
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    (
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ),
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    ("first", "second", "third", "fourth", "fifth", "sixth", "seventh"),
    ("spring", "summer", "autumn", "winter"),
    ("second", "minute", "hour", "day", "week", "month", "year"),
    ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy"),
    ("baby", "child", "teenager", "adult"),
    ("breakfast", "lunch", "dinner"),
)
YOUNG = _pairs("""
    cow=calf|sheep=lamb|horse=foal|pig=piglet|hen=chick|goose=gosling|bear=cub|deer=fawn|goat=kid|
    swan=cygnet|eagle=eaglet|hare=leveret
""")
MATES = _pairs("""
    king=queen|father=mother|brother=sister|uncle=aunt|boy=girl|husband=wife|son=daughter|bull=cow|
    actor=actress|prince=princess|nephew=niece|host=hostess|cock=hen|stallion=mare|grandfather=grandmother
""")
LANGUAGES = {
    "English": (
        "The bread is on the table.",
        "Where do you live?",
        "She has two brothers.",
        "I am very tired today.",
        "We will see you tomorrow.",
    ),
    "French": (
        "Le pain est sur la table.",
        "Où habites-tu ?",
        "Elle a deux frères.",
        "Je suis très fatigué.",
        "À demain, mes amis.",
    ),
    "German": (
        "Das Brot liegt auf dem Tisch.",
        "Wo wohnst du?",
        "Sie hat zwei Brüder.",
        "Ich bin sehr müde.",
        "Bis morgen, Freunde.",
    ),
    "Spanish": (
        "El pan está en la mesa.",
        "¿Dónde vives?",
        "Ella tiene dos hermanos.",
        "Estoy muy cansado.",
        "Hasta mañana, amigos.",
    ),
    "Italian": (
        "Il pane è sulla tavola.",
        "Dove abiti?",
        "Lei ha due fratelli.",
        "Sono molto stanco.",
        "A domani, amici.",
    ),
    "Portuguese": (
        "O pão está na mesa.",
        "Onde você mora?",
        "Ela tem dois irmãos.",
        "Estou muito cansado.",
        "Até amanhã, amigos.",
    ),
}


def ask_partner(
    rows: Sequence[tuple[str, ...]], templates: tuple[str, ...], *, is_mutual: bool = False
) -> Draw:
    """The second of a row, or the first where the relation goes both ways."""

    def draw(random: Random) -> Lesson:
        row = random.choice(rows)
        given, answer = row[::-1] if is_mutual and random.random() < 0.5 else row
        return ask_text(random.choice(templates).format(given), answer)

    return draw


def compare_adjective(random: Random) -> Lesson:
    row = random.choice(COMPARED)
    n, name = random.choice(((1, "comparative"), (2, "superlative")))
    return ask_text(
        random.choice(("{1} of {0}?", "Give the {1} of {0}.", "What is the {1} form of {0}?")).format(
            row[0], name
        ),
        row[n],
    )


def translate(templates: Mapping[bool, tuple[str, ...]]) -> Draw:
    """Into English (true) or out of it."""

    def draw(random: Random) -> Lesson:
        language = random.choice(sorted(TRANSLATIONS))
        english, foreign = random.choice(TRANSLATIONS[language])
        into = random.random() < 0.5
        given, answer = (foreign, english) if into else (english, foreign)
        return Lesson(
            random.choice(templates[into]).format(given, language),
            answer,
            "translation",
            {"accept": [answer]},
        )

    return draw


def find_rhyme(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        group, *others = random.sample(RHYMES, 3)
        word, right = random.sample(group, 2)
        words = [right, *(random.choice(other) for other in others)]
        random.shuffle(words)
        prompt = random.choice(templates).format(word, ", ".join(words), join_words(words, "or"))
        return ask_text(prompt, right, [other for other in words if other != right])

    return draw


def find_stranger(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        kind, other = random.sample(sorted(KINDS), 2)
        while frozenset((kind, other)) in OVERLAPS:
            other = random.choice([name for name in sorted(KINDS) if name != kind])
        right = random.choice(KINDS[other])
        words = [right, *random.sample(KINDS[kind], random.choice((2, 3, 3)))]
        shown = random.sample(words, len(words))
        return ask_text(
            random.choice(templates).format(", ".join(shown), join_words(shown)), right, words[1:]
        )

    return draw


def name_group(templates: tuple[str, ...]) -> Draw:
    def draw(random: Random) -> Lesson:
        kind = random.choice(sorted(KINDS))
        words = random.sample(KINDS[kind], random.choice((2, 3, 3)))
        plural = "countries" if kind == "country" else "clothes" if kind == "clothing" else f"{kind}s"
        answer = kind if kind == "food" else plural
        return ask_text(
            random.choice(templates).format(", ".join(words), join_words(words), words[0]), answer
        )

    return draw


def continue_chain(random: Random) -> Lesson:
    chain = random.choice(CHAINS)
    start = random.randrange(len(chain) - 2)
    end = random.randint(start + 1, len(chain) - 2)
    shown = ", ".join(chain[max(start, end - 4) : end + 1])
    asked = random.choice(
        ("{0}, and then?", "Continue: {0}", "Which comes after {0}?", "{0} ... next?", "What follows? {0}")
    )
    return ask_text(asked.format(shown), chain[end + 1])


def complete_analogy(random: Random) -> Lesson:
    rows = random.choice((OPPOSITES, PLURALS, PASTS, YOUNG, MATES))
    (a, b), (c, d) = random.sample([row for row in rows if len(row) == 2], 2)
    asked = random.choice(
        (
            "{0} is to {1} as {2} is to ...",
            "{0} : {1} = {2} : ?",
            "{0} and {1} are like {2} and what?",
            "If {0} goes with {1}, then {2} goes with?",
        )
    )
    return ask_text(asked.format(a, b, c), d)


def choose_spelling(random: Random) -> Lesson:
    wrong, right = random.choice(MISSPELT)
    shown = random.sample((wrong, right), 2)
    asked = random.choice(
        (
            "{0} or {1}: which one is spelled correctly?",
            "Choose the correct spelling: {0} / {1}",
            "Is it {0} or {1}?",
            "Correctly written: {0} or {1}?",
        )
    )
    return Lesson(asked.format(*shown), right, "text", {"accept": [right], "reject": [wrong]})


def name_language(random: Random) -> Lesson:
    language = random.choice(sorted(LANGUAGES))
    asked = random.choice(
        ("Name the language: {0}", "{0} - which language is it?", "Which language do they speak? {0}")
    )
    return ask_text(
        asked.format(random.choice(LANGUAGES[language])),
        language,
        [name for name in LANGUAGES if name != language],
    )


OPPOSITE_ORDERS = (
    "Opposite: {0}",
    "Not {0}, but ...?",
    "Give the antonym of {0}.",
    "Which word is the contrary of {0}?",
    'Turn "{0}" into its opposite.',
    "What does one call the reverse of {0}?",
    "{0} - opposite?",
    "It is no longer {0}. It is now ...?",
    "Somebody who is not {0} is what?",
    "The opposite of {0}, in one word",
)
SYNONYM_ORDERS = (
    "Synonym: {0}",
    "A word with the meaning of {0}?",
    "Say {0} in another word.",
    "Replace {0} by a synonym.",
    "What else can one say for {0}?",
)
PLURAL_ORDERS = (
    "One {0}, two ...?",
    "Plural: {0}",
    "Write {0} in the plural.",
    "There is one {0}; there are many ...",
    "How does one write more than one {0}?",
)
PAST_ORDERS = (
    "Past tense: {0}",
    "Today I {0}, yesterday I ...?",
    "Simple past of {0}?",
    "Put the verb {0} into the past.",
    "The past of to {0} is what?",
)
TRANSLATION_ORDERS = {
    False: (
        "{0} in {1}?",
        "Give the {1} word for {0}.",
        "Translate {0} into {1}.",
        "English {0}, {1}:",
        "What is {0} called in {1}?",
        "Say {0} in {1}.",
    ),
    True: (
        "What is {0} ({1}) in English?",
        "{1} {0}, English:",
        "Translate from {1}: {0}",
        "Which English word means {0} in {1}?",
        "The {1} word {0} means?",
    ),
}
RHYME_ORDERS = (
    "Rhyme with {0}: {2}?",
    "Which word sounds like {0} at the end: {1}?",
    "Find a rhyme for {0} among {1}.",
    "{0} rhymes with {2}?",
)
STRANGER_ORDERS = (
    "Which does not belong: {0}?",
    "{0}: which one does not fit?",
    "One of {1} is different. Which?",
    "Cross out the word that does not fit: {0}",
)
GROUP_ORDERS = (
    "{1} are all what?",
    "Give one word for {1}.",
    "What do we call {1} together?",
    "{0}: name the category.",
    "To which group do {1} belong?",
    "What kind of things are {1}?",
)
SAYING_ORDERS = (
    "{0} ...",
    "Complete the saying: {0} ...",
    "How does it end? {0} ...",
    'Fill the gap: "{0} ___"',
    "{0} what?",
)
FIELD = Field(
    name="words",
    system="You answer in one word.",
    lessons=(
        (3.5, ask_partner(OPPOSITES, OPPOSITE_ORDERS, is_mutual=True)),
        (2, ask_partner(SYNONYMS, SYNONYM_ORDERS)),
        (2, ask_partner(PLURALS, PLURAL_ORDERS)),
        (2.5, ask_partner(PASTS, PAST_ORDERS)),
        (1, compare_adjective),
        (3, translate(TRANSLATION_ORDERS)),
        (1.5, find_rhyme(RHYME_ORDERS)),
        (2, find_stranger(STRANGER_ORDERS)),
        (2, name_group(GROUP_ORDERS)),
        (1.5, continue_chain),
        (1.5, complete_analogy),
        (
            1,
            ask_partner(
                MISSPELT,
                (
                    "Correct the spelling: {0}",
                    "{0} - write it right.",
                    "Fix the typing error: {0}",
                    "How is {0} really spelled?",
                ),
            ),
        ),
        (1, choose_spelling),
        (1.5, ask_partner(SAYINGS, SAYING_ORDERS)),
        (
            0.5,
            ask_partner(YOUNG, ("Young of a {0}?", "What is a baby {0} called?", "A little {0} is a ...?")),
        ),
        (
            0.5,
            ask_partner(MATES, ("Female of {0}?", "{0}: what is she called?", "He is a {0}, she is a ...?")),
        ),
        (1, name_language),
    ),
    tests={
        "word_relations/meant_the_opposite": ask_partner(
            OPPOSITES, ("He said {0}, but he meant the very opposite, namely?",), is_mutual=True
        ),
        "spelling/last_week": ask_partner(PASTS, ("We {0} often; last week we ... too. Fill in the verb.",)),
        "translation/on_a_sign": translate(
            {
                False: ("A tourist in a land where {1} is spoken needs the word {0}.",),
                True: ("On a sign in {1} stands {0}. What is that in our language, English?",),
            }
        ),
        "word_relations/poet": find_rhyme(("A poet looks for a word that rhymes with {0}. Has he {2}?",)),
        "word_relations/wrong_card": find_stranger(
            ("Four cards say {0}. Take away the card that has nothing to do with the rest.",)
        ),
        "word_relations/goods_of_shop": name_group(("A shop for {1} sells what sort of thing?",)),
    },
)
