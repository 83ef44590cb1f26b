"""`/v1/batches`: many requests at once, as OpenAI's clients know them."""

import asyncio
import time
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..batches.lines import URLS, read_file_mark
from ..batches.service import BatchService, parse_window
from ..batches.store import new_id
from ..batches.types import Batch
from ..errors import InvalidField, InvalidJson
from .answers import get_services, json_response
from .files import get_owner, page, page_size
from .route import read_body

MAX_PAGE = 100
DEFAULT_PAGE = 20
MAX_USD = "max_usd"
"""Key of a batch's metadata: what it may cost, in USD."""

Short = Annotated[str, Meta(max_length=512)]


class BatchRequest(msgspec.Struct):
    """The body of a new batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], Short], Meta(max_length=16)] | None = None


_wanted = msgspec.json.Decoder(BatchRequest)


def get_batch_service(request: Request) -> BatchService:
    """The batches of the gateway that serves this request."""
    jobs: BatchService = request.app.state.jobs
    return jobs


async def create(request: Request) -> Response:
    """Begin a batch: its lines are checked next, and nothing is asked before all of them are good.

    Raises:
        InvalidField: a field is at fault.
        FileNotKnown: the input is no file of the asker.
    """
    jobs, owner = get_batch_service(request), get_owner(request)
    wanted = _read(await read_body(request, get_services(request).config.server.max_body_bytes))
    if wanted.endpoint not in URLS:
        raise InvalidField(f"'endpoint' must be {' or '.join(URLS)}", param="endpoint")
    seconds = parse_window(wanted.completion_window)
    if seconds is None:
        raise InvalidField("'completion_window' must be such as 24h, 30m or 7d", param="completion_window")
    max_usd = _max_usd(wanted)
    path = await asyncio.to_thread(jobs.files.find_path, wanted.input_file_id, owner)
    batch = Batch(
        id=new_id("batch"),
        owner=owner,
        endpoint=wanted.endpoint,
        input_file_id=wanted.input_file_id,
        input_path=str(path.absolute()),
        input_mark=read_file_mark(path),
        window=wanted.completion_window,
        window_s=seconds,
        max_usd=max_usd,
        metadata=wanted.metadata,
        times={"created_at": int(time.time())},
    )
    return json_response((await jobs.add(batch)).to_openai())


def _read(body: bytes) -> BatchRequest:
    try:
        return _wanted.decode(body)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        said = f"{what[0].lower()}{what[1:]}".replace("`", "'")
        raise InvalidField(said, param=where.strip(".`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidJson("the body must be a JSON object") from None


def _max_usd(wanted: BatchRequest) -> float | None:
    """What the batch may cost, if its metadata say so.

    Raises:
        InvalidField: not a number of dollars.
    """
    text = (wanted.metadata or {}).get(MAX_USD)
    if text is None:
        return None
    try:
        usd = float(text)
    except ValueError:
        usd = -1.0
    if not 0 <= usd < float("inf"):
        raise InvalidField(
            f"'metadata.{MAX_USD}' must be a number of dollars, not {text[:40]!r}", param="metadata"
        )
    return usd


async def list_page(request: Request) -> Response:
    """The asker's batches, newest first."""
    asked = request.query_params
    limit = page_size(asked.get("limit"), MAX_PAGE) if "limit" in asked else DEFAULT_PAGE
    store, owner = get_services(request).store, get_owner(request)
    found = await asyncio.to_thread(store.list_batches, owner, asked.get("after"), limit + 1)
    return json_response(page([batch.to_openai() for batch in found], limit))


async def one(request: Request) -> Response:
    """How far one is."""
    found = await get_batch_service(request).find(request.path_params["batch_id"], get_owner(request))
    return json_response(found.to_openai())


async def cancel(request: Request) -> Response:
    """Make no more calls for one; what it has got so far is kept."""
    batch = await get_batch_service(request).cancel(request.path_params["batch_id"], get_owner(request))
    return json_response(batch.to_openai())


ROUTES = [
    Route("/v1/batches", create, methods=["POST"]),
    Route("/v1/batches", list_page, methods=["GET"]),
    Route("/v1/batches/{batch_id}", one, methods=["GET"]),
    Route("/v1/batches/{batch_id}/cancel", cancel, methods=["POST"]),
]
