"""Which local experts hold memory: what to evict, load and prefetch, decided from a snapshot.

Effects are performed by whoever took the snapshot, and another decision is asked for whenever something
changed. An eviction and the load that it is for never come out of one decision: loading waits until the
memory is measured as free.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from .eviction import NOTHING, EvictionRule, Worth, cheapest, total_worth, worth
from .memory import (
    Blocked,
    Device,
    Effect,
    Evict,
    Hold,
    Load,
    Loadable,
    Queue,
    Refuse,
    Resident,
    Snapshot,
    Wait,
)
from .turns import TurnRule, in_turn, may_displace, serving_order


@dataclass(frozen=True, slots=True)
class ResidencyRule:
    """How memory is shared out.

    evict:      who leaves first: `lookahead` (the one needed farthest in the future, weighed by what loading
        it again takes), `lru`, `lfu`
    turns:      whose requests are served first
    prefetch_s: experts expected within so many seconds are loaded into memory that is free; 0 does not
    """

    evict: EvictionRule = "lookahead"
    turns: TurnRule = field(default_factory=TurnRule)
    prefetch_s: float = 60.0


def decide_residency(
    snapshot: Snapshot, rule: ResidencyRule | None = None, kept: frozenset[str] | None = None
) -> tuple[Effect, ...]:
    """What to do now, in order of urgency; nothing where nothing is needed.

    `kept` are the experts a cache by recency would hold, given when look-ahead has lately done worse than it.
    """
    return tuple(_Decision(snapshot, rule or ResidencyRule(), kept).effects())


def may_be_on(wanted: Loadable, device: Device) -> bool:
    return not wanted.devices or device.name in wanted.devices


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to get an expert onto one device, the better the smaller `rank`."""

    rank: tuple[int, Worth, int]
    device: str
    leaving: tuple[Resident, ...] = ()
    blocked: Blocked | None = None


