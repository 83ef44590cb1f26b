"""Sizes of memory as people write them, and the devices that have it."""

import re

DEVICE = re.compile(r"cpu|cuda:\d+")
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
UNITS |= {"ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def size_bytes(text: str) -> int:
    """The bytes in `16GiB`, `500MB` or `1000000`.

    Raises:
        ValueError: it is not a size.
    """
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no size: write it as 16GiB or 500MB")
    return int(float(match[1]) * UNITS[(match[2] or "").lower()])
