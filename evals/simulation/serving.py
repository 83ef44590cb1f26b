"""One machine, one trace, one scheme: every request served by the decisions the gateway would make."""

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from policies import (
    Arrivals,
    Device,
    Effect,
    Evict,
    Hold,
    Load,
    Loadable,
    Queue,
    ResidencyRule,
    Resident,
    ResidentState,
    Shadow,
    Snapshot,
    Wait,
    decide_residency,
)
from routers import Bools, Floats

from .trace import Forecast, NoForecast, Trace

# A claim can change with time alone, without an event, so a blocked decision is repeated after a tick.
TICK_S = 1.0
MEMORY = "memory"
CountAnswered = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class SimulatedMachine:
    """What the requests are served on: memory, and what each expert needs of it.

    n_slots: requests an expert answers at once
    evict_s: how long it takes until an evicted expert's memory is free
    """

    capacity_bytes: int
    loadable: tuple[Loadable, ...]
    n_slots: int = 4
    evict_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Scheme:
    """How requests are served.

    in_order: strictly in order of arrival, instead of by turns (the rule's)
    window:   how many of the requests that wait look-ahead sees, where they are served in order
    guarded:  whether look-ahead is watched, and left where recency does better
    """

    name: str
    rule: ResidencyRule = field(default_factory=ResidencyRule)
    in_order: bool = False
    window: int = 10**9
    forecast: Callable[[Trace], Forecast] = NoForecast
    guarded: bool = True


@dataclass(frozen=True, slots=True)
class ServingResult:
    """The result of serving a trace. Arrays are (n_requests,).

    hit:       whether the expert was ready when the request arrived, or, in order, when it became first
    wait_s:    until its answer began
    latency_s: until it ended
    n_phases:  how often look-ahead was found to be worse than recency
    """

    hit: Bools
    wait_s: Floats
    latency_s: Floats
    n_loads: int
    n_phases: int


def serve(
    trace: Trace, machine: SimulatedMachine, scheme: Scheme, on_answered: CountAnswered | None = None
) -> ServingResult:
    """Serve the whole trace; `on_answered` gets the number of requests answered, every thousand."""
    return _Serving(trace, machine, scheme).run(on_answered or (lambda n: None))


class _Local:
    """The state of one expert; `state` is empty while it holds no memory."""

    __slots__ = ("busy", "held", "last_s", "name", "queue", "ready_s", "size", "state", "uses")

    def __init__(self, loadable: Loadable) -> None:
        self.name, self.size = loadable.expert, loadable.size_bytes
        self.state: ResidentState | Literal[""] = ""
        self.busy = self.uses = 0
        self.last_s = self.ready_s = 0.0
        self.held = False
        self.queue: deque[int] = deque()

    @property
    def can_serve(self) -> bool:
        return self.state == "ready" and not self.held

    def resident(self, idle_in_s: float) -> Resident:
        state = self.state or "ready"
        return Resident(
            *(self.name, MEMORY, self.size, state, self.busy, self.uses),
            *(self.last_s, self.ready_s, None, self.held, idle_in_s),
        )


