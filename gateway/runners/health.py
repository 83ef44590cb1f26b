"""Is the server still answering? A bare GET over asyncio streams: no client library, no connection kept."""

import asyncio
import contextlib
from urllib.parse import urlsplit

from .types import Patience


async def answers(address: str, path: str, timeout_s: float) -> bool:
    """Whether `GET path` is answered 200 within `timeout_s` seconds."""
    place = urlsplit(address)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            try:
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode()
                )
                status = await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return status.split(b" ")[1:2] == [b"200"]


async def until_hung(address: str, path: str, patience: Patience) -> None:
    """Returns when `n_missed_probes` in a row went unanswered."""
    n_missed = 0
    while n_missed < patience.n_missed_probes:
        await asyncio.sleep(patience.probe_every_s)
        n_missed = 0 if await answers(address, path, patience.probe_timeout_s) else n_missed + 1
