"""All local experts: who shares a process with whom, who may ask, and who holds memory when.

One task decides (`policies.decide_residency`, a pure function of a snapshot) and carries it out; requests
wait in line and wake it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from policies import (
    Arrivals,
    Effect,
    Evict,
    Hold,
    Load,
    Refuse,
    Shadow,
    Snapshot,
    decide_residency,
)

from ..telemetry.background import start_task
from .device_memory import DeviceMemory
from .launchers import LaunchBuilder
from .process import LogTail, log_path
from .queue import UP, Lease, RunnerQueue
from .runner import Runner
from .types import (
    DeviceMemoryStatus,
    Patience,
    PoolRule,
    RunnerFailed,
    RunnerSettings,
    RunnerSettingsError,
    RunnerStatus,
    RunnerTooLarge,
    RunnerUnavailable,
)
from .weights import short_name

log = logging.getLogger("thalamus")

# Free memory changes without an event here, when other processes start and end, so decisions that requests
# wait for are made again at this pace.
TICK_S = 0.25


@dataclass(slots=True)
class DemandForecast:
    """Learns from every request; `dismissed` are not expected before they are asked for again."""

    arrivals: Arrivals = field(default_factory=Arrivals)
    shadow: Shadow = field(default_factory=Shadow)
    dismissed: set[str] = field(default_factory=set)

    def note_arrival(self, name: str, now_s: float) -> None:
        """A request for a runner came."""
        self.arrivals = self.arrivals.after(name, now_s)
        self.dismissed.discard(name)

    def note_start(self, name: str, look: Callable[[], Snapshot]) -> None:
        """A request begins to be answered: what would either rule have loaded for it?"""
        self.shadow = self.shadow.after(name, look())

    def next_use_s(self, now_s: float) -> dict[str, float]:
        """Seconds until each is expected to be asked."""
        expected = self.arrivals.next_use_s(now_s)
        return {name: in_s for name, in_s in expected.items() if name not in self.dismissed}


@dataclass(slots=True)
class ServingPool:
    """The pool that serves in this process, None where none does; the one of a reload starts from it."""

    pool: "Runners | None" = None


class Runners(Mapping[str, Runner]):
    """Expert name → its runner; experts with equal settings have the same one.

    A server calls itself by one name only, not by that of the request: the expert's when it serves a single
    expert, else that of the weights its experts share.

    A pool that starts beside the `serving` one takes over the queues whose settings it has too, with their
    processes, and becomes the serving one. Requests that the former still answers find these queues there.
    Where it stops before the former does, as when a reload fails, it gives them back.
    """

    def __init__(
        self,
        wanted: Mapping[str, RunnerSettings],
        patience: Patience | None = None,
        rule: PoolRule | None = None,
        engines: Mapping[str, LaunchBuilder] | None = None,
        serving: ServingPool | None = None,
    ) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._patience = patience or Patience()
        self._rule = rule or PoolRule()
        self._by_expert: dict[str, RunnerQueue] = {}
        self._queues: dict[str, RunnerQueue] = {}
        self._memory = DeviceMemory(self._rule)
        self._forecast = DemandForecast()
        self._moves: set[asyncio.Task[None]] = set()
        self._stirred = asyncio.Event()
        self._scheduler: asyncio.Task[None] | None = None
        self.n_evictions = 0
        self._serving = serving or ServingPool()
        self._former: Runners | None = None
        self._successor: Runners | None = None
        self._wanted = wanted
        shared: dict[RunnerSettings, list[str]] = {}
        for expert, settings in wanted.items():
            shared.setdefault(settings, []).append(expert)
        for settings, experts in shared.items():
            alias = self._choose_name(settings, experts, wanted)
            runner = Runner(settings, alias, tuple(experts), self._patience, engines, self._open_log(alias))
            runner.on_change.append(self._note_change)
            queue = self._queues[alias] = RunnerQueue(runner, time.monotonic())
            self._by_expert.update(dict.fromkeys(experts, queue))

    def _choose_name(self, settings: RunnerSettings, experts: Sequence[str], wanted: Collection[str]) -> str:
        """The name of the weights where several experts share them, unless it means another runner.

        With adapters it is that of the expert of the model itself: theirs mean the model with one of them.
        """
        name, adapters = short_name(settings.model), {one.name for one in settings.adapters}
        is_taken = name in self._queues or (name in wanted and name not in experts)
        if adapters:
            own = [expert for expert in experts if expert not in adapters]
            names = (*own, *([] if is_taken else [name]), f"{experts[0]}.base")
            return next(name for name in names if name not in adapters)
        return experts[0] if len(experts) == 1 or is_taken else name

    def _open_log(self, name: str) -> LogTail:
        return LogTail(self._choose_log_path(name))

    def _choose_log_path(self, name: str) -> Path | None:
        return None if self._rule.log_folder is None else log_path(self._rule.log_folder, name)

    def __getitem__(self, expert: str) -> Runner:
        return self._by_expert[expert].runner

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_expert)

    def __len__(self) -> int:
        return len(self._by_expert)

    @property
    def runners(self) -> tuple[Runner, ...]:
        """Each once, in the order of the configuration."""
        return tuple(queue.runner for queue in self._queues.values())

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

        What is taken over from the pool that served so far stays as it is.

        Raises:
            RunnerSettingsError: one cannot be started as configured; then none is.
        """
        self.check()
        await asyncio.to_thread(self._memory.open, self._queues.values())
        carried = self._take_over()
        self._scheduler = start_task("runner pool", self._run)
        fresh = [queue for queue in self._queues.values() if queue not in carried]
        for queue in self._memory.select_fitting(fresh, beside=carried):
            await queue.runner.start()
            self._move(queue, self._load(queue))

    def _take_over(self) -> list[RunnerQueue]:
        """The queues of the pool that served so far whose settings are wanted here too."""
        former, self._serving.pool = self._serving.pool, self
        if former is None or former._scheduler is None:
            return []
        self._former, former._former, former._successor = former, None, self
        self._memory.follow(former._memory)
        self._forecast.arrivals, self._forecast.dismissed = (
            former._forecast.arrivals,
            former._forecast.dismissed,
        )
        # One that gave up is started anew: the reload may be because its trouble is mended.
        running = {queue for queue in former._queues.values() if queue.runner.state != "failed"}
        carried: dict[RunnerQueue, RunnerQueue] = {}
        # Equal ones first: of two processes that differ in their `ttl` alone each stays with its experts.
        for is_same in (RunnerSettings.__eq__, RunnerSettings.has_same_process):
            for own in [own for own in self._queues.values() if own not in carried]:
                same = [one for one in running if is_same(one.runner.settings, own.runner.settings)]
                # The process goes on under its name, which no other runner or expert of another may have.
                taken = self._list_names(own) - {own.name}
                if queue := next((one for one in same if one.name not in taken), None):
                    carried[own] = queue
                    running.remove(queue)
        self._by_expert = {name: carried.get(own, own) for name, own in self._by_expert.items()}
        self._queues = {queue.name: queue for queue in self._by_expert.values()}
        for queue in carried.values():
            self._receive(queue, former)
        return list(carried.values())

    def _list_names(self, besides: RunnerQueue) -> set[str]:
        """The names of all other runners and their experts."""
        others = [queue.runner for queue in self._queues.values() if queue is not besides]
        return {name for runner in others for name in (runner.name, *runner.experts)}

    def _receive(self, queue: RunnerQueue, giver: "Runners") -> None:
        """Decide on a queue from now on, which the giver did so far."""
        giver._queues.pop(queue.name, None)
        runner = queue.runner
        runner.experts = tuple(expert for expert, own in self._by_expert.items() if own is queue)
        runner.settings = self._wanted[runner.experts[0]]
        runner.on_change.remove(giver._note_change)
        runner.on_change.append(self._note_change)
        runner.keep_log_at(self._choose_log_path(queue.name))
        if queue.move is not None:
            giver._moves.discard(queue.move)
            self._moves.add(queue.move)
            queue.move.add_done_callback(partial(self._end_move, queue))

    def _give_back(self) -> None:
        """Return what was taken over, where the former pool still serves."""
        former, self._former = self._former, None
        if former is None or former._scheduler is None:
            return
        self._serving.pool, former._successor = former, None
        carried = [queue for queue in self._queues.values() if queue in former._by_expert.values()]
        former._queues = {queue.name: queue for queue in former._by_expert.values()}
        for queue in carried:
            former._receive(queue, self)
        former._stir()

    def _find_owner(self, queue: RunnerQueue) -> "Runners":
        """The pool that decides on a queue of this one: after a reload it may be the next."""
        owner = self
        while owner._successor is not None and owner._queues.get(queue.name) is not queue:
            owner = owner._successor
        return owner

    def explain_too_large(self, expert: str) -> str | None:
        """Why an expert never fits on its device; None where it does, as far as is known.

        Raises:
            RunnerSettingsError: it cannot be started as configured.
        """
        queue = self._by_expert[expert]
        return None if self._memory.can_hold(queue) else self._memory.explain_misfit(queue)

    async def stop(self) -> None:
        """End all at once; returns when every process is gone that no other pool has taken over."""
        self._give_back()
        if self._successor is not None:
            self._successor._former = None
        if self._serving.pool is self:
            self._serving.pool = None
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.cancel()
            await asyncio.wait({scheduler})
        for queue in self._queues.values():
            queue.refuse(RunnerUnavailable(f"{queue.name} is stopped"))
        await asyncio.gather(*(runner.stop() for runner in self.runners))
        if self._moves:
            await asyncio.wait(self._moves)

    @contextlib.asynccontextmanager
    async def lease(self, expert: str, *, wait_s: float, priority: int = 0) -> AsyncIterator[Lease]:
        """`take`, and given back at the end."""
        with await self.take(expert, wait_s=wait_s, priority=priority) as lease:
            yield lease

    async def take(self, expert: str, *, wait_s: float, priority: int = 0, grace: int = 1) -> Lease:
        """A turn at the runner of an expert, once it is loaded and has room.

        The caller releases it. In line, a higher `priority` goes first. One below 0 is patient: it counts in
        no forecast, protects no runner from being unloaded for others, and its lease is recalled when those
        have waited for `grace` times `PoolRule.batch_grace_s`.

        Raises:
            RunnerUnavailable: not within `wait_s`; RunnerBusy: too many wait; RunnerFailed: it cannot be
                loaded; RunnerTooLarge: it never fits.
        """
        queue, now_s, patient = self._by_expert[expert], time.monotonic(), priority < 0
        until_s = now_s + wait_s
        if not patient:
            self._find_owner(queue)._forecast.note_arrival(queue.name, now_s)
        while True:
            owner = self._find_owner(queue)
            if owner._scheduler is None:
                raise RunnerUnavailable(f"{queue.name} is stopped")
            # Only past an empty line: a free slot belongs to the request that waits for it.
            if not queue.n_waiting and queue.can_serve():
                queue.runner.pulse.begin()
            else:
                waiter = queue.join(now_s, priority, wait_s)
                owner._stir()
                try:
                    await queue.wait_turn(waiter, until_s - time.monotonic())
                except BaseException:
                    self._find_owner(queue)._stir()
                    raise
            if url := queue.runner.base_url:
                began_s = time.monotonic()
                give_back = partial(self._take_back, queue)
                lease = Lease(queue.runner, url, began_s, give_back, began_s - now_s, grace)
                if patient:
                    queue.patient_leases.add(lease)
                else:
                    self._find_owner(queue)._learn(queue)
                return lease
            queue.runner.pulse.end()  # it died between the turn and now

    def _learn(self, queue: RunnerQueue) -> None:
        if self._rule.residency.evict == "lookahead" and self._memory.is_scarce(self._queues.values()):
            self._forecast.note_start(queue.name, self.look)

    def _take_back(self, queue: RunnerQueue, lease: Lease) -> None:
        queue.runner.pulse.end()
        patient = lease in queue.patient_leases
        queue.patient_leases.discard(lease)
        queue.note_use(lease.since_s, time.monotonic(), patient)
        queue.serve()
        owner = self._find_owner(queue)
        if any(other.n_waiting for other in owner._queues.values()):
            owner._stir()

    async def load(self, expert: str, *, wait_s: float) -> None:
        """Have it loaded, as a request would.

        Raises:
            RunnerUnavailable: as `take`.
        """
        (await self.take(expert, wait_s=wait_s)).release()

    async def unload(self, expert: str) -> None:
        """Free its memory now; it is loaded again when asked for.

        Raises:
            RunnerUnavailable: it answers a request, or is being loaded.
        """
        queue = self._by_expert[expert]
        if queue.runner.state == "ready" and queue.move is not None:  # its loading is about to end
            await asyncio.wait([queue.move])
        state = queue.runner.state
        if state in ("busy", "starting", "stopping") or queue.move:
            raise RunnerUnavailable(f"{queue.name} is {state}")
        if state == "ready":
            self._forecast.dismissed.add(queue.name)
            # Shielded, so that a client that hangs up does not stop an unloading half-way.
            await asyncio.shield(self._move(queue, self._unload(queue), leaving=True))

    async def wait_settled(self) -> None:
        """When nothing is being loaded or unloaded any more.

        Raises:
            RunnerFailed: a runner gave up.
        """
        while self._moves:
            await asyncio.wait(self._moves)
        for runner in self.runners:
            if runner.state == "failed":
                raise RunnerFailed(f"{runner.name}: {runner.status().last_error}")

    def count_slots(self, expert: str) -> int:
        """How many requests its engine answers at a time; 1 where it cannot be started as configured."""
        try:
            return self._by_expert[expert].n_slots
        except RunnerSettingsError:
            return 1

    def loads_in_s(self, expert: str) -> float:
        """Seconds until this expert is expected to be loaded; 0 when it is, or is no local one."""
        queue = self._by_expert.get(expert)
        return 0.0 if queue is None else queue.loads_in_s(time.monotonic())

    def memory(self) -> tuple[DeviceMemoryStatus, ...]:
        """What each device may hold, holds, and has free."""
        return self._memory.report(self._queues.values())

    def snapshot(self) -> tuple[RunnerStatus, ...]:
        """How each stands now."""
        return tuple(
            replace(queue.runner.status(), n_waiting=queue.n_waiting) for queue in self._queues.values()
        )

    async def _run(self) -> None:
        while True:
            self._stirred.clear()
            try:
                pause_s = self._decide()
            except Exception:  # any failure: waiting requests must not wait for ever
                log.exception("the runner pool could not decide")
                pause_s = 1.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stirred.wait()

    def _stir(self) -> None:
        self._stirred.set()

    def _decide(self) -> float | None:
        """Carry out one decision; return the seconds until the next, unless something changes first."""
        for queue in self._queues.values():
            queue.serve()
        snapshot = self.look()
        effects = decide_residency(snapshot, self._rule.residency, self._forecast.shadow.kept_experts)
        holds = {effect.expert: effect.wanted_by for effect in effects if isinstance(effect, Hold)}
        for name, queue in self._queues.items():
            queue.held = name in holds
            if queue.patient_leases:
                wanting = snapshot.queue.get(holds.get(name, ""))
                since_s = wanting.oldest_s if wanting is not None and not wanting.patient else None
                queue.recall_patient(snapshot.now_s, self._rule.batch_grace_s, since_s)
        for effect in effects:
            self._perform(effect)
        for queue in self._queues.values():
            queue.serve()
        if any(queue.n_waiting for queue in self._queues.values()):
            return TICK_S
        due_s = [resident.expires_s for resident in snapshot.residents if resident.expires_s is not None]
        due_s += [queue.retry_at_s for queue in self._queues.values() if queue.is_retry_due()]
        return max(TICK_S, min(due_s) - snapshot.now_s) if due_s else None

    def look(self) -> Snapshot:
        """All that a decision on memory depends on, now."""
        now_s = time.monotonic()
        queues = self._queues.values()
        return Snapshot(
            now_s=now_s,
            devices=self._memory.devices(now_s, queues),
            loadable=tuple(
                queue.loadable()
                for queue in queues
                if queue.runner.state != "failed" or now_s >= queue.retry_at_s
            ),
            residents=tuple(resident for queue in queues if (resident := queue.resident())),
            queues=tuple(demand for queue in queues if (demand := queue.demand())),
            next_use_s=self._forecast.next_use_s(now_s),
            rate_per_s=self._forecast.arrivals.rate_per_s(now_s),
        )

    def _perform(self, effect: Effect) -> None:
        queue = self._queues[effect.expert]
        # A load may be broken off; an unloading is under way already.
        if isinstance(effect, Evict) and not queue.leaving:
            if effect.wanted_by is None:
                self._forecast.dismissed.add(queue.name)
            else:
                self.n_evictions += 1
            self._move(queue, self._unload(queue), leaving=True)
        elif isinstance(effect, Load) and queue.move is None:
            self._move(queue, self._load(queue))
        elif isinstance(effect, Refuse):
            queue.refuse(RunnerTooLarge(self._memory.explain_misfit(queue)))

    def _move(
        self, queue: RunnerQueue, how: Coroutine[None, None, None], *, leaving: bool = False
    ) -> asyncio.Task[None]:
        queue.leaving = leaving
        queue.move = move = asyncio.create_task(how)
        self._moves.add(move)
        move.add_done_callback(partial(self._end_move, queue))
        return move

    def _end_move(self, queue: RunnerQueue, task: asyncio.Task[None]) -> None:
        if queue.move is task:
            queue.move, queue.leaving = None, False
        self._moves.discard(task)
        self._stir()

    async def _load(self, queue: RunnerQueue) -> None:
        queue.loading_since_s = time.monotonic()
        try:
            await queue.runner.start()
            await queue.runner.wait_ready(None)
        except (RunnerFailed, RunnerSettingsError) as error:
            log.warning("%s", error)
            queue.refuse(RunnerFailed(str(error)))
        except RunnerUnavailable:
            log.info("%s was stopped while it was being loaded", queue.name)

    async def _unload(self, queue: RunnerQueue) -> None:
        if not await queue.runner.sleep():
            await queue.runner.stop()
        self._memory.note_unload(queue.device)

    def _note_change(self, runner: Runner) -> None:
        """A runner changed its state."""
        queue, now_s = self._queues[runner.name], time.monotonic()
        if runner.state in UP:
            queue.ready_s = now_s
        elif runner.state == "starting":
            queue.loading_since_s = now_s
        elif runner.state == "failed":
            queue.retry_at_s = now_s + self._patience.retry_failed_s
            queue.refuse(RunnerFailed(f"{runner.name}: {runner.status().last_error}"))
        self._stir()
        for tell in self.on_change:
            tell()
