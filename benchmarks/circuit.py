"""What a circuit lets through, before and after: simulated on a clock of its own, and measured on loopback.

    python benchmarks/circuit.py [--only simulate,faults,outage,poison] [--checkout DIR ...] [--n 10000]

simulate  calls of 10,000 that reach an upstream which answers a share of them, by rate; a fake clock, seeded
faults    requests to `auto` where the first expert answers 500 to 20 % and the second is good
outage    requests to `auto` where all three experts are dead in one way: upstream calls per client call
poison    one client sends bad requests of one kind, another asks `auto` right after: who answers?

Each checkout is served by a process of its own; compare with a worktree of an older commit. All load stays on
loopback and is bounded.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from aiohttp import web

HERE = Path(__file__).parents[1]
SEED = 7
CONCURRENCY = 32
FIRST_PORT = int(os.environ.get("BENCH_PORT", "25000"))
SHARES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0)
RATES = (0.2, 1.0, 20.0, 1000.0)


# -- simulation


def simulate(checkout: Path, n: int) -> None:
    """Print how many calls reach an upstream that answers a share of them; the others go to a fallback."""
    code = f"import sys; sys.argv = ['simulate', '{n}']\n" + SIMULATION
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    print(done.stdout, end="")


SIMULATION = f"""
import heapq, random
from gateway.errors import UpstreamError
from gateway.fleet.health import FleetState
N, SHARES, RATES = int(sys.argv[1]), {SHARES}, {RATES}
ERROR = UpstreamError("status", "answered 500", status=500)

def run(share, rate, n_at_once, seed):
    # Open loop: a request every 1/rate seconds. An error comes after 5 ms, an answer after one second.
    draw, now = random.Random(seed), 0.0
    fleet = FleetState(["a"], {{"a": None}}, lambda: now)
    new = hasattr(fleet, "retries")
    ends, n_called = [], 0
    for n in range(N):
        now = n / rate
        while ends and ends[0][0] <= now:
            at, k, is_good = heapq.heappop(ends)
            now = at
            more = (None, {{"messages": b'"%d"' % k}}) if new else ()
            if is_good:
                fleet.record_success("a", 1.0, *more)
            else:
                fleet.record_failure("a", ERROR, *((0.005, *more) if new else ()))
        now = n / rate
        if fleet.admit("a", *((None, {{"messages": b'"%d"' % n}}) if new else ())):
            n_called += 1
            is_good = draw.random() < share
            heapq.heappush(ends, (now + (1.0 if is_good else 0.005), n, is_good))
    return n_called

