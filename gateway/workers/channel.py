"""Calls between the parent and one worker, over a pair of sockets that no other process can open.

A frame is its length (four bytes), then a MessagePack array `[kind, number, name or value, arguments]`. Both
ends call and answer. The end of the socket is the end of the other process, however it came.
"""

import asyncio
import inspect
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Self

import msgspec

log = logging.getLogger("thalamus")

LENGTH = struct.Struct(">I")
CALL, POST, ANSWER, ERROR, CANCEL = range(5)
Handlers = Mapping[str, Callable[..., Any]]


class ChannelClosedError(ConnectionError):
    """The other process has ended."""


class RemoteError(Exception):
    """A call failed in the other process: the class of its exception, and its attributes."""

    def __init__(self, kind: str, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


class Channel(asyncio.Protocol):
    """One end. `handlers` answer the calls of the other; coroutine functions may take their time."""

    def __init__(self, handlers: Handlers, on_close: Callable[[], None] = lambda: None) -> None:
        self._handlers = handlers
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._n_calls = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        self.is_closed = False

    @classmethod
    async def open(
        cls, end: socket.socket, handlers: Handlers, on_close: Callable[[], None] = lambda: None
    ) -> Self:
        """A channel on one end of a pair of sockets."""
        end.setblocking(False)
        channel = cls(handlers, on_close)
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=end)
        return channel

    async def call(self, name: str, *arguments: Any) -> Any:
        """Call a handler of the other process; a cancelled call is cancelled there too.

        Raises:
            RemoteError: the handler raised.
            ChannelClosedError: the other process has ended, before or meanwhile.
        """
        if self.is_closed:
            raise ChannelClosedError("the other process has ended")
        self._n_calls += 1
        number = self._n_calls
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        self._write([CALL, number, name, arguments])
        try:
            return await answer
        except asyncio.CancelledError:
            self._write([CANCEL, number, None, None])
            raise
        finally:
            self._waiting.pop(number, None)

    def post(self, name: str, *arguments: Any) -> None:
        """Call a handler of the other process and do not wait; nothing happens where it has ended."""
        self._write([POST, 0, name, arguments])

    def close(self) -> None:
        """End the connection; the other process sees it."""
        if self._transport is not None:
            self._transport.close()

    def _write(self, frame: list[Any]) -> None:
        if self._transport is not None and not self.is_closed:
            data = msgspec.msgpack.encode(frame)
            self._transport.write(LENGTH.pack(len(data)) + data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while len(received) - start >= LENGTH.size:
            (size,) = LENGTH.unpack_from(received, start)
            end = start + LENGTH.size + size
            if len(received) < end:
                break
            frame = msgspec.msgpack.decode(memoryview(received)[start + LENGTH.size : end])
            start = end
            self._take(*frame)
        del received[:start]

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ChannelClosedError("the other process has ended"))
        for task in self._answering.values():
            task.cancel()
        self._on_close()

    def _take(self, kind: int, number: int, what: Any, more: Any) -> None:
        if kind in (CALL, POST):
            self._handle(number, what, more)
        elif kind == CANCEL:
            if task := self._answering.get(number):
                task.cancel()
        elif (answer := self._waiting.get(number)) and not answer.done():
            if kind == ANSWER:
                answer.set_result(what)
            else:
                answer.set_exception(RemoteError(what, more[0], more[1]))

    def _handle(self, number: int, name: str, arguments: list[Any]) -> None:
        try:
            result = self._handlers[name](*arguments)
        except Exception as error:  # of any kind: the caller waits for an answer
            self._write_error(number, name, error)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(self._answer(number, name, result))
            key = number or -id(task)
            self._answering[key] = task
            task.add_done_callback(lambda _: self._answering.pop(key, None))
        elif number:
            self._write([ANSWER, number, result, None])

    async def _answer(self, number: int, name: str, result: Any) -> None:
        try:
            value = await result
        except Exception as error:  # as in `_handle`
            self._write_error(number, name, error)
        else:
            if number:
                self._write([ANSWER, number, value, None])

    def _write_error(self, number: int, name: str, error: Exception) -> None:
        if not number:
            log.error("%s failed: %s: %s", name, type(error).__name__, error)
            return
        plain = {
            key: value
            for key, value in vars(error).items()
            if value is None or isinstance(value, (str, int, float, bool))
        }
        self._write([ERROR, number, type(error).__name__, [str(error), plain]])
