"""One server process and the log of its output.

The process runs in a session of its own, so that its whole group can be killed; it receives its settings and
reports its address on a private socket.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
from asyncio.subprocess import STDOUT, Process
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .types import Launch, RunnerError

N_LINES, N_LINE_CHARS = 200, 400
MAX_FILE_BYTES = 1024 * 1024
LAST_WORDS_S = 0.2
ERROR_LINE = re.compile(r"\d+(?:\.\d+)+ E ")
# Workers of its group are killed with it and gone in less; what left the group may hold the pipe for ever.
LEFT_BEHIND_S = 2.0
log = logging.getLogger("thalamus")


class LogTail:
    """The last lines a process wrote, cut to a fixed length: what it holds never grows.

    With a `path` everything is also appended there; a file of a megabyte becomes `.1`, in place of the last.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lines: deque[str] = deque(maxlen=N_LINES)
        self._open = b""
        self._has_words = False
        self.first_error: str | None = None
        """The first line of the process that writes now which llama.cpp marks as an error: the last one only
        says that it gives up."""

    def begin(self) -> None:
        """Another process writes from now on."""
        if self._open.strip():
            self._lines.append(self._open.decode(errors="replace"))
        self._open, self._has_words, self.first_error = b"", False, None

    def find_last_words(self) -> str | None:
        """The last line of the process that writes now, None where it has written none."""
        return self.lines()[-1] if self._has_words else None

    def feed(self, data: bytes) -> None:
        """Take what was read, which may end in the middle of a line."""
        *whole, last = (self._open + data).split(b"\n")
        lines = [line[:N_LINE_CHARS].decode(errors="replace") for line in whole if line.strip()]
        self._lines.extend(lines)
        self.first_error = self.first_error or next(filter(ERROR_LINE.match, lines), None)
        self._open = last[:N_LINE_CHARS]
        self._has_words = self._has_words or any(line.strip() for line in (*whole, last))
        if self.path is not None:
            self._keep(self.path, data)

    def lines(self) -> list[str]:
        """Oldest first."""
        rest = [self._open.decode(errors="replace")] if self._open.strip() else []
        return [*self._lines, *rest]

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
                path.replace(path.with_name(path.name + ".1"))
            with open(path, "ab", opener=_open_private) as file:
                file.write(data)
        except OSError as error:
            log.warning("%s: not written any more: %s", path, error.strerror)
            self.path = None


def _open_private(path: str, flags: int) -> int:
    """Mode 0600, because engines log prompts and some log their key."""
    return os.open(path, flags, 0o600)


def log_path(folder: Path, name: str) -> Path:
    """Where the log of a runner of this name is kept."""
    return folder / (re.sub(r"[^\w.+-]", "_", name) + ".log")


@dataclass(frozen=True, slots=True)
class Report:
    """What a process says when it serves: where (`http://127.0.0.1:PORT`), and what it holds if it knows."""

    address: str
    memory_bytes: int | None = None


