"""What clients can do to one gateway process before, and after, their key is checked: memory and pauses.

    python benchmarks/front.py [ATTACK ...] [--tree CHECKOUT] [--no-limits] [--seconds 20] [--port 22100]

Each attack meets a fresh `thalamus serve` on 127.0.0.1 with a fake upstream. While it runs, another process
asks for `/health/live` every 5 ms: its longest wait is the longest pause of the loop, as a client feels it.
`--tree` runs the gateway of another checkout, for instance a worktree of an older commit; `--no-limits`
leaves `server.limits` out of its configuration, where that commit does not know it. Load needs `wrk`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from gateway.testing import FakeUpstream

KEY = "sk-front-4f0c7d1e9a52b86d3e7f0a1c5b9d2e48"
MB = 1_000_000
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
WITH_KEY = HEAD + b"Authorization: Bearer %b\r\n" % KEY.encode()
WRITE_S = 5.0
HEAD_S = 5.0
SLOTS = 100


class AttackedGateway:
    """A gateway under attack."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.port = port
        self.process = process
        self.said: bytes = b""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 16)
        return reader, writer

    async def pour(self, first: bytes, piece: bytes, n: int) -> str:
        """Send pieces on one connection as long as it takes them; what it answers."""
        reader, writer = await self.connect()
        writer.write(first)
        taken = 0
        try:
            for _ in range(n):
                writer.write(piece)
                async with asyncio.timeout(10):
                    await writer.drain()
                taken += len(piece)
            async with asyncio.timeout(2):
                self.said = await reader.read(64)
        except (OSError, TimeoutError):
            with_answer = reader._buffer if hasattr(reader, "_buffer") else b""
            self.said = bytes(with_answer[:64])
        writer.close()
        return f"took {taken / MB:.0f} MB, answered {self.said[:12].decode('latin-1')!r}"


async def watch(port: int, pid: int) -> None:
    """Measure memory and pauses until SIGTERM; prints them as JSON."""
    process, peak_mb, longest_ms = psutil.Process(pid), 0.0, 0.0
    first_mb = process.memory_info().rss / MB
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    target = AttackedGateway(port, process)
    reader, writer = await target.connect()
    print("ready", flush=True)
    ask = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    while not over.is_set():
        start = time.perf_counter()
        writer.write(ask)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, asyncio.IncompleteReadError):
            reader, writer = await target.connect()
        longest_ms = max(longest_ms, (time.perf_counter() - start) * 1000)
        peak_mb = max(peak_mb, process.memory_info().rss / MB)
        await asyncio.sleep(0.005)
    print(json.dumps({"first_mb": first_mb, "peak_mb": peak_mb, "longest_ms": longest_ms}))


async def play_upstream(port: int) -> None:
    """Answer until SIGTERM; prints how many calls were ended by the gateway."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with FakeUpstream(port, words=("x" * 20_000,) * 750, keep_calls=False) as long:
        async with FakeUpstream(port + 1, keep_calls=False):
            print("ready", flush=True)
            await over.wait()
        print(json.dumps({"ended_early": len(long.aborted)}))


@asynccontextmanager
async def play_role(*words: str) -> AsyncIterator[dict[str, float]]:
    """Another process of this script; what it prints at its end is in the dictionary then."""
    said: dict[str, float] = {}
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        if process.stdout is not None:
            await process.stdout.readline()  # it is ready
        yield said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        out = (await process.communicate())[0].decode().strip()
        said.update(json.loads(out.splitlines()[-1]) if out else {})


async def pour_header(target: AttackedGateway, seconds: float) -> str:
    return await target.pour(HEAD + b"x: ", b"y" * MB, 100)


async def pour_headers(target: AttackedGateway, seconds: float) -> str:
    return await target.pour(HEAD, b"a: b\r\n" * 100_000, 40)


async def pour_address(target: AttackedGateway, seconds: float) -> str:
    return await target.pour(b"GET /", b"u" * MB, 50)


async def pour_requests(target: AttackedGateway, seconds: float) -> str:
    return await target.pour(b"", b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000, 30)


async def pour_chunk_extension(target: AttackedGateway, seconds: float) -> str:
    return await target.pour(WITH_KEY + b"Transfer-Encoding: chunked\r\n\r\n1;", b"e" * MB, 50)


async def pour_trailers(target: AttackedGateway, seconds: float) -> str:
    return await target.pour(
        WITH_KEY + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"a: b\r\n" * 100_000, 40
    )


async def hold_heads(target: AttackedGateway, seconds: float) -> str:
    """Connections that send one header every second, and never the last."""
    return await hold(target, HEAD, b"x: y\r\n", 500, seconds)


async def hold_connections(target: AttackedGateway, seconds: float) -> str:
    """Connections without a byte."""
    return await hold(target, b"", b"", 500, seconds)


async def hold_bodies(target: AttackedGateway, seconds: float) -> str:
    """Bodies of 60 MB that lack their end."""
    return await hold(
        target, WITH_KEY + b"Content-Length: 60000001\r\n\r\n" + b" " * 60 * MB, b"", 16, seconds
    )


async def hold(target: AttackedGateway, first: bytes, then: bytes, n: int, seconds: float) -> str:
    connections = [await target.connect() for _ in range(n)]
    for _, writer in connections:
        writer.write(first)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(1)
        for _, writer in connections:
            if then and not writer.is_closing():
                writer.write(then)
    ended = sum(reader.at_eof() or reader.exception() is not None for reader, _ in connections)
    for _, writer in connections:
        writer.transport.abort()
    return f"{n - ended} of {n} still open after {seconds:g} s"


async def hold_streams(target: AttackedGateway, seconds: float) -> str:
    """Clients that ask for long streams and do not read them; cycle after cycle, handles must not grow."""
    body = json.dumps(
        {"model": "good", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    handles = []
    for _ in range(3):
        sockets = []
        for number in range(60):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", target.port))
            # Half of them stop in the middle of a head, as if their network had gone.
            whole = WITH_KEY + b"Content-Length: %d\r\n\r\n" % len(body) + body
            client.sendall(whole if number % 2 else HEAD)
            sockets.append(client)
        await asyncio.sleep(seconds / 3)
        handles.append(target.process.num_fds())
        for client in sockets:
            client.close()
    return f"handles after each cycle {handles}"


async def load(target: AttackedGateway, seconds: float) -> str:
    """512 connections that ask again at once, beside 32 for comparison."""
    return "; ".join([await ask_with_wrk(target, n, seconds, "good") for n in (32, 512, 32)])


async def overload(target: AttackedGateway, seconds: float) -> str:
    """Ten times as many connections as the expert takes requests, in three bursts; memory after each."""
    found = []
    for _ in range(3):
        found.append(await ask_with_wrk(target, 10 * SLOTS, seconds, "slow"))
        await asyncio.sleep(2)
        found.append(f"{target.process.memory_info().rss / MB:.0f} MB")
    return "; ".join(found)


async def ask_with_wrk(target: AttackedGateway, connections: int, seconds: float, model: str) -> str:
    """Answers in a second, and how late the latest came, with so many connections that ask again at once."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "no wrk"
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
    script = Path(tempfile.gettempdir()) / f"front-bench-{model}.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["authorization"] = "Bearer {KEY}"\nwrk.body = [[{body}]]\n'
    )
    url = f"http://127.0.0.1:{target.port}/v1/chat/completions"
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--latency", "--timeout", "20s"]
    process = await asyncio.create_subprocess_exec(
        *command, "-s", str(script), url, stdout=asyncio.subprocess.PIPE
    )
    out = (await process.communicate())[0].decode()
    rate, late = re.search(r"Requests/sec:\s+(\S+)", out), re.search(r"99%\s+(\S+)", out)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return f"{connections}: {rate and rate[1]}/s p99 {late and late[1]} bad {bad[1] if bad else 0}"


