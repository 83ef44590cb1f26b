"""A multipart upload, read as it comes: small fields in memory, the one file straight to disk."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from ..errors import BadRequest, InvalidField

MAX_FIELD_BYTES = 4096
MAX_FIELDS = 32
MAX_NAME_CHARS = 512


class Sink(Protocol):
    """Where the file's bytes go."""

    def write(self, piece: bytes) -> None: ...


class BadUpload(BadRequest):
    code = "invalid_upload"


class Form:
    """The parts of an upload: `fields` by name, the file's `filename`; its bytes are in `sink`.

    `ended` says that its last boundary came: what is cut off before it may lack lines.
    """

    def __init__(self, sink: Sink) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.ended = False
        self._sink = sink
        self._header = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value = bytearray()
        self._is_file = False

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.fields) >= MAX_FIELDS:
            raise BadUpload(f"an upload has at most {MAX_FIELDS} fields")
        self._headers = {}
        self._value = bytearray()

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
            raise BadUpload("an upload has one file, in the field 'file'", param="file")
        self.filename = options[b"filename"].decode("utf-8", "replace")[:MAX_NAME_CHARS] or "file.jsonl"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._sink.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise BadUpload(f"the field '{self._name[:80]}' is too long", param=self._name[:80])

    def _part_end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True


async def read_form(content_type: str, pieces: AsyncIterator[bytes], sink: Sink) -> Form:
    """Read an upload to its end.

    Raises:
        BadUpload: it is no multipart form with one file.
        BadRequest: whatever `sink` refuses.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BadUpload("send the file as multipart/form-data, with the fields 'purpose' and 'file'")
    form = Form(sink)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type, unused-ignore]
        async for piece in pieces:
            await asyncio.to_thread(parser.write, piece)
        parser.finalize()
    except FormParserError as error:
        raise BadUpload(f"the upload cannot be read: {error}") from None
    if form.filename is None:
        raise InvalidField("'file' is missing", param="file")
    if not form.ended:
        raise BadUpload("the upload is cut off before its last boundary; send it again", param="file")
    return form
