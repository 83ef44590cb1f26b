"""The input of a batch, read line by line wherever it lies."""

import os
from pathlib import Path

from .worklist import Line


class Source:
    """An open input file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def text(self, line: Line) -> bytes:
        """A line as it stands there."""
        return os.pread(self._file, line.size, line.offset).strip()

    def close(self) -> None:
        os.close(self._file)


def mark_of(path: Path) -> str:
    """What changes when a file does: its size and when it was written.

    Raises:
        OSError: there is no such file.
    """
    facts = path.stat()
    return f"{facts.st_size}:{facts.st_mtime_ns}"
