"""What the gateway says of itself: the log of requests and failures."""
