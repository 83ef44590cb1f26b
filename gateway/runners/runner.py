"""Keeps one local server alive: starts it, watches it, starts it again, sends it to sleep, ends it.

    stopped ─start─▶ starting ─▶ ready ⇄ busy          each arrow has its time-out in `Patience`; where one
       ▲                ▲  │       │                    runs out the process is ended and a fresh one started,
       │                │  ▼       ├─sleep▶ stopping ─▶ sleeping ─start─▶ starting
       │                │ failed   │
       └────── stopping ┴──────────┘

The supervisor's task alone moves a runner from state to state; other tasks ask it to.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..config.secrets import hide_secrets
from ..telemetry.background import start_task
from .checks import Pulse, smoke_test, transition, wait_until_hung
from .device_memory import count_held_bytes, count_host_bytes, find_gpu
from .launchers import LaunchBuilder, build_launch
from .process import LogTail, Report, ServerProcess
from .types import (
    Launch,
    ModelChoice,
    Patience,
    Probe,
    RunnerError,
    RunnerFailed,
    RunnerSettings,
    RunnerState,
    RunnerStatus,
    RunnerUnavailable,
)


class Runner:
    """One server process and its supervisor.

    Requests go to `base_url` with `headers`; both hold for the running process only as long as `state` is
    "ready" or "busy", and a restart changes the port. `alias` is what the server calls itself in `model`.
    `pulse` is told of requests and of what is heard of them. `pausing` says that it holds no memory just now,
    between two starts; `waking` that it starts from sleep.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        alias: str,
        experts: tuple[str, ...] = (),
        patience: Patience | None = None,
        engines: Mapping[str, LaunchBuilder] | None = None,
        log: LogTail | None = None,
    ) -> None:
        self.settings = settings
        self.experts = experts
        self.on_change: list[Callable[[Runner], None]] = []
        self.pulse = Pulse()
        self.n_loads = 0
        self.pausing = False
        self.waking = False
        self._alias = alias
        self._patience = patience or Patience()
        self._engines = engines
        # 192 random bits, new with each start of the gateway, kept in memory only.
        self._api_key = secrets.token_urlsafe(24)
        self._log = log or LogTail()
        self._state: RunnerState = "stopped"
        self._changed = asyncio.Event()
        self._sleep_requested = asyncio.Event()
        self._wake_requested = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._child: ServerProcess | None = None
        self._address: str | None = None
        self._launch: Launch | None = None
        self._baseline_answers: list[str | None] = []
        self._n_starts = 0
        self._load_s: float | None = None
        self._ready_at_s = 0.0
        self._memory_bytes: int | None = None
        self._gpu: str | None = None
        self._host_bytes = 0
        self._last_error: str | None = None

    @property
    def name(self) -> str:
        """What it is called among runners."""
        return self._alias

    @property
    def alias(self) -> str:
        """What the server answers to in `model`."""
        return (self._launch.serves if self._launch else None) or self._alias

    @property
    def state(self) -> RunnerState:
        return "busy" if self._state == "ready" and self.pulse.n_in_flight else self._state

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def base_url(self) -> str | None:
        """Such as `http://127.0.0.1:40123/v1`; None while not ready."""
        return f"{self._address}{self._launch.api_path}" if self._address and self._launch else None

    @property
    def headers(self) -> dict[str, str]:
        """What every request must carry: no other user of this machine may use the server."""
        return {"authorization": f"Bearer {self._api_key}"}

    @property
    def log_tail(self) -> list[str]:
        """The last lines the process wrote; they may quote prompts."""
        return [self._hide_key(line) for line in self._log.lines()]

    @property
    def load_s(self) -> float | None:
        """Seconds the last load took, until it could be asked; None before the first."""
        return self._load_s

    @property
    def memory_bytes(self) -> int | None:
        """What the process holds, measured after its last load; None before the first."""
        return self._memory_bytes

    @property
    def gpu(self) -> str | None:
        """The GPU where its last load was found, though no device is configured; None where none was."""
        return self._gpu

    @property
    def host_bytes(self) -> int:
        """What it holds in main memory beside a GPU, awake or asleep."""
        return self._host_bytes if self._child is not None else 0

    def keep_log_at(self, path: Path | None) -> None:
        """Append the output of the process there from now on; nowhere where there is no path."""
        self._log.path = path

    def plan(self) -> Launch:
        """How it would be started now.

        Raises:
            RunnerSettingsError: it cannot be as configured; one line that names the field.
        """
        return build_launch(self.settings, self._alias, self._api_key, self._engines)

    async def start(self) -> None:
        """Begin to get ready, from any state; returns before the server is ready.

        Raises:
            RunnerSettingsError: it cannot be started as configured.
        """
        self.plan()
        if self._state == "sleeping":
            self.waking = True
            self._set("starting")
            self._wake_requested.set()
        elif self._supervisor is None or self._supervisor.done():
            self._n_starts = 0
            self._set("starting")
            self._supervisor = start_task(f"runner {self._alias}", self._supervise)

    async def wait_ready(self, timeout_s: float | None, other_than: str | None = None) -> str:
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
            raise RunnerFailed(f"{self._alias}: {self._last_error}")
        if self._state != "starting":
            raise RunnerUnavailable(f"{self._alias} is {self._state}")
        raise RunnerUnavailable(f"{self._alias} did not get ready within {timeout_s or 0:g} s")

    async def sleep(self) -> bool:
        """Let go of its memory without ending the process; whether it now sleeps.

        False where the engine cannot, or it did not get there: then `stop` unloads it.
        """
        able = self.state == "ready" and self._launch is not None and bool(self._launch.sleep)
        if not able:
            return False
        self._sleep_requested.set()
        self._set("stopping")
        while self.state == "stopping":
            await self._changed.wait()
        return self.state == "sleeping"

    async def stop(self) -> None:
        """End the process for certain; returns when it is gone. A stopped runner can be started again."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        self._set("stopping")
        supervisor.cancel()
        # `wait`, because awaiting the cancelled task itself would raise here.
        await asyncio.wait({supervisor})
        self._set("stopped")

    def status(self) -> RunnerStatus:
        """How it stands now."""
        return RunnerStatus(
            engine=self.settings.engine,
            model=self.settings.model,
            alias=self._alias,
            experts=self.experts,
            state=self.state,
            pid=self.pid,
            base_url=self.base_url,
            n_restarts=max(0, self._n_starts - 1),
            load_s=self._load_s,
            up_s=time.monotonic() - self._ready_at_s if self._address else None,
            last_error=self._last_error,
            device=self._gpu or (self._launch.device if self._launch else self.settings.device or ""),
            memory_bytes=self._memory_bytes,
            n_in_flight=self.pulse.n_in_flight,
            n_loads=self.n_loads,
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
            await self._pause(self._patience.pause_s(n_failures))

    async def _pause(self, pause_s: float) -> None:
        """Starting again, but not yet."""
        self.pausing = pause_s > 0
        self._set("starting")
        try:
            await asyncio.sleep(pause_s)
        finally:
            self.pausing = False

    async def _run_once(self) -> float | None:
        """One life of the process; the seconds it served, None if it never got ready."""
        began_s, grace_s = time.monotonic(), 0.0
        launch: Launch | None = None
        ready_s: float | None = None
        self._n_starts += 1
        try:
            launch = self.plan()
            self._log.begin()
            self._child = await ServerProcess.spawn(launch, self._log)
            report = await self._child.wait_report(launch.message, self._patience.load_timeout_s)
            self._launch = launch
            self._baseline_answers = await self._test_all(launch, report.address)
            await asyncio.to_thread(self._measure, self._child.pid, launch.device, report)
            ready_s = self._serve(report.address, began_s)
            self._last_error = await self._wait_until_lost(self._child, report.address, launch)
        except RunnerError as error:
            # Once it serves, what it writes may quote a prompt, and all clients see this error.
            self._last_error = str(error) if ready_s is not None else self._append_last_line(str(error))
        except asyncio.CancelledError:
            grace_s = self._patience.grace_s
            raise
        finally:
            await self._reap(launch.grace_s if launch and launch.grace_s is not None else grace_s)
        return None if ready_s is None else time.monotonic() - ready_s

    def _serve(self, address: str, began_s: float) -> float:
        """Open for requests, since `began_s` on the way; the time it is now."""
        self._address, self._ready_at_s = address, time.monotonic()
        self._load_s = self._ready_at_s - began_s
        self.n_loads += 1
        self._sleep_requested.clear()
        self._wake_requested.clear()
        self.waking = False
        self._set("ready")
        return self._ready_at_s

    async def _test_all(self, launch: Launch, address: str) -> list[str | None]:
        """Ask the smoke test of the model, and with each of its adapters: one may fail alone."""
        return [await self._smoke_test(launch, address, choice) for choice in self.settings.choices]

    async def _smoke_test(self, launch: Launch, address: str, choice: ModelChoice) -> str | None:
        configured = self.settings.canary
        probe: Probe = "text" if configured == "chat" and launch.completes else configured
        asked = {"model": choice.model or launch.serves or self._alias, **choice.fields}
        timeout_s = self._patience.canary_timeout_s
        try:
            return await smoke_test(address, launch.api_path, asked, self.headers, probe, timeout_s)
        except RunnerError as error:
            if choice.adapter is None:
                raise
            raise RunnerError(f"adapter {choice.adapter}: {error}") from None

    def _measure(self, pid: int, device: str, report: Report) -> None:
        """What was loaded, and where. For a thread: it reads /proc for every process of the family."""
        if device == "cpu" and self.settings.device is None:
            self._gpu = find_gpu(pid)
            device = self._gpu or device
        # Of its processes, not of the device: others load and end meanwhile. An engine that asks another
        # program to hold its model, as with Ollama, tells itself; of a GPU it may know less than the driver.
        counted = count_held_bytes(pid, device) or 0
        held = report.memory_bytes or counted
        self._memory_bytes = (held if device == "cpu" else max(held, counted)) or self._memory_bytes
        self._host_bytes = 0 if device == "cpu" else count_host_bytes(pid)

    async def _wait_until_lost(self, child: ServerProcess, address: str, launch: Launch) -> str:
        """Until the process has ended or hangs, obeying orders to sleep and wake; which of the two, in words.

        Raises:
            RunnerError: it did not get to sleep, or did not wake up sound.
        """
        ended = asyncio.create_task(child.wait())
        hung = asyncio.create_task(
            wait_until_hung(
                address,
                launch.health_path,
                self._patience,
                self.pulse,
                launch.n_slots,
                lambda: self._smoke_test(launch, address, self.settings.choose_model()),
            )
        )
        cycling = asyncio.create_task(self._sleep_cycle(address, launch))
        try:
            await asyncio.wait({ended, hung, cycling}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return f"{ended.result()}; its log may say why"
            return hung.result() if hung.done() else cycling.result()
        finally:
            for task in (ended, hung, cycling):
                task.cancel()
            await asyncio.gather(ended, hung, cycling, return_exceptions=True)

    async def _sleep_cycle(self, address: str, launch: Launch) -> str:
        """To sleep and awake again, as often as asked; ends, in words, with what went wrong."""
        while True:
            await self._sleep_requested.wait()
            self.pulse.beat()  # no question is asked of one that sleeps
            self._address = None
            try:
                await transition(address, launch, self.headers, self._patience.sleep_timeout_s, asleep=True)
                self._host_bytes = await asyncio.to_thread(count_host_bytes, self.pid or 0)
                self._set("sleeping")
                await self._wake_requested.wait()
                began_s = time.monotonic()
                await transition(address, launch, self.headers, self._patience.wake_timeout_s, asleep=False)
                await self._check_after_waking(launch, address)
            except RunnerError as error:
                return str(error)
            self._serve(address, began_s)

    async def _check_after_waking(self, launch: Launch, address: str) -> None:
        """Ask the smoke test again: the answer must equal the one after the load; two tries.

        Raises:
            RunnerError: the answer differs, or makes no sense.
        """
        for _ in range(2):
            answers = await self._test_all(launch, address)
            if answers == self._baseline_answers:
                return
        for choice, answer, expected in zip(
            self.settings.choices, answers, self._baseline_answers, strict=True
        ):
            if answer != expected:
                what = "" if choice.adapter is None else f"adapter {choice.adapter}: "
                raise RunnerError(f"{what}answers {answer!r} after waking, expected {expected!r}")

    async def _reap(self, grace_s: float) -> None:
        """End the process; it gets no new requests and is gone when this returns."""
        child, self._child, self._address = self._child, None, None
        self.waking = False
        if self._state in ("ready", "sleeping"):
            self._set("starting")
        if child is None:
            return
        ending = asyncio.create_task(child.end(grace_s, self._patience.gone_s))
        try:
            await asyncio.shield(ending)
        except RunnerError as error:
            self._last_error = str(error)
        except asyncio.CancelledError:  # stopped while reaping: finish that first
            await asyncio.wait({ending})
            raise

    def _append_last_line(self, what: str) -> str:
        error = self._log.first_error
        line = error or self._log.find_last_words()
        label = "first error" if error else "last line"
        return what if line is None else f"{what}; {label}: {hide_secrets(self._hide_key(line))}"

    def _hide_key(self, line: str) -> str:
        return line.replace(self._api_key, "[key]")

    def _set(self, state: RunnerState) -> None:
        self._state = state
        # A fresh event for each change: those that wait now run once, later ones wait for the next change.
        self._changed.set()
        self._changed = asyncio.Event()
        for tell in self.on_change:
            tell(self)
