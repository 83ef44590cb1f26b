"""Putting a short text under one of a few labels."""

from .shapes import pick

KIND = "classification"

FAMILIES = (
    pick(
        KIND,
        "film_sentiment",
        'Classify the sentiment of this film review as positive or negative: "{0}"',
        [
            ("I loved every minute, a wonderful story.", "positive", "negative"),
            ("Boring, far too long, and badly acted.", "negative", "positive"),
            ("A beautiful and moving picture.", "positive", "negative"),
            ("The worst movie I have seen in years.", "negative", "positive"),
            ("Brilliant actors and a great ending!", "positive", "negative"),
            ("I fell asleep. A waste of money.", "negative", "positive"),
            ("Funny, warm and clever.", "positive", "negative"),
            ("Dull plot and terrible music.", "negative", "positive"),
        ],
    ),
    pick(
        KIND,
        "shop_sentiment",
        '"{0}" Is the customer satisfied or dissatisfied?',
        [
            # Phrases are whole words, longest first: `satisfied` is not found in `not satisfied`.
            (
                "The shoes fit perfectly and arrived early.",
                "satisfied|happy|pleased",
                "dissatisfied|unsatisfied|unhappy|not satisfied",
            ),
            (
                "The kettle broke after one day and nobody answers my mails.",
                "dissatisfied|unsatisfied|unhappy|not satisfied",
                "satisfied|happy|pleased",
            ),
            (
                "Excellent quality, I will buy here again.",
                "satisfied|happy|pleased",
                "dissatisfied|unsatisfied|unhappy|not satisfied",
            ),
            (
                "The food was cold and the waiter was rude.",
                "dissatisfied|unsatisfied|unhappy|not satisfied",
                "satisfied|happy|pleased",
            ),
            (
                "Friendly staff and a clean room, thank you!",
                "satisfied|happy|pleased",
                "dissatisfied|unsatisfied|unhappy|not satisfied",
            ),
            (
                "I want my money back.",
                "dissatisfied|unsatisfied|unhappy|not satisfied",
                "satisfied|happy|pleased",
            ),
            (
                "My new favourite bakery.",
                "satisfied|happy|pleased",
                "dissatisfied|unsatisfied|unhappy|not satisfied",
            ),
        ],
    ),
    pick(
        KIND,
        "topic",
        "Which topic fits this headline best: sports, cooking or politics? Headline: {0}",
        [
            ("Home team wins the final in overtime", "sports|sport", "cooking|politics"),
            ("How to bake bread with a crisp crust", "cooking", "sports|sport|politics"),
            ("Parliament votes on the new tax law", "politics", "sports|sport|cooking"),
            ("Striker scores three goals", "sports|sport", "cooking|politics"),
            ("President meets ministers before election", "politics", "sports|sport|cooking"),
            ("Five easy soups for cold days", "cooking", "sports|sport|politics"),
            ("Tennis star out with knee injury", "sports|sport", "cooking|politics"),
        ],
    ),
    pick(
        KIND,
        "emotion",
        "{0} What does the speaker feel: joy, anger or fear?",
        [
            ("I got the job! I could dance!", "joy|joyful", "anger|angry|fear|fearful"),
            ("How dare you read my letters!", "anger|angry", "joy|joyful|fear|fearful"),
            (
                "There is someone outside the window. Please stay with me.",
                "fear|fearful",
                "joy|joyful|anger|angry",
            ),
            ("What a lovely surprise, thank you!", "joy|joyful", "anger|angry|fear|fearful"),
            ("I am shaking, it is so dark in here.", "fear|fearful", "joy|joyful|anger|angry"),
            ("He lied to me again and I am furious.", "anger|angry", "joy|joyful|fear|fearful"),
            ("This is the happiest day of my life.", "joy|joyful", "anger|angry|fear|fearful"),
        ],
    ),
    pick(
        KIND,
        "living_thing",
        "Animal, plant or object? {0}",
        [
            ("a horse", "animal", "plant|object"),
            ("an oak", "plant", "animal|object"),
            ("a spoon", "object", "animal|plant"),
            ("a butterfly", "animal", "plant|object"),
            ("a tulip", "plant", "animal|object"),
            ("a laptop", "object", "animal|plant"),
            ("a shark", "animal", "plant|object"),
            ("moss", "plant", "animal|object"),
        ],
    ),
    pick(
        KIND,
        "message_urgency",
        "Label the message URGENT or NORMAL. Message: {0}",
        [
            ("The server room is on fire, call everyone now!", "urgent", "normal"),
            ("Lunch menu for next week is attached.", "normal", "urgent"),
            ("Patient not breathing, send help immediately.", "urgent", "normal"),
            ("Here are the holiday photos you asked for.", "normal", "urgent"),
            ("Gas leak in the building. Leave at once!", "urgent", "normal"),
            ("No rush, just saying hello.", "normal", "urgent"),
            ("The newsletter for May is out.", "normal", "urgent"),
        ],
    ),
    pick(
        KIND,
        "ticket_team",
        "Which team should read this note, billing or repairs? {0}",
        [
            ("You have charged my card twice.", "billing", "repairs"),
            ("The heater makes a loud noise and stays cold.", "repairs|repair", "billing"),
            ("Where can I download my invoice?", "billing", "repairs"),
            ("The lift is stuck on the third floor.", "repairs|repair", "billing"),
            ("A pipe drips under the sink.", "repairs|repair", "billing"),
            ("I was promised a discount, but paid the full sum.", "billing", "repairs"),
            ("The screen of my laptop is cracked.", "repairs|repair", "billing"),
        ],
    ),
    pick(
        KIND,
        "guest_opinion",
        "Thumbs up or thumbs down? A guest says: {0}",
        [
            ("The fish was excellent and the wine even better.", "up|thumbs up", "down|thumbs down"),
            ("My steak was burnt and nobody said sorry.", "down|thumbs down", "up|thumbs up"),
            ("We had a marvellous evening.", "up|thumbs up", "down|thumbs down"),
            ("Overpriced, noisy, and the chairs wobble.", "down|thumbs down", "up|thumbs up"),
            ("I found a fly in my coffee.", "down|thumbs down", "up|thumbs up"),
            ("The best pancakes in town!", "up|thumbs up", "down|thumbs down"),
            ("Charming owners, we felt at home.", "up|thumbs up", "down|thumbs down"),
        ],
    ),
)
