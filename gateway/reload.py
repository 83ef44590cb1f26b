"""Swaps one ASGI application for another under way: new requests go to the new one, the old one drains."""

import asyncio
import contextlib
import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("thalamus")

DRAIN_S = 600.0


class StartupError(Exception):
    """The application's lifespan did not start."""


class Generation:
    """One application: its lifespan, and how many requests it serves."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._n_serving = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it."""
        self._n_serving += 1
        self._idle.clear()
        try:
            await self.app(scope, receive, send)
        finally:
            self._n_serving -= 1
            if not self._n_serving:
                self._idle.set()

    async def start(self, state: dict[str, Any]) -> None:
        """Run the lifespan up to its middle.

        Raises:
            StartupError: it failed; the message is the application's.
        """
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
        self._task = asyncio.create_task(self._live(scope))
        await self._orders.put({"type": "lifespan.startup"})
        answer = await self._answers.get()
        if answer["type"] != "lifespan.startup.complete":
            raise StartupError(answer.get("message") or "it did not start")

    async def stop(self, drain_s: float = 0.0) -> None:
        """End the lifespan, once nobody is served any more or `drain_s` have passed."""
        if drain_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._idle.wait()
        await self._orders.put({"type": "lifespan.shutdown"})
        answer = await self._answers.get()
        if answer["type"] != "lifespan.shutdown.complete":
            log.error("shutdown: %s", answer.get("message"))

    def hurry(self) -> None:
        """Drain no longer."""
        self._idle.set()

    async def _live(self, scope: Scope) -> None:
        try:
            await self.app(scope, self._orders.get, self._answers.put)
        except Exception as error:  # told to whoever waits for an answer
            await self._answers.put(
                {"type": "lifespan.failed", "message": f"{type(error).__name__}: {error}"}
            )


class Reloadable:
    """ASGI application that passes everything on to the current one."""

    def __init__(self, app: ASGIApp) -> None:
        self._first = app
        self._current: Generation | None = None
        self._leaving: dict[Generation, asyncio.Task[None]] = {}
        self._state: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif self._current is not None:
            await self._current.serve(scope, receive, send)

    async def swap(self, app: ASGIApp) -> None:
        """Start another application and send new requests there; the old one ends when it has drained.

        Raises:
            StartupError: the new one does not start; the old one serves on.
        """
        fresh = Generation(app)
        await fresh.start(self._state)
        old, self._current = self._current, fresh
        if old is not None:
            self._leaving[old] = leaving = asyncio.create_task(old.stop(DRAIN_S))
            leaving.add_done_callback(lambda _: self._leaving.pop(old, None))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._state = scope.get("state", {})
        await receive()
        current = Generation(self._first)
        try:
            await current.start(self._state)
        except StartupError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._current = current
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for generation in self._leaving:
            generation.hurry()
        await asyncio.gather(*self._leaving.values(), self._current.stop())
        await send({"type": "lifespan.shutdown.complete"})
