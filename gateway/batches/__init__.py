"""Files and batches: many requests at once, grouped by the expert that answers them, through any crash."""
