"""An OpenAI-compatible engine of a few lines, quick to load, that misbehaves on request.

    tiny_engine.py --port N [--load-s S] [--answer-s S] [--hold-mb N] [--child PIDFILE] [--path /health]
                   [--say TEXT]

`--child` starts a process of its own that ignores SIGTERM, in a session of its own, and writes down its id.
A prompt of "hang" is never answered, and nothing is after it; "die…" is written out and ends the process;
"slow" takes 3 s. One request is answered at a time.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
hung, serving = threading.Event(), threading.Lock()


class TinyEngine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    said, answer_s, path_of_health = "Paris.", 0.0, "/health"

    def do_GET(self) -> None:
        self.put(200 if self.path == self.path_of_health else 404, b"{}")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        if prompt.startswith("die"):
            os.write(1, f"prompt: {prompt}\n".encode())  # as engines log the last one
            os._exit(3)
        if prompt == "hang":
            hung.set()
        if hung.is_set():
            time.sleep(600)
        with serving:
            time.sleep(3 if prompt == "slow" else self.answer_s)
        if body.get("stream"):
            self.stream(body["model"])
        else:
            message = {"role": "assistant", "content": self.said}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.put(200, json.dumps({"model": body["model"], "choices": [choice]}).encode())

    def stream(self, model: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for text, finish in ((self.said, None), ("", "stop")):
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
            chunk = {"id": "c", "model": model, "choices": [choice]}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def put(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int)
    options.add_argument("--load-s", type=float, default=0.0)
    options.add_argument("--answer-s", type=float, default=0.0)
    options.add_argument("--hold-mb", type=int, default=0)
    options.add_argument("--child", type=Path)
    options.add_argument("--path", default="/health")
    options.add_argument("--say", default="Paris.")
    asked = options.parse_args()
    sys.stdout.write(f"loading on {asked.port}\n")
    sys.stdout.flush()
    if asked.child:
        sleeper = subprocess.Popen([sys.executable, "-S", "-c", SLEEPER], start_new_session=True)
        asked.child.write_text(str(sleeper.pid))
    held = b"x" * (asked.hold_mb * 1_000_000)
    time.sleep(asked.load_s)
    TinyEngine.said, TinyEngine.answer_s, TinyEngine.path_of_health = asked.say, asked.answer_s, asked.path
    server = ThreadingHTTPServer(("127.0.0.1", asked.port), TinyEngine)
    server.daemon_threads = True
    server.serve_forever()
    del held


if __name__ == "__main__":
    main()
