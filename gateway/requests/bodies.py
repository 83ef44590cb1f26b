"""Large bodies, read in small steps: no call in C goes over more than some megabytes, no list grows for ever.

Calls in C hold the interpreter's lock, so that one pass over 64 MB stops every stream, in whichever thread it
runs. A body above `INLINE_BYTES` is read in a worker thread, piece by piece: its structure is counted first,
and the middles of long strings (pictures above all) are left out of what the decoder sees. Every field keeps
its own bytes.
"""

import asyncio
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from ..errors import BodyTooLarge, InvalidField, InvalidJson

T = TypeVar("T")

INLINE_BYTES = 8 * 1024
"""A longer body is read in a worker thread: its prompt may take milliseconds."""
PIECE_BYTES = 1 << 16
"""What one step reads: some 100 µs, and less than a millisecond where every byte is a quote."""
MAX_FIELDS = 1000
"""Fields of a body; clients send some twenty."""
Limits = Mapping[int, tuple[int, str]]
"""By depth: how many values may stand there, and what they are called."""
BODY_LIMITS: Limits = {1: (MAX_FIELDS, "the body has more than {} fields; clients send some twenty")}
MESSAGE_LIMITS: Limits = {
    1: (10_000, "'messages' has more than {} items; no expert takes so many: leave older ones out"),
    3: (10_000, "'messages' has more than {} parts and calls of tools; no expert takes so many"),
}
MAX_VALUES = 1_000_000
"""Values in all of a body, ids of tokens among them."""
PROMPT_LIMITS: Limits = {
    1: (10_000, "'prompt' has more than {} items; no expert takes so many: split the request"),
    2: (10_000, "'prompt' has more than {} token ids beside texts; send texts or ids"),
}
MAX_TEXT_BYTES = 8 * 1024 * 1024
"""What remains of a body without the middles of its long strings; two million tokens of text."""

MIN_ATTACHMENT_BYTES = 16 * 1024
"""A shorter string is never cut."""
ATTACHMENT_HEAD_BYTES = 1024
"""What remains of a string in base64 at each end: a data URL names its type."""
MAX_STRING_BYTES = 1 << 20
"""Of another string three quarters of this are read from its beginning, one from its end: more than routing
reads, even where each character is an escape."""
TEXT_KEYS = frozenset({b"text", b"content", b"input", b"prompt"})
"""A string of these fields is text, even where it looks like a file: its tokens count."""
_KEY = re.compile(rb'"([^"]{1,40})"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}"\Z')
_KEY_BYTES = 80
_N_SAMPLE = 96
_LOOK_BACK = 4096

_BACKSLASH = 0x5C
_QUOTE, _COMMA = 0x22, 0x2C
_STEP = np.zeros(256, np.int64)
_STEP[[0x5B, 0x7B]] = 1
_STEP[[0x5D, 0x7D]] = -1
_MAX_DEPTH = 7
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/=_-]|\\[/n])*+")
_HEX = rb"[0-9a-fA-F]"
_HIGH, _LOW = rb"\\u[dD][89abAB]" + _HEX + rb"{2}", rb"\\u[dD][c-fC-F]" + _HEX + rb"{2}"
_ESCAPE = rb"\\u(?![dD][89a-fA-F])" + _HEX + rb"{4}|" + _HIGH + _LOW
# Matches end before the first escape that is not whole, and before half of a pair.
_WHOLE = re.compile(rb"[^\\]*+(?:(?:\\[^u]|" + _ESCAPE + rb")[^\\]*+)*+", re.DOTALL)
_TEXT = rb"[^\\\x00-\x1f]*+"
_STRING = re.compile(_TEXT + rb'(?:(?:\\["\\/bfnrt]|' + _ESCAPE + rb")" + _TEXT + rb")*+")
_SURROGATE = re.compile(_HIGH + rb"|" + _LOW)
_AFTER_HIGH = re.compile(_HIGH)
_HALF = (
    "the body holds half of a character, a lone surrogate ({} at byte {}): "
    "a text was cut in the middle of an emoji; send whole characters"
)
_PAIR_BYTES = 12
_PLACE = re.compile(r"\(byte (\d+)\)")

# One thread: several would only take the lock from each other, and from the loop.
_threads = ThreadPoolExecutor(1, thread_name_prefix="bodies")


async def run_apart(work: Callable[..., T], *args: Any) -> T:
    """The result of `work`, computed in the thread that reads large bodies."""
    return await asyncio.get_running_loop().run_in_executor(_threads, copy_context().run, work, *args)


