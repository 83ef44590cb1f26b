"""Query to decision: the router and the embedding batcher."""