print("healthy    " + "".join(f"{{rate:>10g}}/s" for rate in RATES))
for share in SHARES:
    row = [sum(run(share, rate, 1, seed) for seed in range(3)) // 3 for rate in RATES]
    print(f"{{share:7.0%}}    " + "".join(f"{{n:>12,}}" for n in row))
"""


# -- loopback


class PoisonableUpstream:
    """Answers by model (`flaky`, `dead`, `good`) and, where a prompt begins with `fail`, with that status."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._draw = random.Random(SEED)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model, prompt = body["model"], body["messages"][-1]["content"]
        self.calls[model] += 1
        status, wait = 200, None
        if prompt.startswith("fail "):
            _, code, wait = prompt.split()[:3]
            status = int(code)
        elif model.startswith("dead") or (model == "flaky" and self._draw.random() < 0.2):
            status = 500
        if status == 0 and request.transport is not None:
            request.transport.abort()
        if status != 200:
            headers = {"retry-after": wait} if wait and wait != "-" else {}
            return web.json_response({"error": {"message": "no"}}, status=status or 500, headers=headers)
        message = {"role": "assistant", "content": "ok"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {"id": "1", "object": "chat.completion", "model": model, "choices": [choice]}
        )


@asynccontextmanager
async def serve(
    checkout: Path, *models: str
) -> AsyncIterator[tuple[str, PoisonableUpstream, aiohttp.ClientSession]]:
    """A gateway of this checkout whose `auto` asks the models in this order."""
    upstream, app = PoisonableUpstream(), web.Application()
    app.router.add_post("/v1/chat/completions", upstream.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", FIRST_PORT).start()
    experts = [
        {
            "name": model,
            "model": f"openai/{model}",
            "api_base": f"http://127.0.0.1:{FIRST_PORT}/v1",
            "quality": 0.9 - 0.2 * n,
        }
        for n, model in enumerate(models)
    ]
    port = FIRST_PORT + 1
    with tempfile.TemporaryDirectory() as folder:
        config = {"experts": experts, "server": {"port": port, "log_level": "error"}}
        config |= {"embeddings": {"enabled": False}, "policies": {"auto": {"encoder": "never"}}}
        (Path(folder) / "thalamus.yaml").write_text(json.dumps(config))
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        with (Path(folder) / "log").open("w") as log:
            child = subprocess.Popen(  # noqa: ASYNC220 (a benchmark may wait)
                [sys.executable, "-m", "gateway.cli", "serve"], cwd=folder, env=environment,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                    url = f"http://127.0.0.1:{port}"
                    await wait_until_live(http, url)
                    yield url, upstream, http
            finally:
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(20)
                child.kill()
                await runner.cleanup()


async def wait_until_live(http: aiohttp.ClientSession, url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(aiohttp.ClientError):
            async with http.get(f"{url}/health/live") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise SystemExit(f"no answer from {url}")


async def ask(http: aiohttp.ClientSession, url: str, prompt: str, model: str = "auto") -> tuple[int, str]:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        await response.read()
        return response.status, response.headers.get("x-thalamus-expert", "-")


async def load(http: aiohttp.ClientSession, url: str, n: int) -> tuple[Counter[int], Counter[str]]:
    """Ask `auto` n different questions, so many at a time; statuses and experts that answered."""
    statuses, experts = Counter[int](), Counter[str]()
    numbers = iter(range(n))

    async def work() -> None:
        for k in numbers:
            status, expert = await ask(http, url, f"question {k}")
            statuses[status] += 1
            experts[expert] += 1

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return statuses, experts


async def measure_faults(checkout: Path, n: int) -> None:
    async with serve(checkout, "flaky", "good") as (url, upstream, http):
        statuses, experts = await load(http, url, n)
        print(f"faults  {n} requests: {dict(statuses)}; answered by {dict(experts)}", end="; ")
        print(f"upstream calls {dict(upstream.calls)}")


async def measure_outage(checkout: Path, n: int) -> None:
    async with serve(checkout, "dead-1", "dead-2", "dead-3") as (url, upstream, http):
        statuses, _ = await load(http, url, n)
        n_calls = sum(upstream.calls.values())
        print(f"outage  {n} requests: {dict(statuses)}; {n_calls / n:.3f} upstream calls per client call")


POISON = {
    "moderation 403": "fail 403 -",
    "401": "fail 401 -",
    "oversized, 429 with a wait of a day": "fail 429 86400",
    "oversized, 429 without a wait": "fail 429 -",
    "oversized, retry-after: 0": "fail 429 0",
    "query of death, 500": "fail 500 -",
    "query of death, connection lost": "fail 0 -",
    "503 with a wait of an hour": "fail 503 3600",
    "402": "fail 402 -",
    "404": "fail 404 -",
}


async def measure_poison(checkout: Path) -> None:
    for kind, prompt in POISON.items():
        async with serve(checkout, "shared", "good") as (url, _, http):
            row = []
            for n in (1, 3, 30):
                for _ in range(n):
                    await ask(http, url, prompt, "shared")
                row.append((await ask(http, url, f"fine {n}"))[1])
        print(f"poison  {kind:37s} the next of another client after 1, 3, 30 of them: {', '.join(row)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="simulate,faults,outage,poison")
    parser.add_argument("--checkout", type=Path, nargs="*", default=[HERE])
    parser.add_argument("--n", type=int, default=10_000)
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    for checkout in arguments.checkout:
        print(f"== {checkout}")
        if "simulate" in parts:
            simulate(checkout, arguments.n)
        if "faults" in parts:
            asyncio.run(measure_faults(checkout, arguments.n))
        if "outage" in parts:
            asyncio.run(measure_outage(checkout, arguments.n))
        if "poison" in parts:
            asyncio.run(measure_poison(checkout))


if __name__ == "__main__":
    main()
