"""What the texts of a request say: the user's words without wrappings, and what is asked of the answer."""
