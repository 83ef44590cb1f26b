"""Short questions to a server on this machine, over asyncio streams: no client library, no connections."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MAX_ANSWER_BYTES = 4 * 1024 * 1024


async def answers(address: str, path: str, timeout_s: float) -> bool:
    """Whether `GET path` is answered 200 within `timeout_s` seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            status, _ = await ask(address, path)
    except (OSError, TimeoutError):
        return False
    return status == 200


async def ask(
    address: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, bytes]:
    """Status and body of the answer; a GET, or a POST where there is a `body`. Takes as long as it takes.

    Raises:
        OSError: no server answers, or not in HTTP.
    """
    place = urlsplit(address)
    data = b"" if body is None else json.dumps(dict(body)).encode()
    # HTTP/1.0: the answer then ends with the connection and comes in one piece.
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.0", f"Host: {place.netloc}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += ["Connection: close", f"Content-Length: {len(data)}", "Content-Type: application/json", "", ""]
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=MAX_ANSWER_BYTES)
    try:
        writer.write("\r\n".join(lines).encode() + data)
        answer = await _all(reader)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, rest = answer.partition(b"\r\n\r\n")
    word = head.split(b" ")[1:2]
    if not head.startswith(b"HTTP/") or not word or not word[0][:3].isdigit():
        raise ConnectionError("the answer is not HTTP")
    return int(word[0][:3]), rest


async def _all(reader: asyncio.StreamReader) -> bytes:
    parts = bytearray()
    while (data := await reader.read(65536)) and len(parts) < MAX_ANSWER_BYTES:
        parts += data
    return bytes(parts)
