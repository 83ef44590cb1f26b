"""Which local experts hold memory: what to evict, load and prefetch, decided from a snapshot.

The caller takes the snapshot, performs the effects and asks for another decision whenever something changed.
An eviction and the load that it is for never come out of one decision: loading waits until the memory is
measured as free.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from .eviction import NOTHING, EvictionRule, Worth, build_worth, choose_cheapest, sum_worth
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
from .queues import TurnRule, can_displace, find_due, is_in_turn, order_queues


@dataclass(frozen=True, slots=True)
class ResidencyRule:
    """How memory is shared out.

    evict:      which resident is evicted first: `lookahead` (the one needed farthest in the future, weighed
        by its load time), `lru`, `lfu`
    turns:      which requests are served first
    prefetch_s: experts expected within so many seconds are loaded into memory that is free; 0 does not
    """

    evict: EvictionRule = "lookahead"
    turns: TurnRule = field(default_factory=TurnRule)
    prefetch_s: float = 60.0


def decide_residency(
    snapshot: Snapshot, rule: ResidencyRule | None = None, kept: frozenset[str] | None = None
) -> tuple[Effect, ...]:
    """What to do now, in order of urgency.

    `kept` are the experts a cache by recency would hold, given when look-ahead has lately done worse than it.
    """
    return tuple(_Decision(snapshot, rule or ResidencyRule(), kept).effects())


# A turn ends, a claim grows, taken memory may not return.
_BEST_FIRST: tuple[Blocked | None, ...] = (None, "memory", "busy", "turn", "claim", "taken")


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to load an expert onto one device; the smallest `rank` is best."""

    room: "_Room"
    leaving: tuple[Resident, ...] = ()
    worth: Worth = NOTHING
    blocked: Blocked | None = None

    @property
    def rank(self) -> tuple[int, Worth, int, str]:
        room_bytes = self.room.spare_bytes if self.blocked is None else self.room.expected_bytes
        return _BEST_FIRST.index(self.blocked), self.worth, -room_bytes, self.room.name


class _Room:
    """One device during a decision: its residents and its promised memory.

    spare_bytes:  free by bookkeeping and by measurement, less promises; what is being loaded may not show in
        the measurement yet, so that it counts in both
    coming_bytes: what residents that leave will free, and what evicted ones have not returned yet
    """

    def __init__(self, device: Device, snapshot: Snapshot) -> None:
        self.name = device.name
        self.there = [r for r in snapshot.residents if r.device == device.name]
        self.loading_bytes = sum(r.size_bytes for r in self.there if r.state == "loading")
        pinned_bytes = sum(r.size_bytes for r in self.there if snapshot.is_pinned(r.expert))
        self.most_bytes = device.capacity_bytes - pinned_bytes
        self.promised_bytes = 0
        self.coming_bytes = sum(r.size_bytes for r in self.there if r.state == "leaving")
        self.spare_bytes = device.capacity_bytes - sum(r.size_bytes for r in self.there)
        if device.free_bytes is not None:
            # Other processes may have taken memory, or an eviction has not returned all of its own yet.
            missing = max(0, self.spare_bytes - (device.free_bytes - self.loading_bytes))
            self.spare_bytes -= missing
            self.coming_bytes += 0 if device.settled else missing

    @property
    def expected_bytes(self) -> int:
        """Free once all memory on its way has come back."""
        return self.spare_bytes + self.coming_bytes

    def promise(self, size_bytes: int) -> None:
        self.promised_bytes += size_bytes
        self.spare_bytes -= size_bytes


