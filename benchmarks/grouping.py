"""A batch over more local experts than memory holds: grouped by expert, beside the same calls as they come.

    python benchmarks/grouping.py [--lines 80] [--rooms 1 2]

Four llama.cpp experts on the bundled model, each in a process of its own; memory for one of them, then for
two. Every line is routed by the engine to one of the four, drawn evenly. "Arrival order" is the same pool,
in the order of the lines, the one used longest ago making room. Loads count the processes started.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.app import build_accounting, build_services, open_services
from gateway.batches.lines import read_file_mark
from gateway.batches.service import BatchService
from gateway.batches.store import new_id
from gateway.batches.types import Batch
from gateway.config import Config
from gateway.experts import Call, Expert
from gateway.experts.build import read_parallel_limits
from gateway.experts.http_client import Transport
from gateway.runners import Runner, Runners

NAMES = ("north", "east", "south", "west")
SEED = 11
MAX_TOKENS = 16
N_PARALLEL = 4
UP = ("ready", "busy")


def config_of(folder: Path, n_rooms: int, evict: str) -> Config:
    experts = [
        {
            "name": name,
            "runner": {
                "model": "bundled/smollm2-135m",
                "context_tokens": 1024 + 64 * n,  # of their own, so that none shares a process
                "n_parallel": N_PARALLEL,
                "n_threads": os.cpu_count(),  # no other model is served
                "memory": "1GiB",
            },
        }
        for n, name in enumerate(NAMES)
    ]
    return msgspec.convert(
        {
            "experts": experts,
            "runners": {"memory": f"{n_rooms}GiB", "evict": evict, "logs": str(folder / "logs")},
            "routing": {"artifact": str(folder / "none")},
            "embeddings": {"enabled": False},
            "journal": {"path": str(folder / "journal.sqlite3")},
        },
        Config,
    )


def read_lines(n: int) -> list[tuple[str, str]]:
    """Expert and prompt of each line."""
    draw = random.Random(SEED)
    return [
        (draw.choice(NAMES), f"Name {draw.randint(2, 9)} things that are {word}.") for word in ["red"] * n
    ]


class Loads:
    """Counts processes started, those too that are there already."""

    def __init__(self, runners: Runners) -> None:
        self.n = sum(runner.state in ("ready", "busy") for runner in runners.runners)
        self._before = {runner.name: runner.state for runner in runners.runners}
        for runner in runners.runners:
            runner.on_change.append(self._on_change)

    def _on_change(self, runner: Runner) -> None:
        was, self._before[runner.name] = self._before[runner.name], runner.state
        self.n += runner.state == "starting" != was


async def measure_grouped(folder: Path, n_rooms: int, lines: list[tuple[str, str]]) -> tuple[float, int, int]:
    """Seconds, loads, lines answered."""
    source, out = folder / "in.jsonl", folder / "out.jsonl"
    with source.open("w") as file:
        for n, (expert, prompt) in enumerate(lines):
            body = {
                "model": "auto",
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": MAX_TOKENS,
                "router": {"models": [expert]},
            }
            row = {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(row) + "\n")
    batch = Batch(
        id=new_id("batch"),
        input_path=str(source),
        input_mark=read_file_mark(source),
        out_path=str(out),
        times={"created_at": int(time.time())},
    )
    config, transport = config_of(folder, n_rooms, "lookahead"), Transport()
    services = build_services(config, transport)
    async with open_services(services, transport):
        assert services.runners is not None
        await services.runners.wait_settled()
        loads = Loads(services.runners)
        start = time.perf_counter()
        services.store.add_batch(batch)
        await BatchService(services, build_accounting(services), read_parallel_limits(config)).run(batch.id)
        seconds = time.perf_counter() - start
    rows = [json.loads(row) for row in out.open()]
    answered = {row["custom_id"] for row in rows if row["response"]["status_code"] == 200}
    wrong = sum(row["thalamus"]["expert"] != lines[int(row["custom_id"])][0] for row in rows)
    if len(rows) != len(lines) or wrong:
        raise SystemExit(f"{len(rows)} rows for {len(lines)} lines, {wrong} by another expert")
    out.unlink()
    return seconds, loads.n, len(answered)


async def as_they_come(folder: Path, n_rooms: int, lines: list[tuple[str, str]]) -> tuple[float, int, int]:
    """The same as the lines come: the next is asked when its expert is there, or no call is under way."""
    transport = Transport()
    services = build_services(config_of(folder, n_rooms, "lru"), transport)
    async with open_services(services, transport):
        assert services.runners is not None
        await services.runners.wait_settled()
        loads = Loads(services.runners)
        start = time.perf_counter()
        asked: dict[asyncio.Task[bytes], str] = {}
        n_answered = 0
        for expert, prompt in lines:
            while asked and not may_start(expert, asked, services.runners):
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in asked if task.done()]:
                    del asked[task]
                    n_answered += bool(task.result())
            asked[asyncio.ensure_future(one_call(services.experts[expert], prompt))] = expert
        n_answered += sum(map(bool, await asyncio.gather(*asked)))
        return time.perf_counter() - start, loads.n, n_answered


def may_start(expert: str, asked: Mapping[Any, str], runners: Runners) -> bool:
    """Whether the next can be asked already: its expert is up with a free slot, and none is loading."""
    n = sum(name == expert for name in asked.values())
    return n < N_PARALLEL and all(runners[name].state in UP for name in (expert, *asked.values()))


async def one_call(expert: Expert, prompt: str) -> bytes:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS}
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    return (await expert.call(Call("chat/completions", fields))).body


async def compare(n_lines: int, rooms: list[int]) -> None:
    lines = read_lines(n_lines)
    print(f"{n_lines} lines over {len(NAMES)} experts, max_tokens {MAX_TOKENS}")
    print(f"{'room for':>9}{'':4}{'':14}{'s':>8}{'loads':>7}{'answered':>10}")
    for n_rooms in rooms:
        with tempfile.TemporaryDirectory() as name:
            ours = await measure_grouped(Path(name), n_rooms, lines)
            theirs = await as_they_come(Path(name), n_rooms, lines)
        for label, (seconds, n_loads, n_answered) in (("grouped", ours), ("arrival order", theirs)):
            print(f"{n_rooms:9}{'':4}{label:14}{seconds:8.1f}{n_loads:7}{n_answered:10}", flush=True)
        print(f"{'':13}ratio {theirs[0] / ours[0]:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=80)
    parser.add_argument("--rooms", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    asyncio.run(compare(asked.lines, asked.rooms))
