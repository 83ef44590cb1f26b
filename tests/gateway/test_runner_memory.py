"""What is measured of memory: processes by the kernel, GPUs by NVIDIA's library (a stand-in of it here)."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from gateway.config import size_bytes
from gateway.runners.device_memory import count_held_bytes, device_bytes, free_bytes, total_bytes

GB = 10**9
NVML = f"""
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlDeviceGetHandleByIndex(n):
    if n > 1: raise NVMLError("no such device")
    return n
def nvmlDeviceGetMemoryInfo(n): return SimpleNamespace(total=80 * {GB}, free=(80 - 30 * n) * {GB})
def nvmlDeviceGetComputeRunningProcesses(n):
    held = {{{os.getpid()}: 7 * {GB}, 1: 5}}
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in held.items()]
"""


def test_main_memory_is_what_the_kernel_says_less_a_margin() -> None:
    assert device_bytes("cpu") == psutil.virtual_memory().total
    assert total_bytes("cpu") == int(psutil.virtual_memory().total * 0.9)
    assert 0 < (free_bytes("cpu") or 0) < psutil.virtual_memory().total
    assert (count_held_bytes(os.getpid(), "cpu") or 0) > 10_000_000
    assert count_held_bytes(2**22 + 1, "cpu") is None


def test_without_its_library_a_gpu_has_no_known_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert (device_bytes("cuda:0"), free_bytes("cuda:0"), count_held_bytes(os.getpid(), "cuda:0")) == (
        None,
    ) * 3


def test_a_gpu_is_measured_and_whose_memory_is_whose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert (device_bytes("cuda:0"), total_bytes("cuda:1")) == (80 * GB, 72 * GB)
    assert (free_bytes("cuda:0"), free_bytes("cuda:1"), free_bytes("cuda:2")) == (80 * GB, 50 * GB, None)
    assert count_held_bytes(os.getpid(), "cuda:0") == 7 * GB
    sys.modules.pop("pynvml", None)


@pytest.mark.parametrize(
    ("text", "size"), [("16GiB", 16 * 2**30), ("500MB", 500 * 10**6), ("1.5 g", 1_500_000_000), ("7", 7)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert size_bytes(text) == size


def test_what_is_no_size_says_how_to_write_one() -> None:
    with pytest.raises(ValueError, match="write it as 16GiB or 500MB"):
        size_bytes("plenty")
