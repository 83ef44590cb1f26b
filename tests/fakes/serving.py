"""The real gateway on a free port, around experts that a fake upstream plays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import uvicorn
from starlette.types import ASGIApp

from gateway.app import build_application, build_services
from gateway.asgi.connections import Connections
from gateway.asgi.protocol import bind_protocol
from gateway.config import Config, LimitsConfig
from gateway.endpoints.monitoring import CarriedCounters
from gateway.experts.http_client import Transport
from gateway.fleet.circuit_breaker import CircuitBreaker
from gateway.services import Services
from tests.fakes.routing import InOrder

KEY = "sk-test-7d1c0f5be2a94c6688aa"


class QuietServer(uvicorn.Server):
    """uvicorn without its hands on the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class LiveApp:
    """A running gateway: `base` ends in /v1."""

    base: str
    services: Services
    http: aiohttp.ClientSession
    connections: Connections = field(default_factory=lambda: Connections(LimitsConfig()))

    async def post(self, path: str, body: Any, **headers: str) -> "HttpAnswer":
        """Post a JSON value, or bytes as they are, and read the whole answer."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(f"{self.base}/{path}", data=data, headers=names) as response:
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return HttpAnswer(response.status, lowered, await content(response))

    async def chat(
        self, model: str, *, stream: bool = False, headers: dict[str, str] | None = None, **more: Any
    ) -> "HttpAnswer":
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}
        if stream:
            body["stream"] = True
        return await self.post("chat/completions", body, **(headers or {}))

    def close_circuits(self) -> None:
        """Forget what failed, for a test that shares its gateway with others."""
        for name in self.services.experts:
            self.services.fleet._health[name].breaker = CircuitBreaker()

    async def read_record(self, answer: "HttpAnswer") -> dict[str, Any]:
        """What the journal says of an answer."""
        entry = await self.services.journal.get(answer.headers["x-thalamus-decision-id"])
        assert entry is not None
        return entry


@dataclass
class HttpAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json()["error"]
        return error

    @property
    def events(self) -> list[bytes]:
        return [line[6:] for line in self.body.splitlines() if line.startswith(b"data: ")]

    @property
    def expert(self) -> str | None:
        return self.headers.get("x-thalamus-expert")


async def content(response: aiohttp.ClientResponse) -> bytes:
    parts = []
    with contextlib.suppress(aiohttp.ClientPayloadError):
        async for part in response.content.iter_any():
            parts.append(part)
    return b"".join(parts)


@contextlib.asynccontextmanager
async def live(app: ASGIApp, connections: Connections | None = None) -> AsyncIterator[str]:
    """An ASGI application on a free port: gives its address."""
    protocol = bind_protocol(connections or Connections(LimitsConfig()))
    config = uvicorn.Config(app, port=0, http=protocol, lifespan="on", log_level="error")
    server = QuietServer(config)
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def gateway(
    config: dict[str, Any], journal: str, *pool: str, decides: bool = False
) -> AsyncIterator[LiveApp]:
    """The whole gateway from a configuration as a file would give it.

    `auto` asks `pool`, in order; where the gateway `decides`, its own router does.
    """
    whole = {**config, "journal": {"path": journal, **config.get("journal", {})}}
    settings = msgspec.convert(whole, Config, dec_hook=secret)
    transport = Transport()
    build_router = None if decides else lambda *_: InOrder(*pool)
    services = build_services(settings, transport, build_router=build_router)
    connections = Connections(settings.server.limits)
    counters = CarriedCounters()
    counters.refused = connections.refused
    async with (
        live(build_application(services, transport, counters), connections) as address,
        aiohttp.ClientSession() as http,
    ):
        yield LiveApp(f"{address}/v1", services, http, connections)


def secret(kind: type, value: Any) -> Any:
    return value if isinstance(value, kind) else kind(value)
