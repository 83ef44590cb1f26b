"""Text as editors and spreadsheets of all systems write it: UTF-8 or UTF-16, with a mark or without."""

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