class _Serving:
    """The machine at work: a clock, what happens next, and every expert's state."""

    def __init__(self, trace: Trace, machine: SimulatedMachine, scheme: Scheme) -> None:
        self._machine, self._scheme = machine, scheme
        by_name = {one.expert: one for one in machine.loadable}
        self._loadable = tuple(by_name[name] for name in trace.experts)
        self._devices = (Device(MEMORY, machine.capacity_bytes),)
        self._locals = [_Local(one) for one in self._loadable]
        self._by_name = {local.name: local for local in self._locals}
        self._of = [self._locals[e] for e in trace.expert.tolist()]
        self._came_s, self._service_s = trace.time_s.tolist(), trace.service_s.tolist()
        self._mean_s = float(trace.service_s.mean()) if len(trace) else 0.0
        self._step_s = self._mean_s or 1.0
        self._forecast = scheme.forecast(trace)
        self._arrivals = Arrivals()
        self._shadow = Shadow()
        self._watched = scheme.guarded and scheme.rule.evict == "lookahead"
        self._line: deque[int] = deque()
        self._first = -1
        self._events: list[tuple[float, int, Callable[[], bool]]] = []
        self._n_events = self._n_loads = 0
        self._ticking = False
        self._now_s = 0.0
        self._hit, self._start_s = [False] * len(trace), [0.0] * len(trace)

    def run(self, on_answered: CountAnswered) -> ServingResult:
        n = len(self._came_s)
        events, came_s, coming = self._events, self._came_s, 0
        while coming < n or events:
            # Of an event and an arrival at the same time the event is first: a freed slot serves the arrival.
            if events and (coming == n or events[0][0] <= came_s[coming]):
                self._now_s, _, event = heapq.heappop(events)
                changed = event()
            else:
                self._now_s = came_s[coming]
                changed = self._arrive(coming)
                coming += 1
                if coming % 1000 == 0:
                    on_answered(coming)
            if self._scheme.in_order:
                self._dispatch_line()
            if changed and self._is_waiting_for_expert():
                self._decide()
        # (n_requests,) each
        start_s, service_s = np.array(self._start_s), np.array(self._service_s)
        wait_s = start_s - np.array(came_s)
        n_phases = self._shadow.n_phases
        return ServingResult(np.array(self._hit), wait_s, wait_s + service_s, self._n_loads, n_phases)

    def _at(self, in_s: float, event: Callable[[], bool]) -> None:
        self._n_events += 1
        # The running number breaks ties, since callables cannot be compared.
        heapq.heappush(self._events, (self._now_s + in_s, self._n_events, event))

    def _arrive(self, request: int) -> bool:
        local = self._of[request]
        self._forecast.observe(request, self._now_s)
        local.queue.append(request)
        if self._scheme.in_order:
            self._line.append(request)
            return False
        self._arrivals = self._arrivals.after(local.name, self._now_s)
        self._hit[request] = local.can_serve
        self._dispatch(local)
        return not local.can_serve

    def _dispatch(self, local: _Local) -> None:
        """By turns: as many of its own line as it has slots for."""
        while local.can_serve and local.queue and local.busy < self._machine.n_slots:
            if self._watched:
                self._shadow = self._shadow.after(local.name, self._snapshot())
            self._start(local)

    def _dispatch_line(self) -> None:
        """In order: the first of the line, and the next, until one has to wait."""
        while self._line:
            request = self._line[0]
            local = self._of[request]
            if request != self._first:
                self._first = request
                self._hit[request] = local.can_serve
                if self._watched:
                    self._shadow = self._shadow.after(local.name, self._snapshot())
                if not local.state:
                    self._decide()
            if not local.can_serve or local.busy >= self._machine.n_slots:
                return
            self._line.popleft()
            self._start(local)

    def _start(self, local: _Local) -> None:
        request = local.queue.popleft()
        local.busy += 1
        local.uses += 1
        local.last_s = self._now_s
        self._start_s[request] = self._now_s
        self._at(self._service_s[request], lambda: self._finish(local))

    def _finish(self, local: _Local) -> bool:
        local.busy -= 1
        local.last_s = self._now_s
        if not self._scheme.in_order:
            self._dispatch(local)
        return not local.busy

    def _finish_load(self, local: _Local) -> bool:
        local.state = "ready"
        local.ready_s = local.last_s = self._now_s
        if not self._scheme.in_order:
            self._dispatch(local)
        return True

    def _finish_evict(self, local: _Local) -> bool:
        local.state, local.held = "", False
        return True

    def _tick(self) -> bool:
        self._ticking = False
        return True

    def _is_waiting_for_expert(self) -> bool:
        """Whether a request waits for an expert that is neither ready nor loading."""
        if self._scheme.in_order:
            return bool(self._line) and not self._of[self._line[0]].can_serve
        return any(local.queue and local.state != "loading" and not local.can_serve for local in self._locals)

    def _decide(self) -> None:
        kept = self._shadow.kept_experts if self._watched else None
        effects = decide_residency(self._snapshot(), self._scheme.rule, kept)
        held = {effect.expert for effect in effects if isinstance(effect, Hold)}
        for local in self._locals:
            let_go = local.held and local.name not in held
            local.held = local.name in held
            if let_go and not self._scheme.in_order:
                self._dispatch(local)
        for effect in effects:
            self._apply(effect)

    def _apply(self, effect: Effect) -> None:
        local = self._by_name[effect.expert]
        if isinstance(effect, Evict):
            local.state = "leaving"
            self._at(self._machine.evict_s, lambda: self._finish_evict(local))
        elif isinstance(effect, Load):
            self._n_loads += 1
            local.state = "loading"
            self._at(self._loadable[self._locals.index(local)].load_s, lambda: self._finish_load(local))
        elif isinstance(effect, Wait) and effect.blocked == "claim" and not self._ticking:
            self._ticking = True
            self._at(TICK_S, self._tick)

    def _snapshot(self) -> Snapshot:
        residents = tuple(local.resident(self._mean_s) for local in self._locals if local.state)
        if self._scheme.in_order:
            return Snapshot(
                self._now_s, self._devices, self._loadable, residents, self._head(), self._next_in_line_s()
            )
        queues = tuple(
            Queue(
                *(local.name, len(local.queue), self._came_s[local.queue[0]]),
                drain_s=len(local.queue) * self._mean_s / self._machine.n_slots,
            )
            for local in self._locals
            if local.queue
        )
        now_s = self._now_s
        known, rates = self._forecast.next_use_s(now_s), self._arrivals.rate_per_s(now_s)
        return Snapshot(now_s, self._devices, self._loadable, residents, queues, known, rates)

    def _head(self) -> tuple[Queue, ...]:
        if not self._line:
            return ()
        request = self._line[0]
        return (Queue(self._of[request].name, 1, self._came_s[request]),)

    def _next_in_line_s(self) -> dict[str, float]:
        """When each expert's next request is reached, as far down the line as is seen; else as forecast."""
        head = self._line[0]
        last = head + min(self._scheme.window, len(self._line))
        behind_s = (last - head) * self._step_s
        next_s = {n: behind_s + in_s for n, in_s in self._forecast.next_use_s(self._now_s).items()}
        for local in self._locals:
            own = local.queue
            at = next((r for r in own if r != head), last) if own else last
            if at < last:
                next_s[local.name] = (at - head) * self._step_s
        return next_s


PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class ServingFigures:
    """One scheme on one memory.

    hit_ratio:   requests that found their expert ready
    swaps_per_1k: loads for a thousand requests
    latency_s:   percentiles, by name
    longest_s:   the longest that a request waited before its answer began: starvation
    """

    hit_ratio: float
    swaps_per_1k: float
    mean_s: float
    latency_s: Mapping[str, float]
    longest_s: float

    @classmethod
    def of(cls, served: ServingResult) -> "ServingFigures":
        # (n_percentiles,)
        percentiles = np.percentile(served.latency_s, PERCENTILES).tolist()
        return cls(
            float(served.hit.mean()),
            1000.0 * served.n_loads / len(served.hit),
            float(served.latency_s.mean()),
            {f"p{p}": value for p, value in zip(PERCENTILES, percentiles, strict=True)},
            float(served.wait_s.max()),
        )

    def facts(self) -> dict[str, object]:
        """JSON-able, six significant digits."""

        def short(value: float) -> float:
            return float(f"{value:.6g}")

        facts = asdict(self)
        facts["latency_s"] = {name: short(value) for name, value in self.latency_s.items()}
        return {name: short(value) if isinstance(value, float) else value for name, value in facts.items()}
