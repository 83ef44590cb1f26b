"""Uploaded files and results: bytes beside the store, each readable only by its owner, with quota and age."""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from ..config.schema import BatchConfig
from ..errors import BadRequest, InvalidField
from ..storage.sqlite import DiskError, find_disk_fault
from .store import BatchStore, new_id
from .types import (
    DISK_FULL,
    FileInUse,
    FileNotKnown,
    FileTooLarge,
    KeyStorageFull,
    Purpose,
    StorageFull,
    StoredFile,
)

DAY_S = 86_400
CHECK_EVERY_BYTES = 4 * 1024 * 1024
"""So much of an upload is written between two looks at the quota."""
STRAY_S = 86_400.0
"""Bytes without a row are no upload under way any more once they are so old."""


class FileStore:
    """Files in one directory. An id is the file name too, random so that clients cannot guess it.

    What is uploaded now counts to the quota as far as it has come.
    """

    def __init__(self, store: BatchStore, config: BatchConfig) -> None:
        self.max_bytes = config.max_file_bytes
        self._config = config
        self._ages_days: dict[Purpose, float | None] = {
            "batch": config.file_days,
            "batch_output": config.output_days,
        }
        self._store = store
        self._lock = threading.Lock()
        # Weak: an upload whose request ended before it began to be read must not count for ever.
        self._uploads: WeakSet[Upload] = WeakSet()
        self._directory = store.directory / "files"
        with contextlib.suppress(OSError):  # a disk that is full at the start may have room later
            self.ensure_folder()

    def ensure_folder(self) -> None:
        """Make the folder that files are written to.

        Raises:
            OSError: it cannot be made.
        """
        self._directory.mkdir(exist_ok=True, mode=0o700)

    def path(self, file_id: str) -> Path:
        """The path of a file's bytes."""
        return self._directory / file_id

    def find(self, file_id: str, owner: str) -> StoredFile:
        """A file of this owner.

        Raises:
            FileNotKnown: the owner has no file of that id.
        """
        found = self._store.find_file(file_id, owner)
        if found is None:
            raise FileNotKnown(f"there is no file '{file_id[:80]}'", param="file_id")
        return found

    def find_path(self, file_id: str, owner: str) -> Path:
        """The path of the bytes of this owner's file.

        Raises:
            FileNotKnown: as `find`, or its bytes are gone.
        """
        self.find(file_id, owner)
        path = self.path(file_id)
        if not path.exists():
            raise FileNotKnown(f"the bytes of '{file_id}' are gone; upload them again", param="file_id")
        return path

    def list_page(
        self, owner: str, purpose: str | None, after: str | None, limit: int, newest_first: bool
    ) -> list[StoredFile]:
        """A page of an owner's files."""
        return self._store.list_files(owner, purpose, after, limit, newest_first)

    def begin(self, owner: str) -> "Upload":
        """Begin an upload.

        Raises:
            StorageFull: the disk has no room.
            DiskError: it cannot be written.
        """
        with refusing_full_disks():
            self.ensure_folder()
            upload = Upload(self, new_id("file"), owner)
        with self._lock:
            self._uploads.add(upload)
        return upload

    def end(self, upload: "Upload") -> None:
        """An upload was kept, or has come to nothing: it counts no longer."""
        with self._lock:
            self._uploads.discard(upload)

    def check_room(self, owner: str, n_more_bytes: int = 1) -> None:
        """Check that an owner may store so many bytes more.

        Raises:
            KeyStorageFull: its key may not.
            StorageFull: all keys together may not.
        """
        with self._lock:
            self._check_room(owner, n_more_bytes)

    def _check_room(self, owner: str, n_more_bytes: int) -> None:
        if self._find_lack(owner, n_more_bytes) is None:
            return
        # What has expired must keep no one out until the next sweep.
        self.delete_expired()
        if (lack := self._find_lack(owner, n_more_bytes)) is not None:
            raise lack

    def _find_lack(self, owner: str, n_more_bytes: int) -> KeyStorageFull | StorageFull | None:
        config = self._config
        n_own, n_all = self._store.count_bytes(owner)
        n_own += sum(upload.n_bytes for upload in self._uploads if upload.owner == owner) + n_more_bytes
        n_all += sum(upload.n_bytes for upload in self._uploads) + n_more_bytes
        if n_own > config.max_stored_bytes_per_key:
            return KeyStorageFull(
                f"the files of this key may take {config.max_stored_bytes_per_key} bytes in all "
                "(batches.max_stored_bytes_per_key): delete some, or send less"
            )
        if n_all > config.max_stored_bytes:
            return StorageFull(
                f"the files of all clients may take {config.max_stored_bytes} bytes here "
                "(batches.max_stored_bytes): delete some, or have the operator raise it"
            )
        return None

    def keep_upload(
        self, upload: "Upload", name: str, purpose: Purpose, expires_s: int | None = None
    ) -> StoredFile:
        """Register an upload whose bytes are complete, as `keep`.

        Raises:
            KeyStorageFull, StorageFull: there is no room for it any more.
        """
        with refusing_full_disks():
            self.check_room(upload.owner, 0)
            # Without the lock, as another process may write for long; until its end the upload counts.
            file = self.keep(upload.id, upload.owner, name, purpose, expires_s)
        self.end(upload)
        return file

    def keep(
        self, file_id: str, owner: str, name: str, purpose: Purpose, expires_s: int | None = None
    ) -> StoredFile:
        """Register a file whose bytes are complete, above the quota too: results are paid for.

        It is deleted after `expires_s` seconds, or as the configuration says of its purpose.
        """
        n_bytes, now = self.path(file_id).stat().st_size, int(self._store.clock.stamp())
        if expires_s is None and (days := self._ages_days[purpose]) is not None:
            expires_s = round(days * DAY_S)
        expires_at = None if expires_s is None else now + expires_s
        file = StoredFile(file_id, owner, name, purpose, n_bytes, now, expires_at)
        self._store.add_file(file)
        return file

    def delete_expired(self) -> None:
        """Delete the files whose time is over; one that a batch reads stays until the batch has ended."""
        # The rows first: a crash in between leaves bytes that `delete_strays` finds.
        for file_id in self._store.delete_expired_files():
            self.path(file_id).unlink(missing_ok=True)

    def delete_strays(self) -> None:
        """Delete old bytes that belong to no file: what a crash left behind."""
        oldest = self._store.clock.expiry_time() - STRAY_S
        if not self._directory.exists():
            return
        with os.scandir(self._directory) as entries:
            old = [entry.name for entry in entries if entry.stat(follow_symlinks=False).st_mtime < oldest]
        with self._lock:  # an upload may have begun before the clock was set
            known = {upload.id for upload in self._uploads}
        known |= self._store.list_file_ids() if old else set()
        for name in old:
            if name not in known:
                self.path(name).unlink(missing_ok=True)

    def delete(self, file_id: str, owner: str) -> None:
        """Delete a file and its bytes.

        Raises:
            FileNotKnown: as `find`.
            FileInUse: a batch still reads it.
        """
        self.find(file_id, owner)
        # The row first: a crash in between leaves unused bytes, not a file that cannot be read.
        if (batch_id := self._store.delete_file(file_id)) is not None:
            raise FileInUse(
                f"'{file_id}' is the input of {batch_id}; cancel the batch first", param="file_id"
            )
        self.path(file_id).unlink(missing_ok=True)