@dataclass(slots=True)
class ShortJson:
    """JSON without the middles of its long strings.

    `n_text_bytes` is how much of the strings that are no attachments was left out.
    """

    data: memoryview
    original: memoryview
    n_text_bytes: int = 0
    cuts: list[tuple[int, int]] = field(default_factory=list)
    """(place in `data`, how many bytes are left out before it), ascending."""

    def restore(self, value: Raw) -> Raw:
        """A value that was decoded from `data`, with all of its bytes."""
        if not self.cuts:
            return value
        # msgspec.Raw is a view of the bytes it was decoded from: its address says where it stands.
        start = _address(value) - _address(self.data)
        first, last = self.find_place(start), self.find_place(start + len(memoryview(value)))
        return Raw(self.original[first:last])

    def is_cut(self, value: Raw) -> bool:
        """Whether a value that was decoded from `data` lacks some of its bytes."""
        return len(memoryview(self.restore(value))) != len(memoryview(value))

    def find_place(self, place: int) -> int:
        """Where a byte of `data` stands in the original."""
        n_before = bisect_right(self.cuts, (place, len(self.original)))
        return place + (self.cuts[n_before - 1][1] if n_before else 0)

    def correct_places(self, message: str) -> str:
        """A decoder's complaint with the place it has in the original."""
        return _PLACE.sub(lambda found: f"(byte {self.find_place(int(found[1]))})", message)


def _address(data: Any) -> int:
    return int(np.frombuffer(data, np.uint8).__array_interface__["data"][0])


def shorten(
    data: bytes | Raw, limits: Limits, param: str | None = None, most: int | None = None
) -> ShortJson:
    """JSON without the middles of its long strings; what is not JSON stays for the decoder to refuse.

    Raises:
        InvalidField: a depth has more values than `limits` allow; `param` is the field.
        BodyTooLarge: more than `most` bytes remain.
        InvalidJson: it is not UTF-8, or holds half of a character.
    """
    view = memoryview(data)
    structure = _Structure(view, limits, param)
    structure.read()
    if structure.has_escapes:
        check_surrogates(view)
    short = ShortJson(view, view)
    kept: list[bytes | memoryview] = []
    end = n_kept = 0
    for first, last in structure.strings:
        is_attachment = _is_attachment(view, first, last)
        n_head = ATTACHMENT_HEAD_BYTES if is_attachment else MAX_STRING_BYTES * 3 // 4
        n_tail = ATTACHMENT_HEAD_BYTES if is_attachment else MAX_STRING_BYTES // 4
        if last - first <= n_head + n_tail:
            continue
        start, stop = _find_boundary(view, first + n_head, first), _find_boundary(view, last - n_tail, first)
        if start is None or stop is None or stop <= start:
            continue
        # The decoder does not see what is left out.
        if (fault := _find_fault(view, start, stop, _STRING)) is not None:
            raise InvalidJson(f"the body is not valid JSON: invalid character or escape (byte {fault})")
        # A blank keeps the words on both sides apart.
        kept += (view[end:start], b"" if is_attachment else b" ")
        n_kept += start - end + (not is_attachment)
        short.cuts.append((n_kept, stop - n_kept))
        short.n_text_bytes += 0 if is_attachment else stop - start
        end = stop
    if most is not None and n_kept + len(view) - end > most:
        raise BodyTooLarge(
            f"the body holds more than {most} bytes beside long attachments (server.max_text_bytes)"
        )
    if kept:
        short.data = memoryview(b"".join((*kept, view[end:])))
    return short


def check_limits(data: Raw, limits: Limits, param: str) -> None:
    """Count the values of a field before it is decoded.

    Raises:
        InvalidField: a depth has more values than `limits` allow.
    """
    _Structure(memoryview(data), limits, param).read()


