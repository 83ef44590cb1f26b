"""How much memory there is, how much is free, and what a process and its children hold."""

import contextlib
from importlib.util import find_spec
from typing import Any

MARGIN = 0.1
"""Share of a device left to other processes where no limit is configured."""


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


def held_bytes(pid: int, device: str) -> int | None:
    """What a process and all below it hold on a device; None where it is gone, or nothing tells."""
    import psutil

    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return None
    if device != "cpu":
        return _held_on_gpu({process.pid for process in family}, device)
    held = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            held += process.memory_info().rss
    return held


def _held_on_gpu(pids: set[int], device: str) -> int | None:
    """The driver's count, where it tells whose memory is whose: inside containers it often does not."""
    handle = _gpu(device)
    if handle is None:
        return None
    import pynvml

    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return None
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
