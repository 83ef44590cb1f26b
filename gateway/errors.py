"""Every way the gateway says no, and the one place where a refusal becomes OpenAI's error body.

GatewayError                         status  type                    code
├── BadRequest                       400     invalid_request_error
│   ├── InvalidJson                  400     invalid_request_error   invalid_json
│   ├── InvalidField                 400     invalid_request_error   invalid_value
│   ├── ForbiddenField               400     invalid_request_error   forbidden_field
│   ├── BodyTooLarge                 413     invalid_request_error   body_too_large
│   ├── EndpointNotFound             404     invalid_request_error   unknown_url
│   ├── MethodNotAllowed             405     invalid_request_error   method_not_allowed
│   └── ModelNotFound                404     invalid_request_error   model_not_found
├── Unauthenticated                  401     authentication_error    invalid_api_key
├── Forbidden                        403     permission_error        forbidden
├── Overloaded                       429     rate_limit_error        overloaded
├── NothingEligible                  400     invalid_request_error   no_eligible_expert
├── Unavailable                      503     service_unavailable     experts_unavailable
└── ExpertFailed                     502     upstream_error          of the last attempt
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec


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

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Response headers that belong to the refusal."""
        if self.retry_after_s is None:
            return []
        return [(b"retry-after", str(max(1, round(self.retry_after_s))).encode())]


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


class BodyTooLarge(BadRequest):
    status = 413
    code = "body_too_large"


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
