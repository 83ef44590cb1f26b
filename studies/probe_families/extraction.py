"""Finding what a short text says."""

from .shapes import pick

KIND = "extraction"

FAMILIES = (
    pick(
        KIND,
        "job",
        "{0} What is {1}'s job?",
        [
            ("Maria lives in Lisbon and works as a nurse.|Maria", "nurse", "lisbon"),
            ("John is a pilot. His brother is a cook.|John", "pilot", "cook"),
            ("After years in Oslo, Nina became a lawyer.|Nina", "lawyer", "oslo"),
            ("Peter, a farmer, sold his tractor to Karl, a miller.|Peter", "farmer", "miller"),
            (
                "Aisha teaches; she has been a teacher for ten years. Her son is a dentist.|Aisha",
                "teacher",
                "dentist",
            ),
            ("The baker Hugo gave the painter Ines a cake.|Hugo", "baker", "painter"),
            ("Sofia is an engineer in a factory that makes boats.|Sofia", "engineer", "boats|boat maker"),
        ],
    ),
    pick(
        KIND,
        "city",
        'Read the sentence and name the city in it. "{0}"',
        [
            ("Last summer we flew to Rome with our children.", "Rome", "children"),
            ("The headquarters moved to Boston in 1998.", "Boston", "1998"),
            ("It never stops raining in Bergen, said Olga.", "Bergen", "olga"),
            ("Her train arrives from Vienna at noon.", "Vienna", "noon"),
            ("My uncle Pablo has a shop in Madrid.", "Madrid", "pablo"),
            ("The museum in Amsterdam was closed.", "Amsterdam", "museum was"),
            ("Kenji studies music in Kyoto.", "Kyoto", "kenji"),
        ],
    ),
    pick(
        KIND,
        "who",
        "{0} Who {1}?",
        [
            ("Emma gave Jack a book.|received the book", "Jack", "Emma"),
            ("Oscar broke the window while Lily was asleep.|broke the window", "Oscar", "Lily"),
            ("The prize went to Hanna, not to Viktor.|got the prize", "Hanna", "Viktor"),
            ("Liam washed the car and Ella watched.|washed the car", "Liam", "Ella"),
            ("Rosa called her grandmother Alice on Sunday.|made the call", "Rosa", "Alice"),
            ("Sam was late, but Nora was on time.|was late", "Sam", "Nora"),
            ("Dan sold his bike to Amir.|bought the bike", "Amir", "Dan"),
        ],
    ),
    pick(
        KIND,
        "colour_of",
        "Text: {0}\nQuestion: what colour is the {1}?",
        [
            ("She wore a green coat and a black hat.|coat", "green", "black"),
            ("The red house stands beside the white church.|church", "white", "red"),
            ("A blue car hit the yellow bus.|car", "blue", "yellow"),
            ("His old brown bag was lost.|bag", "brown", "old"),
            ("On the grey table lay a purple scarf.|scarf", "purple", "grey"),
            ("The orange cat chased a silver toy.|cat", "orange", "silver"),
            ("They painted the gate pink.|gate", "pink", "gate"),
        ],
    ),
    pick(
        KIND,
        "mail_address",
        "Copy out the e-mail address from this text: {0}",
        [
            # All under domains reserved for examples (RFC 2606), so that no mail reaches a person.
            ("Write to anna@example.com before Friday.", "anna@example.com", "friday"),
            ("Questions? help@shop.example answers them.", "help@shop.example", "answers"),
            ("Mr Bell (bell@example.org) is on holiday.", "bell@example.org", "holiday"),
            ("Our new address is team@lab.example, please note it.", "team@lab.example", "note"),
            ("Send the invoice to pay@example.net, not by post.", "pay@example.net", "post"),
            ("Contact: office@school.example, room 12", "office@school.example", "12"),
            ("She signed up as zoe99@example.com last year.", "zoe99@example.com", "last year"),
        ],
    ),
    pick(
        KIND,
        "when",
        "{0} On which day {1}?",
        [
            ("The meeting was moved from Monday to Thursday.|is the meeting now", "Thursday", "Monday"),
            ("We play chess on Fridays and swim on Sundays.|do we swim", "Sunday|Sundays", "Friday|Fridays"),
            (
                "The parcel should arrive on Tuesday.|should the parcel arrive",
                "Tuesday",
                "Monday|Wednesday|Thursday|Friday",
            ),
            ("The exam is on Wednesday; results come on Saturday.|do results come", "Saturday", "Wednesday"),
            ("Market day in our town is Saturday.|is the market", "Saturday", "Sunday|Monday|Friday"),
            ("Dr Lee sees patients on Monday only.|can one see Dr Lee", "Monday", "Tuesday|Sunday|Friday"),
            ("The shop closes on Sunday and reopens on Tuesday.|does the shop reopen", "Tuesday", "Sunday"),
        ],
    ),
    pick(
        KIND,
        "price_of",
        "From the price list (tea $2, cake $4, juice $3, soup $6, toast $5), what is the price of {0}?",
        [
            # The other prices are wrong: an answer that repeats the list has not decided.
            ("the tea", "$2|2|two dollars", "$4|$3|$6|$5"),
            ("the cake", "$4|4|four dollars", "$2|$3|$6|$5"),
            ("the juice", "$3|3|three dollars", "$2|$4|$6|$5"),
            ("the soup", "$6|6|six dollars", "$2|$4|$3|$5"),
            ("the toast", "$5|5|five dollars", "$2|$4|$3|$6"),
        ],
    ),
    pick(
        KIND,
        "letter_from",
        'A letter reads: "Dear {0}, {1} Yours, {2}" Whose letter is it?',
        [
            ("Tom|thank you for the cake.|Rita", "Rita|Rita's", "Tom|Tom's"),
            ("Eva|the cat is well again.|Paul", "Paul|Paul's", "Eva|Eva's"),
            ("Sam|please bring the tent.|Anna", "Anna|Anna's", "Sam|Sam's"),
            ("Ben|we miss you in Rome.|Chloe", "Chloe|Chloe's", "Ben|Ben's"),
            ("Ruth|the piano has arrived.|Max", "Max|Max's", "Ruth|Ruth's"),
            ("Ken|your key is under the mat.|Ida", "Ida|Ida's", "Ken|Ken's"),
            ("Lea|happy birthday!|Jack", "Jack|Jack's", "Lea|Lea's"),
        ],
    ),
    pick(
        KIND,
        "phone_in_text",
        "{0} Which digits must I dial?",
        [
            # 555-01xx is kept for invented telephone numbers.
            ("Bikes for rent, 555-0142, closed on Mondays.", "555-0142", "monday"),
            ("Piano lessons for 20 dollars. Ring 555-0177.", "555-0177", "20"),
            ("Found: a grey cat. Owner please call 555-0110.", "555-0110", "grey"),
            ("Fresh eggs, 12 for 3 dollars, 555-0123", "555-0123", "12"),
            ("Dr Hall has moved to 8 Park Road; telephone 555-0165.", "555-0165", "8"),
            ("Dial 555-0199 for a taxi, day and night.", "555-0199", "night"),
            ("Room 7 is free from May, ask Mrs Lane, 555-0131.", "555-0131", "7"),
        ],
    ),
)
