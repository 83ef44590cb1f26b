"""JSON responses and shared state, for the endpoints that answer from Starlette."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..services import Services


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def get_services(request: Request) -> Services:
    """The gateway that serves this request."""
    # Starlette's app.state is untyped; the annotation restores the type in one place.
    services: Services = request.app.state.services
    return services