class _Decision:
    """One decision under way: what has been promised to whom so far."""

    def __init__(self, snapshot: Snapshot, rule: ResidencyRule, kept: frozenset[str] | None) -> None:
        self._at = snapshot
        self._rule = rule
        self._trusted = rule.evict == "lookahead" and kept is None
        self._worth = worth(rule.evict, snapshot, kept)
        self._promised: dict[str, int] = {device.name: 0 for device in snapshot.devices}
        self._gone: set[str] = set()
        self._held: set[str] = set()

    def effects(self) -> Iterator[Effect]:
        yield from self._expired()
        for queue in serving_order(self._at, self._rule.turns):
            yield from self._serve(queue)
        for pinned in sorted(self._at.loadable, key=lambda one: one.expert):
            if pinned.pinned and pinned.expert not in self._at.queue:
                yield from self._serve(Queue(pinned.expert, 1, self._at.now_s))
        if self._trusted:
            yield from self._prefetch()

    def _expired(self) -> Iterator[Effect]:
        for resident in self._at.residents:
            expires_s = resident.expires_s
            if expires_s is not None and expires_s <= self._at.now_s and self._is_idle(resident):
                self._gone.add(resident.expert)
                yield Evict(resident.expert)

    def _serve(self, queue: Queue) -> Iterator[Effect]:
        """Get the expert of a queue into memory, or nearer to it."""
        expert = queue.expert
        resident = self._at.resident.get(expert)
        if expert not in self._at.by_expert or (resident is not None and self._stays(resident)):
            return
        if resident is not None:
            yield Wait(expert, "memory")
            return
        wanted = self._at.by_expert[expert]
        options = [option for d in self._at.devices if (option := self._option(wanted, queue, d))]
        if not options:
            yield Refuse(expert, wanted.size_bytes)
            return
        yield from self._take(min(options, key=lambda option: (option.rank, option.device)), wanted)

    def _take(self, option: _Option, wanted: Loadable) -> Iterator[Effect]:
        if option.blocked not in ("claim", "taken"):
            self._promised[option.device] += wanted.size_bytes
        for resident in option.leaving:
            if option.blocked == "busy":
                self._held.add(resident.expert)
                yield Hold(resident.expert, wanted.expert)
            else:
                self._gone.add(resident.expert)
                yield Evict(resident.expert, wanted.expert)
        yield Wait(wanted.expert, option.blocked) if option.blocked else Load(wanted.expert, option.device)

    def _option(self, wanted: Loadable, queue: Queue, device: Device) -> _Option | None:
        """How the expert gets onto a device; None where it never can."""
        size = wanted.size_bytes
        if not may_be_on(wanted, device) or size > device.capacity_bytes - self._pinned_bytes(device):
            return None
        free = self._free_bytes(device)
        if size <= free:
            return _Option((0, NOTHING, -free), device.name)
        coming = free + self._coming_bytes(device)
        if size <= coming:
            return _Option((1, NOTHING, -coming), device.name, blocked="memory")
        return self._by_leaving(queue, device, size - coming)

    def _by_leaving(self, queue: Queue, device: Device, need: int) -> _Option:
        """Who has to leave the device; nobody where the rest would still be too little."""
        there = [r for r in self._on(device) if self._may_leave(r)]
        willing = [r for r in there if r.held or may_displace(queue, r.expert, self._at, self._rule.turns)]
        if (idle := cheapest([r for r in willing if not r.n_busy], need, self._value)) is not None:
            return _Option((2, total_worth(idle, self._value), 0), device.name, idle, "memory")
        if (some := cheapest(willing, need, self._value)) is not None:
            return _Option((3, total_worth(some, self._value), 0), device.name, some, "busy")
        if sum(r.size_bytes for r in there) >= need:
            return _Option((5, NOTHING, 0), device.name, blocked="claim")
        if self._promised[device.name] or any(map(self._is_taking_turns, self._on(device))):
            return _Option((4, NOTHING, 0), device.name, blocked="turn")
        return _Option((6, NOTHING, 0), device.name, blocked="taken")

    def _value(self, resident: Resident) -> Worth:
        """What is held already is falling idle for somebody: it goes before all."""
        return NOTHING if resident.held else self._worth(resident)

    def _may_leave(self, resident: Resident) -> bool:
        return (
            resident.state == "ready"
            and self._stays(resident)
            and not self._at.pinned(resident.expert)
            and not in_turn(resident.expert, self._at)
        )

    def _is_taking_turns(self, resident: Resident) -> bool:
        return resident.state == "loading" or (
            not self._at.pinned(resident.expert) and in_turn(resident.expert, self._at)
        )

    def _stays(self, resident: Resident) -> bool:
        given_up = resident.expert in self._gone or resident.expert in self._held
        return resident.state != "leaving" and not given_up

    def _is_idle(self, resident: Resident) -> bool:
        wanted = self._at.pinned(resident.expert) or resident.expert in self._at.queue
        return resident.state == "ready" and not resident.n_busy and not wanted

    def _prefetch(self) -> Iterator[Effect]:
        """The expert expected soonest, into memory that is free, while nothing else is loaded there."""
        expected = sorted((in_s, expert) for expert, in_s in self._at.next_use_s.items())
        for in_s, expert in expected:
            if in_s > self._rule.prefetch_s:
                return
            wanted = self._at.by_expert.get(expert)
            if wanted is None or expert in self._at.resident or expert in self._at.queue:
                continue
            places = [d for d in self._at.devices if may_be_on(wanted, d) and not self._loads(d)]
            fitting = [(-free, d.name) for d in places if wanted.size_bytes <= (free := self._free_bytes(d))]
            if fitting:
                yield Load(expert, min(fitting)[1], prefetch=True)
                return

    def _loads(self, device: Device) -> bool:
        return self._promised[device.name] > 0 or self._bytes(device, "loading") > 0

    def _free_bytes(self, device: Device) -> int:
        """Free by our books and by measure, less what is promised; what is being loaded may not show yet."""
        free = device.capacity_bytes - self._bytes(device)
        if device.free_bytes is not None:
            free = min(free, device.free_bytes - self._bytes(device, "loading"))
        return free - self._promised[device.name]

    def _coming_bytes(self, device: Device) -> int:
        """What residents that leave will free, and what those that left have not given back yet."""
        gone = sum(r.size_bytes for r in self._at.residents if r.device == device.name and not self._stays(r))
        if device.settled or device.free_bytes is None:
            return gone
        booked = device.capacity_bytes - self._bytes(device)
        return gone + max(0, booked - (device.free_bytes - self._bytes(device, "loading")))

    def _bytes(self, device: Device, state: str | None = None) -> int:
        return sum(r.size_bytes for r in self._on(device) if state in (None, r.state))

    def _pinned_bytes(self, device: Device) -> int:
        return sum(r.size_bytes for r in self._on(device) if self._at.pinned(r.expert))

    def _on(self, device: Device) -> Iterator[Resident]:
        return (resident for resident in self._at.residents if resident.device == device.name)
