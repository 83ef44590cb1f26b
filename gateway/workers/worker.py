"""A worker: it accepts connections, decides, and calls hosted experts; for all else it asks its parent.

Started by `parent.py` with an end of a channel, the socket that all workers accept from, and a table of how
many connections each of them has.
"""

import asyncio
import contextlib
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

from msgspec.structs import replace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..app import WRITERS, Parts, build_accounting, build_handlers, build_services, build_starlette_app
from ..asgi.application import Application
from ..asgi.connections import Acceptor
from ..config import Config
from ..endpoints.monitoring import CarriedCounters, OtherProcesses, list_degraded, read_samples
from ..experts.http_client import Transport
from ..fleet.health import PeerReport
from ..server import (
    GatewayServer,
    Generation,
    Reloadable,
    add_cors,
    choose_loop,
)
from ..services import Services
from ..telemetry.background import start_task
from ..telemetry.logs import SERVED_REQUEST, ServerLog
from .channel import Channel
from .remote import RemoteJournal, RemoteRunners, describe_experts, replace_limits

OWN_PATHS = frozenset({"/", "/health", "/health/live", "/openapi.json", "/v1/route"})
"""What a worker answers itself, beside inference; all else is the parent's to know."""
SHARED_LIMITS = ("max_connections", "max_held_bytes", "max_running", "max_waiting")
REPORT_EVERY_S = 0.5
LOOK_EVERY_S = 0.1
N_CONNECTIONS = struct.Struct("=I")
NOT_ACCEPTING = 2**32 - 1
YIELD_S = 0.002


class ConnectionTable:
    """How many connections each worker has, in memory that all of them share."""

    def __init__(self, fd: int, n_workers: int) -> None:
        self._table = mmap.mmap(fd, N_CONNECTIONS.size * n_workers)
        self._n_workers = n_workers

    def set(self, n: int, value: int) -> None:
        """What worker `n`, from 1, has now."""
        N_CONNECTIONS.pack_into(self._table, N_CONNECTIONS.size * (n - 1), value)

    def find_least(self) -> int:
        """The smallest number of all that accept."""
        values: tuple[int, ...] = struct.unpack(f"={self._n_workers}I", self._table)
        return min(values)


class TurnAcceptor(Acceptor):
    """Accepts from a socket that several processes accept from, so that all get about as many connections."""

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        table: ConnectionTable,
        n: int,
        count_open: Callable[[], int],
    ) -> None:
        self._table = table
        self._n = n
        self._count_open = count_open
        self._has_waited = False
        super().__init__(listener, make_protocol)

    def close(self) -> None:
        """Accept no more; the others do."""
        self._table.set(self._n, NOT_ACCEPTING)
        super().close()

    def _accept(self) -> None:
        # One at a time: a worker that took all that waits would get, and keep, every connection that clients
        # open together.
        n_open = self._count_open() + len(self._opening)
        self._table.set(self._n, n_open)
        if n_open > self._table.find_least() and not self._has_waited:
            self._has_waited = True  # one that has fewer gets the time to take this one
            self._pause(YIELD_S)
            return
        self._has_waited = False
        self._accept_one()


