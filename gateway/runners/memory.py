"""How much memory there is, how much is free, and what a process and its children hold."""

import contextlib
from importlib.util import find_spec

MARGIN = 0.1
"""Share of a device left to everybody else, where nobody says how much may be used."""


def total_bytes(device: str) -> int | None:
    """What a device has, less a margin; None where that cannot be told, which is taken for enough."""
    total = device_bytes(device)
    return None if total is None else int(total * (1 - MARGIN))


def device_bytes(device: str) -> int | None:
    """All that a device has; None where that cannot be told."""
    return _read(device, "total")


def free_bytes(device: str) -> int | None:
    """What is free on a device now, whoever holds the rest; None where that cannot be told."""
    return _read(device, "free")


def group_bytes(pid: int) -> int | None:
    """Resident memory of a process and all below it; None where it is gone."""
    import psutil

    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return None
    held = 0
    for process in family:
        with contextlib.suppress(psutil.Error):
            held += process.memory_info().rss
    return held


def _read(device: str, what: str) -> int | None:
    kind, _, number = device.partition(":")
    if kind == "cpu":
        import psutil

        memory = psutil.virtual_memory()
        return int(memory.total if what == "total" else memory.available)
    if kind != "cuda" or find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        held = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(int(number or 0)))
    except (pynvml.NVMLError, ValueError):
        return None
    return int(getattr(held, what))
