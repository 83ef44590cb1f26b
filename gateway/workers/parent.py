"""The parent of the workers: starts them, again where they end, reloads, drains, answers what they pass."""

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..app import Parts, build_application, build_services, close_at_end
from ..config import Config, JournalConfig
from ..endpoints.monitoring import CarriedCounters
from ..experts.http_client import Transport
from ..runners import ServingPool
from ..runners.build import build_runners
from ..server import (
    EXPECTED,
    CannotServeError,
    Generation,
    Reloadable,
    Rereading,
    choose_loop,
    describe_address,
    greet,
    listen,
    override,
    settle,
)
from ..services import Services
from ..storage.journal import Journal
from ..telemetry.background import start_task
from ..telemetry.logs import ACCESS, AUDIT, ServerLog
from .channel import Channel, ChannelClosedError, RemoteError
from .shared import SharedFleet, SharedJournal, WorkerLink, WorkerLinks
from .worker import N_CONNECTIONS, NOT_ACCEPTING, ConnectionTable

log = logging.getLogger("thalamus")

START_WITHIN_S = 120.0
TELL_EVERY_S = 0.5
LOOK_EVERY_S = 1.0
HUNG_AFTER_LOOKS = 30
"""So many seconds without a report, and a worker is replaced: its event loop stands still."""
STABLE_S = 10.0
N_DEATHS_OF_LOOP = 3
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 30.0
KILL_AFTER_S = 5.0
"""Seconds beyond `server.drain_s` until a worker that has not ended is killed."""
# The death signal is set before the libraries are loaded, which takes a second. In a process group of its own
# Ctrl-C in a terminal does not reach it: the parent drains. Not a session of its own: Linux shares a core
# between sessions, not processes (sched(7), autogroup), and a busy machine would give a worker its turn late.
BOOT = (
    "import ctypes, os, sys; sys.path[:] = sys.argv.pop().split(os.pathsep); "
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or os._exit(1); os.setpgid(0, 0); "
    "from gateway.workers.worker import main; main()"
)


def serve_with_workers(
    config_path: Path, config: Config, overrides: Mapping[str, Any], banner: Callable[[Config, str], str]
) -> None:
    """Serve with several processes until a signal stops this one; else as `gateway.server.serve`.

    Raises:
        CannotServeError: the address is taken, or a part cannot be built.
    """
    config = override(config, overrides)
    with ServerLog(config) as server_log:
        # A worker logs each request, also those that are answered here.
        ACCESS.disabled = AUDIT.disabled = True
        listener = listen(config.server.host, config.server.port)
        try:
            with asyncio.Runner(loop_factory=choose_loop()) as runner:
                parent = Parent(config, listener)
                reading = Rereading(config_path, config, overrides, parent.reload, server_log)
                runner.run(parent.run(reading, banner))
        except EXPECTED as error:
            raise CannotServeError(str(error)) from None
        finally:
            ACCESS.disabled = AUDIT.disabled = False
            listener.close()


