"""Batches: lines a second and memory, beside a plain asyncio loop over OpenAI's client on the same file.

    python benchmarks/batches.py [--lines 5000] [--parallel 16]

Everything runs in processes of its own, one after another, against one upstream on loopback: the batch at a
tenth of the lines and at all of them, then the plain client at a tenth. Quote the ratios: absolute numbers
hang on the machine, whose cores the upstream shares.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

WORDS = (
    "the",
    "of",
    "routing",
    "expert",
    "answer",
    "question",
    "brain",
    "relay",
    "signal",
    "model",
    "prompt",
)
SEED = 7


def write_lines(path: Path, n: int) -> None:
    """Chats of 20 to 120 words."""
    draw = random.Random(SEED)
    with path.open("w") as file:
        for k in range(n):
            text = " ".join(draw.choices(WORDS, k=draw.randint(20, 120)))
            body = {"model": "mock", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
            line = {"custom_id": f"line-{k}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def measure_command(command: list[str], cwd: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a process.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


async def ask_plainly(source: Path, target: Path, base: str, n_parallel: int) -> None:
    """What people write: a semaphore, a task a line, a file."""
    import openai

    gate = asyncio.Semaphore(n_parallel)
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=2) as client:
        with source.open() as lines, target.open("w") as out:

            async def one(line: str) -> None:
                request = json.loads(line)
                async with gate:
                    answer = await client.chat.completions.create(**request["body"])
                row = {"custom_id": request["custom_id"], "body": answer.model_dump()}
                out.write(json.dumps(row) + "\n")

            await asyncio.gather(*(one(line) for line in lines))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"no answer from {url}")


def compare(n_lines: int, n_parallel: int) -> None:
    """Print the table."""
    port = free_port()
    base = f"http://127.0.0.1:{port}/v1"
    upstream = subprocess.Popen(
        [sys.executable, "-m", "gateway.testing", "--port", str(port), "--words", "16"]
    )
    try:
        with tempfile.TemporaryDirectory() as name:
            wait_for(f"http://127.0.0.1:{port}/v1/models")
            folder = Path(name)
            expert = {"name": "mock", "model": "openai/good", "api_base": base, "max_parallel": n_parallel}
            config = {"experts": [expert], "embeddings": {"enabled": False}}
            (folder / "thalamus.yaml").write_text(json.dumps(config))
            few, many = n_lines // 10, n_lines
            rows = [
                run_batch(folder, few),
                run_batch(folder, many),
                run_plainly(folder, few, base, n_parallel),
            ]
    finally:
        upstream.terminate()
        upstream.wait()
    print(f"{'':24}{'lines':>8}{'s':>9}{'lines/s':>10}{'peak MiB':>10}")
    for label, n, seconds, mib in rows:
        print(f"{label:24}{n:8}{seconds:9.1f}{n / seconds:10.0f}{mib:10.1f}")
    (_, _, few_s, few_mib), (_, _, many_s, many_mib), (_, _, plain_s, _) = rows
    each_s = (many_s - few_s) / (many - few)
    print(f"peak memory at all lines : at a tenth  {many_mib / few_mib:.3f}")
    print(f"seconds a line, plain : batch          {plain_s / few / each_s:.2f}")


def run_batch(folder: Path, n: int) -> tuple[str, int, float, float]:
    write_lines(folder / "in.jsonl", n)
    out = folder / f"out{n}.jsonl"
    command = [sys.executable, "-m", "gateway.cli", "batch", "run", "in.jsonl", out.name]
    seconds, mib = measure_command(command, folder)
    ids = {json.loads(line)["custom_id"] for line in out.open()}
    if len(ids) != n or sum(1 for _ in out.open()) != n:
        raise SystemExit(f"{n} lines in, {len(ids)} different ones out")
    return "thalamus batch run", n, seconds, mib


def run_plainly(folder: Path, n: int, base: str, n_parallel: int) -> tuple[str, int, float, float]:
    write_lines(folder / "in.jsonl", n)
    text = (folder / "in.jsonl").read_text().replace('"model": "mock"', '"model": "good"')
    (folder / "in.jsonl").write_text(text)
    here = str(Path(__file__).resolve())
    command = [sys.executable, here, "--plain", base, "--parallel", str(n_parallel)]
    seconds, mib = measure_command(command, folder)
    return "asyncio + openai client", n, seconds, mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=5_000)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--plain", metavar="BASE", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.plain:
        asyncio.run(ask_plainly(Path("in.jsonl"), Path("plain.jsonl"), asked.plain, asked.parallel))
    else:
        compare(asked.lines, asked.parallel)


if __name__ == "__main__":
    main()
