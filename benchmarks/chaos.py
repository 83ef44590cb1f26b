"""A batch and live traffic through hundreds of `kill -9`: every line one output, no orphan, no endless wait.

    python benchmarks/chaos.py [--lines 200] [--kills 5]

A real `thalamus serve` works on a batch, most of it for a remote expert, some for a local llama.cpp engine,
while clients ask live. At random moments the gateway or its engine is killed; a gateway is started again at
once. Who is killed and when is drawn from a fixed seed.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import httpx
import openai
import psutil

SEED = 5
ENGINE_SHARE = 0.25
N_LOCAL = 60
LIVE_TIMEOUT_S = 30.0
MARK = "THALAMUS_CHAOS"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class GatewayRun:
    """A `thalamus serve` that is started again whenever it is killed."""

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mark = uuid.uuid4().hex
        self._folder = folder
        self._log = (folder / "gateway.log").open("ab")
        (folder / "thalamus.yaml").write_text(json.dumps(config))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli", "serve", "--port", str(self.port)),
            cwd=self._folder,
            env={**os.environ, MARK: self.mark},
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        async with httpx.AsyncClient() as http:
            for _ in range(1200):
                if self._process.returncode is not None:
                    raise SystemExit(f"the gateway ended: see {self._folder}/gateway.log")
                try:
                    if (await http.get(f"{self.url}/health/live", timeout=2)).status_code == 200:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)
        raise SystemExit("the gateway did not start")

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def kill_engine(self) -> bool:
        """Whether there was one."""
        assert self._process is not None
        for child in psutil.Process(self._process.pid).children():
            if "llamacpp_child" in " ".join(child.cmdline()):
                child.kill()
                return True
        return False

    async def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()
        self._log.close()

    def left(self) -> list[str]:
        """Processes of this run, by their command lines."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark:
                    found.append(" ".join(process.cmdline())[:120])
            except psutil.Error:
                continue
        return found


def lines_of(n: int) -> bytes:
    draw = random.Random(SEED)
    local = set(draw.sample(range(n), min(N_LOCAL, n)))
    rows = []
    for k in range(n):
        body = {
            "model": "local" if k in local else "remote",
            "messages": [{"role": "user", "content": f"Say {k}."}],
            "max_tokens": 4,
        }
        row = {"custom_id": str(k), "method": "POST", "url": "/v1/chat/completions", "body": body}
        rows.append(json.dumps(row) + "\n")
    return "".join(rows).encode()


async def ask_live(url: str, shown: Counter[str], longest_s: list[float]) -> None:
    """One client that asks again and again."""
    body = {"model": "remote", "messages": [{"role": "user", "content": "Hi"}]}
    async with httpx.AsyncClient(timeout=LIVE_TIMEOUT_S) as http:
        while True:
            start = time.perf_counter()
            try:
                shown[str((await http.post(f"{url}/v1/chat/completions", json=body)).status_code)] += 1
            except httpx.TimeoutException:
                shown["beyond its time-out"] += 1
            except httpx.HTTPError:
                shown["connection lost"] += 1
            longest_s[0] = max(longest_s[0], time.perf_counter() - start)
            await asyncio.sleep(0.25)


async def torment(
    gateway: GatewayRun, client: openai.AsyncOpenAI, batch_id: str, n_kills: int
) -> Counter[str]:
    """Kill until enough have died or the batch has ended."""
    draw = random.Random(SEED)
    killed: Counter[str] = Counter()
    while killed.total() < n_kills:
        await asyncio.sleep(draw.uniform(0.2, 2.5))
        if draw.random() < ENGINE_SHARE and gateway.kill_engine():
            killed["engine"] += 1
        else:
            await gateway.kill()
            killed["gateway"] += 1
            await gateway.start()
        if killed.total() % 20 == 0:
            batch = await client.batches.retrieve(batch_id)
            done = batch.request_counts and (batch.request_counts.completed, batch.request_counts.total)
            print(f"{killed.total():4} killed, lines done and in all: {done}", flush=True)
            if batch.status == "completed":
                break
    return killed


async def run(n_lines: int, n_kills: int) -> None:
    port = free_port()
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.testing", "--port", str(port), "--words", "4"
    )
    with tempfile.TemporaryDirectory() as name:
        remote = {
            "name": "remote",
            "model": "openai/slow-300",
            "api_base": f"http://127.0.0.1:{port}/v1",
            "max_parallel": 6,
        }
        local = {"name": "local", "runner": {"model": "bundled/smollm2-135m", "context_tokens": 512}}
        gateway = GatewayRun(Path(name), {"experts": [remote, local], "embeddings": {"enabled": False}})
        shown: Counter[str] = Counter()
        longest_s = [0.0]
        await gateway.start()
        clients = [asyncio.ensure_future(ask_live(gateway.url, shown, longest_s)) for _ in range(2)]
        try:
            async with openai.AsyncOpenAI(
                base_url=f"{gateway.url}/v1", api_key="none", max_retries=5
            ) as client:
                file = await client.files.create(file=("in.jsonl", lines_of(n_lines)), purpose="batch")
                batch = await client.batches.create(
                    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
                killed = await torment(gateway, client, batch.id, n_kills)
                while batch.status != "completed":
                    await asyncio.sleep(1)
                    batch = await client.batches.retrieve(batch.id)
                ids: list[str] = []
                for found in (batch.output_file_id, batch.error_file_id):
                    if found:
                        text = (await client.files.content(found)).text
                        ids += [json.loads(row)["custom_id"] for row in text.splitlines()]
        finally:
            for task in clients:
                task.cancel()
            await gateway.stop()
            upstream.terminate()
            await upstream.wait()
        await asyncio.sleep(1)
        counts = Counter(ids)
        print(f"killed: {dict(killed)}")
        print(f"lines: {n_lines}, outputs: {len(ids)}, of different lines: {len(counts)}")
        print(f"live requests: {dict(shown)}, the longest {longest_s[0]:.1f} s")
        print(f"processes left: {gateway.left()}")
        if len(ids) != n_lines or len(counts) != n_lines or gateway.left() or shown["beyond its time-out"]:
            raise SystemExit("FAILED")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    asked = parser.parse_args()
    asyncio.run(run(asked.lines, asked.kills))
