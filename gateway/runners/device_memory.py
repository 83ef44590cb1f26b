"""What each device may hold, and what its runners hold of it."""

import sys
import time
from collections.abc import Collection

from policies import Device

from .memory import free_bytes, total_bytes
from .queue import RunnerQueue
from .types import DeviceMemoryStatus, PoolRule

SETTLED_AFTER_S = 10.0
"""After an unload, for so long, memory that is missing is waited for."""


class DeviceMemory:
    """The memory of the devices that some runner queues share."""

    def __init__(self, rule: PoolRule) -> None:
        self._rule = rule
        self._capacity: dict[str, int] = {}
        self._unloaded_s: dict[str, float] = {}

    def open(self, queues: Collection[RunnerQueue]) -> None:
        """Take stock of their devices; may ask a driver, which takes a moment."""
        self._capacity = {device: self.room(device) for device in sorted({queue.device for queue in queues})}

    def room(self, device: str) -> int:
        """What may be held on a device; without bound where it is neither configured nor measured."""
        declared = self._rule.memory.get(device, self._rule.each)
        return (total_bytes(device) if declared is None else declared) or sys.maxsize

    def fitting_first(self, queues: Collection[RunnerQueue]) -> list[RunnerQueue]:
        """Those that fit together into what is free, pinned ones before the others."""
        left = {
            device: room if (free := free_bytes(device)) is None else min(room, free)
            for device, room in self._capacity.items()
        }
        fitting = []
        for queue in sorted(queues, key=lambda queue: not queue.runner.settings.pinned):
            if queue.size_bytes <= left[queue.device]:
                left[queue.device] -= queue.size_bytes
                fitting.append(queue)
        return fitting

    def fits(self, queue: RunnerQueue) -> bool:
        """Whether its device is large enough for it, as far as is known."""
        return queue.size_bytes <= self.room(queue.device)

    def explain_misfit(self, queue: RunnerQueue) -> str:
        """What to say of one that never gets room."""
        beside = " and what is pinned there stays" if self.fits(queue) else ""
        room = self.room(queue.device)
        return f"{queue.name} needs {queue.size_bytes} bytes; {queue.device} may hold {room}{beside}"

    def is_scarce(self, queues: Collection[RunnerQueue]) -> bool:
        """Whether not all fit."""
        needed: dict[str, int] = {}
        for queue in queues:
            needed[queue.device] = needed.get(queue.device, 0) + queue.size_bytes
        return any(needed[device] > self._capacity.get(device, 0) for device in needed)

    def note_unload(self, device: str) -> None:
        """Something left it just now."""
        self._unloaded_s[device] = time.monotonic()

    def devices(self, now_s: float) -> tuple[Device, ...]:
        """As a decision sees them."""
        return tuple(
            Device(
                name,
                capacity,
                free_bytes(name),
                settled=now_s - self._unloaded_s.get(name, -SETTLED_AFTER_S) >= SETTLED_AFTER_S,
            )
            for name, capacity in self._capacity.items()
        )

    def report(self, queues: Collection[RunnerQueue]) -> tuple[DeviceMemoryStatus, ...]:
        """As people see them."""
        held = dict.fromkeys(self._capacity, 0)
        for queue in queues:
            if (resident := queue.resident()) is not None:
                held[resident.device] += resident.size_bytes
        return tuple(
            DeviceMemoryStatus(name, None if room == sys.maxsize else room, held[name], free_bytes(name))
            for name, room in self._capacity.items()
        )
