"""The seam to other wire formats: a request of one as a chat request, and what writes its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Raw

from ..asgi.application import AnswerWriter
from .messages import Fields, decode_list, encode


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
        reasoning: what experts thought in this turn, by the place of its message from the end, as a member of
            that message; some experts need it back, others refuse it.
        native_only: what of the request only an expert that speaks the format can do; empty where any can.
    """

    format: str
    fields: Fields
    original: Fields | None
    writer: AnswerWriter
    warnings: tuple[str, ...] = ()
    headers: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    native_only: tuple[str, ...] = ()
    reasoning: Mapping[int, bytes] = field(default_factory=dict)

    def add_reasoning(self, fields: Fields) -> Fields:
        """The fields of a chat with what experts thought, where that is anything."""
        if not self.reasoning:
            return fields
        messages = decode_list(fields["messages"])
        for place, member in self.reasoning.items():
            messages[-place] = Raw(bytes(messages[-place]).rstrip()[:-1] + b"," + member + b"}")
        return {**fields, "messages": Raw(encode(messages))}
