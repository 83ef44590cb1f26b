"""The seam between execution and experts: a call, and a reply or an `UpstreamError`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import UpstreamError
from ..openai.answers import Usage
from ..openai.messages import Fields

if TYPE_CHECKING:
    from ..openai.events import EventStream

__all__ = ["Call", "Endpoint", "Expert", "Fields", "Reply", "UpstreamError"]

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

    waited_s: until a local engine was loaded and had room; tells nothing of how quickly it answers
    """

    body: bytes = b""
    events: "EventStream | None" = None
    usage: Usage | None = None
    content_type: bytes = b"application/json"
    deployment: str | None = None
    waited_s: float = 0.0


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