class WorkerProcess:
    """One place among the workers: a process, and its successors."""

    def __init__(self, parent: "Parent", n: int) -> None:
        self.n = n
        self.process: Process | None = None
        self.link: WorkerLink | None = None
        self.n_deaths = 0
        self._parent = parent
        self._was_told = False

    async def spawn(self) -> None:
        """Start a process; it waits for `start`."""
        parent = self._parent
        ours, theirs = socket.socketpair()
        arguments = (os.getpid(), self.n, parent.n_workers, theirs.fileno(), *parent.shared_fds)
        words = ["-c", BOOT, *map(str, arguments), os.pathsep.join(sys.path)]
        parent.table.set(self.n, NOT_ACCEPTING)
        self.link = link = WorkerLink(parent.workers, self.n)
        parent.workers.links[self.n] = link
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *parent.shared_fds),
            )
        finally:
            theirs.close()
        link.channel = await Channel.open(ours, link.handlers, link.close)

    async def start(self) -> None:
        """Have the process serve with the configuration of now.

        Raises:
            CannotServeError: it does not; says why.
        """
        parent, link = self._parent, self.link
        if link is None or link.channel is None:
            return
        try:
            async with asyncio.timeout(START_WITHIN_S):
                packed = parent.packed
                await link.channel.call("start", packed)
                while packed is not parent.packed:  # it was reloaded meanwhile
                    packed = parent.packed
                    await link.channel.call("prepare", packed)
                    await link.channel.call("commit")
        except RemoteError as error:
            raise CannotServeError(f"worker {self.n} cannot start: {error}") from None
        except ChannelClosedError:
            raise CannotServeError(f"worker {self.n} ended while it started; see the log") from None
        except TimeoutError:
            raise CannotServeError(f"worker {self.n} did not start in {START_WITHIN_S:g} s") from None
        link.is_serving = True
        parent.workers.troubles.pop(self.n, None)
        parent.workers.tell_peers()

    async def keep(self) -> None:
        """Wait for the process to end, and start another, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            since_s = loop.time()
            ended = await self._wait_ended()
            if loop.time() - since_s >= STABLE_S:
                self.n_deaths, self._was_told = 0, False
            self.n_deaths += 1
            pause_s = self._choose_pause()
            self._tell(ended, pause_s)
            await asyncio.sleep(pause_s)
            self._parent.workers.n_restarts += 1
            try:
                await self.spawn()
                await self.start()
            except (CannotServeError, OSError) as error:
                log.debug("%s", error)
                self.kill()

    def _choose_pause(self) -> float:
        if self.n_deaths < 2:
            return 0.0
        return float(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.n_deaths - 2, 20)))

    def _tell(self, ended: str, pause_s: float) -> None:
        """One line for a death, and one for a series of them."""
        again = "is started again" if not pause_s else f"is started again in {pause_s:g} s"
        self._parent.workers.troubles[self.n] = f"{ended}; it {again}"
        if self.n_deaths < N_DEATHS_OF_LOOP:
            log.warning("worker %d %s; it %s", self.n, ended, again)
        elif not self._was_told:
            self._was_told = True
            log.error(
                "worker %d %s and keeps ending as it starts: it is tried again after pauses of up to %g s",
                self.n,
                ended,
                MAX_PAUSE_S,
            )

    async def _wait_ended(self) -> str:
        if self.process is None:
            return "could not be started"
        code = await self.process.wait()
        if self.link is not None:
            self.link.is_serving = False
        self._parent.table.set(self.n, NOT_ACCEPTING)
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit status {code}"

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()


class Parent:
    """The process that owns what workers share, and the workers themselves."""

    def __init__(self, config: Config, listener: socket.socket) -> None:
        self.n_workers = config.server.workers
        self.packed = pickle.dumps(config)
        self._config = config
        self._listener = listener
        self._shared_table = _open_shared_memory(N_CONNECTIONS.size * self.n_workers)
        self.table = ConnectionTable(self._shared_table, self.n_workers)
        self.shared_fds = (listener.fileno(), self._shared_table)
        self._counters = CarriedCounters()
        self._serving_pool = ServingPool()
        self._stopping = asyncio.Event()
        self._hurry: Callable[[], None] = lambda: None

    async def run(self, reading: Rereading, banner: Callable[[Config, str], str]) -> None:
        """Serve until SIGTERM or SIGINT, and drain.

        Raises:
            CannotServeError, StorageError, RoutersError, ValueError: it cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        self.workers = WorkerLinks(self.n_workers)
        self._processes = [WorkerProcess(self, n + 1) for n in range(self.n_workers)]
        life: Generation | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            # First of all: they load their libraries while this process builds its own parts.
            await asyncio.gather(*(worker.spawn() for worker in self._processes))
            build_runners(self._config).check()
            self._begin()
            life = Generation(self.workers.app)
            await life.start({})
            await self._start_workers()
            loop.add_signal_handler(signal.SIGHUP, reading.start)
            settle()
            if not self._stopping.is_set():
                greet(self._config, describe_address(self._listener, self._config.server.host), banner)
            tasks = [asyncio.create_task(worker.keep()) for worker in self._processes]
            tasks += [
                start_task("parent's news", self._tell_forever),
                start_task("parent's watch", self._watch_forever),
            ]
            await self._stopping.wait()
        finally:
            for task in tasks:
                task.cancel()
            await self._drain()
            if life is not None:
                await life.stop()

    def _begin(self) -> None:
        """Build the first application. No variable of `run` holds it, so that it is freed after a reload."""
        self.workers.services, app = self._build(self._config)
        self.workers.app = Reloadable(app)

    async def _start_workers(self) -> None:
        results = await asyncio.gather(*(one.start() for one in self._processes), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not self._stopping.is_set():
                raise result

    def _build(self, config: Config) -> tuple[Services, Any]:
        """The application of the parent; it answers what workers pass on, and owns what they share."""
        transport = Transport()

        def open_journal(config: JournalConfig) -> Journal:
            journal = SharedJournal.open(config)
            if isinstance(journal, SharedJournal):
                journal.workers = self.workers
            return journal

        parts = Parts(
            runners=partial(build_runners, serving=self._serving_pool),
            journal=open_journal,
            fleet=partial(_build_fleet, self.workers),
        )
        services = build_services(config, transport, parts=parts)
        return services, build_application(services, transport, self._counters, self.workers)

    async def reload(self, config: Config) -> None:
        """Serve with another configuration, in all processes or in none.

        Raises:
            CannotServeError: a worker cannot; StorageError, RoutersError, ValueError: this process cannot.
        """
        packed = pickle.dumps(config)
        services, app = await asyncio.to_thread(self._build, config)
        links = [link for link in self.workers.links.values() if link.is_serving and link.channel is not None]
        try:
            await self._prepare(links, packed)
        except BaseException:
            async with close_at_end(services):
                pass
            raise
        try:
            fresh = await self.workers.app.prepare(app)
        except BaseException:
            for link in links:
                if link.channel is not None:
                    link.channel.post("abort")
            raise
        self.packed, self._config = packed, config
        self.workers.services = services
        self.workers.app.put(fresh)
        commits = (link.channel.call("commit") for link in links if link.channel is not None)
        await asyncio.gather(*commits, return_exceptions=True)
        self.workers.tell_peers()

    async def _prepare(self, links: list[WorkerLink], packed: bytes) -> None:
        """Have the workers build their applications beside those that serve.

        Raises:
            CannotServeError: one cannot; then all have thrown theirs away.
        """
        calls = (link.channel.call("prepare", packed) for link in links if link.channel is not None)
        results = await asyncio.gather(*calls, return_exceptions=True)
        # One that ended meanwhile is started again with what is decided here.
        errors = [result for result in results if isinstance(result, RemoteError)]
        if errors:
            for link in links:
                if link.channel is not None:
                    link.channel.post("abort")
            raise CannotServeError(str(errors[0]))

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._hurry()
        self._stopping.set()

    async def _drain(self) -> None:
        """End all workers: those that serve get the time to end their requests."""
        processes = [worker.process for worker in self._processes if worker.process is not None]
        for worker in self._processes:
            link = worker.link
            if link is not None and link.is_serving and link.channel is not None:
                link.channel.post("drain")
            else:
                worker.kill()
        self._listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.server.drain_s + KILL_AFTER_S) as patience:
                self._hurry = lambda: patience.reschedule(0.0)
                await asyncio.gather(*(process.wait() for process in processes))
        for worker in self._processes:
            worker.kill()
        await asyncio.gather(*(process.wait() for process in processes))

    async def _tell_forever(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            self.workers.tell_peers()

    async def _watch_forever(self) -> None:
        """Replace workers that say nothing any more."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for worker in self._processes:
                link = worker.link
                if link is None or not link.is_serving:
                    continue
                # Looks are counted, not seconds: where this process stood still, no worker is at fault.
                link.n_silent += 1
                if link.n_silent > HUNG_AFTER_LOOKS:
                    log.error("worker %d has not answered for %d s: it is replaced", worker.n, link.n_silent)
                    worker.kill()


def _build_fleet(workers: WorkerLinks, *arguments: Any, **named: Any) -> SharedFleet:
    fleet = SharedFleet(*arguments, **named)
    fleet.workers = workers
    return fleet


def _open_shared_memory(n_bytes: int) -> int:
    """A file without a name, as a descriptor; it is gone with the last process that has it."""
    with tempfile.TemporaryFile() as file:
        file.truncate(n_bytes)
        return os.dup(file.fileno())