class _Structure:
    """Finds the long strings of JSON, and counts what stands between strings, a piece at a time.

    `strings` are (first, after the last) byte of each above `MIN_ATTACHMENT_BYTES`, in order.
    """

    def __init__(self, data: memoryview, limits: Limits, param: str | None) -> None:
        self.strings: list[tuple[int, int]] = []
        self.has_escapes = False
        self._data = data
        self._limits = limits
        self._param = param
        self._opened: int | None = None
        self._depth = 0
        self._commas = np.zeros(_MAX_DEPTH + 1, np.int64)

    def read(self) -> None:
        """Read all of it.

        Raises:
            InvalidField, InvalidJson: as `shorten`.
        """
        start, size = 0, len(self._data)
        while start < size:
            piece = self._take_piece(start)
            self._read_piece(piece, start)
            self._check_counts()
            start += len(piece)

    def _take_piece(self, start: int) -> bytes:
        """The next bytes, which end within neither an escape nor a character."""
        data = self._data
        piece = bytes(data[start : start + PIECE_BYTES])
        if start + len(piece) < len(data):
            n_marks = len(piece) - len(piece.rstrip(b"\\"))
            piece = piece[: len(piece) - n_marks % 2]
        if piece.isascii():
            return piece
        if start + len(piece) < len(data):
            n = next((n for n in range(1, 4) if piece[-n] >= 0xC0), 0)
            piece = piece[: len(piece) - n]
        check_utf8(piece, start)
        return piece

    def _read_piece(self, piece: bytes, start: int) -> None:
        plain = piece
        if b"\\" in piece:  # of the same length, so that places stay
            plain = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
            self.has_escapes |= b"\\u" in piece
        is_inside = self._opened is not None
        quotes = np.flatnonzero(np.frombuffer(plain, np.uint8) == _QUOTE) + start
        if not len(quotes):
            if not is_inside:
                self._count(plain)
            return
        self._count(b"".join(plain.split(b'"')[int(is_inside) :: 2]))
        if self._opened is not None:
            self._note_string(self._opened, int(quotes[0]))
            quotes = quotes[1:]
        n_whole = len(quotes) // 2 * 2
        firsts, lasts = quotes[0:n_whole:2] + 1, quotes[1:n_whole:2]
        for n in np.flatnonzero(lasts - firsts > MIN_ATTACHMENT_BYTES).tolist():
            self._note_string(int(firsts[n]), int(lasts[n]))
        self._opened = int(quotes[-1]) + 1 if len(quotes) % 2 else None

    def _note_string(self, first: int, last: int) -> None:
        if last - first > MIN_ATTACHMENT_BYTES:
            self.strings.append((first, last))

    def _count(self, outside: bytes) -> None:
        """Count the commas of each depth."""
        codes = np.frombuffer(outside, np.uint8)
        if not len(codes):
            return
        depths: NDArray[np.int64] = np.cumsum(_STEP[codes]) + self._depth  # (n_codes,)
        self._depth = int(depths[-1])
        commas = depths[codes == _COMMA].clip(0, _MAX_DEPTH)
        self._commas += np.bincount(commas, minlength=_MAX_DEPTH + 1)

    def _check_counts(self) -> None:
        if self._commas.sum() >= MAX_VALUES:
            raise InvalidField(
                f"the body has more than {MAX_VALUES} values; split the request", param=self._param
            )
        for depth, (most, what) in self._limits.items():
            if self._commas[depth] >= most:
                raise InvalidField(what.format(most), param=self._param)


def check_utf8(piece: bytes, start: int = 0) -> None:
    """Check the encoding of a piece of the body that begins at a place.

    Raises:
        InvalidJson: it is not UTF-8; the message says where.
    """
    try:
        piece.decode()  # msgspec.Raw skips over strings without decoding them
    except UnicodeDecodeError as error:
        half = piece[error.start : error.start + 2]
        # UTF-8 of a half: what C programs write that cut a string in the middle (RFC 3629, section 3).
        if half[:1] == b"\xed" and half[1:] >= b"\xa0":
            raise InvalidJson(_HALF.format("bytes of one", start + error.start)) from None
        raise InvalidJson(f"the body is not UTF-8: {error.reason} at byte {start + error.start}") from None


def check_surrogates(body: bytes | memoryview) -> None:
    """Check that escapes of surrogates come in pairs: no expert could read half of a character.

    Raises:
        InvalidJson: one is alone; the message says where.
    """
    # What ends the search and is no half of a character the decoder refuses.
    _find_fault(body, 0, len(body), _WHOLE)


def _find_fault(body: bytes | memoryview, place: int, last: int, pattern: re.Pattern[bytes]) -> int | None:
    """Where a pattern of whole escapes and characters ends before `last`; a piece at a time."""
    while place < last:
        stop = min(place + PIECE_BYTES, last)
        end = pattern.match(body, place, stop).end()  # type: ignore[union-attr]  # it matches nothing, too
        if end < stop and (end == place or stop == last or stop - end >= _PAIR_BYTES):
            if half := _SURROGATE.match(body, end):
                raise InvalidJson(_HALF.format(bytes(half[0]).decode(), end))
            return end
        place = end  # an escape that the piece cuts is whole in the next one
    return None


def _is_attachment(data: memoryview, first: int, last: int) -> bool:
    """Whether a long string is a picture or another file: by its key, and by samples of it."""
    key = _KEY.search(bytes(data[max(0, first - _KEY_BYTES) : first]))
    if key is None or key[1] in TEXT_KEYS:
        return False
    middle = (first + last) // 2
    return all(
        _BASE64.match(data, place, place + _N_SAMPLE).end() > place + _N_SAMPLE - 2  # type: ignore[union-attr]
        for place in (first + ATTACHMENT_HEAD_BYTES, middle, last - _N_SAMPLE - 2)
    )


def _find_boundary(data: memoryview, place: int, first: int) -> int | None:
    """The last place up to this one that cuts neither an escape nor a character; None where none is near."""
    lowest = max(first, place - _LOOK_BACK)
    while place > lowest + _PAIR_BYTES:
        found = bytes(data[place - _PAIR_BYTES : place]).rfind(b"\\")
        if found < 0:
            while data[place] & 0xC0 == 0x80:
                place -= 1
            return place
        found += place - _PAIR_BYTES
        # The first of a row of backslashes begins an escape.
        while found > lowest and data[found - 1] == _BACKSLASH:
            found -= 1
        if found > lowest and _AFTER_HIGH.match(data, found - 6, found) is None:
            return found
        place = found
    return None
