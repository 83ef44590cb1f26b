"""The lines of an input file: read one at a time and parsed as the requests of their endpoints."""

import contextlib
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Raw

from policies import Single
from routers import RoutersError
from routers.text_files import MARK_BYTES, find_encoding

from ..errors import GatewayError, InvalidField, InvalidJson
from ..execution.executor import NAMED_POLICY, NAMED_REASON, ExecutionRequest
from ..requests.bodies import INLINE_BYTES, shorten
from ..requests.parsing import SPECS, ParsedRequest, ToEmbedder, ToExpert, parse_body
from ..services import Services
from .store import BatchLine, Worklist
from .types import LineError

URLS = tuple(SPECS)
EMBEDDED_HERE = "embedders here"
"""The expert's name of lines that the gateway's own embedders answer; real names have no spaces."""
MAX_ID_CHARS = 512
NO_HEADERS: Mapping[bytes, bytes] = {}
MISSING = "missing_required_parameter"


class FaultyLine(Exception):  # noqa: N818 (the line is at fault)
    """A line that is not a valid request; `code` and `param` are those of OpenAI's errors."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def to_gateway_error(self) -> InvalidField:
        """The same as an error of the gateway."""
        error = InvalidField(self.message, param=self.param)
        error.code = self.code
        return error


# The body stays raw: the parser of its endpoint reads it, as it reads a live request.
class _Envelope(msgspec.Struct):
    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: Raw = Raw(b"null")


_envelope_decoder = msgspec.json.Decoder(_Envelope)


@dataclass(frozen=True, slots=True)
class FoundLine:
    """One physical line, counted from 1; `text` is None if it is too long."""

    n: int
    offset: int
    size: int
    text: bytes | None


def read_lines(path: Path, max_bytes: int) -> Iterator[FoundLine]:
    """The lines of a file that are not blank, one at a time; a byte order mark is left out."""
    with path.open("rb") as file:
        encoding, offset = find_encoding(file.read(MARK_BYTES))
        file.seek(offset)
        end = "\n".encode(encoding)
        n = 0
        # A bounded readline: a file that is one line of ten gigabytes is reported, not read into memory.
        while head := _read_line(file, max_bytes + 1, end):
            size = len(head) + _skip_rest(file, head, max_bytes, end)
            n += 1
            text = _to_utf8(head, encoding)
            if size > max_bytes and len(text) > max_bytes:
                yield FoundLine(n, offset, size, None)
            elif text:
                yield FoundLine(n, offset, size, text)
            offset += size


def _read_line(file: BinaryIO, max_bytes: int, end: bytes) -> bytes:
    """A line with its end, or about the first `max_bytes` of it."""
    line = file.readline(max_bytes)
    if len(end) == 1:
        return line
    # In UTF-16 a byte that is a line feed elsewhere may be half of a character, or half of the line feed.
    while line and (len(line) % len(end) or not line.endswith(end)):
        half = len(line) % len(end)
        more = file.read(len(end) - half) if half else file.readline(max_bytes - len(line))
        if not more:
            break
        line += more
    return line


def _skip_rest(file: BinaryIO, head: bytes, max_bytes: int, end: bytes) -> int:
    """Skip the rest of a line of which only the head was read; returns the size of the rest in bytes."""
    skipped = 0
    while head and not head.endswith(end):
        head = _read_line(file, max_bytes + 1, end)
        skipped += len(head)
    return skipped


def _to_utf8(line: bytes, encoding: str) -> bytes:
    """A line in UTF-8 without the blanks around it; as it is where it is not in its file's encoding."""
    if encoding != "utf-8":
        # What cannot be decoded is refused as JSON, with the place.
        with contextlib.suppress(UnicodeDecodeError):
            line = line.decode(encoding).encode()
    # A mark inside: files were joined as they are.
    return line.strip().removeprefix(BOM_UTF8)


