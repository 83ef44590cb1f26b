"""What each device may hold, and what its runners hold of it."""

import sys
import time
from collections.abc import Collection

from policies import Device

from .desk import Desk
from .memory import free_bytes, total_bytes
from .types import DeviceMemory, PoolRule

SETTLED_AFTER_S = 10.0
"""After an unload, for so long, memory that is missing is waited for."""


class Books:
    """The memory of the devices that some desks share."""

    def __init__(self, rule: PoolRule) -> None:
        self._rule = rule
        self._capacity: dict[str, int] = {}
        self._unloaded_s: dict[str, float] = {}

    def open(self, desks: Collection[Desk]) -> None:
        """Take stock of their devices; may ask a driver, which takes a moment."""
        self._capacity = {device: self.room(device) for device in sorted({desk.device for desk in desks})}

    def room(self, device: str) -> int:
        """What may be held on a device; without bound where nobody says and nothing measures it."""
        declared = self._rule.memory.get(device, self._rule.each)
        return (total_bytes(device) if declared is None else declared) or sys.maxsize

    def first(self, desks: Collection[Desk]) -> list[Desk]:
        """Those that fit together into what is free, pinned ones before the others."""
        left = {
            device: room if (free := free_bytes(device)) is None else min(room, free)
            for device, room in self._capacity.items()
        }
        fitting = []
        for desk in sorted(desks, key=lambda desk: not desk.runner.settings.pinned):
            if desk.size_bytes <= left[desk.device]:
                left[desk.device] -= desk.size_bytes
                fitting.append(desk)
        return fitting

    def fits(self, desk: Desk) -> bool:
        """Whether its device is large enough for it, as far as is known."""
        return desk.size_bytes <= self.room(desk.device)

    def why_not(self, desk: Desk) -> str:
        """What to say of one that never gets room."""
        beside = " and what is pinned there stays" if self.fits(desk) else ""
        room = self.room(desk.device)
        return f"{desk.name} needs {desk.size_bytes} bytes; {desk.device} may hold {room}{beside}"

    def scarce(self, desks: Collection[Desk]) -> bool:
        """Whether not all fit."""
        needed: dict[str, int] = {}
        for desk in desks:
            needed[desk.device] = needed.get(desk.device, 0) + desk.size_bytes
        return any(needed[device] > self._capacity.get(device, 0) for device in needed)

    def unloaded(self, device: str) -> None:
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

    def told(self, desks: Collection[Desk]) -> tuple[DeviceMemory, ...]:
        """As people see them."""
        held = dict.fromkeys(self._capacity, 0)
        for desk in desks:
            if (resident := desk.resident()) is not None:
                held[resident.device] += resident.size_bytes
        return tuple(
            DeviceMemory(name, None if room == sys.maxsize else room, held[name], free_bytes(name))
            for name, room in self._capacity.items()
        )
