"""What the processes of a runner write: the last lines in memory, the last two files' worth on disk."""

import logging
import os
import re
from collections import deque
from pathlib import Path

N_LINES, N_LINE_CHARS = 200, 400
MAX_FILE_BYTES = 1024 * 1024

log = logging.getLogger("thalamus")


class LogTail:
    """The last lines a process wrote, cut to a fixed length: what it holds never grows.

    With a `path` everything is also appended there; a file of a megabyte becomes `.1`, in place of the last.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lines: deque[str] = deque(maxlen=N_LINES)
        self._open = b""

    def feed(self, data: bytes) -> None:
        """Take what was read, which may end in the middle of a line."""
        *whole, last = (self._open + data).split(b"\n")
        self._lines.extend(line[:N_LINE_CHARS].decode(errors="replace") for line in whole if line.strip())
        self._open = last[:N_LINE_CHARS]
        if self._path is not None:
            self._keep(self._path, data)

    def lines(self) -> list[str]:
        """Oldest first."""
        rest = [self._open.decode(errors="replace")] if self._open.strip() else []
        return [*self._lines, *rest]

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
                path.replace(path.with_name(path.name + ".1"))
            with open(path, "ab", opener=_private) as file:
                file.write(data)
        except OSError as error:
            log.warning("%s: not written any more: %s", path, error.strerror)
            self._path = None


def _private(path: str, flags: int) -> int:
    """Mode 0600, because engines log prompts and some log their key."""
    return os.open(path, flags, 0o600)


def log_path(folder: Path, name: str) -> Path:
    """Where the log of a runner of this name is kept."""
    return folder / (re.sub(r"[^\w.+-]", "_", name) + ".log")
