"""The process that keeps a model of an Ollama daemon in memory: loads it, says so, lets it go at its end.

Run as a script with a socket for standard input. It imports nothing of the gateway. The daemon would unload
the model some minutes after the last request, and is told every now and then not to; so if this process is
killed, the model goes by itself.
"""

import contextlib
import http.client
import json
import select
import signal
import socket
import sys
from typing import Any
from urllib.parse import urlsplit

KEEP_S = 300
REFRESH_S = 60.0
LOOK_EVERY_S = 2.0
# The gateway's own time limit for a load is shorter and ends this process.
LOAD_S, SHORT_S = 3600.0, 10.0


def ask(url: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = SHORT_S) -> Any:
    """The daemon's answer.

    Raises:
        OSError: there is none, or it refuses.
    """
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 11434, timeout=timeout_s)
    try:
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            said = answer[:200].decode(errors="replace")
            raise OSError(f"{path} was answered {response.status}: {said}")
        return json.loads(answer)
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{path} was answered with nonsense") from error
    finally:
        connection.close()


def keep(url: str, model: str, seconds: int, timeout_s: float = SHORT_S) -> None:
    """Load the model if it is not there, and keep it so long after its last request; 0 lets it go."""
    # A request without a prompt only loads the model, and a `keep_alive` of 0 unloads it (Ollama,
    # docs/api.md).
    ask(url, "/api/generate", {"model": model, "keep_alive": seconds, "stream": False}, timeout_s)


def read_held_bytes(url: str, model: str) -> int | None:
    """What it holds; None where it is not loaded."""
    for entry in ask(url, "/api/ps").get("models") or ():
        if model in (entry.get("name"), entry.get("model")) or f"{model}:latest" == entry.get("name"):
            return int(entry.get("size") or 0)
    return None


def watch(control: socket.socket, url: str, model: str) -> None:
    """Until the gateway's end of the socket closes, or the daemon is gone or has lost the model."""
    left_s = REFRESH_S
    while not select.select([control], [], [], LOOK_EVERY_S)[0] or control.recv(4096):
        left_s -= LOOK_EVERY_S
        if read_held_bytes(url, model) is None:
            sys.exit(f"{model} is not loaded any more")
        if left_s <= 0:
            keep(url, model, KEEP_S)
            left_s = REFRESH_S


def main() -> None:
    """Hold the model for as long as the gateway lives."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    control = socket.socket(fileno=0)
    with control.makefile("rb", buffering=0) as orders:
        order = json.loads(orders.readline() or b"null")
    if order is None:
        return
    url, model = order["url"], order["model"]
    try:
        keep(url, model, KEEP_S, LOAD_S)
        report = {"address": url, "memory_bytes": read_held_bytes(url, model)}
        control.sendall(json.dumps(report).encode() + b"\n")
        watch(control, url, model)
    except OSError as error:
        control.sendall(json.dumps({"error": f"ollama at {url}: {error}"}).encode() + b"\n")
        sys.exit(f"ollama at {url}: {error}")
    finally:
        with contextlib.suppress(OSError):
            keep(url, model, 0)


if __name__ == "__main__":
    main()
