"""The health and load of every expert, and what replicas of the gateway tell each other of it."""