class Upload:
    """An upload that is written piece by piece, and deleted on `close` unless it was kept."""

    def __init__(self, files: FileStore, file_id: str, owner: str) -> None:
        self.id = file_id
        self.owner = owner
        self.n_bytes = 0
        self._n_checked = 0
        self._files = files
        self._path = files.path(file_id)
        # O_EXCL: an existing file or a planted link makes this fail instead of being overwritten.
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._kept = False

    def write(self, piece: bytes) -> None:
        """Raises:
        FileTooLarge: the file is larger than `batches.max_file_bytes`.
        KeyStorageFull, StorageFull: there is no room for it.
        """
        self.n_bytes += len(piece)
        if self.n_bytes > self._files.max_bytes:
            raise FileTooLarge(
                f"the file is larger than {self._files.max_bytes} bytes (batches.max_file_bytes)",
                param="file",
            )
        if self.n_bytes > self._n_checked:
            self._files.check_room(self.owner, 0)
            self._n_checked = self.n_bytes + CHECK_EVERY_BYTES
        with refusing_full_disks():
            self._file.write(piece)

    def keep(self, name: str, purpose: Purpose, expires_s: int | None = None) -> StoredFile:
        """Register the file; all bytes have been written. It is deleted after `expires_s` seconds.

        Raises:
            KeyStorageFull, StorageFull: there is no room for it.
        """
        with refusing_full_disks():
            self._file.close()
        file = self._files.keep_upload(self, name, purpose, expires_s)
        self._kept = True
        return file

    def close(self) -> None:
        """Delete the file unless it was kept."""
        # Closing writes what is buffered, which a full disk takes as little as the rest.
        with contextlib.suppress(OSError):
            self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)
            self._files.end(self)