class WorkerServer(GatewayServer):
    """uvicorn on a socket that several processes accept from."""

    def __init__(self, app: Reloadable, config: Config, table: ConnectionTable, n: int) -> None:
        self.listening = asyncio.Event()
        super().__init__(app, config, self.listening.set)
        self._table = table
        self._n = n

    def make_acceptor(self, listener: socket.socket) -> Acceptor:
        """What accepts the connections of a socket, in turn with other workers."""
        return TurnAcceptor(listener, self.make_protocol, self._table, self._n, self._count_open)

    def _count_open(self) -> int:
        return len(self.server_state.connections)

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn, every 0.1 s."""
        if not self.should_exit:
            self._table.set(self._n, self._count_open())
        return await super().on_tick(counter)


class ParentForwarder:
    """ASGI application: what a worker does not answer itself goes to the parent, message by message."""

    def __init__(self, own: ASGIApp, channel: Channel, exchanges: dict[int, tuple[Receive, Send]]) -> None:
        self._own = own
        self._channel = channel
        self._exchanges = exchanges
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OWN_PATHS:
            await self._own(scope, receive, send)
            return
        number = next(self._numbers)
        self._exchanges[number] = receive, send
        # The id is passed on, so that both processes log the same one.
        headers = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
        passed = {name: scope[name] for name in ("method", "path", "query_string", "http_version", "scheme")}
        passed["headers"] = [*headers, (b"x-request-id", SERVED_REQUEST.get().encode())]
        passed["raw_path"] = scope.get("raw_path")
        passed["root_path"] = scope.get("root_path", "")
        try:
            await self._channel.call("request", number, passed)
        finally:
            del self._exchanges[number]


class Worker:
    """One worker process: its application, its server, and what its parent tells it."""

    def __init__(
        self, control: socket.socket, listener: socket.socket, table: ConnectionTable, n: int
    ) -> None:
        self._control = control
        self._listener = listener
        self._table = table
        self._n = n
        self._counters = CarriedCounters()
        self._exchanges: dict[int, tuple[Receive, Send]] = {}
        self._fresh: tuple[Generation, Services, Application, Config] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._is_ending = False

    async def run(self) -> None:
        """Wait for the configuration, serve until `drain`, report, and end."""
        handlers = {
            name: getattr(self, name)
            for name in ("start", "prepare", "commit", "abort", "hear", "drain", "report", "flush")
        }
        handlers |= {"receive": self.pass_receive, "send": self.pass_send}
        self._channel = await Channel.open(self._control, handlers, self._end_with_parent)
        await self._started.wait()
        reporting = start_task("worker's report", self._report_forever)
        if self._serving is not None:
            await self._serving
        reporting.cancel()
        self._is_ending = True
        with contextlib.suppress(ConnectionError):
            await self._channel.call("report", self.report())
        self._log.__exit__()

    def _end_with_parent(self) -> None:
        # The parent owns what an answer needs; Linux kills this process with it anyway.
        if not self._is_ending:
            os._exit(1)

    async def start(self, packed: bytes) -> None:
        """Build the application and accept connections; returns when that works.

        Raises:
            Exception: the application cannot be built; the parent tells why.
        """
        config: Config = pickle.loads(packed)  # noqa: S301  (from the parent, over a private socket)
        application = self._build(config)
        self._log = ServerLog(config)
        self._log.__enter__()
        self._app = Reloadable(add_cors(application, config))
        config = share_limits(config)
        server = WorkerServer(self._app, config, self._table, self._n)
        self._server = server
        self._counters.refused = server.connections.refused
        self._serving = asyncio.create_task(server.serve([self._listener]))
        listening = asyncio.create_task(server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        self._started.set()

    def _build(self, config: Config) -> Application:
        self._services, application = build_worker_application(
            config, self._channel, asyncio.get_running_loop(), self._counters, self._exchanges
        )
        self._application = application
        return application

    async def prepare(self, packed: bytes) -> None:
        """Build and start the application of another configuration, which `commit` puts to use.

        Raises:
            Exception: it cannot be built or does not start.
        """
        await self.abort()
        config: Config = pickle.loads(packed)  # noqa: S301  (as above)
        loop = asyncio.get_running_loop()
        services, application = await asyncio.to_thread(
            build_worker_application, config, self._channel, loop, self._counters, self._exchanges
        )
        generation = await self._app.prepare(add_cors(application, config))
        self._fresh = generation, services, application, config

    def commit(self) -> None:
        """Serve with what was prepared."""
        if self._fresh is not None:
            generation, self._services, self._application, config = self._fresh
            self._fresh = None
            self._app.put(generation)
            self._log.configure(config)
            self._server.connections.configure(share_limits(config).server.limits)

    async def abort(self) -> None:
        """Throw away what was prepared."""
        if self._fresh is not None:
            generation, self._fresh = self._fresh[0], None
            await generation.stop()

    def drain(self) -> None:
        """Accept no more, let requests end within `server.drain_s`, and end."""
        self._server.should_exit = True

    def hear(self, peers: Mapping[str, Any], away_s: dict[str, float]) -> None:
        """Take over what the others know of experts, and when local engines will be loaded."""
        services = self._services
        services.fleet.merge_peers({name: PeerReport(*report) for name, report in peers.items()})
        if isinstance(services.runners, RemoteRunners):
            services.runners.merge_away(away_s)

    def report(self) -> dict[str, Any]:
        """What this worker counts and knows, as plain values."""
        services = self._services
        samples = read_samples(services, self._counters)
        # The states of experts are merged by the parent, which has those of local engines too.
        degraded = [line for line in list_degraded(services) if not line.startswith(("expert ", "batches: "))]
        return {
            "n_in_flight": self._application.n_in_flight,
            "samples": [[name, labels, value] for (name, labels), value in samples.items()],
            "experts": describe_experts(services.config, services.fleet),
            "degraded": degraded,
        }

    async def flush(self) -> None:
        """Send the rows of the journal that wait."""
        if isinstance(self._services.journal, RemoteJournal):
            await self._services.journal.flush()

    async def pass_receive(self, number: int) -> Message:
        """The client's next message, for a request that the parent answers."""
        if (exchange := self._exchanges.get(number)) is None:
            return {"type": "http.disconnect"}
        return dict(await exchange[0]())

    async def pass_send(self, number: int, message: Message) -> None:
        """A message to the client, from the parent."""
        if (exchange := self._exchanges.get(number)) is not None:
            if "headers" in message:
                # The application adds the id of the request itself.
                named = [(name, value) for name, value in message["headers"] if name != b"x-request-id"]
                message["headers"] = named
            await exchange[1](message)

    async def _report_forever(self) -> None:
        failing: list[str] = []
        n_looks = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            n_looks += 1
            before, failing = failing, self._list_failing()
            # The others hear of an expert that fails before they call it as often.
            if failing != before or n_looks * LOOK_EVERY_S >= REPORT_EVERY_S:
                n_looks = 0
                self._channel.post("report", self.report())

    def _list_failing(self) -> list[str]:
        fleet = self._services.fleet
        names = [expert.name for expert in self._services.config.experts]
        return [name for name in names if fleet.export(name, same_host=True).failing]


