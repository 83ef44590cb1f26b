"""A tool: a function from the last user message to an answer, or None where it has none."""

COINS_CENTS = {"penny": 1, "nickel": 5, "dime": 10, "quarter": 25}


def count_cents(text: str) -> str | None:
    """The value of one coin in cents: "What is a dime worth?" -> "10 cents"."""
    named = [coin for coin in COINS_CENTS if coin in text.lower()]
    # Two coins may be a sum or a comparison: leave those to a language model.
    return f"{COINS_CENTS[named[0]]} cents" if len(named) == 1 and "worth" in text.lower() else None
