"""`/v1/files`: the inputs and outputs of batches; each file is visible only with the key that owns it."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ..asgi.application import ClientDisconnectedError
from ..batches.files import FileStore, read_form
from ..batches.types import NO_OWNER, FileTooLarge
from ..errors import InvalidField, RangeNotSatisfiable, UnsupportedEncoding
from .answers import json_response

DEFAULT_PAGE = 10_000
# As in OpenAI's API: an hour to thirty days.
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000
MAX_FORM_OVERHEAD_BYTES = 64 * 1024
"""The most a form may contain besides its file."""
# [0-9] and not \d: int() reads the digits of every script ('٣' is 3). Nine digits bound the number.
WHOLE_NUMBER = re.compile("[0-9]{1,9}")
ONE_RANGE = re.compile("bytes=(?!-$)([0-9]{0,15})-([0-9]{0,15})", re.IGNORECASE)


def get_file_store(request: Request) -> FileStore:
    """The files of the gateway that serves this request."""
    files: FileStore = request.app.state.batches.files
    return files


def get_owner(request: Request) -> str:
    """The name of the client's key."""
    owner: str | None = request.state.key_name
    # Without keys all clients are one owner and see each other's files.
    return owner or NO_OWNER


async def upload_file(request: Request) -> Response:
    """Store an uploaded file.

    Raises:
        BadRequest: the form is invalid, its purpose is unknown, or the file is too large.
        KeyStorageFull, StorageFull: there is no room for it.
    """
    files, owner = get_file_store(request), get_owner(request)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedEncoding(
            "content-encoding: files are read as they come; send the form without an encoding",
            param="content-encoding",
            served=("identity",),
        )
    declared = request.headers.get("content-length", "")
    # Refused before its gigabytes are sent. A chunked upload declares no length; the sink counts its bytes.
    if declared.isdigit() and int(declared) > files.max_bytes + MAX_FORM_OVERHEAD_BYTES:
        raise FileTooLarge(f"more than {files.max_bytes} bytes (batches.max_file_bytes)", param="file")
    least = max(1, int(declared) - MAX_FORM_OVERHEAD_BYTES) if declared.isdigit() else 1
    await asyncio.to_thread(files.check_room, owner, least)
    sink = await asyncio.to_thread(files.begin, owner)
    try:
        form = await read_form(request.headers.get("content-type", ""), _iter_body(request), sink)
        if form.fields.get("purpose") != "batch":
            raise InvalidField("'purpose' must be 'batch'", param="purpose")
        name, expires_s = form.filename or "", read_expiry(form.fields)
        file = await asyncio.to_thread(sink.keep, name, "batch", expires_s)
    finally:
        await asyncio.to_thread(sink.close)
    return json_response(file.to_openai())


def read_expiry(fields: Mapping[str, str]) -> int | None:
    """The seconds after which an upload is deleted, where its form says so.

    Raises:
        InvalidField: another anchor than OpenAI's, or no number of seconds within its bounds.
    """
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidField("'expires_after[anchor]' must be created_at", param="expires_after")
    if not WHOLE_NUMBER.fullmatch(seconds or "") or not MIN_EXPIRY_S <= int(seconds or "") <= MAX_EXPIRY_S:
        said = f"'expires_after[seconds]' must be a whole number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}"
        raise InvalidField(said, param="expires_after")
    return int(seconds or "")


async def _iter_body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect:
        raise ClientDisconnectedError from None


async def list_files(request: Request) -> Response:
    """A page of the client's files; `purpose`, `after`, `limit` and `order` as in OpenAI's API."""
    query = request.query_params
    limit = read_page_size(query.get("limit"), DEFAULT_PAGE)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidField("'order' must be asc or desc", param="order")
    # One more than asked for: it tells whether there is another page.
    found = await asyncio.to_thread(
        get_file_store(request).list_page,
        *(get_owner(request), query.get("purpose"), query.get("after"), limit + 1, order == "desc"),
    )
    return json_response(build_page([file.to_openai() for file in found], limit))


async def get_file(request: Request) -> Response:
    """One file without its bytes."""
    file_id = request.path_params["file_id"]
    return json_response(
        (await asyncio.to_thread(get_file_store(request).find, file_id, get_owner(request))).to_openai()
    )


async def download_file(request: Request) -> Response:
    """The bytes of one file, or one range of them.

    Raises:
        RangeNotSatisfiable: the range begins after the end of the file.
    """
    files, file_id = get_file_store(request), request.path_params["file_id"]
    path = await asyncio.to_thread(files.find_path, file_id, get_owner(request))
    size = (await asyncio.to_thread(path.stat)).st_size
    if not is_range_served(request.headers.get("range", ""), size):
        # A range that cannot be read, and several at once, may be ignored: RFC 9110, section 14.2.
        request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]
    # Never a type that a browser would display: the bytes are what a client uploaded.
    return FileResponse(path, media_type="application/octet-stream")


def is_range_served(header: str, size: int) -> bool:
    """Whether a `Range` asks for one range that is in a file of `size` bytes.

    Raises:
        RangeNotSatisfiable: it begins after the end of the file.
    """
    found = ONE_RANGE.fullmatch(header)
    if found is None:
        return False
    first, last = found[1], found[2]
    if (first and int(first) >= size) or (not first and (int(last) == 0 or size == 0)):
        raise RangeNotSatisfiable(
            f"the range {header!r} is not in the file, which has {size} bytes", param="range"
        )
    return not (first and last and int(first) > int(last))


async def delete_file(request: Request) -> Response:
    """Delete one file."""
    file_id = request.path_params["file_id"]
    await asyncio.to_thread(get_file_store(request).delete, file_id, get_owner(request))
    return json_response({"id": file_id, "object": "file", "deleted": True})


def read_page_size(given: str | None, max_items: int) -> int:
    """How many items a page may have.

    Raises:
        InvalidField: no whole number from 1 to `max_items`.
    """
    if given is None:
        return max_items
    if not (WHOLE_NUMBER.fullmatch(given) and 1 <= int(given) <= max_items):
        raise InvalidField(f"'limit' must be a whole number from 1 to {max_items}", param="limit")
    return int(given)


def build_page(items: list[dict[str, object]], limit: int) -> dict[str, object]:
    """A page in OpenAI's form. `items` holds one more than `limit` if there is another page."""
    shown = items[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > limit,
    }


ROUTES = [
    Route("/v1/files", upload_file, methods=["POST"]),
    Route("/v1/files", list_files, methods=["GET"]),
    Route("/v1/files/{file_id}", get_file, methods=["GET"]),
    Route("/v1/files/{file_id}", delete_file, methods=["DELETE"]),
    Route("/v1/files/{file_id}/content", download_file, methods=["GET"]),
]
