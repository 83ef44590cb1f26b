"""Anthropic's wire format, once: its requests as chat requests, chat's answers as its messages."""
