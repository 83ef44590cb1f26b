"""Engines and their supervisors killed at random under live traffic, through the whole gateway."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from gateway.app import build_application, build_services
from gateway.config import parse_config
from gateway.experts.http_client import Transport
from gateway.runners import Runners
from tests.fakes.routing import InOrder
from tests.fakes.serving import live

TINY = Path(__file__).parents[1] / "fakes" / "tiny_engine.py"
NAMES = ("a", "b", "c")
LIMIT_S = 25.0
BACK_S = 60.0
CONFIG = """
experts:
{experts}
runners: {{memory: 200MB, max_wait_s: 2, logs: "{folder}/logs"}}
timeouts: {{load_s: 12, first_token_s: 6, between_tokens_s: 3, total_s: 6}}
journal: {{path: "{folder}/journal.sqlite3"}}
"""
EXPERT = (
    "  - {{name: {name}, runner: {{engine: command, model: {name}, memory: 100MB, n_parallel: 2, "
    'cmd: "{cmd} --answer-s 0.02"}}}}\n'
)


@dataclass
class Storm:
    """What came of it. statuses: of every request; slowest_s: of any; pids: every process ever seen."""

    statuses: list[int] = field(default_factory=list)
    slowest_s: float = 0.0
    n_kills: int = 0
    pids: set[int] = field(default_factory=set)


async def storm(folder: Path, n_kills: int, every_s: float, seed: int) -> Storm:
    """Traffic from six clients while processes are killed; then each expert until it is back.

    Before every third kill a request has been answered since the last one.
    """
    command = f"{sys.executable} -S {TINY} --port ${{PORT}}"
    experts = "".join(EXPERT.format(name=name, cmd=command) for name in NAMES)
    config = parse_config(CONFIG.format(experts=experts, folder=folder), env={})
    draw, found, over = random.Random(seed), Storm(), asyncio.Event()
    transport = Transport()
    services = build_services(config, transport, build_router=lambda *_: InOrder(*NAMES))
    async with (
        live(build_application(services, transport)) as address,
        aiohttp.ClientSession() as http,
    ):

        async def ask(model: str, stream: bool) -> int:
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
            began_s = time.monotonic()
            async with http.post(f"{address}/v1/chat/completions", json=body) as response:
                await response.read()
            found.slowest_s = max(found.slowest_s, time.monotonic() - began_s)
            found.statuses.append(response.status)
            return response.status

        async def client() -> None:
            while not over.is_set():
                await ask(draw.choice((*NAMES, "auto")), draw.random() < 0.5)
                await asyncio.sleep(0.01)

        clients = [asyncio.create_task(client()) for _ in range(6)]
        n_answered = 0
        while found.n_kills < n_kills:
            await asyncio.sleep(every_s * draw.random() * 2)
            if found.n_kills % 3 == 2:  # on a busy machine no start would end between two kills
                async with asyncio.timeout(BACK_S):
                    while found.statuses.count(200) <= n_answered:  # noqa: ASYNC110 (nothing tells)
                        await asyncio.sleep(0.05)
            n_answered = found.statuses.count(200)
            family = engines(services.runners)
            found.pids |= family
            if family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(sorted(family)), signal.SIGKILL)
                    found.n_kills += 1
        over.set()
        await asyncio.gather(*clients)
        async with asyncio.timeout(BACK_S):
            for name in NAMES:
                while await ask(name, stream=False) != 200:  # noqa: ASYNC110 (nothing tells)
                    await asyncio.sleep(0.5)
    return found


def engines(runners: Runners) -> set[int]:
    """Every process of the runners."""
    family: set[int] = set()
    for runner in runners.runners:
        with contextlib.suppress(psutil.Error):
            if runner.pid is not None:
                family |= {runner.pid, *(p.pid for p in psutil.Process(runner.pid).children(recursive=True))}
    return family


def left(pids: set[int]) -> set[int]:
    """Those that still run."""
    alive = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.add(pid)
    return alive


async def test_random_deaths_leave_no_orphan_and_nobody_waits_beyond_the_time_outs(tmp_path: Path) -> None:
    found = await storm(tmp_path, n_kills=12, every_s=0.3, seed=3)
    assert found.n_kills == 12
    assert found.slowest_s < LIMIT_S
    assert set(found.statuses) <= {200, 429, 502, 503, 504}
    assert found.statuses.count(200) >= found.n_kills // 3 + len(NAMES)
    assert left(found.pids) == set()
