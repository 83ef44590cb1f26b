"""Body to parsed request: routing options, prompt flags, user text and the query."""
