"""Keeps one local server alive: starts it, watches it, starts it again, ends it."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable

from .engines import LaunchBuilder, launch_for
from .errors import RunnerError, RunnerFailed, RunnerUnavailable
from .health import until_hung
from .process import LogTail, ServerProcess
from .types import Patience, RunnerSettings, RunnerState, RunnerStatus


class Runner:
    """One server process and its supervisor.

    Requests go to `base_url` with `headers`; both hold for the running process only as long as `state` is
    "ready", and a restart changes the port. `alias` is what the server calls itself in `model`.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        alias: str,
        experts: tuple[str, ...] = (),
        patience: Patience | None = None,
        engines: dict[str, LaunchBuilder] | None = None,
    ) -> None:
        self.settings = settings
        self.alias = alias
        self.experts = experts
        self.on_change: list[Callable[[Runner], None]] = []
        self._patience = patience or Patience()
        self._engines = engines
        self._api_key = secrets.token_urlsafe(24)
        self._log = LogTail()
        self._state: RunnerState = "stopped"
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._child: ServerProcess | None = None
        self._address: str | None = None
        self._api_path = ""
        self._n_starts = 0
        self._load_s: float | None = None
        self._ready_at_s = 0.0
        self._last_error: str | None = None

    @property
    def state(self) -> RunnerState:
        return self._state

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def base_url(self) -> str | None:
        """Such as `http://127.0.0.1:40123/v1`; None while not ready."""
        return f"{self._address}{self._api_path}" if self._address else None

    @property
    def headers(self) -> dict[str, str]:
        """What every request must carry: nobody else on this machine may use the server."""
        return {"authorization": f"Bearer {self._api_key}"}

    @property
    def log_tail(self) -> list[str]:
        """The last lines the process wrote."""
        return self._log.lines()

    def check(self) -> None:
        """Whether it can be started as configured.

        Raises:
            RunnerSettingsError: one line that names the field.
        """
        launch_for(self.settings, self.alias, self._api_key, self._engines)

    async def start(self) -> None:
        """Begin to supervise; returns before the server is ready. Does nothing when it is already under way.

        Raises:
            RunnerSettingsError: it cannot be started as configured.
        """
        self.check()
        if self._supervisor is None or self._supervisor.done():
            self._n_starts = 0
            self._set("starting")
            self._supervisor = asyncio.create_task(self._supervise(), name=f"runner {self.alias}")

    async def wait_ready(self, timeout_s: float, other_than: str | None = None) -> str:
        """The base URL, as soon as the server is ready: at once, or when a start under way is through.

        `other_than` is a base URL that just refused or broke a connection: a death reaches the clients of a
        server a moment before its supervisor, and its URL is not given to them again.

        Raises:
            RunnerUnavailable: not within `timeout_s`, or it is stopped; RunnerFailed if it gave up.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._state == "starting" or (self.base_url and self.base_url == other_than):
                    await self._changed.wait()
        if (url := self.base_url) and url != other_than:
            return url
        if self._state == "failed":
            raise RunnerFailed(f"{self.alias}: {self._last_error}")
        if self._state in ("stopped", "stopping"):
            raise RunnerUnavailable(f"{self.alias} is {self._state}")
        raise RunnerUnavailable(f"{self.alias} did not get ready within {timeout_s:g} s")

    async def stop(self) -> None:
        """End the process for certain; returns when it is gone. A stopped runner can be started again."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        self._set("stopping")
        supervisor.cancel()
        await asyncio.wait({supervisor})
        self._set("stopped")

    def status(self) -> RunnerStatus:
        """How it stands now."""
        return RunnerStatus(
            engine=self.settings.engine,
            model=self.settings.model,
            alias=self.alias,
            experts=self.experts,
            state=self._state,
            pid=self.pid,
            base_url=self.base_url,
            n_restarts=max(0, self._n_starts - 1),
            load_s=self._load_s,
            up_s=time.monotonic() - self._ready_at_s if self._address else None,
            last_error=self._last_error,
        )

    async def _supervise(self) -> None:
        n_failures = n_failed_starts = 0
        while True:
            served_s = await self._run_once()
            n_failed_starts = n_failed_starts + 1 if served_s is None else 0
            n_failures = 1 if (served_s or 0.0) >= self._patience.stable_s else n_failures + 1
            if n_failed_starts >= self._patience.n_failed_starts:
                self._last_error = f"gave up after {n_failed_starts} failed starts; {self._last_error}"
                self._set("failed")
                return
            self._set("starting")
            await asyncio.sleep(self._patience.pause_s(n_failures))

    async def _run_once(self) -> float | None:
        """One life of the process; the seconds it served, None if it never got ready."""
        began_s, grace_s = time.monotonic(), 0.0
        served_s: float | None = None
        self._n_starts += 1
        try:
            launch = launch_for(self.settings, self.alias, self._api_key, self._engines)
            self._child = await ServerProcess.spawn(launch, self._log)
            self._address = await self._child.ready(launch.message, self._patience.load_timeout_s)
            self._api_path, self._ready_at_s = launch.api_path, time.monotonic()
            self._load_s = self._ready_at_s - began_s
            self._set("ready")
            self._last_error = await self._until_lost(self._child, self._address, launch.health_path)
            served_s = time.monotonic() - self._ready_at_s
        except RunnerError as error:
            self._last_error = self._with_last_words(str(error))
        except asyncio.CancelledError:
            grace_s = self._patience.grace_s
            raise
        finally:
            await self._bury(grace_s)
        return served_s

    async def _until_lost(self, child: ServerProcess, address: str, health_path: str) -> str:
        """Until the process has ended or hangs; which of the two, in words."""
        patience = self._patience
        ended = asyncio.create_task(child.wait())
        hung = asyncio.create_task(until_hung(address, health_path, patience))
        try:
            await asyncio.wait({ended, hung}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return self._with_last_words(ended.result())
            return f"gave no answer to {patience.n_missed_probes} probes in a row"
        finally:
            ended.cancel()
            hung.cancel()
            await asyncio.wait({ended, hung})

    async def _bury(self, grace_s: float) -> None:
        """Nobody is sent to a process that is being ended, and it is gone when this returns."""
        child, self._child, self._address = self._child, None, None
        if self._state == "ready":
            self._set("starting")
        if child is None:
            return
        ending = asyncio.create_task(child.end(grace_s))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:  # stopped while burying: finish that first
            await ending
            raise

    def _with_last_words(self, what: str) -> str:
        lines = self._log.lines()
        return f"{what}; last line: {lines[-1]}" if lines else what

    def _set(self, state: RunnerState) -> None:
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()
        for tell in self.on_change:
            tell(self)
