"""Every way the gateway says no, and the one place where a refusal becomes OpenAI's error body.

GatewayError                         status  type                    code
├── BadRequest                       400     invalid_request_error
│   ├── InvalidJson                  400     invalid_request_error   invalid_json
│   ├── InvalidField                 400     invalid_request_error   invalid_value
│   ├── ForbiddenField               400     invalid_request_error   forbidden_field
│   ├── InvalidEncoding              400     invalid_request_error   invalid_encoding
│   ├── MalformedRequest             400     invalid_request_error   malformed_request
│   ├── HeadTooLarge                 431     invalid_request_error   head_too_large
│   ├── UrlTooLong                   414     invalid_request_error   url_too_long
│   ├── RequestTooSlow               408     invalid_request_error   request_timeout
│   ├── UnsupportedEncoding          415     invalid_request_error   unsupported_encoding
│   ├── BodyTooLarge                 413     invalid_request_error   body_too_large
│   ├── RangeNotSatisfiable          416     invalid_request_error   range_not_satisfiable
│   ├── EndpointNotFound             404     invalid_request_error   unknown_url
│   ├── MethodNotAllowed             405     invalid_request_error   method_not_allowed
│   └── ModelNotFound                404     invalid_request_error   model_not_found
├── Unauthenticated                  401     authentication_error    invalid_api_key
├── Forbidden                        403     permission_error        forbidden
├── Overloaded                       429     rate_limit_error        overloaded
├── NothingEligible                  400     invalid_request_error   no_eligible_expert
├── Unavailable                      503     service_unavailable     experts_unavailable
├── ServerBusy                       503     service_unavailable     server_busy
├── DatabaseUnavailable              503     service_unavailable     database_unavailable
└── ExpertFailed                     502     upstream_error          of the last attempt
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar, Literal

import msgspec

MAX_RETRY_AFTER_S = 3600.0
"""An upstream's `Retry-After` is obeyed for at most so long: a mistaken date must not end an expert."""

DEFAULT_RETRY_AFTER_S = 5.0
"""What a client is told where nothing says how long it lasts; as long as the first cooldown of an expert."""

CLIENT_CLOSED_STATUS = 499
"""nginx's status for a client that closed its connection before it was answered; no RFC has one."""

INTERNAL_ERROR = "the gateway failed; its log says why"
STOPPED = "the gateway was stopped before the answer was complete; ask again"


class BusyError(Exception):
    """A waiting line is full: the caller degrades, moves on or refuses."""


