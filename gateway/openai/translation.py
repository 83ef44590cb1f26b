"""The seam to other wire formats: a request of one as a chat request, and what writes its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..asgi.application import AnswerWriter
from .messages import Fields


@dataclass(frozen=True, slots=True)
class Translation:
    """One request of another wire format than OpenAI's chat.

    Attributes:
        format: its name, as experts that speak it name it: `messages`.
        fields: the same request as the body of a chat completion; parsed, routed and sent like any other.
        original: its body as the client sent it, for an expert that speaks the format itself; None once the
            prompt has been changed here.
        writer: writes the answer in the format.
        warnings: what a chat request cannot carry, and is left out of it.
        headers: the client's, names in lower case; only what belongs to the format may be sent on.
        native_only: what of the request only an expert that speaks the format can do; empty where any can.
    """

    format: str
    fields: Fields
    original: Fields | None
    writer: AnswerWriter
    warnings: tuple[str, ...] = ()
    headers: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    native_only: tuple[str, ...] = ()
