"""`/v1/batches`, compatible with OpenAI's: many requests as one job."""

import asyncio
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..batches.lines import URLS, read_file_mark
from ..batches.service import BatchService, parse_window
from ..batches.store import new_id
from ..batches.types import Batch
from ..errors import InvalidField
from .answers import decode_body, get_services, json_response
from .decisions import read_body
from .files import MAX_EXPIRY_S, MIN_EXPIRY_S, build_page, get_owner, read_page_size

MAX_PAGE = 100
DEFAULT_PAGE = 20
MAX_USD = "max_usd"
"""Key of a batch's metadata: what it may cost, in USD."""

# OpenAI's limits on metadata: 16 pairs, keys of 64 and values of 512 characters.
ShortText = Annotated[str, Meta(max_length=512)]

MAX_ORDER_BYTES = 256 * 1024
"""More than all fields of a batch take, even where every character is escaped."""


class ExpiresAfter(msgspec.Struct):
    """When the results of a batch are deleted, in seconds after they were made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class BatchRequest(msgspec.Struct):
    """The body of a new batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], ShortText], Meta(max_length=16)] | None = (
        None
    )
    output_expires_after: ExpiresAfter | None = None


_decoder = msgspec.json.Decoder(BatchRequest)


def get_batch_service(request: Request) -> BatchService:
    """The batches of the gateway that serves this request."""
    service: BatchService = request.app.state.batches
    return service


async def create_batch(request: Request) -> Response:
    """Create a batch. Its lines are checked next, and no expert is called before all of them are valid.

    Raises:
        InvalidField: a field has an invalid value.
        FileNotKnown: this client has no such input file.
        KeyStorageFull, StorageFull: there is no room for its results.
    """
    service, owner = get_batch_service(request), get_owner(request)
    fields = decode_body(_decoder, await read_body(request, MAX_ORDER_BYTES))
    if fields.endpoint not in URLS:
        raise InvalidField(f"'endpoint' must be {' or '.join(URLS)}", param="endpoint")
    seconds = parse_window(fields.completion_window)
    if seconds is None:
        raise InvalidField("'completion_window' must be such as 24h, 30m or 7d", param="completion_window")
    max_usd = _read_max_usd(fields)
    # In a thread: reading the database may wait for a lock, and live requests share the event loop.
    path = await asyncio.to_thread(service.files.find_path, fields.input_file_id, owner)
    await asyncio.to_thread(service.files.check_room, owner)
    batch = Batch(
        id=new_id("batch"),
        owner=owner,
        endpoint=fields.endpoint,
        input_file_id=fields.input_file_id,
        input_path=str(path.absolute()),
        input_mark=read_file_mark(path),
        window=fields.completion_window,
        window_s=seconds,
        max_usd=max_usd,
        metadata=fields.metadata,
        output_expires_s=fields.output_expires_after.seconds if fields.output_expires_after else None,
        times={"created_at": int(get_services(request).store.clock.stamp())},
    )
    return json_response((await service.add(batch)).to_openai())


def _read_max_usd(fields: BatchRequest) -> float | None:
    """The most the batch may cost in USD, if its metadata has that key.

    Raises:
        InvalidField: not a number of dollars.
    """
    # In the metadata, because OpenAI's clients send it without extra code.
    text = (fields.metadata or {}).get(MAX_USD)
    if text is None:
        return None
    try:
        usd = float(text)
    except ValueError:
        usd = -1.0
    # Comparisons with NaN are false, so NaN is refused as well.
    if not 0 <= usd < float("inf"):
        raise InvalidField(
            f"'metadata.{MAX_USD}' must be a number of dollars, not {text[:40]!r}", param="metadata"
        )
    return usd


async def list_batches(request: Request) -> Response:
    """A page of the client's batches, newest first."""
    query = request.query_params
    limit = read_page_size(query.get("limit"), MAX_PAGE) if "limit" in query else DEFAULT_PAGE
    store, owner = get_services(request).store, get_owner(request)
    # One more than asked for: it tells whether there is another page.
    found = await asyncio.to_thread(store.list_batches, owner, query.get("after"), limit + 1)
    explain = get_batch_service(request).explain_wait
    return json_response(build_page([batch.to_openai(explain(batch)) for batch in found], limit))


async def get_batch(request: Request) -> Response:
    """The state and progress of one batch."""
    service = get_batch_service(request)
    found = await service.find(request.path_params["batch_id"], get_owner(request))
    return json_response(found.to_openai(service.explain_wait(found)))


async def cancel_batch(request: Request) -> Response:
    """Cancel a batch: no more calls are made, and the results so far are kept."""
    service = get_batch_service(request)
    batch = await service.cancel(request.path_params["batch_id"], get_owner(request))
    return json_response(batch.to_openai(service.explain_wait(batch)))


ROUTES = [
    Route("/v1/batches", create_batch, methods=["POST"]),
    Route("/v1/batches", list_batches, methods=["GET"]),
    Route("/v1/batches/{batch_id}", get_batch, methods=["GET"]),
    Route("/v1/batches/{batch_id}/cancel", cancel_batch, methods=["POST"]),
]
