"""The seam between execution and experts: a call, and a reply or an `UpstreamError`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import UpstreamError
from ..openai.answers import Usage
from ..openai.messages import Fields

if TYPE_CHECKING:
    from ..openai.events import EventStream

__all__ = ["Call", "Endpoint", "Expert", "Fields", "Reply", "UpstreamError"]

BYTES_PER_TOKEN = 4
"""Of English text, roughly: for calls whose upstream counts nothing."""
Endpoint = Literal["chat/completions", "completions", "embeddings"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request for an expert: `fields` is the client's body without `model` and `router`.

    A `patient` one lets others go first where a line has formed.
    """

    endpoint: Endpoint
    fields: Fields
    stream: bool = False
    patient: bool = False


@dataclass(slots=True)
class Reply:
    """What an expert answered: whole, or as events whose first token is already there.

    warnings: what of the request was not sent as it was asked
    waited_s: until a local engine was loaded and had room; tells nothing of how quickly it answers
    """

    body: bytes = b""
    events: "EventStream | None" = None
    usage: Usage | None = None
    content_type: bytes = b"application/json"
    deployment: str | None = None
    waited_s: float = 0.0
    warnings: tuple[str, ...] = ()

    def when_counted(self, note: Callable[[int], None], call: Call) -> None:
        """Have `note` called with the tokens of the call: now, or when the answer's stream ends."""
        events = self.events
        if events is None:
            note(count_tokens(self.usage, call, len(self.body) // BYTES_PER_TOKEN))
        else:
            events.add_closer(lambda: note(count_tokens(events.events.usage, call, events.events.n_chunks)))


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
