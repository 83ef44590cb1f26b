"""JSON answers of the endpoints that are not hot."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..services import Machine


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def machine_of(request: Request) -> Machine:
    """The gateway that serves this request."""
    machine: Machine = request.app.state.machine
    return machine
