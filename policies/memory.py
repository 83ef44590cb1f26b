"""The values of residency decisions: what holds memory, what waits for it, and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

ResidentState = Literal["loading", "ready", "leaving"]
Blocked = Literal["memory", "busy", "turn", "claim", "taken"]
"""memory: promised, but not yet measured as free; busy: held residents still answer; turn: others load or
answer the requests that they were loaded for; claim: the queue is too short and too young for a swap;
taken: by pinned experts or by other processes."""


@dataclass(frozen=True, slots=True)
class Device:
    """Memory that experts share. `free_bytes` is measured; None where nothing measures it.

    `settled` is False for the moment after an eviction in which memory may still be on its way back: only
    then is missing memory waited for; later it counts as taken by another process.
    """

    name: str
    capacity_bytes: int
    free_bytes: int | None = None
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Loadable:
    """A local expert that may be loaded, its size and load time. No `devices`: on any.

    A pinned expert is loaded without a request and never evicted.
    """

    expert: str
    size_bytes: int
    load_s: float
    devices: tuple[str, ...] = ()
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Resident:
    """A local expert that holds memory, or is about to.

    n_busy:      requests it answers now
    n_patient:   how many of them are patient (see `Queue`)
    idle_in_s:   expected seconds until they are answered; used for busy residents only
    n_uses:      requests it answered since the process started, over all loads, without patient ones
    last_used_s: when the last of these ended
    stoppable:   a load that may be broken off, so that another expert is loaded instead
    ready_s:     when it became ready to answer
    expires_s:   when it is evicted for being unused; None keeps it until its memory is needed
    held:        gets no new requests, because of the last decision
    """

    expert: str
    device: str
    size_bytes: int
    state: ResidentState = "ready"
    n_busy: int = 0
    n_uses: int = 0
    last_used_s: float = 0.0
    ready_s: float = 0.0
    expires_s: float | None = None
    held: bool = False
    idle_in_s: float = float("inf")
    n_patient: int = 0
    stoppable: bool = False


@dataclass(frozen=True, slots=True)
class Queue:
    """The requests that wait for one expert; patient ones are left out where others wait too.

    oldest_s: when the first of them came
    priority: below 0 the requests are patient, as those of batches are: no other waits for them
    drain_s:  expected seconds for its expert to answer them all
    """

    expert: str
    n_waiting: int
    oldest_s: float
    priority: int = 0
    drain_s: float = 0.0

    @property
    def patient(self) -> bool:
        return self.priority < 0


@dataclass(frozen=True)
class Snapshot:
    """Everything a residency decision depends on, at `now_s`. All times are on one clock.

    A failed expert is not loadable until it may be tried again.

    next_use_s: expected seconds until the next request to each expert; experts without a forecast are
        left out
    rate_per_s: recent requests a second for each expert; absent is 0
    """

    now_s: float
    devices: tuple[Device, ...]
    loadable: tuple[Loadable, ...]
    residents: tuple[Resident, ...] = ()
    queues: tuple[Queue, ...] = ()
    next_use_s: Mapping[str, float] = field(default_factory=dict)
    rate_per_s: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def by_expert(self) -> Mapping[str, Loadable]:
        return {loadable.expert: loadable for loadable in self.loadable}

    @cached_property
    def resident(self) -> Mapping[str, Resident]:
        return {resident.expert: resident for resident in self.residents}

    @cached_property
    def queue(self) -> Mapping[str, Queue]:
        """The queues that are not empty."""
        return {queue.expert: queue for queue in self.queues if queue.n_waiting}

    @cached_property
    def longest_answer_s(self) -> float:
        """Expected seconds until every resident is idle."""
        known = (r.idle_in_s for r in self.residents if r.n_busy and r.idle_in_s < float("inf"))
        return max(known, default=0.0)

    def load_s(self, expert: str) -> float:
        """Seconds to load it; 0 where it is not known."""
        return self.by_expert[expert].load_s if expert in self.by_expert else 0.0

    def is_pinned(self, expert: str) -> bool:
        return expert in self.by_expert and self.by_expert[expert].pinned


@dataclass(frozen=True, slots=True)
class Evict:
    """Free the memory of an idle expert. `wanted_by` gets the memory; None: it expired."""

    expert: str
    wanted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Give the expert no new requests, so that it becomes idle, as long as each decision repeats it."""

    expert: str
    wanted_by: str


@dataclass(frozen=True, slots=True)
class Load:
    """Load the expert now: its memory is free. `prefetch`: no request waits for it yet."""

    expert: str
    device: str
    prefetch: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Requests wait for the expert; nothing but the other effects of this decision can help now."""

    expert: str
    blocked: Blocked


@dataclass(frozen=True, slots=True)
class Refuse:
    """The expert fits on no device, even an empty one: its requests must fail, not wait."""

    expert: str
    size_bytes: int


Effect = Evict | Hold | Load | Wait | Refuse
