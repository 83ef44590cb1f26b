"""What is measured of memory: processes by the kernel, GPUs by NVIDIA's library (a stand-in of it here)."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.config import size_bytes
from gateway.runners import PoolRule, RunnerSettings, runner
from gateway.runners.device_memory import (
    DeviceMemory,
    count_held_bytes,
    count_host_bytes,
    device_bytes,
    find_gpu,
    free_bytes,
    total_bytes,
)
from gateway.runners.process import Report
from policies import Resident

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


class User:
    """A runner on a GPU, awake or asleep."""

    def __init__(self, device: str, host_bytes: int, size_bytes: int = 10) -> None:
        self.name, self.device, self.host_bytes = device, device, host_bytes
        self.size_bytes, self.pinned = size_bytes, False

    def resident(self) -> Resident | None:
        return Resident(self.name, self.device, self.size_bytes)


def test_main_memory_that_engines_on_gpus_hold_is_booked_there() -> None:
    memory = DeviceMemory(PoolRule(each=100))
    users = [User("cpu", 0), User("cuda:0", 30)]
    memory.open(users)
    assert {one.name: one.capacity_bytes for one in memory.devices(0.0, users)} == {"cpu": 70, "cuda:0": 100}
    assert {one.name: one.held_bytes for one in memory.report(users)} == {"cpu": 40, "cuda:0": 10}


def test_a_gpu_on_which_an_engine_was_found_is_one_to_share() -> None:
    memory = DeviceMemory(PoolRule(each=100))
    users = [User("cpu", 0)]
    memory.open(users)
    users.append(User("cuda:1", 0))
    assert {one.name for one in memory.devices(0.0, users)} == {"cpu", "cuda:1"}
    assert {one.name: one.held_bytes for one in memory.report(users)} == {"cpu": 10, "cuda:1": 10}


def test_files_that_are_only_mapped_are_not_held_in_main_memory(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(64 * 2**20))
    hold = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); "
    )
    hold += "m[:1]; sum(m[::4096]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "weights")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        held, resident = count_host_bytes(process.pid), count_held_bytes(process.pid, "cpu") or 0
        process.kill()
    assert 0 < held < 40 * 2**20 < 64 * 2**20 < resident


def test_an_engine_without_a_device_is_found_on_the_gpu_that_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text(NVML)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert find_gpu(os.getpid()) == "cuda:0"
    assert find_gpu(2**22 + 1) is None
    sys.modules.pop("pynvml", None)


def test_nvidia_smi_tells_where_its_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\n[ "$2" = 1 ] && echo "{os.getpid()}, 700"\n[ "$2" = 1 ] && echo "1, [N/A]"\nexit 0\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert count_held_bytes(os.getpid(), "cuda:1") == 700 * 2**20
    assert count_held_bytes(os.getpid(), "cuda:0") is None
    assert find_gpu(os.getpid()) == "cuda:1"


def test_a_loaded_engine_counts_where_its_processes_hold_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"cpu": 9, "cuda:0": 50}
    monkeypatch.setattr(runner, "count_held_bytes", lambda pid, device: held[device])
    monkeypatch.setattr(runner, "count_host_bytes", lambda pid: 7)
    monkeypatch.setattr(runner, "find_gpu", lambda pid: "cuda:0")

    def measure(device: str | None, reported: int | None) -> tuple[str | None, int | None, int]:
        one = runner.Runner(RunnerSettings("command", "m", device=device), "a")
        one._measure(1, device or "cpu", Report("http://x", reported))
        return one.gpu, one.memory_bytes, one._host_bytes

    assert measure(None, None) == ("cuda:0", 50, 7)
    assert measure("cpu", None) == (None, 9, 0)
    assert measure("cpu", 300) == (None, 300, 0)  # as Ollama says of itself
    assert measure("cuda:0", 40) == (None, 50, 7)
