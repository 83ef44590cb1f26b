"""Types of values in the configuration: names, sizes, dates, bounds."""

import re
import shlex
from typing import Annotated

import msgspec
from msgspec import Meta

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, description="letters, digits and . _ : @ / + -")]
AliasName = Annotated[
    str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$", description="any text")
]
KeyName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$",
        description="letters, digits and . _ -, beginning with a letter",
    ),
]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Days = Annotated[float, Meta(gt=0, le=36_500)]
NotNegative = Annotated[float, Meta(ge=0)]
Size = Annotated[
    str, Meta(pattern=r"^\d+(\.\d+)?\s*[kKmMgGtT]?i?B?$", description="a size as 16GiB or 500MB")
]
DeviceName = Annotated[str, Meta(pattern=r"^(cpu|cuda:\d+)$", description="cpu, cuda:0, cuda:1 …")]
IsoDate = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$", description="a date as 2024-07-18")]
Labels = dict[str, str]
KeyPath = tuple[str | int, ...]


class StrictStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section of the file; an unknown key in it is an error."""


HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110, section 5.6.2."""
FRAMING = frozenset({"content-length", "transfer-encoding"})
NO_VALUE = re.compile(r"[\0\r\n]")
DEVICE_PATTERN = re.compile(r"cpu|cuda:\d+")
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
# Decimal and binary prefixes (IEC 80000-13): GPU memory is sold in GB and reported in GiB.
UNITS |= {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
SIZE_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def size_bytes(text: str) -> int:
    """Return the bytes in `16GiB`, `500MB` or `1000000`.

    Raises:
        ValueError: the text is not a size.
    """
    match = SIZE_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a size; write it as 16GiB or 500MB")
    return int(float(match[1]) * UNITS[(match[2] or "").lower()])


_COMMAND_TOKEN = re.compile(
    r"""(?P<kept>'[^']*'|"(?:\\.|[^"\\])*"|\\[^\s]|[^\s'"\\#]|(?<=\S)\#)"""
    r"""|(?P<joined>\\[ \t]*\r?\n|\\[ \t]*$)|(?P<comment>\#[^\n]*)|(?P<rest>.)""",
    re.DOTALL,
)


def split_command(text: str) -> tuple[str, ...]:
    """Return the words of a command line as a POSIX shell reads them; line breaks are spaces.

    A `#` at the beginning of a word starts a comment, and a backslash at the end of a line joins it with
    the next.

    Raises:
        ValueError: a quotation is not closed.
    """

    def keep(match: re.Match[str]) -> str:
        # A comment is removed before words are split: `shlex` would also cut `model#2` in two.
        return " " if match["joined"] is not None or match["comment"] is not None else match[0]

    return tuple(shlex.split(_COMMAND_TOKEN.sub(keep, text)))


def find_header_fault(name: str, value: str) -> str | None:
    """Return why a header cannot be sent, or None; without its value, which may be a secret."""
    if HEADER_NAME.fullmatch(name) is None:
        return "is not the name of a header"
    if name.lower() in FRAMING:
        return "is set for every request; delete it"
    # What follows a line break would be a header of its own.
    return "has a line break in its value" if NO_VALUE.search(value) is not None else None