class LineReader:
    """Parses the lines of one batch. `endpoint` is the only url allowed; None allows all."""

    def __init__(self, services: Services, endpoint: str | None) -> None:
        self._urls = (endpoint,) if endpoint else URLS
        self._parser = services.parser
        self._max_text_bytes = services.config.server.max_text_bytes
        self._pool = services.embedders

    def build_request(self, parsed: ParsedRequest) -> ExecutionRequest:
        """The execution of a line that names its expert, or goes to the gateway's own embedders.

        Raises:
            FaultyLine: the line names no expert.
        """
        if isinstance(parsed, ToExpert):
            return ExecutionRequest.for_expert(parsed)
        if isinstance(parsed, ToEmbedder):
            return ExecutionRequest(parsed.call, Single((EMBEDDED_HERE,)), NAMED_POLICY, NAMED_REASON)
        raise FaultyLine("model_not_found", "its model is no longer a configured expert", "body.model")

    def read(self, text: bytes) -> tuple[str, ParsedRequest]:
        """The custom_id and the parsed request of a line.

        Raises:
            FaultyLine: the line is not a request that can be served.
        """
        custom_id, url, body = self._decode_envelope(text)
        try:
            parsed = self._parser.parse(SPECS[url], parse_body(bytes(body), self._max_text_bytes), NO_HEADERS)
            if isinstance(parsed, ToEmbedder) and self._pool is not None:
                # Only a loaded embedder knows its dimensions. Loading again returns at once.
                self._pool.load()
                parsed.input.check_dimensions(self._pool.base.dim)
        except GatewayError as error:
            raise _as_faulty_line(error) from None
        except RoutersError as error:
            raise FaultyLine("experts_unavailable", str(error), "body.model") from None
        if parsed.call.stream:
            raise FaultyLine("invalid_value", "a batch has no streams; leave 'stream' out", "body.stream")
        return custom_id, parsed

    def _decode_envelope(self, text: bytes) -> tuple[str, str, Raw]:
        try:
            # In short steps: live streams wait while a call goes over all of a line of megabytes.
            short = shorten(text, {}) if len(text) > INLINE_BYTES else None
            line = _envelope_decoder.decode(short.data if short else text)
        except msgspec.ValidationError as error:
            raise _shape_error(error) from None
        except InvalidJson as error:
            raise FaultyLine("invalid_json_line", f"not valid JSON: {error.message}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FaultyLine("invalid_json_line", f"not valid JSON: {error}") from None
        if not line.custom_id:
            raise FaultyLine(MISSING, "'custom_id' is missing; it must be a string of your own", "custom_id")
        if len(line.custom_id) > MAX_ID_CHARS:
            raise FaultyLine(
                "invalid_value", f"'custom_id' has more than {MAX_ID_CHARS} characters", "custom_id"
            )
        if line.method != "POST":
            raise FaultyLine("invalid_method", "'method' must be POST", "method")
        if line.url not in self._urls:
            said = "is missing" if line.url is None else f"is {line.url[:80]!r}"
            raise FaultyLine("invalid_url", f"'url' {said}; it must be {' or '.join(self._urls)}", "url")
        if bytes(line.body) == b"null":
            raise FaultyLine(MISSING, "'body' is missing; it must be the request as an object", "body")
        return line.custom_id, line.url, short.restore(line.body) if short else line.body


def _shape_error(error: msgspec.ValidationError) -> FaultyLine:
    # msgspec's errors end in a path: 'Expected `str`, got `int` - at `$.custom_id`' gives the param
    # 'custom_id'.
    what, _, where = str(error).partition(" - at `$")
    name = where.strip(".`")
    said = f"{what[0].lower()}{what[1:]}".replace("`", "'")
    return FaultyLine("invalid_json_line", f"{name or 'the line'}: {said}", name or None)


def _as_faulty_line(error: GatewayError) -> FaultyLine:
    param = f"body.{error.param}" if error.param else "body"
    return FaultyLine(error.code or "invalid_value", error.message, param)


class InputFile:
    """An open input file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._encoding, _ = find_encoding(os.pread(self._file, MARK_BYTES, 0))

    def text(self, line: BatchLine) -> bytes:
        """A line as UTF-8."""
        # pread, because threads share the descriptor and must not move a common offset.
        return _to_utf8(os.pread(self._file, line.size, line.offset), self._encoding)

    def close(self) -> None:
        os.close(self._file)


def read_file_mark(path: Path) -> str:
    """A mark that changes when the file does: its size and modification time.

    Raises:
        OSError: there is no such file.
    """
    # A hash would read gigabytes at every resume.
    facts = path.stat()
    return f"{facts.st_size}:{facts.st_mtime_ns}"


# The errors are part of the batch object, which every status request returns.
MAX_ERRORS = 200
LINES_PER_INSERT = 2000


def validate(
    path: Path, reader: LineReader, worklist: Worklist, max_line_bytes: int
) -> tuple[int, list[LineError]]:
    """Add the good lines of a file to a worklist; how many lines it has, and the first `MAX_ERRORS` errors.

    Raises:
        OSError: the file cannot be read.
    """
    # A crash during an earlier check may have left lines.
    worklist.clear()
    errors: list[LineError] = []
    n_lines = 0
    entered: list[BatchLine] = []
    for line in _check_lines(path, reader, max_line_bytes, errors):
        n_lines += 1
        if line is not None:
            entered.append(line)
        if len(entered) == LINES_PER_INSERT:
            worklist.add(entered)
            entered = []
    worklist.add(entered)
    errors += worklist.find_repeated(MAX_ERRORS)
    if not n_lines and not errors:
        errors.append(LineError("empty_file", "the file has no lines"))
    shown = sorted(errors, key=lambda error: error.line or 0)[:MAX_ERRORS]
    return n_lines, shown


def _check_lines(
    path: Path, reader: LineReader, max_bytes: int, errors: list[LineError]
) -> Iterator[BatchLine | None]:
    """The valid lines, and None for each of the others, whose faults are added to `errors`."""
    for found in read_lines(path, max_bytes):
        try:
            if found.text is None:
                raise FaultyLine("line_too_long", f"longer than {max_bytes} bytes (server.max_body_bytes)")
            custom_id, _ = reader.read(found.text)
        except FaultyLine as fault:
            if len(errors) < MAX_ERRORS:
                errors.append(LineError(fault.code, fault.message, found.n, fault.param))
            yield None
        else:
            yield BatchLine(found.n, found.offset, found.size, custom_id)
