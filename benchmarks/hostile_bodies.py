"""What bodies of every hostile shape cost others: `python -m benchmarks.hostile_bodies [--program THALAMUS]`.

A gateway process streams tokens, one each 10 ms, to one client, while another process sends it bodies of one
shape. Printed per shape: the longest and the 99th percentile of the stream's gaps, how long the body took,
the peak of the gateway's memory, and the status. Several rounds are run, of which the best counts: a busy
machine only adds. `--program` is the `thalamus` of another version, to compare with. `--artifact` is needed
for decisions that read the text.

All bodies come from one seed; `--mb` is the size of the large ones. All load stays on loopback.
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.resilience import process, wait_for

TICK_S = 0.01
SEED = 0
LONG = 1_000_000
Body = tuple[str, bytes, str]
"""Path, body, content type."""


def chat(content: Any, model: str = "auto", **fields: Any) -> Body:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
    return "/v1/chat/completions", json.dumps(body, ensure_ascii=False).encode(), "application/json"


def post(path: str, body: bytes, kind: str = "application/json") -> Body:
    return f"/v1/{path}", body, kind


def prose(n_chars: int, seed: int = SEED) -> str:
    """Words and lines as in a long prompt."""
    draw = random.Random(seed)
    words = [
        "the",
        "iron",
        "rusts",
        "why",
        "is",
        "x = 1;",
        "f(a, b)",
        "water",
        "\n",
        "\n\n",
        "[1]",
        "3.5",
        "Grüße",
    ]
    return " ".join(draw.choices(words, k=n_chars // 4))[:n_chars]


def picture(n_bytes: int) -> str:
    return (
        "data:image/png;base64," + base64.b64encode(random.Random(SEED).randbytes(n_bytes * 3 // 4)).decode()
    )


def repeat(unit: str, n: int) -> str:
    return unit * (n // len(unit.encode()))


def form(parts: list[bytes]) -> Body:
    mark = b"--mark\r\n"
    return post("files", mark + mark.join(parts) + b"--mark--\r\n", "multipart/form-data; boundary=mark")


def to_chat(body: bytes) -> Body:
    return post("chat/completions", body)


def turns(text: str, n: int) -> Body:
    return to_chat(
        json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}] * n}).encode()
    )


def embed(texts: bytes) -> Body:
    return post("embeddings", b'{"model":"auto","input":%s}' % texts)


def photo() -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": picture(20 * LONG)}}


NAMED = "asked-by-name"
PART = b'Content-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FLAG = "[Flag: Smallest model] "
FILE = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


ONE = b'{"role":"user","content":"%s"}'


def build_shapes(n: int) -> dict[str, Callable[[], Body]]:
    """Every shape by name; `n` is the size of a large body in bytes."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": [1] * 5000}}}
    line = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":%s}\n'
    shapes: dict[str, Callable[[], Body]] = {
        "prompt of 20 kB": lambda: chat(prose(20_000)),
        "16 flags in each of many turns": lambda: turns(FLAG * 16 + "hi " + FLAG * 16, n // 800),
        "16 flags after a long text": lambda: chat(prose(190_000) + " " + FLAG * 16),
        "distinct fields": lambda: to_chat(json.dumps({f"f{i}": i for i in range(n // 15)}).encode()),
        "one field, again and again": lambda: to_chat(
            b'{"model":"auto",' + b'"a":1,' * (n // 6) + b'"messages":[]}'
        ),
        "token ids to embed": lambda: embed(b"[" + b"7," * (n // 2) + b"7]"),
        "lists of token ids": lambda: embed(b"[" + b"[7,8]," * (n // 6) + b"[7]]"),
        "texts without end": lambda: embed(b"[" + b'"a",' * (n // 4) + b'"a"]'),
        "2,048 texts": lambda: embed(json.dumps([prose(200, i) for i in range(2048)]).encode()),
        "one text to embed": lambda: embed(b'"' + b"a " * (n // 2) + b'"'),
        "prompt of token ids": lambda: post(
            "completions", b'{"model":"auto","prompt":[' + b"7," * (n // 2) + b"7]}"
        ),
        "messages of 100,000 parts": lambda: chat([{"type": "text", "text": "a"}] * 100_000),
        "100,000 turns": lambda: turns("a", 100_000),
        "8,000 turns of a tag": lambda: turns("<a_b>", 8000),
        "nested brackets": lambda: to_chat(b'{"model":"auto","messages":' + b"[" * n),
        "nested objects": lambda: to_chat(b'{"messages":' + b'{"a":' * (n // 5)),
        "a number of digits": lambda: to_chat(
            b'{"model":"auto","messages":[{}],"max_tokens":' + b"9" * n + b"}"
        ),
        "stop list": lambda: chat("Hi", stop=["a"] * (n // 10)),
        "tools of huge schemas": lambda: chat("Hi", tools=[tool] * (n // 30_000)),
        "response_format of huge schema": lambda: chat(
            "Hi", response_format={"type": "json_schema", "json_schema": {"a": [[1]] * (n // 10)}}
        ),
        "picture of 20 MB": lambda: chat([photo()]),
        "picture of 20 MB, named": lambda: chat([photo()], model=NAMED),
        "one long text": lambda: chat(prose(n // 4) * 4),
        "escapes": lambda: to_chat(
            b'{"model":"auto","messages":[' + ONE % (b"\\u0416\\n" * (n // 8)) + b"]}"
        ),
        "quotes": lambda: chat(repeat('"', n // 2)),
        "backslashes": lambda: chat(repeat("\\", n // 2)),
        "emoji": lambda: chat(repeat("😀", n)),
        "halves of emoji": lambda: to_chat(
            b'{"model":"auto","messages":[' + ONE % (b"\\ud83d\\ude00" * (n // 12)) + b"]}"
        ),
        "route: one long text": lambda: post("route", chat(prose(n // 4) * 4)[1]),
        "feedback": lambda: post("feedback", b'{"decision_id":"a","comment":"' + b"a" * n + b'"}'),
        "feedback among many": lambda: post(
            "feedback", b'{"decision_id":"a","among":[' + b'"a",' * (n // 4) + b'"a"]}'
        ),
        "batch of long metadata": lambda: post(
            "batches", b'{"input_file_id":"a","metadata":{' + b'"a":"b",' * (n // 8) + b'"c":"d"}}'
        ),
        "upload of many parts": lambda: form([PART % (b"a", b"b")] * (n // 60)),
        "upload of long headers": lambda: form([b"a: b\r\n" * (n // 6) + b"\r\n"]),
        "upload of a long line": lambda: form(
            [PART % (b"purpose", b"batch"), FILE + line % chat(prose(n // 2))[1] + b"\r\n"]
        ),
    }
    return shapes | {f"turn of {name}": partial(build_turn, unit, n) for name, unit in UNITS.items()}


def build_turn(unit: str, n: int) -> Body:
    """One turn that repeats a unit."""
    return chat(repeat(unit, min(n, 2 * LONG)))


UNITS = {
    "<": "<", "[": "[", "{": "{", "(": "(", "blanks": " ", "line ends": "\n", "digits": "7", "backticks": "`",
    "tags": "<a_b>", "closed tags": "<a_b>x</a_b>\n", "closing tags": "</a_b>\n", "crossed tags": "<x_y><",
    "attributes": "<a " + "b" * 390, "tags in brackets": "[abc]\n", "tags in braces": "{{abc}}\n",
    "labels": "Context:\nQuestion: a\n", "roles": "User: a\n", "chat marks": "<|im_start|>user a",
    "fences": "```\n", "fences of files": "```a.py\n", "facts": "Open files: a\n\nMode: b\n\n",
    "rules": "---\n", "headings": "# context:\n", "hooks": "PreHook hook a \n", "notes": "(a\n",
    "emoji": "😀", "Han": "漢",
}  # fmt: skip
"""What a grammar of wrappings, a tokenizer or a form feature could choke on."""


async def serve_upstream(port: int) -> None:
    """The fake upstream: `ticker` streams for ever, others answer at once."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if b'"ticker"' not in body[:400]:
            message = {"role": "assistant", "content": "Yes."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            return web.json_response(whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        choice = {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}
        chunk = {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }
        event = f"data: {json.dumps(chunk)}\n\n".encode()
        due = time.perf_counter()
        while True:
            await response.write(event)
            due += TICK_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_post("/v1/completions", answer)
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


class StreamWatch:
    """Reads the ticking stream in a thread, and notes when each piece of it came."""

    def __init__(self, port: int) -> None:
        self.times: list[float] = []
        self._http = HTTPConnection("127.0.0.1", port, timeout=120)
        path, body, kind = chat("Tick.", model="ticker", stream=True)
        self._http.request("POST", path, body, {"content-type": kind})
        self._answer = self._http.getresponse()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, HTTPException, AttributeError):
            while self._answer.read1(65536):
                self.times.append(time.perf_counter())

    def gaps_ms(self, start: float, end: float) -> list[float]:
        """Gaps between pieces that came between two times, one more on each side, ascending."""
        times = [at for at in self.times if start - 0.1 <= at <= end + 0.1]
        return sorted(1000 * (b - a) for a, b in itertools.pairwise(times))

    def close(self) -> None:
        self._http.close()


def send(port: int, body: Body, n_connections: int, n_times: int) -> tuple[str, float]:
    """Send a body from another process; the statuses that came, and the seconds of one answer."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body[1])
        file.flush()
        command = [sys.executable, "-m", "benchmarks.hostile_bodies", "--send", str(port), body[0], file.name]
        more = [body[2], str(n_connections), str(n_times)]
        came = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    statuses, seconds = came.stdout.split()
    return statuses, float(seconds)


def send_here(port: str, path: str, file: str, kind: str, n_connections: str, n_times: str) -> None:
    body = Path(file).read_bytes()
    statuses: set[str] = set()
    seconds: list[float] = []

    def one() -> None:
        for _ in range(int(n_times)):
            http = HTTPConnection("127.0.0.1", int(port), timeout=300)
            started = time.perf_counter()
            try:
                http.request("POST", path, body, {"content-type": kind})
                answer = http.getresponse()
                answer.read()
                statuses.add(str(answer.status))
            except (OSError, HTTPException) as error:
                statuses.add(type(error).__name__)
            seconds.append(time.perf_counter() - started)
            http.close()

    threads = [threading.Thread(target=one) for _ in range(int(n_connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("/".join(sorted(statuses)), max(seconds))


@dataclass
class Measured:
    """What one shape cost: gaps in ms, the answer's seconds, the peak of memory above the start in MB."""

    longest_ms: float
    p99_ms: float
    seconds: float
    peak_mb: float
    status: str


def measure(
    port: int, pid: int, watch: StreamWatch, body: Body, n_connections: int, n_times: int
) -> Measured:
    """One shape, once."""
    before = read_memory_mb(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # begins the count of the peak anew
    started = time.perf_counter()
    status, seconds = send(port, body, n_connections, n_times)
    ended = time.perf_counter()
    time.sleep(0.2)
    gaps = watch.gaps_ms(started, ended) or [1000 * (ended - started)]
    peak = read_memory_mb(pid, "VmHWM") - before
    return Measured(gaps[-1], gaps[len(gaps) * 99 // 100], seconds, peak, status)


def read_memory_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def free_port() -> int:
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        return int(at.getsockname()[1])


@contextmanager
def gateway(program: str, upstream: str, artifact: Path | None, folder: Path) -> Iterator[tuple[int, int]]:
    """A running gateway of any version: its port and process."""
    names = [("good", "good"), ("other", "other")]
    if artifact is not None:
        fitted = json.loads((artifact / "manifest.json").read_text())["experts"]
        names = [(one["name"], one["model"]) for one in fitted]
    experts: list[dict[str, Any]] = [
        {"name": name, "model": f"openai/{model}", "api_base": upstream}
        for name, model in (*names, (NAMED, NAMED), ("ticker", "ticker"))
    ]
    config: dict[str, Any] = {
        "experts": experts,
        "policies": {"auto": {"encoder": "never", "require": {"exclude": ["ticker", NAMED]}}},
        "journal": {"path": str(folder / "journal.sqlite3")},
        "routing": {"artifact": str(artifact or folder / "none")},
    }
    (folder / "thalamus.yaml").write_text(json.dumps(config))
    port = free_port()
    command = (program, "serve", "--config", str(folder / "thalamus.yaml"), "--port", str(port))
    with process(*command, log=folder / "gateway.log") as child:
        wait_for(f"http://127.0.0.1:{port}/health/ready")
        yield port, child.pid


def compare(arguments: argparse.Namespace) -> None:
    shapes = build_shapes(int(arguments.mb * LONG))
    wanted = [name for name in shapes if not arguments.only or arguments.only in name]
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        upstream = (sys.executable, "-m", "benchmarks.hostile_bodies", "--upstream", str(port))
        with process(*upstream, log=Path(scratch, "upstream.log")):
            wait_for(f"http://127.0.0.1:{port}/")
            folder = Path(scratch)
            with gateway(arguments.program, f"http://127.0.0.1:{port}/v1", arguments.artifact, folder) as (
                at,
                pid,
            ):
                print(f"{'shape':38}{'longest ms':>11}{'p99 ms':>8}{'s':>8}{'peak MB':>9}  status")
                watch = StreamWatch(at)
                send(at, chat("Hi"), 1, 20)
                started = time.perf_counter()
                time.sleep(2)
                idle = watch.gaps_ms(started, started + 2)
                print(f"{'(idle)':38}{idle[-1]:11.0f}{idle[len(idle) * 99 // 100]:8.0f}", flush=True)
                for name in wanted:
                    body = shapes[name]()
                    n_connections, n_times = (32, 10) if name == "prompt of 20 kB" else (1, 1)
                    rounds = [
                        measure(at, pid, watch, body, n_connections, n_times) for _ in range(arguments.rounds)
                    ]
                    best = min(rounds, key=lambda one: one.longest_ms)
                    print(
                        f"{name:38}{best.longest_ms:11.0f}{min(one.p99_ms for one in rounds):8.0f}"
                        f"{min(one.seconds for one in rounds):8.2f}{max(one.peak_mb for one in rounds):9.0f}"
                        f"  {best.status}",
                        flush=True,
                    )
                watch.close()


def main() -> None:
    if "--send" in sys.argv[1:2]:
        send_here(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("thalamus")))
    parser.add_argument("--artifact", type=Path, help="as `thalamus fit` and benchmarks/parity.py write it")
    parser.add_argument("--only", help="shapes whose name holds this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mb", type=float, default=16.0)
    arguments = parser.parse_args()
    if arguments.upstream:
        asyncio.run(serve_upstream(arguments.upstream))
        return
    compare(arguments)


if __name__ == "__main__":
    main()
