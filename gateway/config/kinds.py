"""What values in the configuration may be, and the mapping that all of its structs are."""

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$", description="letters, digits and . _ : @ / + -"),
]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Size = Annotated[
    str, Meta(pattern=r"^\d+(\.\d+)?\s*[kKmMgGtT]?i?B?$", description="a size as 16GiB or 500MB")
]
DeviceName = Annotated[str, Meta(pattern=r"^(cpu|cuda:\d+)$", description="cpu, cuda:0, cuda:1 …")]
IsoDate = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$", description="a date as 2024-07-18")]
Labels = dict[str, str]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping in the file that knows all its keys."""
