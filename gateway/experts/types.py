"""The seam between execution and experts: a call, and a reply or an `UpstreamError`."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from ..errors import UpstreamError
from ..openai.answers import Usage
from ..openai.messages import BAD_JSON, Fields

if TYPE_CHECKING:
    from ..openai.events import EventStream
    from ..openai.translation import Translation

__all__ = ["Call", "Endpoint", "Expert", "Fields", "Reply", "UpstreamError"]

BYTES_PER_TOKEN = 4
"""Of English text, roughly: for calls whose upstream counts nothing."""
NULL = Raw(b"null")
Endpoint = Literal["chat/completions", "completions", "embeddings"]


class Call(msgspec.Struct, frozen=True):
    """One request for an expert: `fields` is the client's body without `model` and `router`.

    A `patient` one lets others go first where a line has formed. With `hides_usage` the counts at the end of
    a stream are the gateway's alone. `has_fallback`: others can answer, so that a silent upstream is left
    after `first_token_s` also where the answer is not streamed. `translation` is what the client sent, where
    its format was another than chat's. `caller` is the name of the client's key.
    """

    endpoint: Endpoint
    fields: Fields
    stream: bool = False
    patient: bool = False
    hides_usage: bool = False
    has_fallback: bool = False
    translation: "Translation | None" = None
    caller: str | None = None


class Reply(msgspec.Struct):
    """What an expert answered: whole, or as events whose first token is already there.

    warnings: what of the request was not sent as it was asked
    read_native: reads the text of an answer in the format that the client speaks, where that is another
        than chat's and the answer came in it; is told whether it was streamed
    waited_s: until a local engine was loaded and had room; tells nothing of how quickly it answers
    """

    body: bytes = b""
    events: "EventStream | None" = None
    usage: Usage | None = None
    content_type: bytes = b"application/json"
    deployment: str | None = None
    waited_s: float = 0.0
    warnings: tuple[str, ...] = ()
    read_native: Callable[[bytes, bool], str | None] | None = None

    def when_counted(self, note: Callable[[int], None], call: Call) -> None:
        """Have `note` called with the tokens of the call: now, or when the answer's stream ends."""
        events = self.events
        if events is None:
            note(count_tokens(self.usage, call, len(self.body) // BYTES_PER_TOKEN))
        else:
            events.add_closer(lambda: note(count_tokens(events.events.usage, call, events.events.n_chunks)))


COUNTED = Raw(b'{"include_usage":true}')


def ask_for_usage(call: Call, fields: Fields) -> tuple[Call, Fields]:
    """A streamed call that is counted at its end, as most providers do on demand only.

    The same objects come back where the client asks for the counts itself, or where there is no stream.
    """
    if not call.stream or call.hides_usage:
        return call, fields
    options = fields.get("stream_options", NULL)
    try:
        given = msgspec.json.decode(options) or {}
        if given.get("include_usage") is True:
            return call, fields
        asked = Raw(msgspec.json.encode({**given, "include_usage": True})) if given else COUNTED
    except (*BAD_JSON, AttributeError, TypeError):  # what is no object the expert may refuse as it likes
        return call, fields
    # What writes another format reads the counts itself.
    return replace(call, hides_usage=call.translation is None), {**fields, "stream_options": asked}


DATA = re.compile(rb"[\w+/=-]{256,}")
"""Pictures and sounds in a prompt, as base64."""


def estimate_usage(call: Call, n_output: int) -> Usage:
    """The tokens of a call whose upstream counts none: by the size of the prompt and the chunks answered."""
    prompt = b"".join(bytes(call.fields[name]) for name in ("messages", "prompt") if name in call.fields)
    n_input = len(DATA.sub(b"", prompt)) // BYTES_PER_TOKEN
    return Usage(n_input, n_output, n_input + n_output)


def count_tokens(usage: Usage | None, call: Call, n_output: int) -> int:
    """All tokens of a call as its upstream counts them; `n_output` and the input's size where it does not."""
    if usage is None:
        return n_output + sum(len(bytes(value)) for value in call.fields.values()) // BYTES_PER_TOKEN
    return usage.total_tokens or (usage.prompt_tokens or 0) + (usage.output_tokens or 0)


class Expert(Protocol):
    @property
    def name(self) -> str: ...

    async def call(self, call: Call) -> Reply:
        """Ask, and return once the whole answer or the first token of a stream is there.

        Raises:
            UpstreamError: there is no answer.
        """

    def share(self, n_replicas: int) -> None:
        """Use an even share of the limits of its upstream: so many gateways call there."""

    async def close(self) -> None:
        """Let go of what it holds."""
