"""The small programs around engines, each in a process of its own; they import nothing of the gateway."""
