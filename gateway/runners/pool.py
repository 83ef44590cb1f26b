"""All local experts: who shares a process with whom, who may ask, and who holds memory when.

One task decides (`policies.decide_residency`, a pure function of a snapshot) and has it done; whoever wants
something stands in line and stirs it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import replace

from policies import (
    Effect,
    Evict,
    Hold,
    Load,
    Refuse,
    Snapshot,
    decide_residency,
)

from .books import Books
from .desk import UP, Desk
from .engines import LaunchBuilder
from .errors import RunnerFailed, RunnerSettingsError, RunnerTooLarge, RunnerUnavailable
from .foresight import Foresight
from .lease import Lease
from .log import LogTail, log_path
from .runner import Runner
from .types import DeviceMemory, Patience, PoolRule, RunnerSettings, RunnerStatus
from .weights import short_name

log = logging.getLogger("thalamus")

TICK_S = 0.25


class Runners(Mapping[str, Runner]):
    """Expert name → its runner; experts with equal settings have the same one.

    A server calls itself by one name only, whatever the request says: the expert's when it serves a single
    expert, else that of the weights its experts share.
    """

    def __init__(
        self,
        wanted: Mapping[str, RunnerSettings],
        patience: Patience | None = None,
        rule: PoolRule | None = None,
        engines: Mapping[str, LaunchBuilder] | None = None,
    ) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._patience = patience or Patience()
        self._rule = rule or PoolRule()
        self._by_expert: dict[str, Desk] = {}
        self._desks: dict[str, Desk] = {}
        self._books = Books(self._rule)
        self._foresight = Foresight()
        self._moves: set[asyncio.Task[None]] = set()
        self._stirred = asyncio.Event()
        self._scheduler: asyncio.Task[None] | None = None
        self.n_evictions = 0
        shared: dict[RunnerSettings, list[str]] = {}
        for expert, settings in wanted.items():
            shared.setdefault(settings, []).append(expert)
        for settings, experts in shared.items():
            alias = experts[0] if len(experts) == 1 else short_name(settings.model)
            runner = Runner(settings, alias, tuple(experts), self._patience, engines, self._log_of(alias))
            runner.on_change.append(self._noticed)
            desk = self._desks[alias] = Desk(runner, time.monotonic())
            self._by_expert.update(dict.fromkeys(experts, desk))

    def _log_of(self, name: str) -> LogTail:
        folder = self._rule.log_folder
        return LogTail(None if folder is None else log_path(folder, name))

    def __getitem__(self, expert: str) -> Runner:
        return self._by_expert[expert].runner

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_expert)

    def __len__(self) -> int:
        return len(self._by_expert)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """Each once, in the order of the configuration."""
        return tuple(desk.runner for desk in self._desks.values())

    def check(self) -> None:
        """Whether all can be started as configured.

        Raises:
            RunnerSettingsError: of the first that cannot; names expert and field.
        """
        for runner in self.runners:
            try:
                runner.plan()
            except RunnerSettingsError as error:
                field = f"experts.{runner.experts[0]}.{error.field}"
                raise RunnerSettingsError(field, error.problem) from None

    async def start(self) -> None:
        """Begin to serve: those that fit are loaded at once, pinned ones first, the others when asked for.

        Raises:
            RunnerSettingsError: one cannot be started as configured; then none is.
        """
        self.check()
        desks = self._desks.values()
        await asyncio.to_thread(self._books.open, desks)
        for desk in self._books.first(desks):
            await desk.runner.start()
            self._move(desk, self._load(desk))
        self._scheduler = asyncio.create_task(self._run(), name="runner pool")

    def too_large(self, expert: str) -> str | None:
        """Why an expert never fits on its device; None where it does, as far as is known.

        Raises:
            RunnerSettingsError: it cannot be started as configured.
        """
        desk = self._by_expert[expert]
        return None if self._books.fits(desk) else self._books.why_not(desk)

    async def stop(self) -> None:
        """End all at once; returns when every process is gone."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.cancel()
            await asyncio.wait({scheduler})
        for desk in self._desks.values():
            desk.refuse(RunnerUnavailable(f"{desk.name} is stopped"))
        await asyncio.gather(*(runner.stop() for runner in self.runners))
        if self._moves:
            await asyncio.wait(self._moves)

    @contextlib.asynccontextmanager
    async def lease(self, expert: str, *, wait_s: float, priority: int = 0) -> AsyncIterator[Lease]:
        """`take`, and given back at the end."""
        with await self.take(expert, wait_s=wait_s, priority=priority) as lease:
            yield lease

    async def take(self, expert: str, *, wait_s: float, priority: int = 0) -> Lease:
        """A turn at the runner of an expert, once it is loaded and has room.

        Whoever took it gives it back. Of those in line a higher `priority` goes first.

        Raises:
            RunnerUnavailable: not within `wait_s`; RunnerBusy: too many wait; RunnerFailed: it cannot be
                loaded; RunnerTooLarge: it never fits.
        """
        desk, now_s = self._by_expert[expert], time.monotonic()
        until_s = now_s + wait_s
        self._foresight.came(desk.name, now_s)
        while True:
            if self._scheduler is None:
                raise RunnerUnavailable(f"{desk.name} is stopped")
            if not desk.waiting and desk.serves():
                desk.runner.pulse.begin()
            else:
                waiter = desk.line_up(now_s, priority, wait_s)
                self._stir()
                try:
                    await desk.turn_of(waiter, until_s - time.monotonic())
                except BaseException:
                    self._stir()
                    raise
            if url := desk.runner.base_url:
                self._learn(desk)
                began_s = time.monotonic()
                return Lease(desk.runner, url, began_s, self._given_back, began_s - now_s)
            desk.runner.pulse.end()  # it died between the turn and now

    def _learn(self, desk: Desk) -> None:
        if self._rule.residency.evict == "lookahead" and self._books.scarce(self._desks.values()):
            self._foresight.began(desk.name, self.look)

    def _given_back(self, lease: Lease) -> None:
        desk = self._desks[lease.runner.name]
        desk.runner.pulse.end()
        desk.used(lease.since_s, time.monotonic())
        desk.serve()
        if any(other.waiting for other in self._desks.values()):
            self._stir()

    async def load(self, expert: str, *, wait_s: float) -> None:
        """Have it loaded, as if somebody asked for it.

        Raises:
            RunnerUnavailable: as `take`.
        """
        (await self.take(expert, wait_s=wait_s)).release()

    async def unload(self, expert: str) -> None:
        """Free its memory now; it is loaded again when asked for.

        Raises:
            RunnerUnavailable: it answers somebody, or is on the way.
        """
        desk = self._by_expert[expert]
        if desk.runner.state == "ready" and desk.move is not None:  # its loading is about to end
            await asyncio.wait([desk.move])
        state = desk.runner.state
        if state in ("busy", "starting", "stopping") or desk.move:
            raise RunnerUnavailable(f"{desk.name} is {state}")
        if state == "ready":
            self._foresight.dismissed.add(desk.name)
            await asyncio.shield(self._move(desk, self._unload(desk), leaving=True))

    async def settled(self) -> None:
        """When nothing is being loaded or unloaded any more.

        Raises:
            RunnerFailed: a runner gave up.
        """
        while self._moves:
            await asyncio.wait(self._moves)
        for runner in self.runners:
            if runner.state == "failed":
                raise RunnerFailed(f"{runner.name}: {runner.status().last_error}")

    def away_s(self, expert: str) -> float:
        """Seconds until this expert is expected to be loaded; 0 when it is, or is no local one."""
        desk = self._by_expert.get(expert)
        return 0.0 if desk is None else desk.away_s(time.monotonic())

    def memory(self) -> tuple[DeviceMemory, ...]:
        """What each device may hold, holds, and has free."""
        return self._books.told(self._desks.values())

    def snapshot(self) -> tuple[RunnerStatus, ...]:
        """How each stands now."""
        return tuple(
            replace(desk.runner.status(), n_waiting=len(desk.waiting)) for desk in self._desks.values()
        )

    async def _run(self) -> None:
        while True:
            self._stirred.clear()
            try:
                pause_s = self._decide()
            except Exception:  # whatever it is, those in line must not wait for ever
                log.exception("the runner pool could not decide")
                pause_s = 1.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stirred.wait()

    def _stir(self) -> None:
        self._stirred.set()

    def _decide(self) -> float | None:
        """One decision, carried out; the seconds until the next one is due, unless somebody stirs."""
        for desk in self._desks.values():
            desk.serve()
        snapshot = self.look()
        effects = decide_residency(snapshot, self._rule.residency, self._foresight.shadow.kept)
        holds = {effect.expert for effect in effects if isinstance(effect, Hold)}
        for desk in self._desks.values():
            desk.held = desk.name in holds
        for effect in effects:
            self._perform(effect)
        for desk in self._desks.values():
            desk.serve()
        if any(desk.waiting for desk in self._desks.values()):
            return TICK_S
        due_s = [resident.expires_s for resident in snapshot.residents if resident.expires_s is not None]
        due_s += [desk.retry_at_s for desk in self._desks.values() if desk.to_be_retried()]
        return max(TICK_S, min(due_s) - snapshot.now_s) if due_s else None

    def look(self) -> Snapshot:
        """All that a decision on memory depends on, now."""
        now_s = time.monotonic()
        desks = self._desks.values()
        return Snapshot(
            now_s=now_s,
            devices=self._books.devices(now_s),
            loadable=tuple(
                desk.loadable() for desk in desks if desk.runner.state != "failed" or now_s >= desk.retry_at_s
            ),
            residents=tuple(resident for desk in desks if (resident := desk.resident())),
            queues=tuple(queue for desk in desks if (queue := desk.queue())),
            next_use_s=self._foresight.next_use_s(now_s),
            rate_per_s=self._foresight.arrivals.rate_per_s(now_s),
        )

    def _perform(self, effect: Effect) -> None:
        desk = self._desks[effect.expert]
        if isinstance(effect, Evict) and (desk.move is None or desk.runner.pausing):
            if effect.wanted_by is None:
                self._foresight.dismissed.add(desk.name)
            else:
                self.n_evictions += 1
            self._move(desk, self._unload(desk), leaving=True)
        elif isinstance(effect, Load) and desk.move is None:
            self._move(desk, self._load(desk))
        elif isinstance(effect, Refuse):
            desk.refuse(RunnerTooLarge(self._books.why_not(desk)))

    def _move(
        self, desk: Desk, how: Coroutine[None, None, None], *, leaving: bool = False
    ) -> asyncio.Task[None]:
        desk.leaving = leaving
        desk.move = move = asyncio.create_task(how)
        self._moves.add(move)

        def moved(task: asyncio.Task[None]) -> None:
            if desk.move is task:
                desk.move, desk.leaving = None, False
            self._moves.discard(task)
            self._stir()

        move.add_done_callback(moved)
        return move

    async def _load(self, desk: Desk) -> None:
        desk.loading_since_s = time.monotonic()
        try:
            await desk.runner.start()
            await desk.runner.wait_ready(None)
        except (RunnerFailed, RunnerSettingsError) as error:
            log.warning("%s", error)
            desk.refuse(RunnerFailed(str(error)))
        except RunnerUnavailable:
            log.info("%s was stopped while it was being loaded", desk.name)

    async def _unload(self, desk: Desk) -> None:
        if not await desk.runner.doze():
            await desk.runner.stop()
        self._books.unloaded(desk.device)

    def _noticed(self, runner: Runner) -> None:
        """A runner changed its state."""
        desk, now_s = self._desks[runner.name], time.monotonic()
        if runner.state in UP:
            desk.ready_s = now_s
        elif runner.state == "starting":
            desk.loading_since_s = now_s
        elif runner.state == "failed":
            desk.retry_at_s = now_s + self._patience.retry_failed_s
            desk.refuse(RunnerFailed(f"{runner.name}: {runner.status().last_error}"))
        self._stir()
        for tell in self.on_change:
            tell()