class ServerProcess:
    """A child that serves, once `wait_report` has returned."""

    def __init__(self, process: Process, control: socket.socket, drain: asyncio.Task[None]) -> None:
        self._process = process
        self._control = control
        self._drain = drain

    @classmethod
    async def spawn(cls, launch: Launch, log: LogTail) -> Self:
        """Start the process; it waits for its orders until `wait_report` is called.

        Raises:
            RunnerError: the command cannot be run.
        """
        # One socket pair instead of two pipes: settings go in, the report comes out, and its end tells the
        # child that the gateway has died, however it died.
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # A pipe of our own: asyncio's `wait` for a process ends only when its pipes do, and what the process
        # leaves behind may hold them for ever (python/cpython#119710).
        output, written = os.pipe()
        try:
            # In a session of its own: Ctrl-C in a terminal reaches the gateway alone, and one killpg
            # reaches all that the server has started.
            process = await asyncio.create_subprocess_exec(
                *launch.argv, stdin=theirs.fileno(), stdout=written, stderr=STDOUT, start_new_session=True
            )
        except BaseException as error:
            ours.close()
            os.close(output)
            if isinstance(error, OSError):
                raise RunnerError(f"cannot run {launch.argv[0]}: {error.strerror}") from error
            raise
        finally:
            # Only the child may hold its end: a copy here would hide its death from a read.
            theirs.close()
            os.close(written)
        return cls(process, ours, asyncio.create_task(_read_output(output, log)))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait_report(self, message: Mapping[str, Any], timeout_s: float) -> Report:
        """Tell it what to serve; gives what it reports, the address it serves at before all.

        Raises:
            RunnerError: it ended, reported an error, or took longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._exchange_or_end(json.dumps(dict(message)).encode() + b"\n")
        except TimeoutError:
            raise RunnerError(f"not ready within {timeout_s:g} s") from None
        report = json.loads(line) if line else {}
        if "address" in report:
            return Report(str(report["address"]), report.get("memory_bytes"))
        if "error" in report:
            # It ends now; why comes through another pipe.
            await asyncio.wait({self._drain}, timeout=LAST_WORDS_S)
            raise RunnerError(str(report["error"]).replace("\n", " "))
        raise RunnerError(f"ended while starting ({await self.wait()})")

    async def wait(self) -> str:
        """Until it has ended; how it did, in words."""
        code = await self._process.wait()
        # Its last words, which come through another pipe; what it leaves behind may keep that open.
        await asyncio.wait({self._drain}, timeout=LAST_WORDS_S)
        if code >= 0:
            return f"exit status {code}"
        return f"killed by {signal.Signals(-code).name}"

    async def end(self, grace_s: float, gone_s: float) -> None:
        """SIGTERM, after `grace_s` SIGKILL, to the whole group; returns when it is gone.

        Raises:
            RunnerError: the kernel has not let go of it within `gone_s`, as happens on a broken device.
        """
        try:
            if self._process.returncode is None and grace_s > 0:
                self._signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self._process.wait()
        finally:
            # Also after an exit in good order: workers of the group may be left.
            self._signal(signal.SIGKILL)
            self._control.close()
        try:
            async with asyncio.timeout(gone_s):
                await self._process.wait()
                await asyncio.wait({self._drain}, timeout=LEFT_BEHIND_S)
        except TimeoutError:
            raise RunnerError(f"process {self.pid} is not gone {gone_s:g} s after SIGKILL") from None
        finally:
            self._drain.cancel()

    def _signal(self, number: signal.Signals) -> None:
        # macOS answers PermissionError where only a zombie is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _exchange_or_end(self, order: bytes) -> bytes:
        """As `_exchange`; a death ends it too, though what the process left may hold the socket."""
        exchange = asyncio.ensure_future(self._exchange(order))
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({exchange, ended}, return_when=asyncio.FIRST_COMPLETED)
            # What it reported before it ended is still in the socket.
            await asyncio.wait({exchange}, timeout=LAST_WORDS_S)
            return exchange.result() if exchange.done() else b""
        finally:
            exchange.cancel()
            ended.cancel()
            await asyncio.wait({exchange, ended})

    async def _exchange(self, order: bytes) -> bytes:
        """Send one line, read one line; empty when the process ended instead."""
        loop, line = asyncio.get_running_loop(), b""
        with contextlib.suppress(OSError):
            await loop.sock_sendall(self._control, order)
            while not line.endswith(b"\n"):
                data = await loop.sock_recv(self._control, 65536)
                if not data:
                    return b""
                line += data
        return line


async def _read_output(pipe: int, log: LogTail) -> None:
    """Keep what is written to the pipe, until the last process that holds it is gone."""
    output = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(pipe, "rb", buffering=0)
    )
    try:
        while data := await output.read(65536):
            log.feed(data)
    finally:
        transport.close()
