"""Bytes in, bytes out: the ASGI application, exchanges and authentication. It knows no model."""
