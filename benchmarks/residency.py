"""Four local experts, memory for fewer: `python benchmarks/residency.py [--room 1,2] [--n 120] [--rate 0.7]`.

With `--beside-batch llama.cpp` (or `tiny`, a test engine that takes 2 s to load and 0.5 s to answer): memory
for one, a batch of `--n` lines on A, throttled as batches are, and live requests for B now and then: how long
each waits for its turn.

The same trace of requests (A B A A C ..., arrivals at random, some experts asked for more often) goes to the
pool as it is, and to one that serves in the order of arrival and unloads who was used longest ago. Real
llama.cpp, real SmolLM2, four sets of settings, so four processes. Seconds are of this machine, and of what
else ran on it: compare them within a run.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.batches.calling import BatchThrottle
from gateway.runners import Lease, PoolRule, Runners, RunnerSettings
from gateway.runners.checks import ask
from policies import ResidencyRule

NAMES = ("A", "B", "C", "D")
POPULARITY = (8, 4, 2, 1)
BYTES = 10**9
"""Declared for each: only how many fit matters here."""
WAIT_S = 3600.0
QUESTION = [{"role": "user", "content": "Name a city in Europe."}]
TINY = Path(__file__).parents[1] / "tests" / "fakes" / "tiny_engine.py"
LIVE_AT_S = (2.0, 2.2, 12.0, 25.0, 27.0, 29.0, 45.0)
"""When live requests come beside a batch: two at once, single ones, a conversation."""


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    expert: str


@dataclass(frozen=True, slots=True)
class Figures:
    n_loads: int
    latencies_s: list[float]
    wall_s: float

    def summary(self) -> str:
        n = len(self.latencies_s)
        ordered = sorted(self.latencies_s)
        p50, p95 = statistics.median(ordered), ordered[min(n - 1, round(0.95 * n))]
        swaps = 1000 * self.n_loads / n
        return f"{swaps:6.0f} loads/1,000   p50 {p50:6.2f} s   p95 {p95:6.2f} s   all {self.wall_s:6.1f} s"


Serve = Callable[[Runners, list[Arrival]], Coroutine[Any, Any, list[float]]]


def trace(n: int, rate_per_s: float, seed: int) -> list[Arrival]:
    """`n` requests at random moments."""
    draw, now_s, arrivals = random.Random(seed), 0.0, []
    for _ in range(n):
        now_s += draw.expovariate(rate_per_s)
        arrivals.append(Arrival(now_s, draw.choices(NAMES, POPULARITY)[0]))
    return arrivals


def experts() -> dict[str, RunnerSettings]:
    """Four that differ in their window, so that each is a process of its own."""
    return {
        name: RunnerSettings(
            "llama.cpp", "bundled/smollm2-135m", 512 + 16 * n, n_threads=1, memory_bytes=BYTES
        )
        for n, name in enumerate(NAMES)
    }


def slow_experts() -> dict[str, RunnerSettings]:
    """Two test engines; how fast they are does not depend on the machine."""
    line = (sys.executable, "-S", str(TINY), "--port", "${PORT}", "--load-s", "2", "--answer-s", "0.5")
    return {name: RunnerSettings("command", name, command=line, memory_bytes=BYTES) for name in NAMES[:2]}


async def answer_one(lease: Lease, n_tokens: int = 16) -> None:
    with lease:
        body = {"model": lease.alias, "messages": QUESTION, "max_tokens": n_tokens, "temperature": 0}
        status, answer = await ask(lease.url.removesuffix("/v1"), "/v1/chat/completions", body, lease.headers)
        lease.note_output()
        if status != 200:
            raise SystemExit(f"answered {status}: {answer[:200]!r}")


async def as_decided(pool: Runners, arrivals: list[Arrival]) -> list[float]:
    """Every request asks the pool as it comes."""
    start_s = time.monotonic()

    async def one(arrival: Arrival) -> float:
        await asyncio.sleep(start_s + arrival.at_s - time.monotonic())
        await answer_one(await pool.take(arrival.expert, wait_s=WAIT_S))
        return time.monotonic() - start_s - arrival.at_s

    return await asyncio.gather(*(one(arrival) for arrival in arrivals))


async def in_order(pool: Runners, arrivals: list[Arrival]) -> list[float]:
    """Serve in order of arrival; the expert of the first in line is loaded."""
    start_s = time.monotonic()
    latencies: list[float] = []
    answering: set[asyncio.Task[None]] = set()

    async def one(lease: Lease, arrival: Arrival) -> None:
        await answer_one(lease)
        latencies.append(time.monotonic() - start_s - arrival.at_s)

    for arrival in arrivals:
        await asyncio.sleep(start_s + arrival.at_s - time.monotonic())
        lease = await pool.take(arrival.expert, wait_s=WAIT_S)
        answering.add(asyncio.create_task(one(lease, arrival)))
    await asyncio.gather(*answering)
    return latencies


async def measure_rule(room: int, rule: ResidencyRule, serve: Serve, arrivals: list[Arrival]) -> Figures:
    """One pool with memory for `room` experts, fed with the trace."""
    pool = Runners(experts(), rule=PoolRule(each=room * BYTES, residency=rule))
    await pool.start()
    try:
        await pool.wait_settled()
        before, began_s = sum(status.n_loads for status in pool.snapshot()), time.monotonic()
        latencies = await serve(pool, arrivals)
        n_loads = sum(status.n_loads for status in pool.snapshot()) - before
        return Figures(n_loads, latencies, time.monotonic() - began_s)
    finally:
        await pool.stop()


async def compare(rooms: list[int], n: int, rate_per_s: float, seed: int) -> None:
    arrivals = trace(n, rate_per_s, seed)
    for room in rooms:
        ours = await measure_rule(room, ResidencyRule(), as_decided, arrivals)
        print(f"memory for {room}: as decided       {ours.summary()}", flush=True)
        theirs = await measure_rule(room, ResidencyRule(evict="lru"), in_order, arrivals)
        print(f"memory for {room}: in order, LRU    {theirs.summary()}", flush=True)
        ratio = max(1, theirs.n_loads) / max(1, ours.n_loads)
        print(json.dumps({"room": room, "loads_ratio": round(ratio, 2)}), flush=True)


async def wait_beside_batch(engine: str, n_lines: int) -> None:
    """Live requests for B while a batch of patient calls keeps A busy, as many in line as a batch has."""
    wanted = slow_experts() if engine == "tiny" else dict(list(experts().items())[:2])
    pool = Runners(wanted, rule=PoolRule(each=BYTES))
    live: set[float] = set()
    throttle = BatchThrottle(lambda: len(live))
    await pool.start()
    await pool.wait_settled()
    (await pool.take("A", wait_s=WAIT_S, priority=-1)).release()
    start_s = time.monotonic()

    async def make_call() -> None:
        await answer_one(await pool.take("A", wait_s=WAIT_S, priority=-1), 64)

    async def ask_live(at_s: float) -> float:
        await asyncio.sleep(at_s)
        began_s = time.monotonic()
        live.add(at_s)
        lease = await pool.take("B", wait_s=WAIT_S)
        waited_s = time.monotonic() - began_s
        await answer_one(lease)
        live.discard(at_s)
        return waited_s

    async def run_batch() -> float:
        calls: set[asyncio.Task[None]] = set()
        for _ in range(n_lines):
            while len(calls) >= throttle.max_calls(4):
                _, calls = await asyncio.wait(calls, timeout=0.3, return_when=asyncio.FIRST_COMPLETED)
            calls.add(asyncio.create_task(make_call()))
        await asyncio.wait(calls)
        return time.monotonic() - start_s

    batch_s, *waits_s = await asyncio.gather(run_batch(), *map(ask_live, LIVE_AT_S))
    n_loads = {status.alias: status.n_loads for status in pool.snapshot()}
    await pool.stop()
    said = "  ".join(f"{wait_s:.1f}" for wait_s in waits_s)
    print(f"{engine}: waits of live requests {said} s; batch of {n_lines} {batch_s:.1f} s; loads {n_loads}")


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--room", default="1,2", help="how many experts fit, comma-separated")
    options.add_argument("--n", type=int, default=120, help="requests")
    options.add_argument("--rate", type=float, default=0.7, help="requests a second")
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--beside-batch", choices=("tiny", "llama.cpp"), help="waits beside a batch")
    asked = options.parse_args()
    if asked.beside_batch:
        asyncio.run(wait_beside_batch(asked.beside_batch, asked.n))
        return
    rooms = [int(room) for room in asked.room.split(",")]
    asyncio.run(compare(rooms, asked.n, asked.rate, asked.seed))


if __name__ == "__main__":
    main()
