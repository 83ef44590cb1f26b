"""Classes and their members, in singular and plural."""


def pool(members: str) -> list[str]:
    """Members parted by `|`, or by spaces where there is none."""
    parts = members.split("|") if "|" in members else members.split()
    return [part.strip() for part in parts if part.strip()]


# Singular and plural: the grader looks for whole words and knows no grammar.
FRUITS = pool("""
    apple apples orange oranges banana bananas grape grapes strawberry strawberries mango mangoes
    mangos pear pears peach peaches pineapple cherry cherries lemon lemons lime grapefruit kiwi plum plums
    melon watermelon blueberry blueberries raspberry raspberries apricot fig papaya avocado
    pomegranate
""")
VEGETABLES = pool("""
    carrot carrots potato potatoes tomato tomatoes onion onions spinach broccoli cabbage lettuce
    cucumber cucumbers pea peas bean beans pepper peppers celery garlic cauliflower kale zucchini
    eggplant beet beets corn pumpkin radish turnip asparagus
""")
# All are mammals, which one of the lists asks for.
ANIMALS = pool("""
    dog dogs cat cats horse horses cow cows sheep goat goats pig pigs lion lions tiger tigers
    elephant elephants bear bears monkey monkeys rabbit rabbits mouse mice rat rats wolf wolves
    fox foxes deer giraffe giraffes zebra zebras whale whales dolphin dolphins kangaroo camel bat
    bats human humans squirrel squirrels hippopotamus rhinoceros gorilla chimpanzee panda seal
    seals otter leopard cheetah koala donkey
""")
# Grey and gray: British and American spelling.
COLOURS = pool("""
    red blue green yellow orange purple black white brown pink grey gray violet indigo cyan
    magenta turquoise gold silver beige
""")
# Eight since resolution B5 of the International Astronomical Union, 2006: Pluto is a dwarf planet.
PLANETS = pool("mercury venus earth mars jupiter saturn uranus neptune")
# Russia lies partly in Europe; Cyprus counts as a member of the European Union.
COUNTRIES = pool("""
    france|germany|italy|spain|portugal|austria|switzerland|belgium|netherlands|the netherlands|
    poland|sweden|norway|denmark|finland|greece|ireland|united kingdom|england|scotland|hungary|
    czech republic|romania|bulgaria|croatia|ukraine|iceland|serbia|slovakia|slovenia|estonia|latvia|
    lithuania|luxembourg|russia|albania|malta|cyprus|uk|the uk
""")
INSTRUMENTS = pool("""
    piano guitar violin drums drum flute trumpet cello saxophone clarinet harp trombone oboe
    banjo organ keyboard bass tuba viola accordion ukulele mandolin
""")
TOOLS = pool("""
    hammer screwdriver saw wrench drill pliers chisel axe file level tape shovel rake spade
    ladder knife
""")
BIRDS = pool("""
    eagle hawk sparrow owl robin crow pigeon dove penguin parrot duck goose swan chicken hen
    falcon raven ostrich flamingo peacock gull seagull stork heron hummingbird woodpecker turkey
    finch cardinal swallow parakeet canary bluebird warbler cockatoo sparrows eagles owls
    robins parrots penguins pigeons hawks ducks falcons vulture kingfisher nightingale
""")
SPORTS = pool("""
    football|soccer|tennis|basketball|baseball|hockey|ice hockey|golf|rugby|cricket|volleyball|
    swimming|running|cycling|boxing|badminton|skiing|gymnastics|table tennis|handball|athletics|
    track and field|surfing|judo|karate|wrestling
""")
CLOTHES = pool("""
    shirt shirts trousers pants jacket jackets coat coats dress dresses skirt sock socks shoe
    shoes hat hats scarf gloves sweater jeans t-shirt t-shirts tie belt shorts boots blouse suit
    cap hoodie
""")
DRINKS = pool("""
    water tea coffee milk juice beer wine lemonade soda cola cocoa smoothie whiskey vodka rum
    champagne cider
""")
