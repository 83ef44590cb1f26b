"""Runs the gateway: listens, greets, drains on SIGTERM, reads its configuration again on SIGHUP."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from msgspec.structs import replace
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from routers import ArtifactError, RoutersError

from .app import Parts, create_app
from .asgi.connections import Acceptor, Connections, raise_file_limit
from .asgi.protocol import bind_protocol
from .config import Config, ConfigError, config_warnings, parse_config, read_config_text
from .endpoints.monitoring import CarriedCounters
from .runners import RunnerSettingsError, ServingPool
from .runners.build import build_runners
from .storage.sqlite import StorageError
from .telemetry.logs import ServerLog

log = logging.getLogger("thalamus")

BACKLOG = 2048
GC_THRESHOLDS = (20_000, 20, 50)
EXPOSED = [
    "x-request-id",
    *(
        f"x-thalamus-{n}"
        for n in ("decision-id", "expert", "policy", "plan", "reason", "cost-usd", "overhead-ms")
    ),
]
MAX_NAMES = 10
"""So many experts are named in the line of a reload."""
RESTART_ONLY = ("host", "port", "workers")


class StartupError(Exception):
    """The application's lifespan did not start."""


class CannotServeError(Exception):
    """The gateway cannot start; the message is one line that says why."""


EXPECTED = (ConfigError, StorageError, StartupError, RoutersError, RunnerSettingsError, ValueError)
"""What a configuration can fail with; each says in its message what is wrong."""


def serve(
    config_path: Path, config: Config, overrides: Mapping[str, Any], banner: Callable[[Config, str], str]
) -> None:
    """Serve until a signal stops the process, and print `banner` once the address accepts connections.

    `overrides` replace the file's `server` settings, also after a reload.

    Raises:
        CannotServeError: the address is taken, or a part cannot be built.
    """
    config = override(config, overrides)
    with ServerLog(config) as server_log:
        _serve(config_path, config, overrides, banner, server_log)


def _serve(
    config_path: Path,
    config: Config,
    overrides: Mapping[str, Any],
    banner: Callable[[Config, str], str],
    server_log: ServerLog,
) -> None:
    listener = listen(config.server.host, config.server.port)
    try:
        build_runners(config).check()  # here a missing package is one line; in the lifespan it is a traceback
        counters = CarriedCounters()
        parts = Parts(runners=partial(build_runners, serving=ServingPool()))
        app = Reloadable(application(config, counters, parts))
    except EXPECTED as error:
        listener.close()
        raise CannotServeError(str(error)) from None
    address = describe_address(listener, config.server.host)

    async def reload(fresh: Config) -> None:
        await app.swap(await asyncio.to_thread(application, fresh, counters, parts))
        server.connections.configure(fresh.server.limits)

    server = GatewayServer(app, config, lambda: greet(config, address, banner))
    counters.refused = server.connections.refused
    reading = Rereading(config_path, config, overrides, reload, server_log)
    with asyncio.Runner(loop_factory=choose_loop()) as runner:
        runner.run(_run(server, listener, reading))
    if not server.started:
        raise CannotServeError("the gateway did not start; the lines above say why")


def greet(config: Config, address: str, banner: Callable[[Config, str], str]) -> None:
    """Say that the address accepts connections."""
    facts = {"address": address, "experts": [expert.name for expert in config.experts]}
    if config.server.log_format == "text":
        print(banner(config, address), flush=True)  # noqa: T201
    else:  # what collects JSON lines could not read a banner
        log.info("listens on %s", address, extra={"event": "start", "facts": facts})


def application(
    config: Config, counters: CarriedCounters | None = None, parts: Parts | None = None
) -> ASGIApp:
    """The gateway with what its configuration puts around it.

    Raises:
        StorageError, RoutersError, ValueError: as `create_app`.
    """
    return add_cors(create_app(config, counters, parts), config)


def add_cors(app: ASGIApp, config: Config) -> ASGIApp:
    """The application, which also answers the browsers of `server.cors_origins` where there are any."""
    if not config.server.cors_origins:
        return app
    origins = [origin.rstrip("/") for origin in config.server.cors_origins]
    return CORSMiddleware(
        app, origins, allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"], expose_headers=EXPOSED
    )


async def _run(server: "GatewayServer", listener: socket.socket, reading: "Rereading") -> None:
    loop = asyncio.get_running_loop()
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, reading.start)
    await server.serve(sockets=[listener])


