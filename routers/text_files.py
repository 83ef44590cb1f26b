"""Text as editors and spreadsheets of all systems write it: UTF-8 or UTF-16, with a mark or without.

What we write is UTF-8, and a file is written whole or not at all.
"""

import os
import secrets
import stat
from pathlib import Path

_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    # Before those of UTF-16: the mark of UTF-32 in little endian begins with theirs.
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
MARK_BYTES = 4
"""How much of a file `find_encoding` needs to see."""


def find_encoding(head: bytes) -> tuple[str, int]:
    """The encoding that the first bytes of a text show, and the length of its byte order mark in bytes."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding, len(mark)
    # Without a mark: what we read begins with an ASCII character, whose other byte is zero in UTF-16.
    if len(head) >= 2 and (head[0] == 0) != (head[1] == 0):
        return ("utf-16-be" if head[0] == 0 else "utf-16-le"), 0
    return "utf-8", 0


def decode_text(data: bytes) -> str:
    """The text without its byte order mark.

    Raises:
        ValueError: it is in another encoding; names the line and what to do.
    """
    encoding, n_mark = find_encoding(data[:MARK_BYTES])
    try:
        return data[n_mark:].decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(
                f"damaged: it begins as {encoding.upper()} and is not ({error.reason})"
            ) from None
        at = n_mark + error.start
        n_line = data.count(b"\n", 0, at) + 1
        raise ValueError(
            f"byte {data[at]:#04x} in line {n_line} is not UTF-8; save the file as UTF-8"
        ) from None


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all: one that is there stays as it is if that fails.

    It keeps the permissions of the file that it replaces.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    encoded = data.encode() if isinstance(data, str) else data
    if path.exists() and not path.is_file():
        path.write_bytes(encoded)  # a pipe or a terminal has nothing to lose, and a folder says what it is
        return
    target = path.resolve()  # a link stays one
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as file:
            if target.exists():
                fresh.chmod(stat.S_IMODE(target.stat().st_mode))
            file.write(encoded)
            file.flush()
            # A disk may tell that it is full only now.
            os.fsync(file.fileno())
        fresh.replace(target)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        error.filename, error.filename2 = str(path), None
        raise
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