class _Decision:
    """The state of one decision: the memory promised so far."""

    def __init__(self, snapshot: Snapshot, rule: ResidencyRule, kept: frozenset[str] | None) -> None:
        self._at = snapshot
        self._rule = rule
        self._trusted = rule.evict == "lookahead" and kept is None
        self._worth = build_worth(rule.evict, snapshot, kept)
        self._rooms = {device.name: _Room(device, snapshot) for device in snapshot.devices}
        self._due = find_due(snapshot, rule.turns)
        self._leaving_experts: set[str] = set()

    def effects(self) -> Iterator[Effect]:
        yield from self._evict_expired()
        for queue in order_queues(self._at, self._rule.turns):
            yield from self._serve(queue)
        # Pinned experts come after real requests, as a queue of one that arrived just now.
        for expert in sorted(one.expert for one in self._at.loadable if one.pinned):
            if expert not in self._at.queue:
                yield from self._serve(Queue(expert, 1, self._at.now_s))
        if self._trusted:
            yield from self._prefetch()

    def _evict_expired(self) -> Iterator[Effect]:
        for resident in self._at.residents:
            expires_s = resident.expires_s
            if expires_s is not None and expires_s <= self._at.now_s and self._is_idle(resident):
                self._mark_leaving(resident)
                yield Evict(resident.expert)

    def _serve(self, queue: Queue) -> Iterator[Effect]:
        """Load the expert of a queue, or take the next step towards it."""
        expert = queue.expert
        resident = self._at.resident.get(expert)
        if expert not in self._at.by_expert or (resident is not None and self._is_staying(resident)):
            return
        if resident is not None:
            yield Wait(expert, "memory")
            return
        wanted = self._at.by_expert[expert]
        options = [self._plan_option(wanted, queue, room) for room in self._possible_rooms(wanted)]
        if not options:
            yield Refuse(expert, wanted.size_bytes)
            return
        yield from self._apply_option(min(options, key=lambda option: option.rank), wanted)

    def _possible_rooms(self, wanted: Loadable) -> Iterator[_Room]:
        """The devices that could hold the expert."""
        for room in self._rooms.values():
            if wanted.size_bytes <= room.most_bytes and (not wanted.devices or room.name in wanted.devices):
                yield room

    def _apply_option(self, option: _Option, wanted: Loadable) -> Iterator[Effect]:
        # A blocked option still reserves its memory: a later, smaller load must not take it away.
        if option.blocked not in ("claim", "taken"):
            option.room.promise(wanted.size_bytes)
        for resident in option.leaving:
            self._mark_leaving(resident)
            leave = Hold if option.blocked == "busy" else Evict
            yield leave(resident.expert, wanted.expert)
        yield Wait(wanted.expert, option.blocked) if option.blocked else Load(wanted.expert, option.room.name)

    def _plan_option(self, wanted: Loadable, queue: Queue, room: _Room) -> _Option:
        """How to load the expert onto a device."""
        if wanted.size_bytes <= room.spare_bytes:
            return _Option(room)
        need = wanted.size_bytes - room.expected_bytes
        movable = [r for r in room.there if self._can_leave(r, queue)]
        turns = self._rule.turns
        willing = [r for r in movable if r.held or can_displace(queue, r.expert, self._at, turns, self._due)]
        # Only look-ahead can weigh waiting for a busy one against the loss of an idle one.
        idle = [r for r in willing if not r.n_busy]
        leaving = None if self._trusted else choose_cheapest(idle, need, self._value)
        if leaving is None:
            leaving = choose_cheapest(willing, need, self._value)
        if leaving is not None:
            busy = any(resident.n_busy for resident in leaving)
            return _Option(room, leaving, sum_worth(leaving, self._value), "busy" if busy else "memory")
        if sum(r.size_bytes for r in movable) >= need:
            return _Option(room, blocked="claim")
        if room.promised_bytes or any(self._has_turn_or_loads(r, queue) for r in room.there):
            return _Option(room, blocked="turn")
        return _Option(room, blocked="taken")

    def _value(self, resident: Resident) -> Worth:
        """A held resident is becoming idle for another expert already: it is evicted first."""
        return NOTHING if resident.held else self._worth(resident)

    def _mark_leaving(self, resident: Resident) -> None:
        self._leaving_experts.add(resident.expert)
        self._rooms[resident.device].coming_bytes += resident.size_bytes

    def _is_staying(self, resident: Resident) -> bool:
        return resident.state != "leaving" and resident.expert not in self._leaving_experts

    def _can_leave(self, resident: Resident, wanting: Queue) -> bool:
        if resident.expert in self._leaving_experts or self._at.is_pinned(resident.expert):
            return False
        if resident.state == "loading":
            return resident.stoppable and self._is_loaded_patiently(resident, wanting)
        return resident.state == "ready" and not self._is_in_turn(resident, wanting)

    def _is_loaded_patiently(self, resident: Resident, wanting: Queue) -> bool:
        """Whether a load is for patient requests only, which have not waited for very long."""
        queue = self._at.queue.get(resident.expert)
        if queue is None or not queue.patient or wanting.patient:
            return False
        return self._at.now_s - queue.oldest_s < self._rule.turns.patient_s

    def _has_turn_or_loads(self, resident: Resident, wanting: Queue) -> bool:
        turn = not self._at.is_pinned(resident.expert) and self._is_in_turn(resident, wanting)
        return resident.state == "loading" or turn

    def _is_in_turn(self, resident: Resident, wanting: Queue) -> bool:
        return is_in_turn(resident.expert, self._at, self._rule.turns, wanting)

    def _is_idle(self, resident: Resident) -> bool:
        wanted = self._at.is_pinned(resident.expert) or resident.expert in self._at.queue
        return resident.state == "ready" and not resident.n_busy and not wanted

    def _prefetch(self) -> Iterator[Effect]:
        """The expert expected soonest, into memory that is free, while nothing else is loaded there."""
        # One prefetch per decision: forecasts change faster than loads end.
        rooms = [r for r in self._rooms.values() if not r.promised_bytes and not r.loading_bytes]
        for in_s, expert in sorted((in_s, expert) for expert, in_s in self._at.next_use_s.items()):
            if in_s > self._rule.prefetch_s:
                return
            wanted = self._at.by_expert.get(expert)
            if wanted is None or expert in self._at.resident or expert in self._at.queue:
                continue
            places = [room for room in self._possible_rooms(wanted) if room in rooms]
            fitting = [
                (-room.spare_bytes, room.name) for room in places if wanted.size_bytes <= room.spare_bytes
            ]
            if fitting:
                yield Load(expert, min(fitting)[1], prefetch=True)
                return
