"""POST /v1/completions"""

from ..errors import InvalidField
from ..experts.types import Fields
from ..requests.query import parse_completion_query
from .ask import Door

PATH = "/v1/completions"


def check(fields: Fields) -> None:
    """What every completion must have: a prompt, as text, texts, or tokens."""
    raw = fields.get("prompt")
    if raw is None:
        raise InvalidField("'prompt' is missing; it must be a string or a list", param="prompt")
    if bytes(memoryview(raw)[:1]) not in (b'"', b"["):
        raise InvalidField("'prompt' must be a string or a list", param="prompt")


COMPLETIONS = Door("completions", check, parse_completion_query)
