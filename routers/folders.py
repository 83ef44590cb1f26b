"""Folders that are written whole or not at all."""

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AT_FDCWD, EXCHANGE = -100, 2


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `target` at the end, unless that fails.

    Raises:
        OSError: the disk refuses; `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        fresh = Path(temporary, "new")
        fresh.mkdir()
        yield fresh
        _flush_files(fresh)
        if target.exists():
            exchange_folders(fresh, target)
        else:
            os.rename(fresh, target)


@contextmanager
def replace_files(target: Path) -> Iterator[Path]:
    """A new folder to write into, whose files then take their places in `target`; its other files stay.

    Raises:
        OSError: the disk refuses; until all is written `target` is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        fresh = Path(temporary)
        yield fresh
        _flush_files(fresh)
        for file in [path for path in fresh.rglob("*") if path.is_file()]:
            place = target / file.relative_to(fresh)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)


def _flush_files(folder: Path) -> None:
    """Have every file on disk, which may tell only now that it is full."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def exchange_folders(first: Path, second: Path) -> None:
    """Exchange two directories, in one step where the system has one for it."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if (exchange := getattr(library, "renameat2", None)) is not None:  # Linux
        done = exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE)
    elif (exchange := getattr(library, "renamex_np", None)) is not None:  # macOS
        done = exchange(*names, EXCHANGE)
    else:
        done = -1
    if done == 0:
        return
    # A file system without it, such as NFS. A killed process leaves the second beside its place.
    aside = second.with_name(f"{second.name}.replaced")
    os.rename(second, aside)
    try:
        os.rename(first, second)
    except OSError:
        os.rename(aside, second)
        raise
    os.rename(aside, first)
