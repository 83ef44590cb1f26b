"""The vocabulary of residency: what holds memory, what waits for it, and what is to be done about that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

ResidentState = Literal["loading", "ready", "leaving"]
Blocked = Literal["memory", "busy", "turn", "claim", "taken"]
"""memory: promised, but not measured as free yet; busy: held residents still answer; turn: others load, or
answer first those that they were loaded for; claim: too few wait, for too short a time, to swap for them;
taken: by pinned experts, or by somebody else."""


@dataclass(frozen=True, slots=True)
class Device:
    """Memory that experts share. `free_bytes` is measured; None where nothing measures it.

    `settled` is False for the moment after an eviction in which memory may still be on its way back: only
    then is missing memory waited for; later it counts as taken by somebody else.
    """

    name: str
    capacity_bytes: int
    free_bytes: int | None = None
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Loadable:
    """A local expert that may be loaded: what that takes, and where it may be. No `devices`: on any.

    A pinned one is loaded without being asked for and never evicted.
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
    idle_in_s:   how long these still take, as far as can be told; asked of busy ones only
    n_uses:      requests it ever answered, before it was loaded this time too
    ready_s:     when it became ready to answer
    expires_s:   when it may go for being unused; None keeps it until its room is needed
    held:        given no new requests, because the last decision said so
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


@dataclass(frozen=True, slots=True)
class Queue:
    """The requests that wait for one expert.

    oldest_s: when the first of them came
    drain_s:  how long its expert will take to answer them all, as far as can be told
    """

    expert: str
    n_waiting: int
    oldest_s: float
    priority: int = 0
    drain_s: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """All that a decision on residency may depend on, at `now_s`. Times are on one clock, any.

    A failed expert is not loadable until it may be tried again.

    next_use_s: seconds until each expert is expected to be asked next, from what is known to come; experts
        of which nothing is known are left out
    rate_per_s: requests a second for each expert of late; absent is 0
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
        """The queues in which somebody waits."""
        return {queue.expert: queue for queue in self.queues if queue.n_waiting}

    @cached_property
    def longest_answer_s(self) -> float:
        """Until every resident could be idle, as far as can be told."""
        known = (r.idle_in_s for r in self.residents if r.n_busy and r.idle_in_s < float("inf"))
        return max(known, default=0.0)

    def load_s(self, expert: str) -> float:
        """Seconds to load it; 0 where it is not known."""
        return self.by_expert[expert].load_s if expert in self.by_expert else 0.0

    def pinned(self, expert: str) -> bool:
        return expert in self.by_expert and self.by_expert[expert].pinned


@dataclass(frozen=True, slots=True)
class Evict:
    """Free the memory of an expert that answers nobody now. `wanted_by` gets its room; None: it expired."""

    expert: str
    wanted_by: str | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Give the expert no new requests, so that it falls idle, until a decision no longer says so."""

    expert: str
    wanted_by: str


@dataclass(frozen=True, slots=True)
class Load:
    """Load the expert now: its memory is free. `prefetch`: nobody waits for it yet."""

    expert: str
    device: str
    prefetch: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Requests wait for the expert and nothing can be done about it now but what else is decided here."""

    expert: str
    blocked: Blocked


@dataclass(frozen=True, slots=True)
class Refuse:
    """The expert fits on no device, whoever leaves: its requests are to fail, not to wait."""

    expert: str
    size_bytes: int


Effect = Evict | Hold | Load | Wait | Refuse