@contextlib.contextmanager
def refusing_full_disks() -> Iterator[None]:
    """Where the disk is full, refuse with status 507.

    Raises:
        StorageFull: the disk is full.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        fault = find_disk_fault(error)
        if fault == "full":
            raise StorageFull(DISK_FULL) from None
        if fault == "unwritable":
            raise DiskError(str(error), fault) from None
        raise


# Fields are kept in memory; only the file itself goes to the disk piece by piece.
MAX_FIELD_BYTES = 4096
MAX_FIELDS = 32
MAX_HEADER_BYTES = 8192
"""Headers of one part."""
MAX_OVERHEAD_BYTES = 256 * 1024
"""All of an upload beside the bytes of its file."""
MAX_NAME_CHARS = 512


class UploadSink(Protocol):
    """Where the file's bytes go."""

    def write(self, piece: bytes) -> None: ...


class InvalidUpload(BadRequest):
    code = "invalid_upload"


class UploadForm:
    """The parts of an upload: `fields` by name, the file's `filename`; its bytes are in `sink`.

    `ended` says that its last boundary came: what is cut off before it may lack lines.
    """

    def __init__(self, sink: UploadSink) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.ended = False
        self.n_file_bytes = 0
        self._sink = sink
        self._n_parts = 0
        self._n_header_bytes = 0
        self._header = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value = bytearray()
        self._is_file = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add_to_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_to_header(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        # Counted by parts: one name may come again and again.
        self._n_parts += 1
        if self._n_parts > MAX_FIELDS:
            raise InvalidUpload(f"an upload has at most {MAX_FIELDS} fields")
        self._n_header_bytes = 0
        self._headers = {}
        self._value = bytearray()

    def _add_to_header(self, half: int, data: bytes) -> None:
        self._n_header_bytes += len(data)
        if self._n_header_bytes > MAX_HEADER_BYTES:
            raise InvalidUpload(f"the headers of a part have more than {MAX_HEADER_BYTES} bytes")
        self._header[half].extend(data)

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_end(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = b"filename" in options
        if not self._is_file:
            return
        if self._name != "file" or self.filename is not None:
            raise InvalidUpload("an upload has one file, in the field 'file'", param="file")
        self.filename = options[b"filename"].decode("utf-8", "replace")[:MAX_NAME_CHARS] or "file.jsonl"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.n_file_bytes += end - start
            self._sink.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidUpload(f"the field '{self._name[:80]}' is too long", param=self._name[:80])

    def _part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True


async def read_form(content_type: str, pieces: AsyncIterator[bytes], sink: UploadSink) -> UploadForm:
    """Read an upload to its end.

    Raises:
        InvalidUpload: it is not a multipart form with one file.
        BadRequest: `sink` refuses the bytes.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidUpload("send the file as multipart/form-data, with the fields 'purpose' and 'file'")
    form = UploadForm(sink)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type, unused-ignore]
        n_bytes = 0
        async for piece in pieces:
            n_bytes += len(piece)
            # The parser writes to disk, which must not block the event loop of live requests.
            await asyncio.to_thread(parser.write, piece)
            if n_bytes - form.n_file_bytes > MAX_OVERHEAD_BYTES:
                raise InvalidUpload(f"the upload has more than {MAX_OVERHEAD_BYTES} bytes beside its file")
        parser.finalize()
    except FormParserError as error:
        raise InvalidUpload(f"the upload cannot be read: {error}") from None
    if form.filename is None:
        raise InvalidField("'file' is missing", param="file")
    # A client that disconnects may end exactly between two lines: only the last boundary proves completeness.
    if not form.ended:
        raise InvalidUpload("the upload is cut off before its last boundary; send it again", param="file")
    return form