ATTACKS: dict[str, Callable[[AttackedGateway, float], Awaitable[str]]] = {
    "one header of 100 MB": pour_header,
    "headers without end": pour_headers,
    "an address of 50 MB": pour_address,
    "requests without end": pour_requests,
    "a chunk extension": pour_chunk_extension,
    "trailers": pour_trailers,
    "500 slow heads": hold_heads,
    "500 silent connections": hold_connections,
    "16 half bodies of 60 MB": hold_bodies,
    "slow readers": hold_streams,
    "load": load,
    "overload": overload,
}


@asynccontextmanager
async def serve(tree: Path, port: int, upstream: str, has_limits: bool) -> AsyncIterator[AttackedGateway]:
    with tempfile.TemporaryDirectory() as name:
        server: dict[str, object] = {
            "port": port,
            "master_key": "os.environ/FRONT_KEY",
            "log_level": "warning",
        }
        if has_limits:
            server["limits"] = {"write_s": WRITE_S, "head_s": HEAD_S}
        common = {"api_base": upstream, "api_key": "os.environ/FRONT_KEY"}
        experts = [
            {"name": "good", "model": "openai/good", **common},
            {"name": "slow", "model": "openai/slow-100", "max_parallel": SLOTS, **common},
        ]
        config = {"server": server, "experts": experts, "embeddings": {"enabled": False}}
        (Path(name) / "thalamus.yaml").write_text(json.dumps(config))
        command = (sys.executable, "-m", "gateway.cli", "serve", "--config", "thalamus.yaml")
        with (Path(name) / "log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=name,
                stdout=log,
                stderr=log,
                env={**os.environ, "FRONT_KEY": KEY, "PYTHONPATH": str(tree)},
            )
        target = AttackedGateway(port, psutil.Process(process.pid))
        for _ in range(300):
            try:
                (await target.connect())[1].close()
                break
            except OSError:
                await asyncio.sleep(0.1)
        try:
            await asyncio.sleep(1)
            yield target
        finally:
            process.terminate()
            try:
                async with asyncio.timeout(40):
                    await process.wait()
            except TimeoutError:
                process.kill()


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("attacks", nargs="*", help=f"of: {', '.join(ATTACKS)}")
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--no-limits", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=22100)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--watch", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.watch:
        await watch(*args.watch)
        return
    if args.upstream:
        await play_upstream(args.upstream)
        return
    print(f"{'attack':24} {'MB before':>9} {'MB peak':>8} {'longest pause':>14}  what came of it")
    async with play_role("--upstream", str(args.port + 1)) as streams:
        for name in args.attacks or ATTACKS:
            upstream = f"http://127.0.0.1:{args.port + (1 if name == 'slow readers' else 2)}/v1"
            async with serve(args.tree, args.port, upstream, not args.no_limits) as target:
                async with play_role("--watch", str(args.port), str(target.process.pid)) as seen:
                    came = await ATTACKS[name](target, args.seconds)
                print(
                    f"{name:24} {seen.get('first_mb', 0):9.0f} {seen.get('peak_mb', 0):8.0f}"
                    f" {seen.get('longest_ms', 0):11.0f} ms  {came}",
                    flush=True,
                )
    print(f"upstream calls that the gateway ended early: {streams.get('ended_early')}")


if __name__ == "__main__":
    asyncio.run(main())