def share_limits(config: Config) -> Config:
    """The configuration for one of several workers: its part, rounded up, of what clients may take of all."""
    server, limits = config.server, config.server.limits
    parts = {name: -(-getattr(limits, name) // server.workers) for name in SHARED_LIMITS}
    # Each has room for the largest body, as it came and inflated: else no worker could take it.
    room = min(limits.max_held_bytes, 2 * server.max_body_bytes)
    parts["max_held_bytes"] = max(parts["max_held_bytes"], room)
    return replace(config, server=replace(server, limits=replace(limits, **parts)))


def build_worker_application(
    config: Config,
    channel: Channel,
    loop: asyncio.AbstractEventLoop,
    counters: CarriedCounters,
    exchanges: dict[int, tuple[Receive, Send]],
) -> tuple[Services, Application]:
    """The application of a worker, with remote parts for what its parent owns.

    Raises:
        StorageError, RoutersError, ValueError: as `create_app`.
    """
    transport = Transport()
    parts = Parts(
        runners=lambda _: RemoteRunners(channel),
        journal=RemoteJournal.make_builder(channel, loop),
        exchanges=False,
    )
    from ..routing.router import build_router  # as in `gateway.app`

    services = build_services(config, transport, partial(build_router, mapped=True), parts=parts)
    replace_limits(services.experts.values(), channel)
    own = build_starlette_app(services, transport, None, counters)
    own.state.others = OtherProcesses()
    fallback = ParentForwarder(own, channel, exchanges)
    handlers = build_handlers(services, build_accounting(services))
    return services, Application(handlers, fallback, services.authenticator, own.state.paths, WRITERS)


def main() -> None:
    """Run a worker; the arguments are written by `parent.py`."""
    n, n_workers, control, listener, table = map(int, sys.argv[2:7])
    # A signal to all processes of this name means the parent, which tells its workers.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    import gateway.routing.router  # noqa: F401  (half of what a start takes, while the parent starts)

    worker_table = ConnectionTable(table, n_workers)
    with asyncio.Runner(loop_factory=choose_loop()) as runner:
        runner.run(serve_as_worker(control, listener, worker_table, n))


async def serve_as_worker(control: int, listener: int, table: ConnectionTable, n: int) -> None:
    """One worker, from its start to its end."""
    await Worker(socket.socket(fileno=control), socket.socket(fileno=listener), table, n).run()


if __name__ == "__main__":
    main()
