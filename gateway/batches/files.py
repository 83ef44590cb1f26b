"""Uploaded files and results: bytes beside the store, each readable only by its owner."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from ..errors import BadRequest, InvalidField
from .store import BatchStore, new_id
from .types import FileInUse, FileNotKnown, FileTooLarge, Purpose, StoredFile


class FileStore:
    """Files in one directory. An id is the file name too, random so that clients cannot guess it."""

    def __init__(self, store: BatchStore, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._store = store
        self._directory = store.directory / "files"
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

    def begin(self) -> "Upload":
        """Begin an upload."""
        return Upload(self, new_id("file"))

    def keep(
        self, file_id: str, owner: str, name: str, purpose: Purpose, expires_s: int | None = None
    ) -> StoredFile:
        """Register a file whose bytes are complete; it is deleted after `expires_s` seconds."""
        n_bytes, now = self.path(file_id).stat().st_size, int(time.time())
        expires_at = None if expires_s is None else now + expires_s
        file = StoredFile(file_id, owner, name, purpose, n_bytes, now, expires_at)
        self._store.add_file(file)
        return file

    def delete_expired(self) -> None:
        """Delete the files whose time is over; one that a batch reads stays until the batch has ended."""
        for file_id in self._store.list_expired_files():
            if self._store.find_batch_reading(file_id) is None:
                self._store.delete_file(file_id)
                self.path(file_id).unlink(missing_ok=True)

    def delete(self, file_id: str, owner: str) -> None:
        """Delete a file and its bytes.

        Raises:
            FileNotKnown: as `find`.
            FileInUse: a batch still reads it.
        """
        self.find(file_id, owner)
        if (batch_id := self._store.find_batch_reading(file_id)) is not None:
            raise FileInUse(
                f"'{file_id}' is the input of {batch_id}; cancel the batch first", param="file_id"
            )
        # The row first: a crash in between leaves unused bytes, not a file that cannot be read.
        self._store.delete_file(file_id)
        self.path(file_id).unlink(missing_ok=True)


class Upload:
    """An upload that is written piece by piece, and deleted on `close` unless it was kept."""

    def __init__(self, files: FileStore, file_id: str) -> None:
        self.id = file_id
        self.n_bytes = 0
        self._files = files
        self._path = files.path(file_id)
        # O_EXCL: an existing file or a planted link makes this fail instead of being overwritten.
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._kept = False

    def write(self, piece: bytes) -> None:
        """Raises:
        FileTooLarge: the file is larger than `batches.max_file_bytes`.
        """
        self.n_bytes += len(piece)
        if self.n_bytes > self._files.max_bytes:
            raise FileTooLarge(
                f"the file is larger than {self._files.max_bytes} bytes (batches.max_file_bytes)",
                param="file",
            )
        self._file.write(piece)

    def keep(self, owner: str, name: str, purpose: Purpose, expires_s: int | None = None) -> StoredFile:
        """Register the file; all bytes have been written. It is deleted after `expires_s` seconds."""
        self._file.close()
        file = self._files.keep(self.id, owner, name, purpose, expires_s)
        self._kept = True
        return file

    def close(self) -> None:
        """Delete the file unless it was kept."""
        self._file.close()
        if not self._kept:
            self._path.unlink(missing_ok=True)


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
