"""Several processes that answer requests, and the parent that owns what they share."""