class GatewayServer(uvicorn.Server):
    """uvicorn, which greets once it listens."""

    def __init__(self, app: "Reloadable", config: Config, greet: Callable[[], None]) -> None:
        raise_file_limit()
        self.connections = Connections(config.server.limits)
        super().__init__(build_settings(app, config, self.connections))
        self._greet = greet

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain on SIGTERM and SIGINT, and end well: uvicorn would raise the signal again afterwards."""
        loop = asyncio.get_running_loop()
        stops = (signal.SIGTERM, signal.SIGINT)
        for stop in stops:
            loop.add_signal_handler(stop, self.handle_exit, stop, None)
        try:
            yield
        finally:
            for stop in stops:
                loop.remove_signal_handler(stop)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # uvicorn would accept by `create_server`: see `Acceptor`
        if self.started:
            listeners = sockets or ()
            self.servers = cast("Any", [self.make_acceptor(listener) for listener in listeners])
            settle()
            self._greet()

    def make_acceptor(self, listener: socket.socket) -> Acceptor:
        """What accepts the connections of a socket."""
        return Acceptor(listener, self.make_protocol)

    def make_protocol(self) -> asyncio.Protocol:
        """A new connection."""
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )


def settle() -> None:
    """What is there by now stays: the garbage collector need not look at it so often (−10 % CPU).

    What stayed before and is in use no more is freed.
    """
    # A full collection looks at every object of a loaded artifact: a stream would feel it as a gap.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    trim_memory()


def trim_memory() -> None:
    """Give memory that is free back to the system; only glibc has to be told."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Rereading:
    """Reads the configuration again, one time after another, and has `reload` put it to use."""

    def __init__(
        self,
        path: Path,
        config: Config,
        overrides: Mapping[str, Any],
        reload: Callable[[Config], Awaitable[None]],
        server_log: ServerLog,
    ) -> None:
        self._path = path
        self._config = config
        self._overrides = overrides
        self._reload = reload
        self._log = server_log
        self._task: asyncio.Task[None] | None = None
        self._text = read_config_text(path)
        self._artifact = _find_artifact(config)

    def start(self) -> None:
        """Begin, unless one is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reread())

    async def _reread(self) -> None:
        try:
            text, fresh = await asyncio.to_thread(self._read)
            for warning in config_warnings(fresh):
                log.warning("%s", warning)
            for name in RESTART_ONLY:
                if getattr(fresh.server, name) != getattr(self._config.server, name):
                    log.warning("server.%s changed: that takes a restart", name)
            kept = {name: getattr(self._config.server, name) for name in RESTART_ONLY}
            fresh = replace(fresh, server=replace(fresh.server, **kept))
            await self._reload(fresh)
            self._log.configure(fresh)
        except Exception as error:  # a bad new configuration must never stop the old one
            *others, last = str(error).splitlines() or [type(error).__name__]
            for line in others:
                log.error("%s", line)
            log.error("configuration not reloaded, the old one stays: %s", last)
            if not isinstance(error, (*EXPECTED, CannotServeError)):
                log.exception("reload failed")
            return
        artifact = await asyncio.to_thread(_find_artifact, fresh)
        changes = "; ".join([*describe_changes(self._config, fresh), _compare(self._artifact, artifact)])
        self._config, self._text, self._artifact = fresh, text, artifact
        log.info("configuration reloaded from %s: %d experts; %s", self._path, len(fresh.experts), changes)

    def _read(self) -> tuple[str, Config]:
        """The file now, and what it says.

        Raises:
            ConfigError, CannotServeError: it has an error, or seems cut off.
        """
        text = read_config_text(self._path)
        fresh = override(parse_config(text, source=str(self._path)), self._overrides)
        if lack := self._find_lack(text, fresh):
            raise CannotServeError(f"{self._path}: {lack}")
        return text, fresh

    def _find_lack(self, text: str, fresh: Config) -> str | None:
        """What the file has lost that it cannot have lost on purpose; None where it has lost nothing.

        A file that is being written, or was cut off by a full disk, may be good YAML without its second half.
        """
        served = self._config
        if served.experts and not fresh.experts:
            return "it has no experts any more; write it anew, or stop the gateway"
        if self._text.startswith(text.rstrip()) and text.rstrip() != self._text.rstrip():
            return (
                "it is the beginning of the file that is served, so it seems cut off; "
                "if the rest was taken out on purpose, add a last line such as `# end`"
            )
        if self._text.endswith("\n") and not text.endswith("\n"):
            return "its last line does not end, so it seems cut off; end it with a line break"
        if served.server.master_key is not None and fresh.server.master_key is None:
            return "server.master_key is gone; put it back, or take it out by a restart"
        path = fresh.routing.artifact
        if self._artifact is not None and self._artifact.path == path and _find_artifact(fresh) is None:
            return f"{path} is gone; `thalamus fit` makes a new one, or restart to serve without one"
        return None


@dataclass(frozen=True, slots=True)
class ServedArtifact:
    """Which artifact serves: where it was read, when it was fitted, and the digest of its content."""

    path: str
    created: str
    digest: str


def _find_artifact(config: Config) -> ServedArtifact | None:
    """The artifact of a configuration; None where it has none yet."""
    path = config.routing.artifact
    if not Path(path).exists():
        return None
    from routers.artifacts import read_origin  # as in `gateway.app`

    try:
        return ServedArtifact(path, *read_origin(path))
    except ArtifactError:  # who serves it refuses it, and says why
        return ServedArtifact(path, "", "")


def _compare(old: ServedArtifact | None, new: ServedArtifact | None) -> str:
    """What is told of the artifact after a reload."""
    if new is None:
        return "no artifact"
    fitted = f", fitted {new.created}" if new.created else ""
    return f"artifact {new.path} " + ("as before" if new == old else f"is new{fitted}")


def describe_changes(old: Config, new: Config) -> list[str]:
    """Which experts a reload has added, removed or changed."""
    before = {expert.name: expert for expert in old.experts}
    after = {expert.name: expert for expert in new.experts}
    sets = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name] != before[name]],
    }
    return [f"{what}: {_list_briefly(names)}" for what, names in sets.items() if names] or [
        "experts as before"
    ]


def _list_briefly(names: Sequence[str]) -> str:
    n_more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {n_more} more" if n_more > 0 else "")


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    return replace(config, server=replace(config.server, **overrides))


def build_settings(app: "Reloadable", config: Config, connections: Connections) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bind_protocol(connections),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(config.server.drain_s)),
    )


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = "; another program has the port: --port gives another" if error.errno == 98 else ""
        raise CannotServeError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from None
    listener.setblocking(False)
    return listener


def describe_address(listener: socket.socket, host: str) -> str:
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def choose_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


DRAIN_S = 600.0
SETTLE_AFTER_S = 0.1


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
        self._failure: Exception | None = None

    def hold(self) -> None:
        """Keep it alive until `let_go` is called as often: something of it is in use."""
        self._n_serving += 1
        self._idle.clear()

    def let_go(self) -> None:
        """End a `hold`."""
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
        if answer["type"] == "lifespan.startup.complete":
            return
        # Starlette gives the text of a traceback first, and raises the exception itself then.
        await self._task
        if isinstance(self._failure, EXPECTED):
            raise StartupError(str(self._failure)) from self._failure
        raise StartupError(answer.get("message") or "it did not start")

    async def stop(self, drain_s: float = 0.0) -> None:
        """End the lifespan, once no request is in progress or `drain_s` have passed."""
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
        except Exception as error:  # the lifespan protocol reports failures as messages
            self._failure = error
            await self._answers.put(
                {"type": "lifespan.failed", "message": f"{type(error).__name__}: {error}"}
            )


class Reloadable:
    """ASGI application that passes everything on to the current one. One that has ended is freed."""

    def __init__(self, app: ASGIApp) -> None:
        self._first: ASGIApp | None = app
        self._current: Generation | None = None
        self._leaving: dict[Generation, asyncio.Task[None]] = {}
        self._state: dict[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif (current := self._current) is not None:
            current.hold()
            try:
                await current.app(scope, receive, send)
            finally:
                current.let_go()

    @property
    def current(self) -> Generation:
        """The application that serves.

        Raises:
            RuntimeError: none has started.
        """
        if self._current is None:
            raise RuntimeError("no application has started")
        return self._current

    async def swap(self, app: ASGIApp) -> None:
        """Start another application and send new requests there; the old one ends when it has drained.

        Raises:
            StartupError: the new one does not start; the old one serves on.
        """
        self.put(await self.prepare(app))

    async def prepare(self, app: ASGIApp) -> "Generation":
        """Start another application beside the current one; `put` sends new requests there.

        Raises:
            StartupError: it does not start.
        """
        fresh = Generation(app)
        await fresh.start(self._state)
        return fresh

    def put(self, fresh: "Generation") -> None:
        """Send new requests to an application that has started; the former one ends when it has drained."""
        old, self._current = self._current, fresh
        if old is not None:
            self._leaving[old] = leaving = asyncio.create_task(old.stop(DRAIN_S))
            leaving.add_done_callback(partial(self._forget, old))

    def _forget(self, old: "Generation", _: asyncio.Task[None]) -> None:
        """Free an application that has ended."""
        self._leaving.pop(old, None)
        # A while later, when its tasks have ended too: until then they refer to it.
        asyncio.get_running_loop().call_later(SETTLE_AFTER_S, settle)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._state = scope.get("state", {})
        await receive()
        try:
            # No variable here holds it: this function runs as long as the process does.
            self._current = await self._start_first()
        except StartupError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for generation in self._leaving:
            generation.hurry()
        await asyncio.gather(*self._leaving.values(), self._current.stop())
        await send({"type": "lifespan.shutdown.complete"})

    async def _start_first(self) -> "Generation":
        """Start the application that was given first.

        Raises:
            RuntimeError: it was started before. StartupError: as `prepare`.
        """
        first, self._first = self._first, None
        if first is None:
            raise RuntimeError("the application was started before")
        return await self.prepare(first)
