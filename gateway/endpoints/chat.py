"""POST /v1/chat/completions"""

from ..experts.types import Fields
from ..requests.fields import list_field
from ..requests.query import parse_chat_query
from .ask import Door

PATH = "/v1/chat/completions"


def check(fields: Fields) -> None:
    """What every chat must have; the rest is for the expert to judge."""
    list_field(fields, "messages")


CHAT = Door("chat/completions", check, parse_chat_query)
