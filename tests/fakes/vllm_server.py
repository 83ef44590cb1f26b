"""`vllm serve` as far as a runner sees it: its flags, its routes, and what becomes of weights in their sleep.

    vllm_server.py serve MODEL --port N --served-model-name NAME ... [--fault FAULT]

An adapter answers with its name, as long as it and its rank are within what was asked for at the start.
`bad-wake` speaks nonsense after its first waking, `other-wake` sense, but not what it said before,
`lost-adapters` wakes without them, `no-sleep` says that it sleeps and does not, `slow-wake` takes a minute.
Every request that changes how it sleeps is written to standard output.
"""

import argparse
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit


class State:
    name, fault, sleeps = "", "", False
    weights, cache, sound = True, True, True
    adapters: ClassVar[set[str]] = set()
    n_wakes = 0


class FakeVllmServer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/is_sleeping" and dev_mode():
            self.put(200, {"is_sleeping": not (State.weights and State.cache)})
        else:
            self.put(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        place = urlsplit(self.path)
        if place.path.startswith("/v1/"):
            self.speak(place.path, body)
        elif dev_mode():
            sys.stdout.write(f"{self.path} {body.get('method', '')}".strip() + "\n")
            sys.stdout.flush()
            self.put(self.turn(place.path, parse_qs(place.query), body), {})
        else:
            self.put(404, {})

    def turn(self, path: str, query: dict[str, list[str]], body: dict[str, str]) -> int:
        if path == "/sleep" and State.fault != "no-sleep":
            State.weights = State.cache = False
            State.sound = State.sound and query.get("level", ["1"]) == ["1"]
        elif path == "/wake_up":
            if State.fault == "slow-wake":
                time.sleep(60)
            tags = query.get("tags", ["weights", "kv_cache"])
            State.weights = State.weights or "weights" in tags
            State.cache = State.cache or "kv_cache" in tags
            State.n_wakes += 1
        elif path == "/collective_rpc":
            State.sound = body.get("method") == "reload_weights" and State.weights
        elif path not in ("/sleep", "/reset_prefix_cache"):
            return 404
        return 200

    def speak(self, path: str, body: dict[str, str]) -> None:
        if self.headers.get("authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.put(401, {"error": "Unauthorized"})
        elif body["model"] not in {State.name, *State.adapters} or path not in (
            "/v1/chat/completions",
            "/v1/completions",
        ):
            self.put(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        elif not (State.weights and State.cache):
            time.sleep(60)
        else:
            sound = State.sound and not (State.fault == "bad-wake" and State.n_wakes)
            text = "Paris." if sound else "!!!!!!!!"
            if State.fault == "other-wake" and State.n_wakes:
                text = "Lyon."
            if body["model"] in State.adapters and not (State.fault == "lost-adapters" and State.n_wakes):
                text = f"I am {body['model']}."
            said = {"message": {"role": "assistant", "content": text}} if "chat" in path else {"text": text}
            self.put(
                200, {"model": body["model"], "choices": [{"index": 0, **said, "finish_reason": "stop"}]}
            )

    def put(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def dev_mode() -> bool:
    return State.sleeps and os.environ.get("VLLM_SERVER_DEV_MODE") == "1"


def load_adapters(asked: argparse.Namespace) -> set[str]:
    """The names of the adapters, loaded as vLLM does: one of too high a rank ends the start."""
    modules = dict(module.split("=") for module in asked.lora_modules)
    if modules and not asked.enable_lora:
        sys.exit("--lora-modules needs --enable-lora")
    if asked.max_cpu_loras is not None and asked.max_cpu_loras < asked.max_loras:
        sys.exit("max_cpu_loras must be >= max_loras")
    for path in modules.values():
        config = Path(path, "adapter_config.json")
        if config.exists() and json.loads(config.read_text())["r"] > asked.max_lora_rank:
            sys.exit(f"LoRA rank is greater than max_lora_rank {asked.max_lora_rank}")
    return set(modules)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("serve")
    options.add_argument("model")
    options.add_argument("--host")
    options.add_argument("--port", type=int)
    options.add_argument("--served-model-name")
    options.add_argument("--max-model-len", type=int)
    options.add_argument("--max-num-seqs", type=int)
    options.add_argument("--gpu-memory-utilization", type=float)
    options.add_argument("--enable-sleep-mode", action="store_true")
    options.add_argument("--enable-lora", action="store_true")
    options.add_argument("--lora-modules", nargs="+", default=[])
    options.add_argument("--max-loras", type=int, default=1)
    options.add_argument("--max-cpu-loras", type=int)
    options.add_argument(
        "--max-lora-rank", type=int, choices=(1, 8, 16, 32, 64, 128, 256, 320, 512), default=16
    )
    options.add_argument("--fault", default="")
    asked = options.parse_args()
    State.name, State.fault = asked.served_model_name, asked.fault
    State.sleeps = asked.enable_sleep_mode
    State.adapters = load_adapters(asked)
    sys.stdout.write(f"serving {asked.model} on GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
    sys.stdout.flush()
    server = ThreadingHTTPServer((asked.host, asked.port), FakeVllmServer)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
