"""What an answer costs the gateway in processor time, by the model asked for, in one or several checkouts.

    python benchmarks/cost.py [--against CHECKOUT ...] [--artifact FOLDER | --data TABLE] [--prompts FILE]
                              [--workers N] [--rounds 4] [--seconds 3] [--only NAME ...]

Each checkout is a real `thalamus serve` with its own `.venv` where it has one, with a key and a journal, in
front of an upstream that answers at once. `wrk` asks on 32 connections that stay open, turn by turn: an
expert by name, `auto:never` (the static tier alone) and `auto` (adaptive). Given are the processor time of
the gateway and its children a request, the median of the rounds, answers a second, and both beside an
expert by name. Processor time hardly changes on a busy machine; answers a second do.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.history import record
from benchmarks.resilience import free_port, process, wait_for
from evals.probes.files import load_bundled_outcomes
from routers import Artifact

KEY = "sk-cost-4f0c7d1e9a52b86d3e7f0a1c5b9d2e48"
CONNECTIONS = 32
NAMED, NEVER, ADAPTIVE = "named", "auto:never", "auto"
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 40}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60},
    }
).encode()
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
    + _ANSWER
)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SCRIPT = """
local prompts = {}
for line in io.lines("%(prompts)s") do prompts[#prompts + 1] = line end
local i = %(first)d
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %(key)s"
request = function()
  i = i %% #prompts + 1
  local messages = '"messages":[{"role":"user","content":' .. prompts[i] .. '}]'
  return wrk.format(nil, nil, nil, '{"model":"%(model)s",' .. messages .. '}')
end
"""


class QuickUpstream(asyncio.Protocol):
    """Answers every request at once with the same bytes: a fake that does more would be what is measured."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            self._transport.write(_RESPONSE)


async def play_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(QuickUpstream, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


@contextmanager
def serve(tree: Path, folder: Path, upstream: str, artifact: Path, workers: int) -> Iterator[tuple[str, int]]:
    """The address and the process of a gateway with the artifact's experts."""
    experts = [
        {"name": expert.name, "model": f"openai/{expert.model}", "api_base": upstream, "api_key": "k"}
        for expert in Artifact.load(artifact).experts
    ]
    port = free_port()
    config: dict[str, Any] = {
        "server": {"port": port, "keys": {"bench": KEY}, "log_level": "warning"},
        "experts": experts,
        "policies": {"auto": {}, "never": {"encoder": "never"}},
        "routing": {"artifact": str(artifact.resolve())},
        "journal": {"path": str(folder / "journal.sqlite3")},
    }
    path = folder / "thalamus.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    own = tree / ".venv/bin/python"
    python = str(own if own.exists() else sys.executable)
    # -P: else the folder that this runs in comes before the checkout.
    command = [python, "-P", "-m", "gateway.cli", "serve", "--config", str(path)]
    command += ["--workers", str(workers)] if workers > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    with process("env", *[f"{k}={v}" for k, v in environment.items()], *command, log=folder / "log") as child:
        wait_for(f"http://127.0.0.1:{port}/health/ready")
        yield f"http://127.0.0.1:{port}", child.pid


def count_cpu_s(pid: int) -> float:
    """Processor seconds of a process and its children until now."""
    whole = psutil.Process(pid)
    times = [one.cpu_times() for one in (whole, *whole.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def ask(url: str, script: Path, seconds: int) -> tuple[int, float]:
    """How many answers came, and how many a second.

    Raises:
        SystemExit: some were no answers.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script)]
    said = subprocess.run([*command, f"{url}/v1/chat/completions"], capture_output=True, text=True).stdout
    if re.search(r"Non-2xx|Socket errors", said) or not (n := re.search(r"(\d+) requests in", said)):
        raise SystemExit(said)
    rate = re.search(r"Requests/sec: +([\d.]+)", said)
    return int(n[1]), float(rate[1]) if rate else 0.0


def write_script(folder: Path, prompts: Path, model: str, first: int) -> Path:
    path = folder / f"{model.replace(':', '-').replace('/', '-')}.lua"
    path.write_text(_SCRIPT % {"prompts": prompts, "key": KEY, "model": model, "first": first})
    return path


def compare(
    trees: Sequence[Path], artifact: Path, prompts: Path, asked: argparse.Namespace
) -> dict[tuple[int, str], list[tuple[float, float]]]:
    """By checkout and model, for each round: µs of processor time a request, and answers a second."""
    named = Artifact.load(artifact).experts[0].name
    models = {NAMED: named, NEVER: NEVER, ADAPTIVE: ADAPTIVE}
    models = {name: model for name, model in models.items() if not asked.only or name in asked.only}
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        command = (sys.executable, "-m", "benchmarks.cost", "--upstream", str(port))
        stack.enter_context(process(*command, log=scratch / "upstream"))
        running = []
        for n, tree in enumerate(trees):
            folder = scratch / str(n)
            folder.mkdir()
            upstream = f"http://127.0.0.1:{port}/v1"
            running.append(stack.enter_context(serve(tree, folder, upstream, artifact, asked.workers)))
        for turn in range(asked.rounds + 1):
            for name, model in models.items():
                script = write_script(scratch, prompts, model, 997 * turn)
                for n, (url, pid) in enumerate(running):
                    before = count_cpu_s(pid)
                    n_answers, rate = ask(url, script, asked.seconds if turn else 1)
                    us = (count_cpu_s(pid) - before) / n_answers * 1e6
                    if turn:  # the first one warms up
                        found.setdefault((n, name), []).append((us, rate))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, nargs="*", default=[], metavar="CHECKOUT")
    parser.add_argument("--artifact", type=Path, help="of both tiers; one is fitted where none is given")
    parser.add_argument("--prompts", type=Path, help="one JSON string a line; those fitted on without it")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help=f"of {NAMED}, {NEVER}, {ADAPTIVE}")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.upstream:
        asyncio.run(play_upstream(asked.upstream))
        return
    if shutil.which("wrk") is None:
        print("wrk is not on the PATH; nothing was measured")
        return
    trees = [Path(__file__).resolve().parents[1], *(tree.resolve() for tree in asked.against)]
    with tempfile.TemporaryDirectory() as scratch:
        artifact, prompts = asked.artifact or Path(scratch, "artifact"), asked.prompts
        if asked.artifact is None:
            command = [sys.executable, "-m", "gateway.cli", "fit", "bundled", "--out", str(artifact)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if prompts is None:
            prompts = Path(scratch, "prompts.jsonl")
            texts = dict.fromkeys(load_bundled_outcomes()[0].texts)
            prompts.write_text("\n".join(json.dumps(text) for text in texts))
        found = compare(trees, artifact, prompts.resolve(), asked)
    for n, tree in enumerate(trees):
        print(f"{tree.parent.name}/{tree.name}")
        medians = {
            name: tuple(statistics.median(column) for column in zip(*rounds, strict=True))
            for (which, name), rounds in found.items()
            if which == n
        }
        for name, (us, rate) in medians.items():
            spread = " ".join(f"{each:.0f}" for each, _ in found[n, name])
            beside = ""
            if NAMED in medians and name != NAMED:
                beside = f"  {medians[NAMED][0] / us:.2f} by time, {rate / medians[NAMED][1]:.2f} by rate"
            print(f"  {name:12}{us:8.1f} µs{rate:8.0f}/s{beside}   ({spread})")
    ours = {name: statistics.median(us for us, _ in rounds) for (n, name), rounds in found.items() if not n}
    print(*record("cost", ours), sep="\n")


if __name__ == "__main__":
    main()
