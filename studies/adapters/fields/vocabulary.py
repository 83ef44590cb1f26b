"""Names, things and numbers that fill the templates."""

from random import Random

from ...probe_families.members import pool

NAMES = tuple(
    pool("""
    Alan Bella Bruno Carl Celia Clara Dario Diana Edgar Elena Enzo Erik Fiona Frank Gina Greta Harry Helen
    Igor Ilse Irene Jana Joel Julia Karim Kira Laila Lars Linda Louis Luca Marta Milo Mona Nadia Nico
    Olivia Otto Paula Pierre Quinn Rafael Ralph Rina Rosie Samir Selma Simon Sonja Stella Tara Theo Tilda
    Tina Ulla Uma Victor Vera Walter Wanda Xenia Yara Yusuf Zack Zara
""")
)
CITIES = tuple(
    pool("""
    Athens Berlin Cairo Dublin Geneva Hamburg Helsinki Istanbul Jakarta Lagos Lima London Lyon Manila Milan
    Mumbai Nairobi Naples Osaka Paris Porto Prague Quito Riga Seoul Seville Sofia Sydney Tokyo Toronto
    Turin Venice Warsaw Zurich
""")
)
THINGS = tuple(
    pool("""
    anchor axe bag ball banjo basket bell belt blanket boat book boot bottle bowl box brush bucket button
    cable candle card carpet chain clock coat comb cup curtain diary dish doll door drill engine fan
    feather fence flag flower glass glove gun hammer hat helmet hook jar jacket kettle key kite ladder leaf
    lemon letter lock magnet map mask mirror nail needle net oar onion oven paint paper pen pillow pipe
    plate pot purse quilt radio ring rope rug saddle saw scarf shell shirt shoe soap sock spade spoon stamp
    stone stool sugar tent ticket towel toy tray umbrella vase vest wallet watch wheel whistle wire yarn zip
""")
)
JOBS = tuple(
    pool("""
    actor|artist|barber|builder|butcher|carpenter|cashier|chemist|clerk|coach|dancer|designer|doctor|driver|
    editor|electrician|firefighter|fisherman|florist|gardener|guide|hairdresser|judge|journalist|librarian|
    mechanic|musician|photographer|plumber|poet|police officer|porter|postman|potter|professor|sailor|
    salesman|scientist|secretary|shepherd|soldier|surgeon|tailor|translator|vet|waiter|writer
""")
)
COLOURS = tuple(
    pool("""
    red blue green yellow black white brown pink purple orange grey beige golden
""")
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = tuple(
    pool("""
    January February March April May June July August September October November December
""")
)
FOODS = tuple(
    pool("""
    bread|rice|cheese|butter|honey|pasta|salad|soup|pizza|pancakes|cookies|chocolate|ham|fish|chicken|
    yoghurt|porridge|noodles|jam|salt|pepper|flour|oil|sugar|eggs|milk|coffee|tea|lemonade|cocoa|water|
    apple juice
""")
)
PETS = tuple(
    pool("""
    cat|dog|rabbit|hamster|parrot|goldfish|pony|turtle|mouse|canary|lizard|snake
""")
)


def draw_numbers(random: Random, count: int) -> list[int]:
    """Different whole numbers, mostly of one size."""
    top = random.choice((12, 30, 30, 100, 100, 100, 300, 1000))
    step = random.choice((1, 1, 1, 1, 5, 10)) if top >= 100 else 1
    return random.sample(range(step, top, step), count)
