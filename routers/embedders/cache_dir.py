"""The directory of built files: one file per content, replaced atomically."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ..errors import EmbedderError


def cache_dir() -> Path:
    """`$THALAMUS_CACHE`, else `~/.cache/thalamus`."""
    chosen = os.environ.get("THALAMUS_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "thalamus"


def content_hash(*paths: Path) -> str:
    """Sixteen hex digits that name the content of these files, in this order."""
    digests = [_digest(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


@lru_cache(maxsize=64)
def _digest(path: Path, _size_bytes: int, _mtime_ns: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def build_cached(name: str, build: Callable[[Path], None]) -> Path:
    """The cached file `name`, built first if it is not there.

    Two processes that build at once both succeed: each writes its own temporary file, and the last to finish
    replaces the other's equal one. An interrupted build leaves nothing behind under the final name.

    Raises:
        EmbedderError: the cache directory cannot be written.
    """
    path = cache_dir() / name
    if not path.exists():
        try:
            _build(path, build)
        except OSError as error:
            raise EmbedderError(
                f"cannot write {path}: {error.strerror or error}; set THALAMUS_CACHE to a writable directory"
            ) from error
    return path


def _build(path: Path, build: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        build(Path(temporary))
        with Path(temporary).open("rb") as file:
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
