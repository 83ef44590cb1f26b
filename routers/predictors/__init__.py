"""Learned maps from features to one value per expert; names are in `routers.registry`."""
