"""The process around a server that knows nothing of us: gives it a port, waits until it is healthy, ends it.

Run as a script with a socket for standard input. It imports nothing of the gateway. What it starts ends with
it, and it ends with the gateway, whichever process is killed: the kernel signals the server
(PR_SET_PDEATHSIG), the end of its socket tells the supervisor, which adopts and kills what the server
leaves behind.
"""

import ctypes
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LINUX = sys.platform == "linux"
LIBC = ctypes.CDLL(None) if LINUX else None
PROBE_EVERY_S, LOOK_EVERY_S = 0.05, 0.5


def prctl(option: int, value: int) -> None:
    if LIBC is not None:
        LIBC.prctl(option, value)


def die_with(parent: int) -> None:
    """Be killed when the process of this id dies, at once where it is dead."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The kernel sends no signal for a parent that died before the call: prctl(2).
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def free_port() -> int:
    # The port is free, not reserved: another process may take it before the server binds it. The server
    # then fails, and the runner starts another with another port.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(order: dict[str, Any], port: int) -> subprocess.Popen[bytes]:
    """The server, in the supervisor's own process group."""
    values = {"${PORT}": str(port), "${API_KEY}": order["api_key"]}

    def fill(text: str) -> str:
        for name, value in values.items():
            text = text.replace(name, value)
        return text

    # The death signal is set between fork and exec, and exec keeps it unless the program is set-user-ID:
    # prctl(2).
    return subprocess.Popen(  # noqa: S603 (the operator's own command)
        [fill(word) for word in order["argv"]],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **{name: fill(value) for name, value in order["env"].items()}},
        preexec_fn=partial(die_with, os.getpid()),
    )


def is_healthy(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def end(server: subprocess.Popen[bytes], grace_s: float) -> None:
    """End the server and its children, first by SIGTERM."""
    # A second signal in the middle of this would leave children of the server alive.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(grace_s)
        except subprocess.TimeoutExpired:
            server.kill()
    # In rounds, because the children of each killed process are adopted here and found only then.
    while LINUX and (children := _children()):
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for _ in children:
            os.wait()


def _children() -> list[int]:
    """Direct ones, and those adopted because their parent is gone."""
    # Listed per thread, by kernels built with CONFIG_PROC_CHILDREN: proc(5).
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def watch(server: subprocess.Popen[bytes], control: socket.socket, order: dict[str, Any], port: int) -> int:
    """Report once it is healthy, then wait for its end or the gateway's; the exit status."""
    reported, control_ended = False, False
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        if LINUX:  # elsewhere its end is noticed at the next look
            selector.register(os.pidfd_open(server.pid), selectors.EVENT_READ)
        while server.poll() is None and not control_ended:
            # Polled again after the answer: another process may answer on the port of a server that has
            # just ended.
            if not reported and is_healthy(port, order["health_path"]) and server.poll() is None:
                control.sendall(json.dumps({"address": f"http://127.0.0.1:{port}"}).encode() + b"\n")
                reported = True
            for key, _ in selector.select(LOOK_EVERY_S if reported else PROBE_EVERY_S):
                control_ended = key.fileobj is control and not control.recv(4096)
    if control_ended:
        return 0
    if not reported:
        time.sleep(0.05)  # its last words come through another pipe
        control.sendall(json.dumps({"error": f"the command ended ({server.returncode})"}).encode() + b"\n")
    return server.returncode or 1


def main() -> None:
    """Until the server ends, or the gateway closes its end of the socket, as any death of it does."""
    # Orphans of the server get this process as their parent instead of init: prctl(2).
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    control = socket.socket(fileno=0)
    with control.makefile("rb", buffering=0) as orders:
        order = json.loads(orders.readline() or b"null")
    if order is None:
        return
    port = free_port()
    try:
        server = start(order, port)
    except OSError as error:
        said = f"cannot run {order['argv'][0]}: {error.strerror}"
        control.sendall(json.dumps({"error": said}).encode() + b"\n")
        sys.exit(1)
    status = 1
    try:
        status = watch(server, control, order, port)
    finally:
        end(server, order["grace_s"])
    sys.exit(status)


if __name__ == "__main__":
    main()
