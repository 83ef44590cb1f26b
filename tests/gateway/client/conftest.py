"""A scripted gateway, and both clients behind one face, so that each fact is stated once for both."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from gateway import AsyncClient, Chunk, Client, ThalamusError
from tests.fakes.scripted_gateway import ScriptedGateway


class Flavour(Protocol):
    """One of the two clients: `ask` calls a method, `stream` gives chunks, error, and how it was routed."""

    client: Any

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any: ...

    def stream(self, *args: Any, **kwargs: Any) -> tuple[list[Chunk], ThalamusError | None, Any]: ...

    def leave_after_one(self, *args: Any, **kwargs: Any) -> Chunk: ...


Connect = Callable[..., Flavour]


class Sync:
    def __init__(self, client: Client) -> None:
        self.client = client

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.client, method)(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> tuple[list[Chunk], ThalamusError | None, Any]:
        chunks = []
        with self.client.chat(*args, stream=True, **kwargs) as stream:
            try:
                for chunk in stream:
                    chunks.append(chunk)
            except ThalamusError as error:
                return chunks, error, stream.routed
        return chunks, None, stream.routed

    def leave_after_one(self, *args: Any, **kwargs: Any) -> Chunk:
        with self.client.chat(*args, stream=True, **kwargs) as stream:
            return next(stream)


class Async:
    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self.client = client
        self.runner = runner

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.runner.run(getattr(self.client, method)(*args, **kwargs))

    def stream(self, *args: Any, **kwargs: Any) -> tuple[list[Chunk], ThalamusError | None, Any]:
        return self.runner.run(self._stream(*args, **kwargs))

    async def _stream(self, *args: Any, **kwargs: Any) -> tuple[list[Chunk], ThalamusError | None, Any]:
        chunks = []
        async with await self.client.chat(*args, stream=True, **kwargs) as stream:
            try:
                async for chunk in stream:
                    chunks.append(chunk)
            except ThalamusError as error:
                return chunks, error, stream.routed
        return chunks, None, stream.routed

    def leave_after_one(self, *args: Any, **kwargs: Any) -> Chunk:
        return self.runner.run(self._leave_after_one(*args, **kwargs))

    async def _leave_after_one(self, *args: Any, **kwargs: Any) -> Chunk:
        async with await self.client.chat(*args, stream=True, **kwargs) as stream:
            return await anext(stream)


@pytest.fixture
def server() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.client.exchange.FIRST_PAUSE_S", 0.001)
    monkeypatch.delenv("THALAMUS_API_KEY", raising=False)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, server: ScriptedGateway) -> Iterator[Connect]:
    """Makes clients of one kind, and then of the other."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def make(base_url: str | None = None, **settings: Any) -> Flavour:
            url = base_url or server.url
            if request.param == "sync":
                return Sync(stack.enter_context(Client(url, **settings)))
            client = AsyncClient(url, **settings)
            stack.callback(lambda: runner.run(client.aclose()))
            return Async(client, runner)

        yield make


@pytest.fixture
def flavour(connect: Connect) -> Flavour:
    return connect(api_key="sk-secret")
