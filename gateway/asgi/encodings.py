"""Request bodies that a client has compressed (RFC 9110, section 8.4), inflated within a bound."""

import io
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from ..errors import BodyTooLarge, InvalidEncoding, UnsupportedEncoding

MAX_CODINGS = 2
"""A body compressed more often is no client's habit but an attempt to keep the gateway busy."""

Inflate = Callable[[bytes, int], bytes]


class TooLongError(Exception):
    """The body is longer than allowed once it is inflated."""


def inflate_body(body: bytes, codings: str, max_bytes: int) -> bytes:
    """The body that the codings of `content-encoding` were applied to.

    Work and memory are bounded by `max_bytes`, not by what the body claims.

    Raises:
        UnsupportedEncoding: a coding is not served here.
        InvalidEncoding: the body is not what its coding says, or ends too early.
        BodyTooLarge: it is longer than `max_bytes` once it is inflated.
    """
    applied = [
        coding for part in codings.split(",") if (coding := part.strip().lower()) not in ("", "identity")
    ]
    unknown = [coding for coding in applied if coding not in INFLATE]
    if unknown or len(applied) > MAX_CODINGS:
        what = f"'{unknown[0][:40]}'" if unknown else f"{len(applied)} codings of one body"
        raise UnsupportedEncoding(
            f"content-encoding: {what} cannot be read here; send {', '.join(SERVED)} or no encoding",
            param="content-encoding",
            served=SERVED,
        )
    for coding in reversed(applied):
        try:
            body = INFLATE[coding](body, max_bytes)
        except TooLongError:
            raise BodyTooLarge(
                f"the body is larger than {max_bytes} bytes once it is inflated (server.max_body_bytes)"
            ) from None
        except (zlib.error, EOFError, OSError, ValueError) as error:
            what = f"content-encoding: the body is not whole {coding} data: {error}"
            raise InvalidEncoding(what, param="content-encoding") from None
    return body


def _inflate_gzip(body: bytes, max_bytes: int) -> bytes:
    """All members of a gzip file, one after another."""
    parts: list[bytes] = []
    size = 0
    while body:
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(body, max_bytes + 1 - size))
        size += len(parts[-1])
        if size > max_bytes:
            raise TooLongError
        if not member.eof:
            raise EOFError("it ends too early")
        body = member.unused_data
    return b"".join(parts)


def _inflate_deflate(body: bytes, max_bytes: int) -> bytes:
    """zlib's format as RFC 9110 says; bare deflate, as many clients send."""
    for wbits in (15, -15):
        member = zlib.decompressobj(wbits=wbits)
        try:
            found = member.decompress(body, max_bytes + 1)
        except zlib.error:
            if wbits < 0:
                raise
            continue
        if len(found) > max_bytes:
            raise TooLongError
        if not member.eof:
            raise EOFError("it ends too early")
        return found
    raise EOFError("it ends too early")


def _inflate_zstd(body: bytes, max_bytes: int) -> bytes:
    zstandard = import_module("zstandard")
    try:
        # The window bounds the memory: a frame may claim one of terabytes.
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(io.BytesIO(body))
        found: bytes = reader.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if len(found) > max_bytes:
        raise TooLongError
    return found


INFLATE: dict[str, Inflate] = {
    "gzip": _inflate_gzip,
    "x-gzip": _inflate_gzip,
    "deflate": _inflate_deflate,
    # The library is an extra: few clients compress with it, and Python has none of its own before 3.14.
    **({"zstd": _inflate_zstd} if find_spec("zstandard") else {}),
}
SERVED = tuple(name for name in INFLATE if not name.startswith("x-"))