MAX_NAME_CHARS = 64
"""So much of an unknown name is compared: a client must not choose how long that takes."""


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? `, with the known name that is nearest; empty where none is near."""
    plain = {one.lower(): one for one in known}
    near = get_close_matches(name[:MAX_NAME_CHARS].lower(), plain, n=1)
    return f"did you mean '{plain[near[0]]}'? " if near else ""


class GatewayError(Exception):
    """A refusal with an HTTP status. `param` names the request field at fault, `retry_after_s` is seconds."""

    status: int = 500
    type: ClassVar[str] = "server_error"
    code: str | None = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def reason(self) -> str:
        """Why a request was refused, in one word for `/metrics`."""
        return self.code or self.type

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers that belong to the refusal."""
        wait_s = self.retry_after_s
        if wait_s is None and self.status in (429, 503):
            wait_s = DEFAULT_RETRY_AFTER_S  # clients without it try again at once, or give up
        if wait_s is None:
            return []
        # Retry-After has whole seconds; 0 would invite a retry at once.
        return [(b"retry-after", str(max(1, round(wait_s))).encode())]


class BadRequest(GatewayError):  # noqa: N818
    status = 400
    type = "invalid_request_error"
    code: str | None = None


class InvalidJson(BadRequest):
    code = "invalid_json"


class InvalidField(BadRequest):
    code = "invalid_value"


class ForbiddenField(BadRequest):
    code = "forbidden_field"


class InvalidEncoding(BadRequest):
    code = "invalid_encoding"


class MalformedRequest(BadRequest):
    """The request is not HTTP/1.1, or can be read in two ways."""

    code = "malformed_request"


class HeadTooLarge(BadRequest):
    status = 431
    code = "head_too_large"


class UrlTooLong(BadRequest):
    status = 414
    code = "url_too_long"


class RequestTooSlow(BadRequest):
    status = 408
    code = "request_timeout"


class UnsupportedEncoding(BadRequest):
    status = 415
    code = "unsupported_encoding"

    def __init__(self, message: str, *, param: str, served: Sequence[str]) -> None:
        super().__init__(message, param=param)
        self.served = tuple(served)

    def headers(self) -> list[tuple[bytes, bytes]]:
        # RFC 9110, section 15.5.16: what would have been accepted.
        return [(b"accept-encoding", ", ".join(self.served).encode())]


class BodyTooLarge(BadRequest):
    status = 413
    code = "body_too_large"


class RangeNotSatisfiable(BadRequest):
    status = 416
    code = "range_not_satisfiable"


class EndpointNotFound(BadRequest):
    status = 404
    code = "unknown_url"


class MethodNotAllowed(BadRequest):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = tuple(allowed)

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"allow", ", ".join(self.allowed).encode())]


class ModelNotFound(BadRequest):
    status = 404
    code = "model_not_found"


class Unauthenticated(GatewayError):  # noqa: N818
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    delay_s = 0.0
    """How long its answer is held back: guesses are slowed."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"www-authenticate", b"Bearer")]


class Forbidden(GatewayError):  # noqa: N818
    status = 403
    type = "permission_error"
    code = "forbidden"


class Overloaded(GatewayError):  # noqa: N818
    """More waits already than can be worked on soon; asking again later will help."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class NothingEligible(GatewayError):  # noqa: N818
    """The request asks for what no expert can give; asking again will not help."""

    status = 400
    type = "invalid_request_error"
    code = "no_eligible_expert"


class Unavailable(GatewayError):  # noqa: N818
    """Every expert that could answer is out for now."""

    status = 503
    type = "service_unavailable"
    code = "experts_unavailable"


class ServerBusy(GatewayError):  # noqa: N818
    """This process has as much work, or holds as many bytes, as it may; asking again later will help.

    `limit` is the key of `server.limits` that it has reached.
    """

    status = 503
    type = "service_unavailable"
    code = "server_busy"

    def __init__(self, message: str, *, limit: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit

    @property
    def reason(self) -> str:
        """The limit that was reached."""
        return self.limit


class DatabaseUnavailable(GatewayError):  # noqa: N818
    """A file of the gateway cannot be written now; asking again later will help."""

    status = 503
    type = "service_unavailable"
    code = "database_unavailable"


class ExpertFailed(GatewayError):  # noqa: N818
    """The last expert of the plan failed too; status and code are those of its failure."""

    type = "upstream_error"

    def __init__(self, message: str, status: int, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status
        self.code = code


def to_envelope(error: GatewayError) -> bytes:
    """The error as OpenAI's JSON body."""
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


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
    "unsupported",
    "quota",
    "library",
    "unsent",
    "deadline",
]
FAILURE_STATUS: dict[FailureKind, int] = {
    "timeout": 504,
    "stall": 504,
    "deadline": 504,
    "busy": 503,
    "declined": 422,
}
NO_FAULT_OF_EXPERT: frozenset[FailureKind] = frozenset(
    {"refused", "busy", "declined", "unsupported", "unsent", "deadline"}
)
SAME_AGAIN: frozenset[FailureKind] = frozenset({"refused", "declined", "unsupported", "quota"})


class UpstreamError(Exception):
    """A call that gave no answer.

    Attributes:
        kind: how it failed; `refused`: the request is at fault, no other expert should be called;
            `unsupported`: this expert cannot take the request, another may; `quota`: it is not paid for;
            `unsent`: the gateway could not make the call; `deadline`: the time of all attempts was up.
        message: what the expert did, to follow its name ("answered 500"); never holds a secret.
        status: HTTP status of the upstream, where there was one.
        cause: the same without what the upstream said, which may quote the prompt; for logs.
        deployment: which one of the expert's failed, where it has several.
        body, content_type: what the upstream answered, for a refusal that goes back as it is.
        retry_after_s: seconds the upstream asked to wait before the next call.
        can_adapt: the expert would take the same call now, without a wish that it refused.
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
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.cause = cause or message
        self.deployment: str | None = None
        self.status = status
        self.body = body
        self.content_type = content_type
        self.retry_after_s = retry_after_s
        self.context_too_long = context_too_long
        self.can_adapt = False

    @property
    def moves_on(self) -> bool:
        """Whether another expert may succeed where this one failed."""
        return self.kind != "refused"

    @property
    def faults_expert(self) -> bool:
        """Whether the failure tells of the expert's health, not of the request."""
        return not self.context_too_long and self.kind not in NO_FAULT_OF_EXPERT

    @property
    def can_succeed_later(self) -> bool:
        """Whether the same call of the same expert may succeed a little later."""
        return not (self.context_too_long or self.kind in SAME_AGAIN or self.status in (401, 403, 404))

    @property
    def client_status(self) -> int:
        """The status for the client where no other expert could answer either."""
        if self.status in (429, 503, 504):
            return self.status
        # Neither is in an RFC: Groq's "no capacity" and Anthropic's "overloaded".
        if self.status in (498, 529):
            return 503
        return FAILURE_STATUS.get(self.kind, 504 if self.status in (408, 522, 524) else 502)
