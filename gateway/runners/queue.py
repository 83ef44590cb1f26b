"""The queue in front of one runner, and the lease that each served request holds."""

import asyncio
import math
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import Self

from policies import AdmissionRule, Loadable, Queue, QueueState, Rejected, Resident, admit

from ..waiting import MAX_WAITING_PER_SLOT, Waiter, WaitingLine
from .runner import Runner
from .types import Launch, RunnerBusy, RunnerFailed, RunnerState, RunnerUnavailable

LOOK_EVERY_S = 0.02

ASSUMED_LOAD_S = 5.0
# An exponential average with this weight looks back about five requests (1 / 0.2).
SERVICE_WEIGHT = 0.2
UP: frozenset[RunnerState] = frozenset({"ready", "busy"})


class RunnerQueue:
    """The line in front of one runner; all its times are of the pool's clock.

    `held`: gives no turns, so that the runner falls idle. `move`: its loading or unloading by the pool,
    `leaving` which of the two.
    """

    def __init__(self, runner: Runner, clock: float) -> None:
        self.runner = runner
        # The pulse counts the requests in flight, so the waiting line begins and ends them there.
        self._line = WaitingLine(self.can_serve, runner.pulse.begin, runner.pulse.end)
        self.held = False
        self.move: asyncio.Task[None] | None = None
        self.leaving = False
        self.n_uses = 0
        self.last_used_s = clock
        self.last_asked_s = clock
        self.patient_leases: set[Lease] = set()
        self.ready_s = clock
        self.loading_since_s = clock
        self.retry_at_s = clock
        self.service_s = 0.0

    @property
    def name(self) -> str:
        return self.runner.name

    @property
    def n_waiting(self) -> int:
        return len(self._line.waiting)

    @property
    def pinned(self) -> bool:
        return self.runner.settings.pinned

    @property
    def n_slots(self) -> int:
        return self._plan.n_slots

    @property
    def size_bytes(self) -> int:
        """Bytes it holds when loaded: as declared, else as measured, else as guessed; 0 if unknown."""
        known = self.runner.settings.memory_bytes or self.runner.memory_bytes
        return known or self._plan.memory_bytes or 0

    @property
    def device(self) -> str:
        return self.runner.gpu or self._plan.device

    @property
    def host_bytes(self) -> int:
        """What it holds in main memory beside its device."""
        return self.runner.host_bytes

    @cached_property
    def _plan(self) -> Launch:
        return self.runner.plan()

    @property
    def load_s(self) -> float:
        """Seconds a load is expected to take."""
        known = self.runner.load_s
        return ASSUMED_LOAD_S if known is None else known

    def can_serve(self) -> bool:
        """Whether a request could be sent to it now."""
        up = self.runner.state in UP and not (self.held or self.leaving)
        return up and self.runner.pulse.n_in_flight < self.n_slots

    def join(self, now_s: float, priority: int, wait_s: float) -> Waiter:
        """Take a place in the line, unless the wait is known to exceed `wait_s`.

        Raises:
            RunnerBusy: the wait would be too long. RunnerFailed: the runner gave up a moment ago.
        """
        if self.runner.state == "failed" and now_s < self.retry_at_s:
            raise RunnerFailed(f"{self.name}: {self.runner.status().last_error}")
        # A load that was never measured is no reason to refuse a request.
        ahead_s = 0.0 if self.runner.load_s is None else self.loads_in_s(now_s)
        n_busy = self.runner.pulse.n_in_flight
        n_before = sum(waiter.priority >= priority for waiter in self._line.waiting)
        state = QueueState(n_before, n_busy, self.n_slots, self.service_s, ahead_s)
        answer = admit(state, AdmissionRule(self.n_slots * MAX_WAITING_PER_SLOT, wait_s))
        if isinstance(answer, Rejected):
            raise RunnerBusy(
                f"{self.name} answers {self.n_slots} at a time and {n_before} wait: about "
                f"{state.wait_s():.0f} s until its turn",
                retry_after_s=math.ceil(answer.retry_after_s),
            )
        return self._line.enter(now_s, priority)

    async def wait_turn(self, waiter: Waiter, wait_s: float) -> None:
        """Until it is the waiter's turn, which then counts as in flight.

        Raises:
            RunnerUnavailable: not within `wait_s`, or the queue was refused with it.
        """
        try:
            await self._line.wait(waiter, wait_s)
        except TimeoutError:
            raise RunnerUnavailable(f"{self.name} was not loaded and free within {wait_s:g} s") from None

    def serve(self) -> None:
        """Give turns to those in line, as far as the runner has room."""
        self._line.serve()

    def refuse(self, error: RunnerUnavailable) -> None:
        """Refuse every waiting request."""
        self._line.refuse(error)

    def note_use(self, began_s: float, now_s: float, patient: bool = False) -> None:
        """A request is over. What a batch uses is no sign that others will ask for it."""
        if not patient:
            self.n_uses += 1
            self.last_asked_s = now_s
        self.last_used_s = now_s
        self.service_s += SERVICE_WEIGHT * (now_s - began_s - self.service_s)

    def recall_patient(self, now_s: float, grace_s: float, since_s: float | None = None) -> None:
        """Cut off calls of batches that keep others waiting for longer than `grace_s`.

        Those wait since `since_s` for the memory of this runner; without it, those in its own line for slots.
        """
        n_most = len(self.patient_leases)
        if since_s is None:
            waiting = [waiter for waiter in self._line.waiting if waiter.priority >= 0]
            since_s, n_most = min((waiter.since_s for waiter in waiting), default=now_s), len(waiting)
        # Those that began last have lost the least.
        for lease in sorted(self.patient_leases, key=lambda lease: -lease.since_s)[:n_most]:
            if now_s - max(since_s, lease.since_s) >= grace_s * lease.grace:
                lease.recalled.set()

    def is_retry_due(self) -> bool:
        """Whether it is loaded again at `retry_at_s` without a request."""
        return self.runner.state == "failed" and self.pinned

    def loads_in_s(self, now_s: float) -> float:
        """Seconds until it is expected to be loaded; 0 when it is."""
        if self.runner.state in UP and not self.leaving:
            return 0.0
        since_s = self.loading_since_s if self.runner.state == "starting" else now_s
        return max(0.0, self.load_s - (now_s - since_s))

    def loadable(self) -> Loadable:
        settings = self.runner.settings
        return Loadable(self.name, self.size_bytes, self.load_s, (self.device,), settings.pinned)

    def resident(self) -> Resident | None:
        """How it holds memory; None where it does not.

        One that pauses between two starts may go for others.
        """
        state = self.runner.state
        idle = state in UP or self.runner.pausing
        if self.move is None and state in ("stopped", "sleeping", "failed"):
            return None
        ttl_s = self.runner.settings.ttl_s
        return Resident(
            expert=self.name,
            device=self.device,
            size_bytes=self.size_bytes,
            state="leaving" if self.leaving or state == "stopping" else "ready" if idle else "loading",
            n_busy=self.runner.pulse.n_in_flight,
            n_patient=len(self.patient_leases),
            n_uses=self.n_uses,
            last_used_s=self.last_asked_s,
            ready_s=self.ready_s,
            expires_s=None if ttl_s is None else max(self.last_used_s, self.ready_s) + ttl_s,
            held=self.held,
            idle_in_s=self.service_s or math.inf,
            # What wakes up is ready sooner than its process would be ended.
            stoppable=state == "starting" and not self.runner.waking,
        )

    def demand(self) -> Queue | None:
        waiting = self._line.waiting
        if not waiting:
            return None
        # In the order of priority: with the first one patient, all are.
        if waiting[0].priority >= 0:
            waiting = [waiter for waiter in waiting if waiter.priority >= 0]
        return Queue(
            self.name,
            len(waiting),
            oldest_s=min(waiter.since_s for waiter in waiting),
            priority=waiting[0].priority,
            drain_s=len(waiting) * self.service_s / self.n_slots,
        )


