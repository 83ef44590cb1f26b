"""The ways a call to an upstream fails."""

from typing import Literal

FailureKind = Literal[
    "connect",
    "reset",
    "timeout",
    "status",
    "refused",
    "garbage",
    "empty",
    "cut",
    "stall",
    "bad_chunk",
    "error_event",
    "busy",
    "declined",
]
FAILURE_STATUS: dict[FailureKind, int] = {"timeout": 504, "stall": 504, "busy": 503, "declined": 422}


class UpstreamError(Exception):
    """A call that gave no answer.

    Attributes:
        kind: how it failed; `refused` says that the request is at fault and nobody else should be asked.
        message: what the expert did, to follow its name ("answered 500"); never holds a secret.
        status: HTTP status of the upstream, where there was one.
        body, content_type: what the upstream said, for a refusal that goes back as it is.
        retry_after_s: seconds the upstream asked to be left alone.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        retry_after_s: float | None = None,
        context_too_long: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.body = body
        self.content_type = content_type
        self.retry_after_s = retry_after_s
        self.context_too_long = context_too_long

    @property
    def moves_on(self) -> bool:
        """Whether another expert may succeed where this one failed."""
        return self.kind != "refused"

    @property
    def faults_expert(self) -> bool:
        """Whether the failure tells of the expert's health, not of the request."""
        return self.moves_on and not self.context_too_long and self.kind not in ("busy", "declined")

    @property
    def client_status(self) -> int:
        """The status a client is given when nobody else could answer either."""
        if self.status in (429, 503, 504):
            return self.status
        return FAILURE_STATUS.get(self.kind, 504 if self.status == 408 else 502)
