"""Writes the head of a response together with what follows it: one packet instead of two."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = b"HTTP/1.1 "


class JoiningTransport:
    """A transport that keeps a head back until something follows, or the event loop's turn is over."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol on such a transport."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        joining = JoiningTransport(cast("asyncio.Transport", transport), asyncio.get_running_loop())
        super().connection_made(cast("asyncio.Transport", joining))
