"""What can go wrong when a gateway is asked.

ThalamusError
├── ConnectionFailed        no connection, or it broke before the answer was complete
├── TimedOut                silence for longer than the client's timeout
├── StreamError             a stream that had begun failed or was cut: what came before it is all there is
├── UnexpectedResponse      an answer that is not in the protocol: something else listens there
├── InvalidAnswer           a model's answer that is not of the shape asked for: `chat` holds it
└── StatusError             the gateway said no: status, type, code, param, request_id
    ├── BadRequest          400, 422: `param` names the field
    ├── AuthenticationError 401: no key, or a wrong one
    ├── PermissionDenied    403
    ├── NotFound            404: no such model, decision or endpoint
    ├── RateLimited         429: `retry_after_s` says when to come back, if the gateway knows
    └── ServerError         5xx: no expert could answer
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .values import Chat

# ruff: noqa: N818  `except RateLimited` reads as what happened; only names that need it say Error


class ThalamusError(Exception):
    """Any failure of a call to the gateway."""


class ConnectionFailed(ThalamusError):
    """The gateway could not be reached, or hung up before its answer was complete."""


class TimedOut(ThalamusError):
    """The gateway was silent for longer than the client's timeout."""


class UnexpectedResponse(ThalamusError):
    """The answer is not in the gateway's protocol."""


class InvalidAnswer(ThalamusError):
    """A model's answer is not of the shape that was asked for; `chat` is the answer."""

    def __init__(self, message: str, chat: "Chat") -> None:
        super().__init__(message)
        self.chat = chat


class StreamError(ThalamusError):
    """A stream failed after it had begun; `type` and `code` are the gateway's, if it could still say why."""

    def __init__(self, message: str, *, type: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.code = code


class StatusError(ThalamusError):
    """The gateway refused or failed, with the facts of its error body."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        facts = [str(self.status), self.code and f"code {self.code}", self.param and f"param {self.param}"]
        facts.append(self.request_id and f"request {self.request_id}")
        return f"{self.args[0]} ({', '.join(fact for fact in facts if fact)})"


class BadRequest(StatusError):
    """The request is at fault."""


class AuthenticationError(StatusError):
    """The key is missing or wrong."""


class PermissionDenied(StatusError):
    """The key may not do this."""


class NotFound(StatusError):
    """No such model, decision or endpoint."""


class RateLimited(StatusError):
    """Too many requests, still so after the retries."""


class ServerError(StatusError):
    """The gateway, or every expert it tried, failed."""


def choose_status_class(status: int) -> type[StatusError]:
    """The class that stands for an HTTP status; `StatusError` itself where none does."""
    if status >= 500:
        return ServerError
    return {
        400: BadRequest,
        401: AuthenticationError,
        403: PermissionDenied,
        404: NotFound,
        422: BadRequest,
        429: RateLimited,
    }.get(status, StatusError)
