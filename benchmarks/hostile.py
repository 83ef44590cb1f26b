"""What an upstream that sends too much costs the gateway: memory, time, and the pause of its event loop.

    python benchmarks/hostile.py [--only gzip,endless] [--at-once 1] [--port 24100]

Each bomb is one expert; a plain and a streaming call are made of each. `MB` is how far the gateway's resident
memory rose above what it was before the call (its peak, from /proc), `pause` the longest wait of a health
check beside the call. The last section counts answers that reached another client than the one that asked.

All load stays on loopback; the upstream is part of this process, the gateway a child.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

MB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"
JSON, EVENTS, PAGE = b"application/json", b"text/event-stream", b"text/html"
ANSWER = {"id": "x", "object": "chat.completion", "model": "m", "choices": [
    {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]}  # fmt: skip
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word word word word"}}]}\n\n'
Bomb = Callable[[], Iterator[bytes]]


def send_chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def endless(head: bytes, piece: bytes, n: int = 4096, first: bytes = b"") -> Bomb:
    def send() -> Iterator[bytes]:
        yield head + b"transfer-encoding: chunked\r\n\r\n"
        yield from send_chunks(iter([first] if first else []) if not n else _repeat(first, piece, n))

    return send


def _repeat(first: bytes, piece: bytes, n: int) -> Iterator[bytes]:
    if first:
        yield first
    for _ in range(n):
        yield piece


def compress(kind: str, status: bytes, mime: bytes, n_mb: int) -> Bomb:
    """A body of `n_mb` megabytes of blanks in an answer; about a thousandth of it on the wire."""

    def send() -> Iterator[bytes]:
        body = squeeze(kind, n_mb)
        yield (
            b"HTTP/1.1 " + status + b"\r\ncontent-type: " + mime + b"\r\ncontent-encoding: " + kind.encode()
            + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
        )  # fmt: skip
        yield body

    return send


@functools.cache
def squeeze(kind: str, n_mb: int) -> bytes:
    made = zlib.compressobj(1, wbits=31 if kind == "gzip" else 15)
    body = made.compress(b'{"choices":[{"index":0,"message":{"role":"assistant","content":"')
    for _ in range(n_mb):
        body += made.compress(b" " * MB)
    return body + made.compress(b'"}}]}') + made.flush()


def headers(n: int, size: int) -> Bomb:
    def send() -> Iterator[bytes]:
        yield HEAD % JSON
        for i in range(n):
            yield b"x-%d: %s\r\n" % (i, b"a" * size)
        body = json.dumps(ANSWER).encode()
        yield b"content-length: %d\r\n\r\n%s" % (len(body), body)

    return send


BOMBS: dict[str, Bomb] = {
    "gzip-2gb": compress("gzip", b"200 OK", JSON, 2048),
    "deflate-2gb": compress("deflate", b"200 OK", JSON, 2048),
    "gzip-error-2gb": compress("gzip", b"500 Oops", PAGE, 2048),
    "endless-answer": endless(HEAD % JSON, b" " * MB, 2048, b'{"choices":['),
    "endless-error": endless(b"HTTP/1.1 500 Oops\r\ncontent-type: text/html\r\n", b"<p>" * (MB // 3), 2048),
    "headers-100mb": headers(100_000, 1000),
    "one-header-64mb": headers(1, 64 * MB),
    "endless-line": endless(HEAD % EVENTS, b"a" * MB, 2048, b"data: "),
    "comments": endless(HEAD % EVENTS, b": wait\n\n" * (MB // 8), 256),
    "empty-chunks": endless(HEAD % EVENTS, b'data: {"choices":[]}\n\n' * (MB // 22), 256),
    "endless-stream": endless(HEAD % EVENTS, WORD * (MB // len(WORD)), 2048),
}


class BombUpstream:
    """Serves the bombs by model; `wrong` answers twice, as a broken proxy does."""

    async def serve(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._connect, "127.0.0.1", port, limit=8 * MB)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int((re.search(rb"content-length: (\d+)", head, re.I) or [b"", b"0"])[1])
                body = json.loads(await reader.readexactly(length))
                if body["model"].startswith("wrong"):
                    await self._answer_twice(body, writer)
                    continue
                for piece in BOMBS[body["model"]]():
                    writer.write(piece)
                    await writer.drain()
        writer.close()

    async def _answer_twice(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        said = body["messages"][-1]["content"]
        whole = json.dumps({**ANSWER, "id": said}).encode()
        answer = HEAD % JSON + b"content-length: %d\r\n\r\n%s" % (len(whole), whole)
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.001 * int(body["model"].rpartition("-")[2]))
        writer.write(answer)
        await writer.drain()


def free_port(port: int) -> int:
    while True:
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
        port += 1


@contextlib.contextmanager
def gateway(folder: Path, port: int, experts: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    timeouts = {"connect_s": 2, "first_token_s": 60, "between_tokens_s": 60, "total_s": 120}
    config = {"experts": experts, "timeouts": timeouts, "routing": {"encoder": "none"},
              "server": {"port": port, "log_level": "error"}, "embeddings": {"enabled": False},
              "journal": {"path": str(folder / "journal.sqlite3")}}  # fmt: skip
    path = folder / "thalamus.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(path)]
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}", child.pid
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        child.kill()


def memory_mb(pid: int, name: str) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int((re.search(rf"{name}:\s+(\d+) kB", text) or ["", "0"])[1]) / 1024


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def wait_until_ready(http: aiohttp.ClientSession, url: str) -> None:
    for _ in range(600):
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(f"{url}/health/live") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise SystemExit("the gateway did not start")


async def ask(http: aiohttp.ClientSession, url: str, model: str, stream: bool, said: str = "Hi") -> str:
    """One call in a few words."""
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": said}]}
    try:
        async with http.post(f"{url}/v1/chat/completions", json=body) as response:
            n, tail = 0, b""
            async for piece in response.content.iter_any():
                n += len(piece)
                tail = (tail + piece)[-4000:]
            code = re.findall(rb'"code": ?"([^"]+)"', tail)
            return f"{response.status} {code[-1].decode() if code else f'{n / MB:.1f} MB'}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


@contextlib.asynccontextmanager
async def watch_health(http: aiohttp.ClientSession, url: str) -> AsyncIterator[list[float]]:
    """The longest answer time of a health check, in seconds."""
    longest = [0.0]

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{url}/health/live") as response:
                    await response.read()
            longest[0] = max(longest[0], time.perf_counter() - start)
            await asyncio.sleep(0.005)

    task = asyncio.ensure_future(watch())
    try:
        yield longest
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def explode(names: list[str], at_once: int, port: int) -> None:
    print(f"{'bomb':18} {'asked':7} {'outcome':34} {'MB':>7} {'s':>6} {'pause ms':>9}")
    for name in names:
        for stream in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                up, down = free_port(port), free_port(port + 50)
                server = await BombUpstream().serve(up)
                expert = {"name": name, "model": f"openai/{name}", "api_base": f"http://127.0.0.1:{up}/v1"}
                with gateway(Path(folder), down, [expert]) as (url, pid):
                    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(40)) as http:
                        await wait_until_ready(http, url)
                        await asyncio.sleep(0.5)
                        before = memory_mb(pid, "VmRSS")
                        reset_peak(pid)
                        start = time.perf_counter()
                        async with watch_health(http, url) as longest:
                            said = await asyncio.gather(
                                *(ask(http, url, name, stream) for _ in range(at_once))
                            )
                        took = time.perf_counter() - start
                        rise = memory_mb(pid, "VmHWM") - before
                server.close()
            kind = "stream" if stream else "plain"
            print(f"{name:18} {kind:7} {said[0]:34} {rise:7.0f} {took:6.1f} {longest[0] * 1000:9.0f}",
                  flush=True)  # fmt: skip


async def confuse(port: int) -> None:
    print("\nanswers that reached another client (of 40, 8 at a time; the second answer comes N ms late)")
    for late_ms in (0, 1, 5, 20):
        with tempfile.TemporaryDirectory() as folder:
            up, down, name = free_port(port), free_port(port + 50), f"wrong-{late_ms}"
            server = await BombUpstream().serve(up)
            expert = {"name": name, "model": f"openai/{name}", "api_base": f"http://127.0.0.1:{up}/v1"}
            with gateway(Path(folder), down, [expert]) as (url, _):
                async with aiohttp.ClientSession() as http:
                    await wait_until_ready(http, url)
                    room = asyncio.Semaphore(8)

                    async def one(n: int, room: asyncio.Semaphore = room, url: str = url,
                                  name: str = name, http: aiohttp.ClientSession = http) -> str:  # fmt: skip
                        async with room:
                            body = {"model": name, "messages": [{"role": "user", "content": f"c{n}"}]}
                            async with http.post(f"{url}/v1/chat/completions", json=body) as response:
                                answer = await response.json()
                            got = answer.get("id", "error")
                            return "ok" if got == f"c{n}" else "error" if got == "error" else "foreign"

                    said = [await asyncio.gather(*(one(n) for n in range(40)))][0]
            server.close()
        print(f"  {late_ms:3} ms: {said.count('ok'):2} own, {said.count('foreign'):2} foreign, "
              f"{said.count('error'):2} errors", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join([*BOMBS, "confuse"]))
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--port", type=int, default=24100)
    options = parser.parse_args()
    names = options.only.split(",")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    asyncio.run(explode([name for name in BOMBS if name in names], options.at_once, options.port))
    if "confuse" in names:
        asyncio.run(confuse(options.port))


if __name__ == "__main__":
    main()
