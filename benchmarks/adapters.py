"""Five adapters on one base against five processes: `python benchmarks/adapters.py [--pairs 100]`.

Real llama.cpp, real SmolLM2, random adapters. Printed are: what is held in memory when all five can answer
and the seconds until then; what it costs to be asked after another adapter rather than after oneself; a swap
of processes where memory is there for one; and the loads of a batch whose lines ask the five in turn. `held`
is what the pool books, with file pages that processes share counted in each; `PSS` counts those once.
Seconds are of this machine: compare them within a run.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.config import Config, parse_config
from gateway.experts.build import build_expert
from gateway.experts.http_client import Transport
from gateway.experts.types import Call, Expert
from gateway.runners import Runners
from gateway.runners.build import build_pool_rule, build_runner_settings
from tests.fakes.adapters import write_adapter

NAMES = ("legal", "medical", "poet", "coder", "clerk")
ENGINE = {"model": "bundled/smollm2-135m", "context_tokens": 512, "n_parallel": 1, "n_threads": 1}
ROOM = "1GB"
"""Declared for each process and for all: memory for one."""
PROMPT = "Good morning"
"""Short, so that a change of adapters shows beside what reading it takes."""
RANK = 16


def write_adapters(folder: Path) -> dict[str, str]:
    """Five random adapters by name."""
    return {name: str(write_adapter(folder / f"{name}.gguf", n, rank=RANK)) for n, name in enumerate(NAMES)}


def as_adapters(files: dict[str, str], **more: str) -> list[dict[str, Any]]:
    """One entry with five adapters."""
    return [{"name": "house", "runner": {**ENGINE, "adapters": files, **more}}]


def as_processes(files: dict[str, str], **more: str) -> list[dict[str, Any]]:
    """Five entries, each a process with the same model and its adapter applied for good."""
    return [
        {"name": name, "runner": {**ENGINE, "llama_cpp": {"loras": [path]}, **more}}
        for name, path in files.items()
    ]


class Pool:
    """A pool of local experts and how they are asked."""

    def __init__(self, config: Config) -> None:
        self.runners = Runners(build_runner_settings(config), rule=build_pool_rule(config))
        self._transport = Transport()
        self._experts: dict[str, Expert] = {
            expert.name: build_expert(expert, config.timeouts, self._transport, self.runners)
            for expert in config.experts
        }

    async def __aenter__(self) -> "Pool":
        await self._transport.open()
        await self.runners.start()
        await self.runners.wait_settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runners.stop()
        await self._transport.close()

    async def ask(self, expert: str, n_tokens: int = 1) -> float:
        """Seconds of an answer to a prompt of two words, which is read anew."""
        fields = {"prompt": PROMPT, "max_tokens": n_tokens, "temperature": 0, "cache_prompt": False}
        raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
        start_s = time.perf_counter()
        await self._experts[expert].call(Call("completions", raw))
        return time.perf_counter() - start_s

    @property
    def n_loads(self) -> int:
        return sum(status.n_loads for status in self.runners.snapshot())


def build_config(experts: list[dict[str, Any]], memory: str | None = None) -> Config:
    whole: dict[str, Any] = {"experts": experts}
    if memory is not None:
        whole["runners"] = {"memory": memory}
    return parse_config(json.dumps(whole))


def count_pss_bytes(pids: Sequence[int]) -> int:
    """Memory of processes, with pages that several map divided among those (proc(5), smaps_rollup)."""
    held = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                held += 1024 * int(line.split()[1])
    return held


async def measure_all_loaded(name: str, experts: list[dict[str, Any]], pairs: int) -> dict[str, float]:
    start_s = time.perf_counter()
    async with Pool(build_config(experts)) as pool:
        for expert in NAMES:
            await pool.ask(expert)
        ready_s = time.perf_counter() - start_s
        statuses = pool.runners.snapshot()
        held_bytes = sum(status.memory_bytes or 0 for status in statuses)
        pss_bytes = count_pss_bytes([status.pid for status in statuses if status.pid])
        same, other = await compare_turns(pool, pairs)
        n_loads = pool.n_loads
    print(
        f"{name}: {n_loads} loads, all answered after {ready_s:.1f} s, held {held_bytes / 1e6:.0f} MB, "
        f"PSS {pss_bytes / 1e6:.0f} MB; one token after itself {1000 * same:.2f} ms, after another "
        f"{1000 * other:.2f} ms",
        flush=True,
    )
    return {
        "held_mb": held_bytes / 1e6,
        "pss_mb": pss_bytes / 1e6,
        "ready_s": ready_s,
        "swap_s": other - same,
    }


async def compare_turns(pool: Pool, pairs: int) -> tuple[float, float]:
    """Median seconds of one token after the same expert, and after another one, taken in turn."""
    same, other = [], []
    for n in range(pairs):
        expert = NAMES[n % len(NAMES)]
        other.append(await pool.ask(expert))
        same.append(await pool.ask(expert))
    return statistics.median(same), statistics.median(other)


async def measure_swap_of_processes(files: dict[str, str]) -> float:
    """Median seconds of one token where another process must leave first."""
    async with Pool(build_config(as_processes(files, memory=ROOM), ROOM)) as pool:
        await pool.ask(NAMES[0])
        swaps = [await pool.ask(name) for name in (*NAMES[1:], NAMES[0])]
    return statistics.median(swaps)


async def count_loads(experts: list[dict[str, Any]], n_lines: int = 20) -> tuple[int, float]:
    """Loads and seconds of calls that ask the five in turn, as lines of a file do."""
    async with Pool(build_config(experts, ROOM)) as pool:
        start_s = time.perf_counter()
        for n in range(n_lines):
            await pool.ask(NAMES[n % len(NAMES)], n_tokens=4)
        return pool.n_loads, time.perf_counter() - start_s


async def compare(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = write_adapters(Path(folder))
        ours = await measure_all_loaded("five adapters, one base", as_adapters(files), pairs)
        theirs = await measure_all_loaded("five processes         ", as_processes(files), pairs)
        swap_s = await measure_swap_of_processes(files)
        print(f"a swap of processes, memory for one: {swap_s:.2f} s to the first token", flush=True)
        ours_loads, ours_s = await count_loads(as_adapters(files, memory=ROOM))
        theirs_loads, theirs_s = await count_loads(as_processes(files, memory=ROOM))
        print(f"20 lines in turn, memory for one: {ours_loads} load, {ours_s:.1f} s, as adapters")
        print(f"20 lines in turn, memory for one: {theirs_loads} loads, {theirs_s:.1f} s, as processes")
        figures = {
            "held_ratio": theirs["held_mb"] / ours["held_mb"],
            "pss_ratio": theirs["pss_mb"] / ours["pss_mb"],
            "adapter_swap_ms": 1000 * ours["swap_s"],
            "process_swap_ms": 1000 * swap_s,
            "adapter_loads": ours_loads,
            "process_loads": theirs_loads,
        }
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--pairs", type=int, default=100, help="times that each order of turns is measured")
    asyncio.run(compare(options.parse_args().pairs))


if __name__ == "__main__":
    main()
