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
from .turns import TurnRule, due, in_turn, may_displace, serving_order


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


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to get an expert onto one device, the better the smaller `rank`."""

    rank: tuple[int, Worth, int]
    room: "_Room"
    leaving: tuple[Resident, ...] = ()
    blocked: Blocked | None = None


class _Room:
    """One device during a decision: who is there, and what of its memory is promised to whom.

    spare_bytes:  free by the books and by measure, less what is promised; what is being loaded may not show
        in the measure yet, so that it counts in both
    coming_bytes: what those who leave will free, and what those who left have not given back yet
    """

    def __init__(self, device: Device, snapshot: Snapshot) -> None:
        self.name = device.name
        self.there = [r for r in snapshot.residents if r.device == device.name]
        self.loading_bytes = sum(r.size_bytes for r in self.there if r.state == "loading")
        pinned_bytes = sum(r.size_bytes for r in self.there if snapshot.pinned(r.expert))
        self.most_bytes = device.capacity_bytes - pinned_bytes
        self.promised_bytes = 0
        self.coming_bytes = sum(r.size_bytes for r in self.there if r.state == "leaving")
        self.spare_bytes = device.capacity_bytes - sum(r.size_bytes for r in self.there)
        if device.free_bytes is not None:
            missing = max(0, self.spare_bytes - (device.free_bytes - self.loading_bytes))
            self.spare_bytes -= missing
            self.coming_bytes += 0 if device.settled else missing

    def promise(self, size_bytes: int) -> None:
        self.promised_bytes += size_bytes
        self.spare_bytes -= size_bytes


class _Decision:
    """One decision under way: what has been promised to whom so far."""

    def __init__(self, snapshot: Snapshot, rule: ResidencyRule, kept: frozenset[str] | None) -> None:
        self._at = snapshot
        self._rule = rule
        self._trusted = rule.evict == "lookahead" and kept is None
        self._worth = worth(rule.evict, snapshot, kept)
        self._rooms = {device.name: _Room(device, snapshot) for device in snapshot.devices}
        self._due = due(snapshot, rule.turns)
        self._given_up: set[str] = set()

    def effects(self) -> Iterator[Effect]:
        yield from self._expired()
        for queue in serving_order(self._at, self._rule.turns):
            yield from self._serve(queue)
        for expert in sorted(one.expert for one in self._at.loadable if one.pinned):
            if expert not in self._at.queue:
                yield from self._serve(Queue(expert, 1, self._at.now_s))
        if self._trusted:
            yield from self._prefetch()

    def _expired(self) -> Iterator[Effect]:
        for resident in self._at.residents:
            expires_s = resident.expires_s
            if expires_s is not None and expires_s <= self._at.now_s and self._is_idle(resident):
                self._give_up(resident)
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
        options = [self._option(wanted, queue, room) for room in self._places(wanted)]
        if not options:
            yield Refuse(expert, wanted.size_bytes)
            return
        yield from self._take(min(options, key=lambda option: (option.rank, option.room.name)), wanted)

    def _places(self, wanted: Loadable) -> Iterator[_Room]:
        """Where the expert could ever be."""
        for room in self._rooms.values():
            if wanted.size_bytes <= room.most_bytes and (not wanted.devices or room.name in wanted.devices):
                yield room

    def _take(self, option: _Option, wanted: Loadable) -> Iterator[Effect]:
        if option.blocked not in ("claim", "taken"):
            option.room.promise(wanted.size_bytes)
        for resident in option.leaving:
            self._give_up(resident)
            leave = Hold if option.blocked == "busy" else Evict
            yield leave(resident.expert, wanted.expert)
        yield Wait(wanted.expert, option.blocked) if option.blocked else Load(wanted.expert, option.room.name)

    def _option(self, wanted: Loadable, queue: Queue, room: _Room) -> _Option:
        """How the expert gets onto a device."""
        if wanted.size_bytes <= room.spare_bytes:
            return _Option((0, NOTHING, -room.spare_bytes), room)
        coming = room.spare_bytes + room.coming_bytes
        if wanted.size_bytes <= coming:
            return _Option((1, NOTHING, -coming), room, blocked="memory")
        return self._by_leaving(queue, room, wanted.size_bytes - coming)

    def _by_leaving(self, queue: Queue, room: _Room, need: int) -> _Option:
        """Who has to leave the device; nobody where the rest would still be too little."""
        movable = [r for r in room.there if self._may_leave(r)]
        turns = self._rule.turns
        willing = [r for r in movable if r.held or may_displace(queue, r.expert, self._at, turns, self._due)]
        # Only look-ahead can weigh waiting for a busy one against the loss of an idle one.
        idle = [r for r in willing if not r.n_busy]
        leaving = None if self._trusted else cheapest(idle, need, self._value)
        if leaving is None:
            leaving = cheapest(willing, need, self._value)
        if leaving is not None:
            busy = any(resident.n_busy for resident in leaving)
            blocked: Blocked = "busy" if busy else "memory"
            return _Option((2 + busy, total_worth(leaving, self._value), 0), room, leaving, blocked)
        if sum(r.size_bytes for r in movable) >= need:
            return _Option((5, NOTHING, 0), room, blocked="claim")
        if room.promised_bytes or any(self._is_taking_turns(r) for r in room.there):
            return _Option((4, NOTHING, 0), room, blocked="turn")
        return _Option((6, NOTHING, 0), room, blocked="taken")

    def _value(self, resident: Resident) -> Worth:
        """What is held already is falling idle for somebody: it goes before all."""
        return NOTHING if resident.held else self._worth(resident)

    def _give_up(self, resident: Resident) -> None:
        self._given_up.add(resident.expert)
        self._rooms[resident.device].coming_bytes += resident.size_bytes

    def _stays(self, resident: Resident) -> bool:
        return resident.state != "leaving" and resident.expert not in self._given_up

    def _may_leave(self, resident: Resident) -> bool:
        ready = resident.state == "ready" and resident.expert not in self._given_up
        return ready and not self._at.pinned(resident.expert) and not self._is_in_turn(resident)

    def _is_taking_turns(self, resident: Resident) -> bool:
        turn = not self._at.pinned(resident.expert) and self._is_in_turn(resident)
        return resident.state == "loading" or turn

    def _is_in_turn(self, resident: Resident) -> bool:
        return in_turn(resident.expert, self._at, self._rule.turns)

    def _is_idle(self, resident: Resident) -> bool:
        wanted = self._at.pinned(resident.expert) or resident.expert in self._at.queue
        return resident.state == "ready" and not resident.n_busy and not wanted

    def _prefetch(self) -> Iterator[Effect]:
        """The expert expected soonest, into memory that is free, while nothing else is loaded there."""
        rooms = [r for r in self._rooms.values() if not r.promised_bytes and not r.loading_bytes]
        if all(room.spare_bytes <= 0 for room in rooms):
            return
        for in_s, expert in sorted((in_s, expert) for expert, in_s in self._at.next_use_s.items()):
            if in_s > self._rule.prefetch_s:
                return
            wanted = self._at.by_expert.get(expert)
            if wanted is None or expert in self._at.resident or expert in self._at.queue:
                continue
            places = [room for room in self._places(wanted) if room in rooms]
            fitting = [
                (-room.spare_bytes, room.name) for room in places if wanted.size_bytes <= room.spare_bytes
            ]
            if fitting:
                yield Load(expert, min(fitting)[1], prefetch=True)
                return