class Lease:
    """A turn at a runner that is ready. `url` and `headers` say where and how to ask, `alias` for whom.

    It began at `since_s`, after `waited_s` in line. `recalled` is set where a patient request has to make
    room for others: it is cut off, and asks again. One of `grace` 2 has twice the usual time until then.

    Give it back with `release`, or by leaving its `with`; once is enough.
    """

    def __init__(
        self,
        runner: Runner,
        url: str,
        since_s: float,
        give_back: "Callable[[Lease], None]",
        waited_s: float = 0.0,
        grace: int = 1,
    ) -> None:
        self.runner = runner
        self.url = url
        self.since_s = since_s
        self.waited_s = waited_s
        self.grace = grace
        self.recalled = asyncio.Event()
        self._give_back: Callable[[Lease], None] | None = give_back

    @property
    def alias(self) -> str:
        return self.runner.alias

    @property
    def headers(self) -> dict[str, str]:
        return self.runner.headers

    def note_output(self) -> None:
        """Note output of the request: the runner is alive."""
        self.runner.pulse.beat()

    def note_silence(self) -> None:
        """Note that the request timed out without output: the watchdog checks the runner."""
        self.runner.pulse.suspect()

    async def wait_lost(self, within_s: float) -> bool:
        """Whether the process it is for is gone; its supervisor needs a moment to notice."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        # Polled, because this is rare and lasts half a second at most: no event is worth keeping for it.
        while self.runner.base_url == self.url:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return True

    def release(self) -> None:
        """End the turn."""
        # Both the end of a stream and a `finally` may call this, so the second call does nothing.
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
