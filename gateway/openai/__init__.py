"""OpenAI's wire format, once: events, usage and transcripts."""
