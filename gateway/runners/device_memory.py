"""The memory of each device: its capacity, what is free, and what runners hold."""

import contextlib
import sys
import time
from collections.abc import Collection
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from policies import Device, Resident

from .types import DeviceMemoryStatus, PoolRule

MARGIN = 0.1
"""Share of a device left to other processes where no limit is configured."""

# A driver may give the memory of an ended process back late; without this time the next model would be
# refused for the lack of it.
SETTLED_AFTER_S = 10.0
"""After an unload, for so long, memory that is missing is waited for."""


class MemoryUser(Protocol):
    """What holds memory: a queue and its runner. A protocol, because runners import this module."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def pinned(self) -> bool: ...
    def resident(self) -> Resident | None: ...


User = TypeVar("User", bound=MemoryUser)


class DeviceMemory:
    """The memory of the devices that some runner queues share."""

    def __init__(self, rule: PoolRule) -> None:
        self._rule = rule
        self._capacity: dict[str, int] = {}
        self._unloaded_s: dict[str, float] = {}

    def open(self, queues: Collection[MemoryUser]) -> None:
        """Take stock of their devices; may ask a driver, which takes a moment."""
        self._capacity = {
            device: self.find_capacity(device) for device in sorted({queue.device for queue in queues})
        }

    def find_capacity(self, device: str) -> int:
        """What may be held on a device; without bound where it is neither configured nor measured."""
        declared = self._rule.memory.get(device, self._rule.each)
        return (total_bytes(device) if declared is None else declared) or sys.maxsize

    def select_fitting(self, queues: Collection[User]) -> list[User]:
        """Those that fit together into what is free, pinned ones before the others."""
        left = {
            device: room if (free := free_bytes(device)) is None else min(room, free)
            for device, room in self._capacity.items()
        }
        fitting = []
        for queue in sorted(queues, key=lambda queue: not queue.pinned):
            if queue.size_bytes <= left[queue.device]:
                left[queue.device] -= queue.size_bytes
                fitting.append(queue)
        return fitting

    def can_hold(self, queue: MemoryUser) -> bool:
        """Whether its device is large enough for it, as far as is known."""
        return queue.size_bytes <= self.find_capacity(queue.device)

    def explain_misfit(self, queue: MemoryUser) -> str:
        """What to say of one that never gets room."""
        beside = " and what is pinned there stays" if self.can_hold(queue) else ""
        room = self.find_capacity(queue.device)
        return f"{queue.name} needs {queue.size_bytes} bytes; {queue.device} may hold {room}{beside}"

    def is_scarce(self, queues: Collection[MemoryUser]) -> bool:
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

    def report(self, queues: Collection[MemoryUser]) -> tuple[DeviceMemoryStatus, ...]:
        """As people see them."""
        held = dict.fromkeys(self._capacity, 0)
        for queue in queues:
            if (resident := queue.resident()) is not None:
                held[resident.device] += resident.size_bytes
        return tuple(
            DeviceMemoryStatus(name, None if room == sys.maxsize else room, held[name], free_bytes(name))
            for name, room in self._capacity.items()
        )


def total_bytes(device: str) -> int | None:
    """What a device has, less a margin; None where that cannot be told, which is taken for enough."""
    total = device_bytes(device)
    return None if total is None else int(total * (1 - MARGIN))


def device_bytes(device: str) -> int | None:
    """All that a device has; None where that cannot be told."""
    return _read(device, "total")


def free_bytes(device: str) -> int | None:
    """What is free on a device now, in bytes; None where that is unknown."""
    return _read(device, "free")


def count_held_bytes(pid: int, device: str) -> int | None:
    """What a process and all below it hold on a device; None where it is gone, or nothing tells."""
    import psutil

    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return None
    if device != "cpu":
        return _count_gpu_bytes({process.pid for process in family}, device)
    held = 0
    # Resident memory counts shared pages in every process, so the sum errs on the high side.
    for process in family:
        with contextlib.suppress(psutil.Error):
            held += process.memory_info().rss
    return held


def _count_gpu_bytes(pids: set[int], device: str) -> int | None:
    """The driver's count, where it tells whose memory is whose: inside containers it often does not."""
    handle = _gpu(device)
    if handle is None:
        return None
    import pynvml

    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
    # None where the driver does not say, as under WDDM (NVML_VALUE_NOT_AVAILABLE).
    held = [process.usedGpuMemory or 0 for process in processes if process.pid in pids]
    return sum(held) or None


def _gpu(device: str) -> Any:
    """The driver's handle; None without a driver, its package `pynvml`, or such a device."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(int(number or 0))
    except (pynvml.NVMLError, ValueError):
        return None


def _read(device: str, what: str) -> int | None:
    if device == "cpu":
        import psutil

        memory = psutil.virtual_memory()
        return int(memory.total if what == "total" else memory.available)
    handle = _gpu(device)
    if handle is None:
        return None
    import pynvml

    try:
        return int(getattr(pynvml.nvmlDeviceGetMemoryInfo(handle), what))
    except pynvml.NVMLError:
        return None
