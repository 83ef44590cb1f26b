"""The memory of each device: its capacity, what is free, and what runners hold."""

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

from policies import Device, Resident

from .types import DeviceMemoryStatus, PoolRule

# Anonymous and shared memory, in kB: what files are mapped to can be dropped and read again (proc(5)).
OWN_MEMORY = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)
MAX_GPUS = 16
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
    @property
    def host_bytes(self) -> int: ...
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

    def _note_devices(self, queues: Collection[MemoryUser]) -> None:
        """Of one that was not configured it is known after its first load where it holds memory."""
        for device in {queue.device for queue in queues} - self._capacity.keys() if self._capacity else ():
            self._capacity[device] = self.find_capacity(device)

    def find_capacity(self, device: str) -> int:
        """What may be held on a device; without bound where it is neither configured nor measured."""
        declared = self._rule.memory.get(device, self._rule.each)
        return (total_bytes(device) if declared is None else declared) or sys.maxsize

    def follow(self, former: "DeviceMemory") -> None:
        """Share with the memory of another pool what has left the devices just now."""
        self._unloaded_s = former._unloaded_s

    def select_fitting(self, queues: Collection[User], beside: Collection[MemoryUser] = ()) -> list[User]:
        """Those that fit together into what is free, pinned ones before the others.

        `beside` are others, which hold memory or are being loaded.
        """
        held = [resident for queue in beside if (resident := queue.resident()) is not None]
        left = {}
        for device, room in self._capacity.items():
            room -= sum(resident.size_bytes for resident in held if resident.device == device)
            free = free_bytes(device)
            left[device] = room if free is None else min(room, free)
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

    def devices(self, now_s: float, queues: Collection[MemoryUser]) -> tuple[Device, ...]:
        """As a decision sees them; main memory without what engines on GPUs hold there, also asleep."""
        self._note_devices(queues)
        host = {"cpu": sum(queue.host_bytes for queue in queues)}
        return tuple(
            Device(
                name,
                max(0, capacity - host.get(name, 0)),
                free_bytes(name),
                settled=now_s - self._unloaded_s.get(name, -SETTLED_AFTER_S) >= SETTLED_AFTER_S,
            )
            for name, capacity in self._capacity.items()
        )

    def report(self, queues: Collection[MemoryUser]) -> tuple[DeviceMemoryStatus, ...]:
        """As people see them."""
        self._note_devices(queues)
        held = dict.fromkeys(self._capacity, 0)
        for queue in queues:
            if "cpu" in held:
                held["cpu"] += queue.host_bytes
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

    family = _list_family(pid)
    if not family or device != "cpu":
        return _count_gpu_bytes({process.pid for process in family}, device) if family else None
    held = 0
    # Resident memory counts shared pages in every process, so the sum errs on the high side.
    for process in family:
        with contextlib.suppress(psutil.Error):
            held += process.memory_info().rss
    return held


def _list_family(pid: int) -> list[Any]:
    """A process and all below it; none where it is gone."""
    import psutil

    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return []


def count_host_bytes(pid: int) -> int:
    """What a process and all below it hold in main memory, without files that are only mapped there."""
    held = 0
    for process in _list_family(pid):
        with contextlib.suppress(OSError, ValueError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            held += 1024 * sum(int(found[1]) for found in OWN_MEMORY.finditer(status))
    return held


def find_gpu(pid: int) -> str | None:
    """The GPU on which a process and all below it hold most; None where they hold none, or nothing tells."""
    pids = {process.pid for process in _list_family(pid)}
    held = {}
    for number in range(MAX_GPUS):
        device = f"cuda:{number}"
        if device_bytes(device) is None and shutil.which("nvidia-smi") is None:
            break
        if (n_bytes := _count_gpu_bytes(pids, device)) is not None:
            held[device] = n_bytes
    return max(held, key=lambda device: held[device]) if held else None


def _ask_nvidia_smi(pids: set[int], device: str) -> int | None:
    """As `_count_gpu_bytes`, by NVIDIA's program, where its library for Python is not installed."""
    program, (kind, _, number) = shutil.which("nvidia-smi"), device.partition(":")
    if program is None or kind != "cuda":
        return None
    asked = [program, "-i", number or "0", "--query-compute-apps=pid,used_memory"]
    try:
        said = subprocess.run(  # noqa: S603 (NVIDIA's own, with arguments of ours)
            [*asked, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.split(",") for line in said.splitlines() if line.count(",") == 1)
    held = [(pid.strip(), size.strip()) for pid, size in rows]
    # In MiB; "[N/A]" where the driver does not say.
    mib = [int(size) for pid, size in held if pid.isdecimal() and int(pid) in pids and size.isdecimal()]
    return sum(mib) * 2**20 or None


def _count_gpu_bytes(pids: set[int], device: str) -> int | None:
    """The driver's count, where it tells whose memory is whose: inside containers it often does not."""
    handle = _gpu(device)
    if handle is None:
        return _ask_nvidia_smi(pids, device)
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
