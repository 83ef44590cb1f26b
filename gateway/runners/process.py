"""One server process: started in a session of its own, heard on a private socket, ended for certain."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import RunnerError
from .log import LogTail
from .types import Launch


@dataclass(frozen=True, slots=True)
class Report:
    """What a process says when it serves: where (`http://127.0.0.1:PORT`), and what it holds if it knows."""

    address: str
    memory_bytes: int | None = None


class ServerProcess:
    """A child that serves, once `ready` has returned."""

    def __init__(self, process: Process, control: socket.socket, log: LogTail) -> None:
        self._process = process
        self._control = control
        self._log = log
        self._drain = asyncio.create_task(self._read_output())

    @classmethod
    async def spawn(cls, launch: Launch, log: LogTail) -> Self:
        """Start the process; it waits for its orders until `ready` is called.

        Raises:
            RunnerError: the command cannot be run.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *launch.argv, stdin=theirs.fileno(), stdout=PIPE, stderr=STDOUT, start_new_session=True
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise RunnerError(f"cannot run {launch.argv[0]}: {error.strerror}") from error
            raise
        finally:
            theirs.close()
        return cls(process, ours, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self, message: Mapping[str, Any], timeout_s: float) -> Report:
        """Tell it what to serve; gives what it reports, the address it serves at before all.

        Raises:
            RunnerError: it ended, reported an error, or took longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._exchange(json.dumps(dict(message)).encode() + b"\n")
        except TimeoutError:
            raise RunnerError(f"not ready within {timeout_s:g} s") from None
        report = json.loads(line) if line else {}
        if "address" in report:
            return Report(str(report["address"]), report.get("memory_bytes"))
        if "error" in report:
            raise RunnerError(str(report["error"]).replace("\n", " "))
        raise RunnerError(f"ended while starting ({await self.wait()})")

    async def wait(self) -> str:
        """Until it has ended; how it did, in words."""
        code = await self._process.wait()
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
            self._signal(signal.SIGKILL)
            self._control.close()
        try:
            async with asyncio.timeout(gone_s):
                await self._process.wait()
                await self._drain
        except TimeoutError:
            self._drain.cancel()
            raise RunnerError(f"process {self.pid} is not gone {gone_s:g} s after SIGKILL") from None

    def _signal(self, number: signal.Signals) -> None:
        # macOS answers PermissionError where only a zombie is left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

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

    async def _read_output(self) -> None:
        output = self._process.stdout
        while output and (data := await output.read(65536)):
            self._log.feed(data)
