"""JSON responses and shared state, for the endpoints that answer from Starlette."""

import logging
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..batches.types import DISK_FULL, StorageFull
from ..errors import DEFAULT_RETRY_AFTER_S, DatabaseUnavailable, GatewayError, InvalidField, InvalidJson
from ..services import Services
from ..storage.sqlite import DiskError, find_disk_fault

S = TypeVar("S", bound=msgspec.Struct)


log = logging.getLogger("thalamus")
_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`")


def decode_body(decoder: msgspec.json.Decoder[S], body: bytes) -> S:
    """A JSON object as the struct of its endpoint.

    Raises:
        InvalidField, InvalidJson: it is not one; names the field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        param = where.strip(".`") or None
        if unknown := _UNKNOWN.fullmatch(what):
            raise _refuse_unknown(unknown[1], decoder.type) from None
        said = f"{what[0].lower()}{what[1:]}".replace("`", "'")
        raise InvalidField(f"'{param}': {said}" if param else said, param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidJson("the body must be a JSON object") from None


def _refuse_unknown(name: str, kind: type[msgspec.Struct]) -> InvalidField:
    known = kind.__struct_encode_fields__
    near = get_close_matches(name, known, n=1)
    fix = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
    return InvalidField(f"'{name[:80]}' is not a field here; {fix}", param=name[:80])


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The value as a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def get_services(request: Request) -> Services:
    """The gateway that serves this request."""
    # Starlette's app.state is untyped; the annotation restores the type in one place.
    services: Services = request.app.state.services
    return services


def refuse_storage_error(error: Exception, asked: str) -> GatewayError:
    """The refusal where a database cannot be used now; `asked` names the request in the log."""
    fault = error.fault if isinstance(error, DiskError) else find_disk_fault(error)
    if fault == "full":
        return StorageFull(DISK_FULL)
    if not isinstance(error, DiskError):  # that one has its line
        log.warning("%s: %s", asked, error)
    refusal = "the gateway cannot write to its files now; ask again soon, or look into its log"
    if fault == "unwritable":
        places = "batches.path, journal.path, responses.path"
        refusal = f"the disk of this gateway cannot be written ({places}): its log says why"
    return DatabaseUnavailable(refusal, retry_after_s=DEFAULT_RETRY_AFTER_S)
